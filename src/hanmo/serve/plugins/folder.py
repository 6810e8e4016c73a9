"""The plugin `search`: the passages of a local folder that fit a message best, by BM25 (Robertson & Zaragoza 2009).

The index is made anew each time it is opened and kept in memory: about a second for every few megabytes of text.
Chinese has no spaces between words; a passage is indexed by its characters and by each two of them that stand together,
other scripts by their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from hanmo.console import console
from hanmo.corpus.cleaning.characters import HAN_CLASS
from hanmo.errors import HanmoError

#: Files that hold text for people to read; fields of records in .jsonl and the like must be called "text".
FORMATS = ("txt", "md", "html", "jsonl", "json", "csv", "parquet", "epub", "pdf")
_TERMS = re.compile(rf"([{HAN_CLASS}]+)|((?:(?![{HAN_CLASS}])\w)+)")
_SENTENCE = re.compile(r"[^。！？!?\n]*[。！？!?\n]+|[^。！？!?\n]+")


def open_search(
    *,
    folder: str,
    top: Annotated[int, Field(ge=1, le=100)] = 3,
    size: Annotated[int, Field(ge=20, le=100_000)] = 300,
) -> Callable[[str], str]:
    """Read a folder and return what searches it.

    Args:
        folder: a folder of text, a file or a glob.
        top: passages that are given, at most.
        size: characters of a passage, at most.

    Returns:
        message -> passages as "[1] FILE: text", the best first, with an empty line between them; empty where no
        passage has a word of the message.

    Raises:
        HanmoError: there is no such folder, or no text in it.
    """
    import bm25s

    found = list(_read(folder, size))
    if not found:
        raise HanmoError(f"{folder}: no text to search in (known: {', '.join(FORMATS)})")
    index = bm25s.BM25()
    index.index([terms(text) for _, text in found], show_progress=False)
    words = index.vocab_dict

    def search(message: str) -> str:
        asked = [term for term in terms(message) if term in words]
        if not asked:
            return ""
        places, scores = index.retrieve([asked], k=min(top, len(found)), show_progress=False)
        best = [found[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]
        return "\n\n".join(f"[{number}] {name}: {text}" for number, (name, text) in enumerate(best, 1))

    return search


def terms(text: str) -> list[str]:
    """What a text is found by: words in lower case; of Chinese each character and each two neighbours."""
    found = []
    for hit in _TERMS.finditer(unicodedata.normalize("NFKC", text).lower()):
        if hit[1]:
            found += [*hit[1], *map("".join, pairwise(hit[1]))]
        else:
            found.append(hit[2])
    return found


def passages(text: str, size: int) -> Iterator[str]:
    """A text in pieces of whole sentences, each of at most `size` characters; a longer sentence is cut.

    A blank line ends a piece that is half as long, so that a heading stays with what it heads.
    """
    held = ""
    for part in re.split(r"\n\s*\n", text):
        if len(held) >= size // 2:
            if held.strip():
                yield held.strip()
            held = ""
        for sentence in _SENTENCE.findall(part + "\n"):
            if len(held) + len(sentence) > size and held.strip():
                yield held.strip()
                held = ""
            held += sentence
            while len(held) > size:
                if held[:size].strip():
                    yield held[:size].strip()
                held = held[size:]
    if held.strip():
        yield held.strip()


def _read(folder: str, size: int) -> Iterator[tuple[str, str]]:
    """(file's name, passage) of all that can be read; what cannot is counted on the console."""
    from hanmo.corpus import formats
    from hanmo.corpus.inputs import source_files
    from hanmo.corpus.records import Bad, Opened
    from hanmo.corpus.settings import Source
    from hanmo.corpus.stream import FileFault

    files = read = passed = count = 0
    faults = []
    for path, name in source_files(Source(path=folder)):
        kind = formats.format_of(name)
        if kind not in FORMATS:
            passed += 1
            continue
        files += 1
        try:
            formats.check(kind)
            for record in formats.read(Opened(path=path, format=kind)):
                text = None if isinstance(record, Bad) else record.fields.get("text")
                if not isinstance(text, str):
                    faults.append(name)
                    continue
                read += 1
                for passage in passages(text, size):
                    count += 1
                    yield name, passage
        except (FileFault, OSError, HanmoError) as error:
            console.print(f"{path}: left out ({error})", style="dim", markup=False)
    console.print(f"{count} passages of {read} texts in {files} files are searched", style="dim", markup=False)
    if faults:
        console.print(
            f"{len(faults)} records without a text were left out, the first in {faults[0]}", style="dim", markup=False
        )
    if passed:
        console.print(f"{passed} files of other kinds were left out", style="dim", markup=False)
