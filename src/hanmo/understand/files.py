"""The files of a task: which of a folder's are for training, for choosing and for the score, and what is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.posttrain.faults import Account, Fault, kind_of
from hanmo.posttrain.sources import read_records
from hanmo.understand.entities import spans_of
from hanmo.understand.forms import FORMS, Example
from hanmo.understand.tasks import Task

#: Names that a part's file has before any other file that holds the part's name.
_FIRST = {
    "train": ("train.json", "train.jsonl", "train_few_all.json"),
    "dev": ("dev.json", "dev.jsonl", "dev_few_all.json"),
    "test": ("test_public.json", "test.json", "test.jsonl"),
}
_SUFFIXES = (".json", ".jsonl", ".txt", ".bmes", ".train", ".dev", ".test", ".conll")


def part_of(folder: Path, part: str, fold: int | None = None) -> list[Path]:
    """The files of a part ("train", "dev", "test") in a task's folder; none where there are none.

    Args:
        fold: the number of a FewCLUE split: `train_0.json`.
    """
    if not folder.is_dir():
        raise HanmoError(f"{folder}: no such folder; give the folder with the task's files")
    if fold is not None and part != "test":
        path = folder / f"{part}_{fold}.json"
        if not path.is_file():
            raise HanmoError(f"{path}: no such file; splits are called {part}_0.json, {part}_1.json, …")
        return [path]
    for name in _FIRST[part]:
        if (folder / name).is_file():
            return [folder / name]
    found = []
    for path in sorted(folder.iterdir()):
        words = re.split(r"[^A-Za-z0-9]+", path.name.lower())
        numbered = any(re.fullmatch(r"\d", word) for word in words)
        if path.is_file() and part in words and path.suffix in _SUFFIXES and "answer" not in words and not numbered:
            found.append(path)
    return found


def read_examples(paths: Sequence[Path], task: Task, on_bad_record: str) -> tuple[list[Example], Account]:
    """All examples of files.

    Raises:
        HanmoError: a file cannot be read; a faulty record where `on_bad_record` is "fail"; no example at all.
    """
    account = Account([str(path) for path in paths])
    examples: list[Example] = []
    for path in paths:
        if not path.is_file():
            raise HanmoError(f"{path}: no such file")
        faults: list[tuple[str, Fault]] = []
        for place, found in _examples(path, task, account):
            if isinstance(found, Fault):
                faults.append((place, found))
            else:
                examples.append(found)
        account.settle(faults, on_bad_record)
    account.used = len(examples)
    if not examples:
        raise account.nothing("record")
    return examples, account


def _examples(path: Path, task: Task, account: Account) -> Iterator[tuple[str, Example | Fault]]:
    if task.form == "conll":
        yield from _conll(path, account)
        return
    answers = _answers(path) if task.form == "chid" else {}
    for place, record in _records(path, task.form):
        account.read += 1
        if isinstance(record, Fault):
            yield place, record
            continue
        try:
            # A record is taken whole or not at all.
            found = list(FORMS[task.form](record, task, place, answers, account.notes))
        except Fault as fault:
            yield place, fault
            continue
        for example in found:
            yield place, example


def _answers(path: Path) -> dict[str, Any]:
    """The answers of CLUE's idiom files, which stand in a file of their own: train.json, train_answer.json."""
    beside = path.with_name(f"{path.stem}_answer{path.suffix}")
    if not beside.is_file():
        return {}
    found = read_json(beside)
    if not isinstance(found, dict):
        raise HanmoError(f"{beside}: is {kind_of(found)} instead of an object of gaps and answers")
    return found


def _records(path: Path, form: str) -> Iterator[tuple[str, Any]]:
    """(place, record or `Fault`) of a file of records."""
    if form == "squad":
        yield from _questions(path)
    elif form == "c3":
        yield from _c3(path)
    elif form == "cluener" and _first_line(path) == "{":
        yield from _printed(path)
    else:
        for place, record in read_records(path):
            yield str(place), record


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HanmoError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(64).decode("utf-8-sig", "replace").strip()


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HanmoError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None


def _printed(path: Path) -> Iterator[tuple[str, Any]]:
    """Objects over many lines, one after the other, as a pretty-printer leaves them."""
    text, at, line = _text(path), 0, 1
    decoder = json.JSONDecoder()
    while True:
        start = at
        while at < len(text) and text[at].isspace():
            at += 1
        line += text.count("\n", start, at)
        if at == len(text):
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise HanmoError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
        yield (
            f"{path}:{line}",
            value if isinstance(value, dict) else Fault("", f"is {kind_of(value)} instead of an object"),
        )
        line += text.count("\n", at, end)
        at = end


def _lines_of(text: str, marks: Iterable[str]) -> Iterator[int]:
    """The line on which each of the marks stands, looked for one behind the other; where one is not, the last."""
    at, line = 0, 1
    for mark in marks:
        found = text.find(mark, at)
        if found >= 0:
            line += text.count("\n", at, found)
            at = found
        yield line


def _questions(path: Path) -> Iterator[tuple[str, Any]]:
    """Questions of SQuAD's form, {data: [{paragraphs: [{context, qas: [...]}]}]}, or CMRC's older one."""
    whole = _json(path)
    data = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(data, list) or not data:
        raise HanmoError(f"{path}: field 'data': must be a list of articles, as SQuAD's form has it")
    found: list[tuple[str, Any]] = []
    for number, article in enumerate(data):
        where = f"data[{number}]"
        if not isinstance(article, dict):
            found.append((where, Fault(where, f"is {kind_of(article)} instead of an object")))
            continue
        paragraphs = article.get("paragraphs", [article])
        if not isinstance(paragraphs, list):
            found.append((where, Fault(f"{where}.paragraphs", "must be a list")))
            continue
        for index, paragraph in enumerate(paragraphs):
            here = f"{where}.paragraphs[{index}]"
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                found.append((here, Fault(f"{here}.qas", "must be a list of questions")))
                continue
            context = paragraph.get("context", paragraph.get("context_text"))
            for asked in questions:
                if not isinstance(asked, dict):
                    found.append((here, Fault(f"{here}.qas", f"holds {kind_of(asked)} instead of an object")))
                    continue
                record = {
                    "id": asked.get("id", asked.get("query_id")),
                    "question": asked.get("question", asked.get("query_text")),
                    "context": context,
                    "answers": asked.get("answers"),
                }
                found.append((str(record["id"]), record))
    lines = _lines_of(_text(path), (f'"{name}"' for name, _ in found))
    for line, (_, record) in zip(lines, found, strict=True):
        yield f"{path}:{line}", record


def _c3(path: Path) -> Iterator[tuple[str, Any]]:
    """C3's triples as objects."""
    whole = _json(path)
    if not isinstance(whole, list) or not whole:
        raise HanmoError(f"{path}: must be a list of [passage, questions, id]")
    names = (json.dumps(item[2]) if isinstance(item, list) and len(item) == 3 else "\0" for item in whole)
    for line, item in zip(_lines_of(_text(path), names), whole, strict=True):
        if not isinstance(item, list) or len(item) != 3:
            yield f"{path}:{line}", Fault("", "must be [passage, questions, id]")
        else:
            yield f"{path}:{line}", {"passage": item[0], "questions": item[1], "id": item[2]}


def _conll(path: Path, account: Account) -> Iterator[tuple[str, Example | Fault]]:
    """Sentences of a character and its tag a line, parted by empty lines; a tag of B-, I-, M-, E- or S- and a type."""
    characters: list[str] = []
    tags: list[str] = []
    fault: tuple[str, Fault] | None = None
    start = 1
    lines = [line.rstrip("\r") for line in _text(path).split("\n")]
    tokens = [line.split()[0] for line in lines if line.strip()]
    # Weibo's files number the characters of a word: 科0 技1.
    numbered = bool(tokens) and all(len(token) > 1 and token[-1].isdigit() for token in tokens)
    for number, line in enumerate([*lines, ""], 1):
        if line.strip(" \t"):
            if not characters and fault is None:
                start = number
            character, tag = _character(line, numbered)
            if tag is None or not re.fullmatch(r"O|[BIMES]-.+", tag):
                reason = "needs a character and a tag" if tag is None else "has a tag that is neither O nor B-, I-, …"
                fault = fault or (f"{path}:{number}", Fault("", reason, f": '{line[:20]}'"))
            characters.append(character)
            tags.append(tag or "O")
            continue
        if not characters:
            continue
        account.read += 1
        if fault:
            yield fault
        else:
            where = f"{path}:{start}"
            text = "".join(characters)
            yield where, Example(None, (text,), spans_of(tags, [len(one) for one in characters], account.notes), where)
        characters, tags, fault = [], [], None


def _character(line: str, numbered: bool) -> tuple[str, str | None]:
    """A line's character and tag."""
    parts = line.split()
    if len(parts) == 1:  # the character is a space, which is no field
        return " ", parts[0] if line[0] in " \t" else None
    return parts[0][:-1] if numbered else parts[0], parts[-1]
