"""Kinds of faulty records of CLUE's tasks, each with what the error line must say: a generator for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from changed_records import GONE, Faulty, changed

#: A sound record of each task.
SOUND: dict[str, dict[str, Any]] = {
    "afqmc": {"sentence1": "我爱看书", "sentence2": "他爱看书", "label": "0"},
    "tnews": {"id": 7, "sentence": "今天的天气", "label": "102", "keywords": ""},
    "ocnli": {"sentence1": "张三来了", "sentence2": "他来了", "label": "neutral"},
    "csl": {"id": 1, "abst": "这是一个关键的东西", "keyword": ["关键", "东西"], "label": "1"},
    "wsc": {
        "text": "张三说他来了",
        "target": {"span1_text": "张三", "span1_index": 0, "span2_text": "他", "span2_index": 3},
        "idx": 4,
        "label": "true",
    },
    "chid": {"id": 3, "content": "他#idiom#来了", "candidates": ["一二三四", "五六七八"], "answer": 1},
    "cluener": {"text": "张三在北京", "label": {"name": {"张三": [[0, 1]]}}},
}
#: Of each task: name of the kind, path of the field, its value (a function of nothing: the field is taken away).
_CHANGES: list[tuple[str, str, tuple[str | int, ...], Any, str]] = [
    ("afqmc", "a sentence is missing", ("sentence2",), GONE, "'sentence2': is missing"),
    ("afqmc", "a sentence is null", ("sentence1",), None, "'sentence1': is null instead of text"),
    ("afqmc", "a sentence is empty", ("sentence1",), "  ", "'sentence1': is empty"),
    ("afqmc", "a sentence is a list", ("sentence1",), ["我"], "'sentence1': is a list"),
    ("afqmc", "a label out of range", ("label",), 2, "'label': is none of the task's"),
    ("afqmc", "a label is a list", ("label",), [1], "'label': is a list"),
    ("afqmc", "a label is half", ("label",), 0.5, "'label': is a number instead of a label"),
    ("tnews", "an unknown topic", ("label",), "105", "known: 100"),
    ("tnews", "the topic's name for its number", ("label",), "news_story", "'news_story'"),
    ("tnews", "an id that is an object", ("id",), {}, "'id': is an object"),
    ("ocnli", "a label in another spelling", ("label",), "Entailment", "'Entailment'"),
    ("csl", "keywords are missing", ("keyword",), GONE, "'keyword': is missing"),
    ("csl", "keywords are one text", ("keyword",), "关键", "'keyword': must be a list"),
    ("csl", "no keywords", ("keyword",), [], "'keyword': must be a list"),
    ("csl", "a keyword is a number", ("keyword", 0), 3, "'keyword': holds something that is no text"),
    ("csl", "no abstract", ("abst",), GONE, "'abst': is missing"),
    ("wsc", "no target", ("target",), GONE, "'target': is missing"),
    ("wsc", "the target is text", ("target",), "他", "'target': is text"),
    ("wsc", "a span is missing", ("target", "span1_text"), GONE, "'target.span1_text': is missing"),
    ("wsc", "a span is not in the text", ("target", "span1_text"), "李四", "is not where the span stands"),
    ("wsc", "a place is text", ("target", "span2_index"), "3", "'target.span2_index': must be a place"),
    ("wsc", "a place below zero", ("target", "span2_index"), -1, "'target.span2_index': must be a place"),
    ("chid", "no candidates", ("candidates",), GONE, "'candidates': is missing"),
    ("chid", "one candidate", ("candidates",), ["一二三四"], "'candidates': must be a list of two"),
    ("chid", "a candidate is null", ("candidates", 0), None, "'candidates': holds something"),
    ("chid", "no gap", ("content",), "他来了", "has no gap"),
    ("chid", "two gaps and one answer", ("content",), "#idiom#了#idiom#", "has several gaps"),
    ("chid", "the answer is no candidate", ("answer",), 7, "'answer': is no number of a candidate"),
    ("chid", "the answer is text", ("answer",), "一二三四", "'answer': is no number of a candidate"),
    ("cluener", "an unknown type", ("label", "nmae"), {"张三": [[0, 1]]}, "did you mean 'name'"),
    ("cluener", "the label is a list", ("label",), [], "'label': is a list"),
    ("cluener", "mentions are a list", ("label", "name"), [], "'label.name': is a list"),
    ("cluener", "a place is one number", ("label", "name", "张三"), [[0]], "is not [first, last]"),
    ("cluener", "no places", ("label", "name", "张三"), [], "has a mention without places"),
    ("cluener", "a place behind the text", ("label", "name", "张三"), [[0, 9]], "outside of the text"),
    ("cluener", "another mention stands there", ("label", "name", "张三"), [[1, 2]], "does not stand there"),
]


def kinds() -> Iterator[Faulty]:
    """All kinds: one field changed, and lines that are no records at all."""
    yield from changed(SOUND, _CHANGES)
    for task in ("afqmc", "wsc"):
        sound = json.dumps(SOUND[task], ensure_ascii=False)
        yield Faulty(task, "cut off", sound[:-4], "not JSON")
        yield Faulty(task, "a list", f"[{sound}]", "a list instead of an object")
        yield Faulty(task, "a bare number", "17", "a number instead of an object")
        yield Faulty(task, "two records in a line", f"{sound} {sound}", "not JSON")
