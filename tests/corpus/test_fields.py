"""The text field is named, recognised or asked for; never guessed silently."""

from __future__ import annotations

import pytest

from hanmo.corpus.fields import choose, text_of
from hanmo.errors import HanmoError


@pytest.mark.parametrize(
    ("records", "named", "expected"),
    [
        ([{"text": "a", "title": "b"}], [], ("text",)),
        ([{"标题": "a", "正文": "b"}], [], ("正文",)),
        ([{"title": "a", "paragraphs": ["b", "c"]}], [], ("paragraphs",)),
        ([{"text": "", "content": "b"}], [], ("content",)),
        ([{"whatever": "only one"}], [], ("whatever",)),
        ([{"title": "a", "text": "b"}], ["title", "text"], ("title", "text")),
    ],
)
def test_chosen(records: list[dict], named: list[str], expected: tuple[str, ...]) -> None:
    assert choose(records, named) == expected


@pytest.mark.parametrize(
    ("records", "named", "message"),
    [
        ([{"text": "a", "content": "b"}], [], "'content' or 'text'"),
        ([{"question": "a", "answer": "b"}], [], "there is: answer, question"),
        ([{"text": "a"}], ["txt"], "no field 'txt'; did you mean 'text'"),
        ([{"text": 5}], [], "no field is known"),
    ],
)
def test_unclear(records: list[dict], named: list[str], message: str) -> None:
    with pytest.raises(HanmoError, match=message):
        choose(records, named)


def test_text_of() -> None:
    assert text_of({"title": "题", "body": ["一", "二"]}, ("title", "body")) == "题\n一\n二"
    assert text_of({"title": None, "body": "一"}, ("title", "body")) == "一"
    assert text_of({"text": ""}, ("text",)) == ""
    assert text_of({"text": 3}, ("text",)) is None
    assert text_of({}, ("text",)) is None
