from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hanmo.serve.text import StopStrings, Utf8Stream, for_terminal, whole_text


def cut(data, places):
    """`data` in pieces."""
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


places = st.lists(st.integers(0, 60), max_size=20)


@given(st.text(max_size=30), places)
def test_text_comes_out_as_it_went_in_however_it_is_cut(text, at):
    stream = Utf8Stream()
    shown = "".join(stream.push(piece) for piece in cut(text.encode(), at))
    assert shown == text.replace("\ufffd", "")


@given(st.binary(max_size=60), places)
def test_any_bytes_give_whole_characters_only(data, at):
    stream = Utf8Stream()
    pieces = [stream.push(piece) for piece in cut(data, at)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == data.decode("utf-8", "ignore").replace("\ufffd", "")


def test_half_a_character_waits_and_is_dropped_when_it_stays_half():
    stream = Utf8Stream()
    first, second, third = "墨".encode()[:1], "墨".encode()[1:2], "墨".encode()[2:]
    assert [stream.push(b) for b in (first, second, third)] == ["", "", "墨"]
    assert stream.push(first) + stream.push(b"a") == "a"


def reference(text: str, stops: list[str]) -> str:
    """The text before the stop that is complete first, read character by character."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


letters = st.text("ab墨。", max_size=25)
stops = st.lists(st.text("ab墨。", min_size=1, max_size=4), max_size=4)


@given(letters, stops, places)
def test_stops_cut_the_same_text_however_it_is_cut_and_never_leak(text, stop_list, at):
    stream = StopStrings(stop_list)
    shown = ""
    for piece in cut(text, at):
        shown += stream.push(piece)
        # Whatever was shown stays shown: it must be a beginning of the final answer.
        assert reference(text, stop_list).startswith(shown)
    shown += stream.flush()
    assert shown == reference(text, stop_list)
    assert not any(stop in shown for stop in stop_list)


def test_only_what_may_become_a_stop_is_held_back():
    stream = StopStrings(["用户："])
    assert stream.push("你好用") == "你好"
    assert stream.push("户") == ""
    assert stream.push("外") == "用户外"
    assert stream.push("用户：再见") == ""
    assert stream.found == "用户："
    assert stream.push("更多") == "" and stream.flush() == ""


def test_control_characters_do_not_reach_a_terminal():
    assert for_terminal("红\x1b[31m\r\n\t\x9b绿\x07") == "红[31m\n\t绿"


def test_half_a_surrogate_pair_is_not_text():
    assert whole_text("𠮷") and not whole_text("\ud842")
