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

from hanmo.corpus import archives, fields
from hanmo.corpus.archives import Member
from hanmo.corpus.formats import FORMATS, IDS, bare_name, check, format_of, read
from hanmo.corpus.hubapi import is_hub, parse
from hanmo.corpus.hubfile import HubFile
from hanmo.corpus.hubs import files as hub_files
from hanmo.corpus.readers.jsons import sniff_json
from hanmo.corpus.records import Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.remote import as_path, brought, faults, files_below, is_remote, is_url, matching, version_of

#: Bytes of content per byte of file, about: only for cutting the work into even parts.
_EXPANSION = {"": 1.0, ".gz": 3.0, ".zst": 4.5, ".xz": 6.0, ".bz2": 5.0}
#: How often at most one file is read, each task parsing its share of the records.
_STRIPES = {"": 32, ".zst": 8, ".gz": 4, ".xz": 3, ".bz2": 2}
#: Content of one task, about (bytes).
TASK = 32 << 20
#: Records (and bytes of them) looked at to find the text field, and how many torn ones may stand before them.
_SNIFFED = 50
_SNIFFED_BYTES = 4 << 20
_LOOKED = 1000
#: Of an archive that is read in order, so many members of a format are looked into; the others are read like the last.
_MEMBERS = 3
#: Formats whose index stands at their end: as members of an archive they are read from a copy on the disk.
_COPIED = ("parquet", "arrow", "npz")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source. `name` is its path below what the source names: the same on every machine."""

    source: int
    name: str
    opened: Opened
    text: tuple[str, ...]
    size: int
    content: int  # decompressed size, estimated


@dataclass(frozen=True, slots=True)
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
        name = Path(source.path).name.strip("*")
        name = bare_name(name.removesuffix(name[len(name) - len(archives.ending_of(name)) :]))
        named.append(source.model_copy(update={"name": source.name or name or "source"}))
    for name, times in Counter(source.name for source in named).items():
        if times > 1:
            raise HanmoError(f"{times} sources are named '{name}': give each a `name` of its own")
    return named


def source_files(source: Source) -> list[tuple[Path, str]]:
    """(path, name below the source) of a source's files, in the order of their names; hidden ones are left out.

    Folders that another stage made give what is text in them: a world's documents, a corpus's training part. Of data
    sets that `datasets` saved, the Arrow files that belong to them.
    """
    if is_hub(source.path):
        found = hub_files(source.path, source.hub, source.cache, known_format)
        # What readers ask of a path, a HubFile answers; an archive is opened as a file of this machine.
        return [(file.kept() if archives.ending_of(name) else cast(Path, file), name) for file, name in found]
    if is_url(source.path):
        return _remote_files(source)
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
    named = [(path, _readable(path.relative_to(root).as_posix())) for path in _without_states(paths)]
    return sorted(
        (item for item in named if not any(part.startswith(".") for part in item[1].split("/"))),
        key=lambda item: item[1],
    )


def _remote_files(source: Source) -> list[tuple[Path, str]]:
    """As `source_files`, of what is elsewhere."""
    root = as_path(source.path)
    with faults(root):
        named = matching(root)
        if not glob.has_magic(source.path):
            names = {name for _, name in named}
            if "documents.jsonl.zst" in names:
                named = [item for item in named if item[1] == "documents.jsonl.zst"]
            elif "stats.json" in names and any(name.startswith("train/") for name in names):
                named = files_below(root / "train")
    if not named:
        raise HanmoError(f"source '{source.name}': {source.path}: nothing of that name there")
    shown = [item for item in named if not any(part.startswith(".") for part in item[1].split("/"))]
    # An archive is opened as a file of this machine.
    return [(brought(path) if archives.ending_of(name) else path, name) for path, name in shown]


def _readable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 (names from another system) stand as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _without_states(paths: list[Path]) -> list[Path]:
    """Leave out what `datasets.save_to_disk` writes beside its Arrow files, and see that these are all there.

    Raises:
        HanmoError: an Arrow file that a data set names is missing.
    """
    there = set(paths)
    gone: set[Path] = set()
    for state in [path for path in paths if path.name == "state.json"]:
        listed = read_json(state)
        files = listed.get("_data_files") if isinstance(listed, dict) else None
        if isinstance(files, list):
            parts = [state.with_name(file["filename"]) for file in files]
            if missing := [part for part in parts if part not in there]:
                raise HanmoError(f"{missing[0]}: no such file, though {state.name} beside it names it: copy it again")
            gone |= {state, state.with_name("dataset_info.json"), state.parent.with_name("dataset_dict.json")}
            gone |= {path for path in paths if path.parent == state.parent and path.suffix == ".arrow"} - set(parts)
            gone.add(state.parent.parent / "dataset_dict.json")
    return [path for path in paths if path not in gone]


def known_format(name: str) -> bool:
    """Whether a reader is known for files of such a name."""
    return format_of(name) not in (None, "bin")


@dataclass
class Found:
    """What `look` saw: the files, sentences about how they are read for the user, and by source what was left out."""

    sources: list[Source]
    files: list[SourceFile]
    notes: list[str]
    left_out: list[dict[str, int]]


def look(settings: CorpusSettings, inputs: list[Path]) -> Found:
    """Find all files, and for those of records, the format and the text field.

    Raises:
        HanmoError: a source is missing or has no readable file, or its text field is not clear.
    """
    found = Found(all_sources(settings, inputs), [], [], [])
    for index, source in enumerate(found.sources):
        ignored: Counter[str] = Counter()
        seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
        looker = _Looker(settings, source, index)
        files: list[SourceFile] = []
        paths = source_files(source)
        for path, name, member in _members(paths):
            kind = _format(source, member.name if member else name)
            if member and member.fault and (kind or not member.name or member.fault[0] == "nested_archive"):
                kind = kind or "txt"  # it will not be read, but counted
                if settings.on_bad_file == "fail":
                    raise bad_file(Opened(path, kind, member).where, FileFault(*member.fault))
            if kind is None:
                if len(paths) == 1 and member is None:
                    raise HanmoError(_unknown(path))
                ignored[Path(name).suffix or Path(name).name] += 1
                continue
            file = looker.look(path, name, kind, member)
            seen[file.opened.format, file.text] += 1
            files.append(file)
        if not seen:
            more = f" (there are {_listed(ignored)})" if ignored else ""
            raise HanmoError(f"source '{source.name}': no file that can be read in {source.path}{more}")
        for (kind, text), count in seen.items():
            found.notes.append(_note(source, kind, text, count, looker.there))
        if ignored:
            found.notes.append(f"{source.name}: left out by their ending: {_listed(ignored)}")
        found.left_out.append(dict(ignored.most_common()))
        found.files += _striped(files)
    return found


def _members(paths: list[tuple[Path, str]]) -> Iterator[tuple[Path, str, Member | None]]:
    """The files, and in the place of an archive its members, named `archive.zip!/inner/a.txt`."""
    for path, name in paths:
        if archives.ending_of(name):
            for member in archives.members(path):
                yield path, f"{name}!/{member.name}" if member.name else name, member
        else:
            yield path, name, None


def _format(source: Source, name: str) -> str | None:
    """The format of a file; a .bin is one of token ids only where the source names their tokenizer."""
    if source.form:
        return "task" if format_of(name) in ("json", "jsonl") else None
    if source.format != "auto":
        return source.format
    kind = format_of(name)
    return None if kind == "bin" and not source.tokenizer else kind


def _unknown(path: Path) -> str:
    if format_of(path.name) == "bin":
        return f"{path}: if these are token ids, name the `tokenizer:` that made them; else name a `format:`"
    names = ", ".join(FORMATS)
    return f"{path}: no format is known by the ending '{path.suffix}'; name one with `format:` ({names})"


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in counter.most_common(5))


#: What a title is called where the text is in another field.
_TITLES = ("title", "标题", "题目", "headline")


def _note(source: Source, kind: str, text: tuple[str, ...], count: int, there: set[str]) -> str:
    note = f"{source.name}: {count} {kind} file{'s' if count > 1 else ''}"
    if FORMATS[kind].fields or not text:
        return note
    others = sorted(there - set(text))
    note += f", text from '{' + '.join(text)}'" + (f" (not from: {', '.join(others)})" if others else "")
    title = next((name for name in _TITLES if name in others), None)
    return note + (f"; `text: [{title}, {text[0]}]` would take the title, too" if title and not source.text else "")


class _Looker:
    """Looks into the files of one source; `there` are the names of all fields it saw."""

    def __init__(self, settings: CorpusSettings, source: Source, index: int) -> None:
        self.settings = settings
        self.source = source
        self.index = index
        self.there: set[str] = set()
        self._encoding = _codec(source)
        #: Of archives that are read in order: how many of a format were looked into, and what the last one was.
        self._looked: Counter[tuple[Path, str]] = Counter()
        self._last: dict[tuple[Path, str], tuple[str, tuple[str, ...], tuple[str, ...]]] = {}

    def look(self, path: Path, name: str, kind: str, member: Member | None) -> SourceFile:
        """How a file is to be read."""
        source, form = self.source, FORMATS[kind]
        check(kind)
        opened = Opened(
            path,
            kind,
            member,
            encoding=self._encoding,
            split=source.split,
            limit=int(self.settings.max_document_mb * 1e6),
            tokenizer=source.tokenizer,
            end_id=source.end_id,
            form=source.form,
        )
        text = tuple(name for name in source.text if name in form.fields) or form.fields[:1]
        try:
            if kind in IDS and not source.tokenizer:
                raise self._unclear(opened, "no_tokenizer", "it holds token ids; name the `tokenizer:` that made them")
            if not form.fields:
                opened, text = self._sniffed(opened, kind)
        except FileFault as fault:
            if self.settings.on_bad_file == "fail":
                raise bad_file(opened.where, fault) from None
            # It is read no further, and counted by the task whose turn it is.
            opened = replace(opened, fault=(fault.reason, fault.detail))
        size = member.size if member else version_of(path)[0]
        content = int(size * form.expansion * _EXPANSION[opened.compression])
        return SourceFile(self.index, name, opened, text, size, content)

    def _unclear(self, opened: Opened, reason: str, detail: str) -> Exception:
        """The error for a file that the settings do not tell how to read."""
        if self.settings.on_bad_file == "fail":
            return HanmoError(f"{opened.where} (source '{self.source.name}'): {detail}")
        return FileFault(reason, detail)

    def _sniffed(self, opened: Opened, kind: str) -> tuple[Opened, tuple[str, ...]]:
        # Files that lie together on a hub are alike, and each look is a question over the network.
        key = (opened.path.folder if isinstance(opened.path, HubFile) else opened.path, kind)
        if self._looked[key] >= _MEMBERS:
            form, text, columns = self._last[key]
            return replace(opened, format=form, columns=columns), text
        text = tuple(self.source.text)
        records: list[Mapping[str, Any]] = []
        seen = 0
        try:
            if kind == "json":
                opened = replace(opened, format=sniff_json(opened))
            for item in islice(read(opened), _LOOKED):
                if isinstance(item, Record):
                    records.append(item.fields)
                    seen += item.size
                if len(records) == _SNIFFED or seen > _SNIFFED_BYTES:
                    break
        except FileFault:
            if self.settings.on_bad_file == "fail":
                raise
            # What stands before the fault can be read; the task that reads it will come upon the fault and count it.
        if records:
            there = {field for record in records for field in record}
            self.there |= there
            try:
                text = fields.choose(records, self.source.text)
            except HanmoError as error:
                raise self._unclear(opened, "no_text_field", str(error)) from None
            if kind in ("parquet", "arrow"):
                opened = replace(opened, columns=tuple(field for field in (*text, "id", "meta") if field in there))
            if isinstance(opened.path, HubFile) or (opened.member and opened.member.offset < 0):
                self._looked[key] += 1
                self._last[key] = (opened.format, text, opened.columns)
        return opened, text


def _striped(files: list[SourceFile]) -> Iterator[SourceFile]:
    """The files of a source, each with the number of tasks that share it."""
    whole: Counter[Path] = Counter()  # of archives that are read in order: bytes of all members
    for file in files:
        if file.opened.member and file.opened.member.offset < 0:
            whole[file.opened.path] += file.size
    for file in files:
        opened, member = file.opened, file.opened.member
        lines = opened.format in ("txt", "md") and opened.split == "line"
        if not lines and not FORMATS[opened.format].striped:
            yield file
            continue
        packing = opened.compression or (archives.packing_of(opened.path.name, member) if member else "")
        most = _STRIPES[packing]
        # A member that is copied to the disk, or before which half of an archive stands, would be unpacked too often.
        if member and (opened.format in _COPIED or 2 * file.size < whole[opened.path]):
            most = 1
        if isinstance(opened.path, HubFile) and opened.path.cache is None and opened.format != "parquet":
            most = 1  # each task would fetch all of it
        if is_remote(opened.path) and opened.format != "parquet":
            most = min(most, 4)  # for the same reason; but such files are large more often
        stripes = max(1, min(round(file.content / TASK), most))
        yield file if stripes == 1 else replace(file, opened=replace(opened, stripes=stripes))


def _codec(source: Source) -> str:
    if source.encoding == "auto":
        return "auto"
    import codecs

    try:
        return codecs.lookup(source.encoding).name.removesuffix("-sig")
    except LookupError:
        raise HanmoError(f"source '{source.name}': no encoding is called '{source.encoding}'") from None


def bad_file(where: str, fault: FileFault) -> HanmoError:
    """The one line for a file that cannot be read."""
    where = f"{where}:{fault.line}" if fault.line else where
    return HanmoError(f"{where}: {fault.detail}; mend or remove the file, or set on_bad_file: skip")


def parts(files: list[SourceFile]) -> Iterator[list[Piece]]:
    """Tasks of about `TASK` bytes each: several small files, or a stripe of a large one."""
    held: list[Piece] = []
    size = 0
    for index, file in enumerate(files):
        stripes = file.opened.stripes
        for stripe in range(stripes):
            part = replace(file, opened=replace(file.opened, stripe=stripe)) if stripe else file
            held.append(Piece(part, index))
            size += file.content // stripes
            if size >= TASK:
                yield held
                held, size = [], 0
    if held:
        yield held
