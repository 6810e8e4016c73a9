"""Forms of task files: a record becomes examples, or a `Fault` that names what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hanmo.errors import nearest
from hanmo.posttrain.faults import Fault, kind_of
from hanmo.posttrain.forms import filled_text
from hanmo.understand.tasks import Task

#: Where a label says that the annotators did not agree (OCNLI, CMNLI).
NO_AGREEMENT = "-"
#: An idiom's gap: `#idiom#` in FewCLUE, with a number in CLUE.
_GAP = re.compile(r"#idiom\d*#")
#: Characters kept on each side of a gap: more than the longest row holds.
_AROUND = 400


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        id: its name in a submission.
        texts: one or two texts; for `choice`, none.
        label: the class; the number of the right option; entities (start, end, type) with `end` behind the last
            character; answers (text, start); None where there is none.
        options: for `choice`, the texts of each option's row.
        place: file and line.
        name: the label in words, where the record has it.
    """

    id: Any
    texts: tuple[str, ...]
    label: Any
    place: str
    options: tuple[tuple[str, ...], ...] = ()
    name: str = ""


Record = Mapping[str, Any]
#: (record, task, place, answers by gap, notes) -> examples.
Form = Callable[[Record, Task, str, Mapping[str, Any], Counter[str]], Iterator[Example]]


def label_of(record: Record, task: Task, notes: Counter[str]) -> str | None:
    """A record's label, None where it has none or the annotators did not agree.

    Raises:
        Fault: it is none of the task's.
    """
    value = record.get("label", record.get("gold_label"))
    if value is None or value == "":
        notes["without a label"] += 1
        return None
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int):
        raise Fault("label", f"is {kind_of(value)} instead of a label")
    value = str(value).strip()
    if value == NO_AGREEMENT:
        notes["label '-' (annotators did not agree)"] += 1
        return None
    if task.labels and value not in task.labels:
        shown = ", ".join(task.labels[:6]) + (", …" if len(task.labels) > 6 else "")
        raise Fault("label", "is none of the task's", f"'{value[:20]}'; known: {shown}")
    return value


def _id(record: Record, field: str = "id") -> Any:
    """A record's name in a submission; None: its number in the file is."""
    value = record.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
        raise Fault(field, f"is {kind_of(value)} instead of a number or text")
    return value


def texts(record: Record, task: Task, place: str, _: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """{sentence, label}, {sentence1, sentence2, label}, or whatever the task's fields are called."""
    found = tuple(filled_text(record, field) for field in task.fields)
    name = record.get("label_des")
    told = name if isinstance(name, str) else ""
    yield Example(_id(record), found, label_of(record, task, notes), place, name=told)


def csl(record: Record, task: Task, place: str, _: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """{abst, keyword: [...], label}: the keywords come first, so that what is cut is the abstract."""
    words = record.get("keyword")
    if not isinstance(words, list) or not words:
        raise Fault("keyword", "is missing" if words is None else "must be a list of keywords")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise Fault("keyword", "holds something that is no text")
    yield Example(_id(record), ("、".join(words), filled_text(record, "abst")), label_of(record, task, notes), place)


def wsc(record: Record, task: Task, place: str, _: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """{text, target: {span1_text, span1_index, span2_text, span2_index}, label}: both are marked in the text.

    The noun is set in 【】, the pronoun in 〖〗.
    """
    text, target = filled_text(record, "text"), record.get("target")
    if not isinstance(target, dict):
        raise Fault("target", "is missing" if target is None else f"is {kind_of(target)} instead of an object")
    marks = []
    for number, (left, right) in (("1", "【】"), ("2", "〖〗")):
        span, start = target.get(f"span{number}_text"), target.get(f"span{number}_index")
        if not isinstance(span, str) or not span:
            raise Fault(f"target.span{number}_text", "is missing" if span is None else "must be text")
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise Fault(f"target.span{number}_index", "must be a place in the text, counted from 0")
        if text[start : start + len(span)] != span:
            if text.count(span) != 1:
                raise Fault(f"target.span{number}_index", "is not where the span stands", f"'{span[:10]}'")
            start = text.index(span)
            notes["span found at another place"] += 1
        marks += [(start, 1, left), (start + len(span), 0, right)]
    # From the end on, so that earlier places stay; where two touch, what closes stands first.
    for at, _order, mark in sorted(marks, reverse=True):
        text = text[:at] + mark + text[at:]
    yield Example(_id(record, "idx" if "idx" in record else "id"), (text,), label_of(record, task, notes), place)


def chid(record: Record, _: Task, place: str, answers: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """{content, candidates, answer} with one gap (FewCLUE), or {content: [...], candidates} with the answers of all
    gaps in a file of their own (CLUE). Each option is the passage with the idiom in the gap."""
    candidates = record.get("candidates")
    if not isinstance(candidates, list) or len(candidates) < 2:
        raise Fault("candidates", "is missing" if candidates is None else "must be a list of two idioms or more")
    if not all(isinstance(word, str) and word.strip() for word in candidates):
        raise Fault("candidates", "holds something that is no text")
    content = record.get("content")
    alone = isinstance(content, str)
    passages = [content] if alone else content
    if not isinstance(passages, list) or not passages or not all(isinstance(part, str) for part in passages):
        raise Fault("content", "is missing" if content is None else "must be a text or a list of texts")
    found = [(passage, gap) for passage in passages for gap in _GAP.finditer(passage)]
    if not found:
        raise Fault("content", "has no gap (#idiom#)")
    if alone and len(found) > 1:
        raise Fault("content", "has several gaps and one answer")
    for passage, gap in found:
        right = record.get("answer") if alone else answers.get(gap[0])
        if right is None:
            notes["without a label"] += 1
        elif not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(candidates):
            raise Fault("answer", "is no number of a candidate", f"{right!r} of {len(candidates)}")
        # Other gaps of the passage stay open.
        before = _GAP.sub("____", passage[: gap.start()])[-_AROUND:]
        behind = _GAP.sub("____", passage[gap.end() :])[:_AROUND]
        options = tuple(((before, word, behind)) for word in candidates)
        yield Example(_id(record) if alone else gap[0], (), right, place, options)


def c3(record: Record, _: Task, place: str, __: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """[[passage or turns], [{question, choice, answer}], id], as an object {passage, questions, id}."""
    lines, questions = record.get("passage"), record.get("questions")
    if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
        raise Fault("[0]", "must be the passage: a list of texts")
    if not isinstance(questions, list) or not questions:
        raise Fault("[1]", "must be the questions: a list of objects")
    passage = "\n".join(lines)
    for number, item in enumerate(questions):
        if not isinstance(item, dict):
            raise Fault(f"[1][{number}]", f"is {kind_of(item)} instead of an object")
        choices, answer = item.get("choice"), item.get("answer")
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) for one in choices):
            raise Fault("choice", "must be a list of two texts or more")
        if answer in (None, ""):
            notes["without a label"] += 1
            answer = None
        elif answer not in choices:
            raise Fault("answer", "is none of the choices", f"'{str(answer)[:20]}'")
        question = filled_text(item, "question")
        options = tuple((question + choice, passage) for choice in choices)
        right = None if answer is None else choices.index(answer)
        yield Example(item.get("id", f"{record.get('id')}-{number}"), (), right, place, options)


def cluener(record: Record, task: Task, place: str, _: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """{text, label: {type: {mention: [[first, last], ...]}}}."""
    text, label = filled_text(record, "text"), record.get("label")
    if label is None:
        notes["without a label"] += 1
        yield Example(_id(record), (text,), None, place)
        return
    if not isinstance(label, dict):
        raise Fault("label", f"is {kind_of(label)} instead of an object of types")
    entities = []
    for kind, mentions in label.items():
        if task.labels and kind not in task.labels:
            raise Fault("label", "has a type that is none of the task's", f"'{kind[:20]}'{nearest(kind, task.labels)}")
        if not isinstance(mentions, dict):
            raise Fault(f"label.{kind}", f"is {kind_of(mentions)} instead of an object of mentions")
        for mention, places in mentions.items():
            if not isinstance(places, list) or not places:
                raise Fault(f"label.{kind}", "has a mention without places", f"'{mention[:20]}'")
            for span in places:
                if not isinstance(span, list) or len(span) != 2 or not all(isinstance(end, int) for end in span):
                    raise Fault(f"label.{kind}", "has a place that is not [first, last]", f"'{mention[:20]}'")
                if not 0 <= span[0] <= span[1] < len(text):
                    raise Fault(f"label.{kind}", "has a place outside of the text", f"'{mention[:20]}', {span}")
                if text[span[0] : span[1] + 1] != mention:
                    raise Fault(f"label.{kind}", "has a mention that does not stand there", f"'{mention[:20]}', {span}")
                entities.append((span[0], span[1] + 1, kind))
    yield Example(_id(record), (text,), tuple(sorted(entities)), place)


def squad(record: Record, _: Task, place: str, __: Mapping[str, Any], notes: Counter[str]) -> Iterator[Example]:
    """A question of a passage: {id, question, context, answers: [{text, answer_start}]}, or answers as plain texts."""
    context, question = filled_text(record, "context"), filled_text(record, "question")
    given = record.get("answers")
    if given is None:
        notes["without a label"] += 1
        yield Example(_id(record), (question, context), None, place)
        return
    if not isinstance(given, list) or not given:
        raise Fault("answers", "must be a list of answers")
    answers = []
    for answer in given:
        text = answer.get("text") if isinstance(answer, dict) else answer
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise Fault("answers", "has an answer without text")
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            raise Fault("answers", "has an answer_start that is no number")
        if start is None or start < 0 or context[start : start + len(text)] != text:
            found = context.find(text)
            notes["answer is not in the passage" if found < 0 else "answer found at another place"] += 1
            start = found
        answers.append((text, start))
    yield Example(_id(record), (question, context), tuple(answers), place)


#: Forms of records. Files of the form `conll` hold no records and are read in `files`.
FORMS: dict[str, Form] = {
    "texts": texts,
    "csl": csl,
    "wsc": wsc,
    "chid": chid,
    "c3": c3,
    "cluener": cluener,
    "squad": squad,
}
