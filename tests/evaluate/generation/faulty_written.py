"""Kinds of faulty lines of generation tasks' files, each with what the error line must say: a generator for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from changed_records import GONE, Faulty, changed

#: A sound record of each task.
SOUND: dict[str, dict[str, Any]] = {
    "lcsts": {"content": "今天北京下了一场大雪，公园里人很多。", "summary": "北京下雪"},
    "adgen": {"content": "类型#裤*版型#宽松", "summary": "这条裤子很宽松。"},
    "segmentation": {"text": "他爱看书", "words": "他 爱 看书"},
    "spelling": {"original_text": "他爱看树", "correct_text": "他爱看书"},
    "math23k": {"id": "1", "original_text": "小明有3个果，吃了1个，还有几个？", "equation": "x=3-1", "ans": "2"},
    "kbqa": {"id": 0, "question": "张三是哪里人？", "answer": "张三 ||| 出生地 ||| 北京"},
}
_CHANGES: list[tuple[str, str, str, Any, str]] = [
    ("lcsts", "no text", "content", GONE, "'content': is missing (nor is there text,"),
    ("lcsts", "the text is a number", "content", 3, "'content': is a number instead of text"),
    ("lcsts", "the text is empty", "content", " ", "'content': is empty"),
    ("lcsts", "no summary", "summary", GONE, "'summary': is missing"),
    ("lcsts", "the summary is null", "summary", None, "'summary': is null instead of text"),
    ("lcsts", "a summary of the list is null", "summary", ["北京", None], "'summary': is null instead of text"),
    ("lcsts", "no summary in the list", "summary", [], "'summary': is empty"),
    ("adgen", "the tags are a list", "content", ["类型#裤"], "'content': is a list instead of text"),
    ("adgen", "the text is an object", "summary", {"a": "b"}, "'summary': is an object instead of text"),
    ("segmentation", "another character", "words", "她 爱 看书", "'words': has other characters than the sentence"),
    ("segmentation", "a word too few", "words", "他 爱", "'words': has other characters"),
    ("segmentation", "no words", "words", GONE, "'words': is missing"),
    ("spelling", "a character too many", "correct_text", "他爱看书了", "another length than the sentence (5 and 4)"),
    ("spelling", "nothing corrected", "correct_text", "", "'correct_text': is empty"),
    ("spelling", "no sentence", "original_text", GONE, "'original_text': is missing"),
    ("math23k", "the answer is a word", "ans", "两个", "'ans': is no number ('两个')"),
    ("math23k", "the answer divides by zero", "ans", "(1/0)", "'ans': is no number"),
    ("math23k", "the answer is true", "ans", True, "'ans': is a truth value instead of text"),
    ("math23k", "the answer is code", "ans", "__import__('os')", "'ans': is no number"),
    ("math23k", "the equation is a list", "equation", ["x=2"], "'equation': is a list instead of text"),
    ("math23k", "no problem", "original_text", GONE, "'original_text': is missing"),
    ("kbqa", "no answer", "answer", GONE, "'answer': is missing"),
    ("kbqa", "a triple without an object", "answer", "张三 ||| 出生地 ||| ", "'answer': is empty"),
    ("kbqa", "the question is null", "question", None, "'question': is null"),
]
_BROKEN = [
    ("not JSON", '{"content": "今天"', "not JSON"),
    ("a list", '["今天", "雪"]', "is a list instead of an object with fields"),
    ("a text", '"今天"', "is text instead of an object with fields"),
    ("half a surrogate", '{"content": "\\ud800", "summary": "雪"}', "not JSON"),
]


def faulty() -> Iterator[Faulty]:
    """All of them."""
    yield from changed(SOUND, _CHANGES)
    for name, line, says in _BROKEN:
        yield Faulty("lcsts", name, line, says)
