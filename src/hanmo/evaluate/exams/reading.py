"""From an exam's files, or a hub's records, to items of one kind."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.evaluate.exams.catalog import Exam, Subject, exams
from hanmo.evaluate.items import LETTERS
from hanmo.files import read_jsonl

#: Examples of an exam that has none of its own: its first items, which are then not asked.
_BORROWED = 5


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in its subject.
        question: all that stands before the options; for the form "ending" the sentence that the options end.
        options: what may be chosen; empty for the form "number". Where `inside`, they stand in the question itself.
        answer: the number of the right option; for the form "number" the number itself.
        inside: the options' texts are not known apart from the question, only their letters.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    inside: bool = False

    @property
    def letters(self) -> list[str]:
        return list(LETTERS[: len(self.options)])


@dataclass
class Part:
    """The items of one subject, the worked examples before them, and what was left out and why."""

    name: str
    title: str
    description: str
    items: list[Item]
    examples: list[Item]
    skipped: dict[str, int] = field(default_factory=dict)


def read(exam: Exam, data: Path | None) -> list[Part]:
    """Every subject of an exam that has questions.

    Args:
        data: a folder that holds the exam's folder, or its files; None: the hub.

    Raises:
        HanmoError: no questions there, or a file that cannot be read.
    """
    folder = exam.local(data)
    parts = []
    for name, subject in exam.parts().items():
        skipped: dict[str, int] = {}
        if folder is not None:
            items = _local(exam, folder, subject.items, skipped)
            examples = _local(exam, folder, subject.examples, {}) if subject.examples else []
        else:
            items, examples = _from_hub(exam, name, subject, data, skipped)
        if not items:
            continue
        if not examples and len(items) > 2 * _BORROWED:
            examples, items = items[:_BORROWED], items[_BORROWED:]
        parts.append(Part(name, subject.title, subject.description, items, examples, skipped))
    if not parts:
        raise HanmoError(f"{data}: no questions of {exam.title} there; its files are like {_files(exam)}")
    return parts


def read_folder(folder: Path) -> Iterator[tuple[str, str, Item]]:
    """(exam, subject, item) of every exam whose files are in a folder; worked examples are no items.

    Raises:
        HanmoError: there is none.
    """
    found = [exam for exam in exams().values() if exam.local(folder)]
    if not found:
        raise HanmoError(f"{folder}: neither an exam.jsonl nor the files of a known exam (`hanmo eval exams`)")
    for exam in found:
        for part in read(exam, folder):
            yield from ((exam.name, part.name, item) for item in part.items)


def _files(exam: Exam) -> str:
    return next(iter(exam.parts().values())).items


def _local(exam: Exam, folder: Path, name: str, skipped: dict[str, int]) -> list[Item]:
    path = folder / name
    if not path.is_file():
        return []
    return _items(exam, _records(path), str(path), skipped)


def _from_hub(
    exam: Exam, name: str, subject: Subject, data: Path | None, skipped: dict[str, int]
) -> tuple[list[Item], list[Item]]:
    if exam.hub is None:
        where = f"{data} does not hold it" if data else "give --data DIR"
        raise HanmoError(
            f"{exam.title} is on no hub that is known here, and {where}; its files are like {_files(exam)}"
        )
    import datasets

    configuration = exam.hub.configurations.get(name, name)
    found = []
    for split in (exam.hub.items, exam.hub.examples):
        if not split:
            found.append([])
            continue
        try:
            rows = datasets.load_dataset(exam.hub.path, configuration, split=split)
        except Exception as error:  # hubs fail in as many ways as networks do
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise HanmoError(
                f"{exam.title}, {name}: {exam.hub.path} cannot be read ({reason}); give --data DIR with its files"
            ) from None
        named = f"{exam.hub.path}/{configuration}/{split}"
        found.append(_items(exam, enumerate(rows, 1), named, skipped if split == exam.hub.items else {}))
    return found[0], found[1]


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or number, record) of a file."""
    try:
        if path.suffix == ".jsonl":
            yield from read_jsonl(path)
        elif path.suffix == ".json":
            whole = json.loads(path.read_text(encoding="utf-8-sig"))
            yield from enumerate(whole["example"] if isinstance(whole, dict) else whole, 1)
        elif path.suffix == ".tsv":
            for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
                question, _, answer = line.rpartition("\t")
                yield number, {"question": question, "answer_number": answer}
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                for record in reader:
                    yield reader.line_num, record
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, KeyError) as error:
        raise HanmoError(f"{path}: {error}; fetch the exam's file again") from None


def _items(exam: Exam, records: Iterable[tuple[int, Any]], where: str, skipped: dict[str, int]) -> list[Item]:
    items: list[Item] = []
    for number, record in records:
        try:
            found = list(READERS[exam.reader](record, str(number)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise HanmoError(
                f"{where}:{number}: not an item of {exam.title} ({type(error).__name__}: {error}); "
                "fetch the exam's file again"
            ) from None
        for item in found:
            if isinstance(item, str):
                skipped[item] = skipped.get(item, 0) + 1
            else:
                items.append(item)
    return items


# Readers: a record and its number in, items (or the reason why there is none) out -------------------------------------


def _letters(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    """C-Eval's and CMMLU's rows: question, A to D, answer."""
    fields = {str(key).lower(): value for key, value in record.items()}
    options = tuple(str(fields[letter]) for letter in "abcd")
    name = str(fields.get("id", fields.get("", number)))
    yield Item(name, str(fields["question"]).strip(), options, "ABCD".index(str(fields["answer"]).strip()))


def _c3(record: Any, number: str) -> Iterator[Item | str]:
    """[[lines], [{question, choice, answer}], id], or the hub's {documents, questions: {question, choice, answer}}."""
    if isinstance(record, dict):
        asked = record["questions"]
        texts, name = record["documents"], record.get("document_id", number)
        questions = [dict(zip(asked, values, strict=True)) for values in zip(*asked.values(), strict=True)]
    else:
        texts, questions, name = record
    for index, one in enumerate(questions):
        options = tuple(one["choice"])
        if len(options) < 2:
            yield "fewer than two options"
            continue
        question = "\n".join(texts) + f"\n问题：{one['question'].strip()}"
        yield Item(f"{name}-{index}", question, options, options.index(one["answer"]))


def _ccpm(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    yield Item(number, record["translation"], tuple(record["choices"]), int(record["answer"]))


def _xcopa(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    """The sentence without its full stop and 因为 or 所以, as lm-eval has it."""
    link = {"cause": "因为", "effect": "所以"}[record["question"]]
    question = record["premise"].strip()[:-1] + f" {link}"
    options = tuple(record[key][0].lower() + record[key][1:] for key in ("choice1", "choice2"))
    yield Item(number, question, options, int(record["label"]))


def _gaokao(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    """The options stand in the question. Sheets of several questions and answers of several letters are left out."""
    answer = record["answer"]
    if len(answer) != 1 or answer[0] not in ("A", "B", "C", "D"):
        yield "several questions in one, or several answers"
        return
    question = re.sub(r"^\s*\d+\s*[．.、]\s*", "", record["question"]).strip()
    yield Item(str(record.get("index", number)), question, ("A", "B", "C", "D"), "ABCD".index(answer[0]), inside=True)


def _pair(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    yield Item(number, "", (record["sentence_good"], record["sentence_bad"]), 0)


def _mgsm(record: dict[str, Any], number: str) -> Iterator[Item | str]:
    answer = str(record["answer_number"]).replace(",", "").strip()
    question = str(record["question"]).strip().removeprefix("问题：").strip()
    yield Item(number, question, (), int(float(answer)))


READERS: dict[str, Callable[[Any, str], Iterator[Item | str]]] = {
    "letters": _letters,
    "c3": _c3,
    "ccpm": _ccpm,
    "xcopa": _xcopa,
    "gaokao": _gaokao,
    "pair": _pair,
    "mgsm": _mgsm,
}
