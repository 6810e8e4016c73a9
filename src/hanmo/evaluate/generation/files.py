"""The files of generation tasks, in the forms in which they are published, as items of one kind.

What a file is, its first line tells:

    [ or {                       JSON: an array, lines, or objects one after the other (Math23K); also .parquet
    <doc id=...>                 LCSTS: <summary> and <short_text>, each with its text on the next line
    <question id=...>            NLPCC's KBQA: <question>, <triple>, <answer> lines with a tab before their text
    (pid=...) or (sid=...)       SIGHAN's test input; the answers are in the file called Truth beside it
    FILE.src beside FILE.tgt     a text a line in either
    a line with a tab            columns: the last two are source and target, or the first line names them (also .csv)
    any other, for segmentation  a sentence a line, spaces between the words (SIGHAN's bakeoff)

A line that cannot be used is a `Fault` in the item's stead, with its place.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.evaluate import arithmetic
from hanmo.evaluate.generation.checks import answer_of
from hanmo.evaluate.generation.settings import TaskSettings
from hanmo.evaluate.generation.tasks import Task
from hanmo.evaluate.items import evenly
from hanmo.files import TORN, open_binary
from hanmo.posttrain.faults import Account, Fault, kind_of
from hanmo.posttrain.forms import filled_text
from hanmo.posttrain.sources import Place, read_records

#: What the questions stage leaves in its folder for those who judge written answers.
HELD = "heldout.jsonl"
_TRIPLE = "|||"
Record = dict[str, Any]
Found = Iterator[tuple[Place, Record | Fault]]


@dataclass(frozen=True)
class Item:
    """One thing to write.

    Attributes:
        id: unique in its file where the file says one, else its line.
        source: what the model is given.
        references: what is right, one or more.
        learnt: what a model is to learn to write.
        place: where it was read.
    """

    id: str
    source: str
    references: tuple[str, ...]
    learnt: str
    place: Place


def read_items(paths: Sequence[Path], task: Task, settings: TaskSettings) -> tuple[list[Item], Account]:
    """All items of the files, at most `settings.limit` of them, evenly.

    Raises:
        HanmoError: a file cannot be read; a faulty record where `on_bad_record` is "fail"; no item at all.
    """
    account = Account([str(path) for path in paths])
    items: list[Item] = []
    for path in paths:
        faults: list[tuple[Place, Fault]] = []
        for place, record in _records(path, task):
            account.read += 1
            try:
                if isinstance(record, Fault):
                    raise record
                items.append(_item(record, place, task, settings))
            except Fault as fault:
                faults.append((place, fault))
        account.settle(faults, settings.on_bad_record)
    if not items:
        raise account.nothing(f"record of {task.name}")
    items = evenly(items, settings.limit)
    account.used = len(items)
    return items, account


def _item(record: Record, place: Place, task: Task, settings: TaskSettings) -> Item:
    name = str(record.get("id", place.line))
    if task.kind == "words" and "spaced" in record:
        record = {"text": "".join(record["spaced"].split()), "words": record["spaced"]}
    source = filled_text(record, _name(record, settings.source, task.sources, "source"))
    target = _name(record, settings.target, task.targets, "target")
    if task.kind == "sums":
        return _sum(name, source, record, target, place)
    wanted = record[target]
    several = wanted if isinstance(wanted, list) else [wanted]
    if not several:
        raise Fault(target, "is empty")
    references = [filled_text({target: one}, target) for one in several]
    if task.kind == "words":
        (spaced,) = [" ".join(one.split()) for one in references[:1]]
        if "".join(spaced.split()) != "".join(source.split()):
            raise Fault(target, "has other characters than the sentence")
        return Item(name, "".join(source.split()), (spaced,), spaced, place)
    if task.kind == "spelling":
        source, references = source.strip(), [references[0].strip()]
        if len(source) != len(references[0]):
            raise Fault(target, "has another length than the sentence", f"{len(references[0])} and {len(source)}")
    if task.kind == "facts":
        references = [part for one in references for part in _names(one)]
    return Item(name, source.strip(), tuple(one.strip() for one in references), references[0].strip(), place)


def _names(answer: str) -> list[str]:
    """Of a triple (KgCLUE) its object; else all names that the answer gives."""
    parts = [part.strip() for part in answer.split(_TRIPLE)]
    found = [part for part in (parts[2:] if len(parts) == 3 else parts) if part]
    if not found:
        raise Fault("answer", "is empty")
    return found


def _sum(name: str, source: str, record: Record, target: str, place: Place) -> Item:
    answer = record[target]
    answer = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
    answer = filled_text({target: answer}, target)
    equation = record.get("equation", "")
    if not isinstance(equation, str):
        raise Fault("equation", f"is {kind_of(equation)} instead of text")
    try:
        answer_of(answer)
    except arithmetic.NoSum:
        raise Fault(target, "is no number", f"'{answer[:40]}'") from None
    return Item(name, source.strip(), (answer, equation), equation or f"x={answer}", place)


def _name(record: Record, asked: str, known: Sequence[str], role: str) -> str:
    if asked:
        if asked not in record:
            raise Fault(asked, "is missing")
        return asked
    found = next((name for name in known if name in record), None)
    if found is None:
        raise Fault(known[0], "is missing", f"nor is there {', '.join(known[1:])}; say by `{role}` what it is called")
    return found


# The forms ------------------------------------------------------------------------------------------------------------


def _records(path: Path, task: Task) -> Found:
    if (path / HELD).is_file():
        path = path / HELD
    if not path.is_file():
        what = "is a folder; name its files" if path.is_dir() else "no such file"
        raise HanmoError(f"{path}: {what}")
    if path.suffix.lower() == ".parquet":
        return read_records(path)
    try:
        with open_binary(path) as file:
            head = next((line for line in file if line.strip(b" \t\r\n\xef\xbb\xbf")), b"")
    except TORN as error:
        raise HanmoError(f"{path}: the compressed file is torn ({error}); fetch it again") from None
    head = head.removeprefix(b"\xef\xbb\xbf").strip()
    if not head:
        raise HanmoError(f"{path}: the file is empty; records are needed")
    if head.startswith(b"[") or (head.startswith(b"{") and head != b"{"):
        return read_records(path)
    if head == b"{":
        return _objects(path)
    if head.startswith(b"<doc id"):
        return _lcsts(path)
    if head.startswith(b"<question id"):
        return _nlpcc(path)
    if re.match(rb"\([ps]id=", head):
        return _sighan(path)
    if path.suffix == ".src" and path.with_suffix(".tgt").is_file():
        return _parallel(path, path.with_suffix(".tgt"), task)
    if b"\t" in head or path.suffix.lower() == ".csv":
        return _columns(path, task)
    if task.kind == "words":
        return ((place, {"spaced": line} if isinstance(line, str) else line) for place, line in _lines(path))
    raise HanmoError(
        f"{path}: no form of a file of {task.name} that is known (`hanmo eval tasks` lists them); "
        "make it JSON lines with `source` and `target`"
    )


def _lines(path: Path, empty: bool = False) -> Iterator[tuple[Place, str | Fault]]:
    """Lines without their ends; empty ones only if asked for."""
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
                if not line.strip() and not empty:
                    continue
                try:
                    yield Place(path, number), line.decode()
                except UnicodeDecodeError:
                    yield Place(path, number), Fault("", "not UTF-8", "; save the file as UTF-8")
    except TORN as error:
        raise HanmoError(f"{path}: the compressed file is torn ({error}); fetch it again") from None


def _objects(path: Path) -> Found:
    """Objects one after the other, each over several lines; behind one that is torn nothing can be told apart."""
    try:
        with open_binary(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HanmoError(f"{path}: not UTF-8; save the file as UTF-8") from None
    decoder, at, line, counted = json.JSONDecoder(), 0, 1, 0
    while True:
        at = next((place for place in range(at, len(text)) if not text[place].isspace()), len(text))
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text):
            return
        place = Place(path, line)
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield place, Fault("", "not JSON", f" ({error.msg}, line {error.lineno})")
            return
        yield place, value if isinstance(value, dict) else Fault("", f"is {kind_of(value)} instead of an object")


def _lcsts(path: Path) -> Found:
    record: Record = {}
    start: Place | None = None
    inside = ""
    for place, line in _lines(path):
        if isinstance(line, Fault):
            yield place, line
            continue
        bare = line.strip()
        if bare.startswith("<doc id"):
            if start is not None:
                yield start, Fault("", "has no </doc>")
            record, start, inside = {}, place, ""
            if named := re.search(r"id=\"?([^\s\">]+)", bare):
                record["id"] = named[1]
        elif start is None:
            yield place, Fault("", "stands outside a <doc>")
        elif bare == "</doc>":
            yield start, record
            start = None
        elif tag := re.fullmatch(r"<(/?)(summary|short_text)>", bare):
            inside = "" if tag[1] else tag[2]
        elif inside:
            record[inside] = record.get(inside, "") + bare
    if start is not None:
        yield start, Fault("", "has no </doc>")


def _nlpcc(path: Path) -> Found:
    record: Record = {}
    start: Place | None = None
    for place, line in _lines(path):
        if isinstance(line, Fault):
            yield place, line
            continue
        tag = re.match(r"<(question|triple|answer) id=(\d+)>\s*(.*)", line.strip())
        if tag is None:
            if line.strip().strip("="):
                yield place, Fault("", "is no <question>, <triple> or <answer>")
            continue
        if tag[1] == "question":
            if start is not None:
                yield start, Fault("answer", "is missing")
            record, start = {"id": tag[2], "question": tag[3]}, place
        elif tag[1] == "answer" and start is not None:
            yield start, {**record, "answer": [part.strip() for part in tag[3].split(_TRIPLE) if part.strip()]}
            start = None
        elif tag[1] == "answer":
            yield place, Fault("question", "is missing")
    if start is not None:
        yield start, Fault("answer", "is missing")


def _sighan(path: Path) -> Found:
    """Input lines `(pid=A)<tab>text`; the truth beside has `A, 4, 的, 5, 地` (places from 1) or `A, 0`."""
    truth_file = path.with_name(path.name.replace("Input", "Truth"))
    if truth_file == path or not truth_file.is_file():
        raise HanmoError(f"{path}: the answers are missing: no file of that name with Truth for Input beside it")
    truth: dict[str, tuple[Place, list[str] | Fault]] = {}
    for place, line in _lines(truth_file):
        if isinstance(line, Fault):
            raise HanmoError(f"{place}: {line}")
        name, *changes = [part.strip() for part in line.split(",")]
        whole = changes == ["0"] or (changes and len(changes) % 2 == 0 and all(c.isdigit() for c in changes[::2]))
        truth[name] = (place, changes) if whole else (place, Fault("", f"the truth at {place} is no list of changes"))
    for place, line in _lines(path):
        tag = re.match(r"\([ps]id=([^)]+)\)\s*(.*)", line) if isinstance(line, str) else None
        if isinstance(line, Fault) or tag is None:
            yield place, line if isinstance(line, Fault) else Fault("", "does not begin with (pid=...)")
            continue
        _, changes = truth.get(tag[1], (None, Fault("", "has no truth", f" in {truth_file.name}")))
        if isinstance(changes, Fault):
            yield place, changes
            continue
        mended = list(tag[2].strip())
        pairs = [] if changes == ["0"] else list(zip(changes[::2], changes[1::2], strict=True))
        if any(not 0 < int(at) <= len(mended) or len(right) != 1 for at, right in pairs):
            yield place, Fault("", "its truth names a place that it has not, or more than a character")
            continue
        for at, right in pairs:
            mended[int(at) - 1] = right
        yield place, {"id": tag[1], "source": tag[2].strip(), "target": "".join(mended)}


def _parallel(sources: Path, targets: Path, task: Task) -> Found:
    one, other = list(_lines(sources, empty=True)), list(_lines(targets, empty=True))
    if len(one) != len(other):
        raise HanmoError(f"{targets}: {len(other)} lines, but {sources.name} has {len(one)}; they belong together")
    for (place, source), (_, target) in zip(one, other, strict=True):
        fault = next((side for side in (source, target) if isinstance(side, Fault)), None)
        yield place, fault or {task.sources[0]: source, task.targets[0]: target}


def _columns(path: Path, task: Task) -> Found:
    comma = path.suffix.lower() == ".csv"
    known = {*task.sources, *task.targets}
    names: list[str] | None = None
    first = True
    for place, cells in _rows(path) if comma else _tabbed(path):
        if isinstance(cells, Fault):
            yield place, cells
            continue
        if first and known & set(cells):
            names, first = cells, False
            continue
        first = False
        if names is not None:
            if len(cells) != len(names):
                yield place, Fault("", "has another number of columns than the first line", f", {len(cells)}")
                continue
            yield place, dict(zip(names, cells, strict=True))
        elif len(cells) < 2:
            yield place, Fault("", "has one column", "; a source and a target are needed")
        else:
            yield place, {task.sources[0]: cells[-2], task.targets[0]: cells[-1]}


def _tabbed(path: Path) -> Iterator[tuple[Place, list[str] | Fault]]:
    split: Callable[[str], list[str]] = lambda line: line.split("\t")  # noqa: E731
    return ((place, split(line) if isinstance(line, str) else line) for place, line in _lines(path))


def _rows(path: Path) -> Iterator[tuple[Place, list[str] | Fault]]:
    try:
        with open_binary(path) as file:
            reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
            for cells in reader:
                if cells:
                    yield Place(path, reader.line_num), cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise HanmoError(f"{path}: {error}; save the file as UTF-8, with cells that hold quotes in quotes") from None
