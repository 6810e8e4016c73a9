"""Which files a corpus is made of, how each is read, and how the work on them is cut into tasks.

Everything here depends on the settings and the files alone (names, sizes, first bytes), never on the number of workers:
the same plan on any machine, so the same corpus.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from hanmo.corpus import fields
from hanmo.corpus.formats import read, sniff_json
from hanmo.corpus.hubapi import is_hub, parse
from hanmo.corpus.hubfile import HubFile
from hanmo.corpus.hubs import files as hub_files
from hanmo.corpus.records import Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import COMPRESSIONS, FileFault
from hanmo.errors import HanmoError

_SUFFIXES = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "md",
    ".markdown": "md",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
#: Bytes of content per byte of file, about: only for cutting the work into even parts.
_EXPANSION = {".gz": 3.0, ".zst": 4.5, ".xz": 6.0}
#: How often at most one file is read, each task parsing its share of the lines.
_STRIPES = {"": 32, ".zst": 8, ".gz": 4, ".xz": 3}
#: Content of one task, about (bytes).
TASK = 32 << 20
#: Records (and bytes of them) looked at to find the text field, and how many torn ones may stand before them.
_SNIFFED = 50
_SNIFFED_BYTES = 4 << 20
_LOOKED = 1000


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `name` is its path below what the source names: the same on every machine."""

    source: int
    name: str
    opened: Opened
    text: tuple[str, ...]
    size: int
    content: int  # decompressed size, estimated


@dataclass(frozen=True)
class Piece:
    """What one task reads of one file: a whole one, or a stripe of its lines."""

    file: SourceFile
    index: int  # of the file in the plan


def all_sources(settings: CorpusSettings, inputs: list[Path]) -> list[Source]:
    """The sources of the settings, and one for every input folder or file; each with a name of its own."""
    sources = [*settings.sources, *(Source(path=str(path)) for path in inputs)]
    if not sources:
        raise HanmoError("the corpus stage has nothing to read: give it `sources` or a stage in `from`")
    named = []
    for source in sources:
        if is_hub(source.path):
            named.append(source.model_copy(update={"name": source.name or parse(source.path).short}))
            continue
        path = Path(source.path)
        while path.suffix.lower() in (*COMPRESSIONS, *_SUFFIXES):
            path = path.with_suffix("")
        named.append(source.model_copy(update={"name": source.name or path.name.strip("*") or "source"}))
    for name, times in Counter(source.name for source in named).items():
        if times > 1:
            raise HanmoError(f"{times} sources are named '{name}': give each a `name` of its own")
    return named


def source_files(source: Source) -> list[tuple[Path, str]]:
    """(path, name below the source) of a source's files, in the order of their names; hidden ones are left out.

    Folders that another stage made give what is text in them: a world's documents, a corpus's training part.
    """
    if is_hub(source.path):
        found = hub_files(source.path, source.hub, source.cache, known_format)
        return [(cast(Path, file), name) for file, name in found]  # what readers ask of a path, a HubFile answers
    root = Path(source.path).expanduser()
    if root.is_file():
        return [(root, root.name)]
    if root.is_dir():
        if (root / "documents.jsonl.zst").is_file():
            root = root / "documents.jsonl.zst"
            return [(root, root.name)]
        if (root / "train").is_dir() and (root / "stats.json").is_file():
            root = root / "train"
        paths = [path for path in root.rglob("*") if path.is_file()]
    elif glob.has_magic(source.path):
        depth = next(index for index, part in enumerate(root.parts) if glob.has_magic(part))
        pattern = "/".join(root.parts[depth:])
        root = Path(*root.parts[:depth])
        paths = [path for path in root.glob(pattern) if path.is_file()]
    else:
        raise HanmoError(f"source '{source.name}': {source.path}: no such file or folder")
    named = [(path, path.relative_to(root).as_posix()) for path in paths]
    return sorted(
        (item for item in named if not any(part.startswith(".") for part in item[1].split("/"))),
        key=lambda item: item[1],
    )


def format_of(path: Path) -> tuple[str | None, str]:
    """(format by the file's name or None, its compression's suffix or "")."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = Path(path.stem) if compression else path
    return _SUFFIXES.get(inner.suffix.lower()), compression


def known_format(name: str) -> bool:
    """Whether a reader is known for files of such a name."""
    return format_of(Path(name))[0] is not None


@dataclass
class Found:
    """What `look` saw: the files, and sentences about how they are read and what was left out, for the user."""

    sources: list[Source]
    files: list[SourceFile]
    notes: list[str]


def look(settings: CorpusSettings, inputs: list[Path]) -> Found:
    """Find all files, and for those of records, the format and the text field.

    Raises:
        HanmoError: a source is missing or has no readable file, or its text field is not clear.
    """
    found = Found(all_sources(settings, inputs), [], [])
    for index, source in enumerate(found.sources):
        ignored: Counter[str] = Counter()
        seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
        fields_there: set[str] = set()
        # Of a hub's files that lie together one is looked into: each look is a question over the network.
        alike: dict[tuple[str, str, str], tuple[SourceFile, set[str]]] = {}
        paths = source_files(source)
        for path, name in paths:
            kind, compression = format_of(path)
            if source.format != "auto":
                kind = source.format
            if kind is None:
                if len(paths) == 1:
                    raise HanmoError(
                        f"{path}: no format is known by the ending '{path.suffix}'; name one with `format:` "
                        "(txt, md, jsonl, json, csv, tsv, parquet), or unpack the file"
                    )
                ignored[path.suffix or path.name] += 1
                continue
            like = alike.get((kind, compression, name.rpartition("/")[0])) if isinstance(path, HubFile) else None
            if like:
                file, there = _like(*like, path, name)
            else:
                file, there = _sniff(settings, source, index, path, name, kind, compression)
                if file.text:
                    alike[kind, compression, name.rpartition("/")[0]] = file, there
            seen[file.opened.format, file.text] += 1
            fields_there.update(there)
            found.files.append(file)
        if not seen:
            more = f" (there are {_listed(ignored)})" if ignored else ""
            raise HanmoError(f"source '{source.name}': no file that can be read in {source.path}{more}")
        for (kind, text), count in seen.items():
            note = f"{source.name}: {count} {kind} file{'s' if count > 1 else ''}"
            if kind not in ("txt", "md") and text:
                others = sorted(fields_there - set(text))
                note += f", text from '{' + '.join(text)}'" + (f" (not from: {', '.join(others)})" if others else "")
            found.notes.append(note)
        if ignored:
            found.notes.append(f"{source.name}: left out by their ending: {_listed(ignored)}")
    return found


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in counter.most_common(5))


def _sniff(
    settings: CorpusSettings, source: Source, index: int, path: Path, name: str, kind: str, compression: str
) -> tuple[SourceFile, set[str]]:
    opened = Opened(
        path=path,
        format=kind,
        encoding=_codec(source),
        split=source.split,
        limit=int(settings.max_document_mb * 1e6),
    )
    text: tuple[str, ...] = ("text",)
    there: set[str] = set()
    if kind not in ("txt", "md"):
        text = tuple(source.text)
        records: list[Mapping[str, Any]] = []
        seen = 0
        try:
            if kind == "json":
                opened = replace(opened, format=sniff_json(path, opened.encoding))
            for item in islice(read(opened), _LOOKED):
                if isinstance(item, Record):
                    records.append(item.fields)
                    seen += item.size
                if len(records) == _SNIFFED or seen > _SNIFFED_BYTES:
                    break
        except FileFault as fault:
            if settings.on_bad_file == "fail":
                raise bad_file(path, fault) from None
            # The task that reads the file will count it.
        if records:
            there = {field for record in records for field in record}
            text = fields.choose(records, source.text, f"{path} (source '{source.name}')")
        if kind == "parquet":
            opened = replace(opened, columns=tuple(field for field in (*text, "id") if field in there))
    return _sized(SourceFile(index, name, opened, text, 0, 0), compression), there


def _like(model: SourceFile, there: set[str], path: Path, name: str) -> tuple[SourceFile, set[str]]:
    """A file that is read like another one beside it."""
    file = replace(model, name=name, opened=replace(model.opened, path=path, stripes=1))
    return _sized(file, format_of(path)[1]), there


def _sized(file: SourceFile, compression: str) -> SourceFile:
    """The file with its size, and cut into stripes where its format and size allow."""
    opened = file.opened
    size = opened.path.stat().st_size
    content = int(size * _EXPANSION.get(compression, 3.0 if opened.format == "parquet" else 1.0))
    lined = opened.format == "jsonl" or (opened.format in ("txt", "md") and opened.split == "line")
    # Each stripe of lines reads the whole file, which is too much to fetch several times.
    fetched = isinstance(opened.path, HubFile) and opened.path.cache is None
    if opened.format == "parquet" or (lined and not fetched):
        opened = replace(opened, stripes=max(1, min(round(content / TASK), _STRIPES[compression])))
    return replace(file, opened=opened, size=size, content=content)


def _codec(source: Source) -> str:
    if source.encoding == "auto":
        return "auto"
    import codecs

    try:
        return codecs.lookup(source.encoding).name.removesuffix("-sig")
    except LookupError:
        raise HanmoError(f"source '{source.name}': no encoding is called '{source.encoding}'") from None


def bad_file(path: Path, fault: FileFault) -> HanmoError:
    """The one line for a file that cannot be read."""
    where = f"{path}:{fault.line}" if fault.line else str(path)
    return HanmoError(f"{where}: {fault.detail}; mend or remove the file, or set on_bad_file: skip")


def parts(files: list[SourceFile]) -> Iterator[list[Piece]]:
    """Tasks of about `TASK` bytes each: several small files, or a stripe of a large one."""
    held: list[Piece] = []
    size = 0
    for index, file in enumerate(files):
        stripes = file.opened.stripes
        for stripe in range(stripes):
            held.append(Piece(replace(file, opened=replace(file.opened, stripe=stripe)), index))
            size += file.content // stripes
            if size >= TASK:
                yield held
                held, size = [], 0
    if held:
        yield held
