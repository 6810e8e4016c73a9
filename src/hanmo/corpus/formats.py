"""Formats: by which ending each is known, what kind of thing it is, and which reader reads it.

A reader streams; it yields `Record`s with the place where each stands, and `Bad` ones for what it can pass over (a torn
JSON line, an image in a web archive), and raises `FileFault` where it can go no further. Lines are numbered from 1 as
an editor does; a record of a JSON array has the line it begins in; rows, web pages, chapters and windows of ids have
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.stream import COMPRESSIONS, FileFault
from hanmo.extras import need


@dataclass(frozen=True)
class Format:
    """What must be known of a format before a file of it is read."""

    endings: tuple[str, ...]
    #: Fields that its reader gives every record; empty: they are the file's own, to be looked at.
    fields: tuple[str, ...] = ()
    #: Whether tasks can share one file, each taking some of its records.
    striped: bool = False
    #: Bytes of work per byte of file, about.
    expansion: float = 1.0
    #: Packages of the optional part `corpus` that its reader needs.
    needs: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "txt": Format((".txt", ".text"), ("text",)),
    "md": Format((".md", ".markdown"), ("text",)),
    "jsonl": Format((".jsonl", ".ndjson"), striped=True),
    "json": Format((".json",), striped=True),
    "csv": Format((".csv",)),
    "tsv": Format((".tsv",)),
    "parquet": Format((".parquet",), striped=True, expansion=3.0),
    "arrow": Format((".arrow", ".feather"), striped=True),
    "html": Format((".html", ".htm", ".xhtml", ".shtml"), ("text", "title"), needs=("trafilatura",)),
    "warc": Format((".warc", ".wet"), ("text", "title"), striped=True, needs=("warcio", "trafilatura")),
    "epub": Format((".epub",), ("text", "title"), expansion=2.0, needs=("lxml",)),
    "pdf": Format((".pdf",), ("text", "title"), needs=("pypdfium2",)),
    "tfrecord": Format((".tfrecord", ".tfrecords"), ("text",), striped=True, expansion=2.0),
    "npz": Format((".npz",), ("text",), striped=True, expansion=3.0),
    "bin": Format((".bin",), ("text",), striped=True, expansion=2.0),
    # Known by the `form` of its source, not by a name.
    "task": Format((), ("text",)),
}
#: Formats that hold token ids: a source that names a tokenizer can read them.
IDS = ("tfrecord", "npz", "bin")

_BY_ENDING = {ending: name for name, format in FORMATS.items() for ending in format.endings}


def format_of(name: str) -> str | None:
    """The format of a file by its name, compressed or not; None where its ending is of no known one."""
    path = Path(name)
    return _BY_ENDING.get((Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower())


def bare_name(name: str) -> str:
    """A file's name without the endings that say how to read it."""
    path = Path(name)
    while path.suffix.lower() in (*COMPRESSIONS, *_BY_ENDING):
        path = path.with_suffix("")
    return path.name


def check(format: str) -> None:
    """See that what a format's reader needs is installed.

    Raises:
        HanmoError: it is not.
    """
    for module in FORMATS[format].needs:
        need(module, "corpus")


def read(file: Opened) -> Iterator[Record | Bad]:
    """Read a file's records.

    Raises:
        FileFault: the file cannot be read (further).
        OSError: it cannot be opened.
    """
    if file.fault:
        raise FileFault(*file.fault)
    # Imported where they are used: most corpora need one or two of them.
    match file.format:
        case "jsonl":
            from hanmo.corpus.readers.jsons import read_lines as reader
        case "json":
            from hanmo.corpus.readers.jsons import read_array as reader
        case "csv" | "tsv":
            from hanmo.corpus.readers.tables import read_csv as reader
        case "parquet":
            from hanmo.corpus.readers.tables import read_parquet as reader
        case "arrow":
            from hanmo.corpus.readers.tables import read_arrow as reader
        case "html":
            from hanmo.corpus.readers.web import read_html as reader
        case "warc":
            from hanmo.corpus.readers.web import read_warc as reader
        case "epub":
            from hanmo.corpus.readers.books import read_epub as reader
        case "pdf":
            from hanmo.corpus.readers.books import read_pdf as reader
        case "tfrecord":
            from hanmo.corpus.readers.ids import read_tfrecords as reader
        case "npz":
            from hanmo.corpus.readers.ids import read_npz as reader
        case "bin":
            from hanmo.corpus.readers.ids import read_bin as reader
        case "task":
            from hanmo.corpus.readers.tasks import read_tasks as reader
        case _:
            from hanmo.corpus.readers.text import read_text as reader
    return reader(file)
