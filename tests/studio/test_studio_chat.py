"""Talking to models in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from at_work import model

from browsing import opened
from scripted_engine import ScriptedEngine

HOSTILE = "<img src=x onerror='document.title=1'><b>bold</b>\u202e\x1b"


@pytest.fixture(scope="module")
def engines(tmp_path_factory, run_studio) -> Iterator[tuple[str, dict[str, ScriptedEngine]]]:
    """A studio of two models that say their name and what they were asked."""
    root = tmp_path_factory.mktemp("talk")
    model(root / "run" / "base", "pretrain")
    model(root / "run" / "sft", "sft")
    made: dict[str, ScriptedEngine] = {}

    def open_engine(path: Path, **_: Any) -> ScriptedEngine:
        def script(text: str) -> bytes:
            question = text.strip().split("\n")[-1]
            if "fail" in question:
                raise ZeroDivisionError("boom")
            return (
                HOSTILE.encode()
                if "html" in question
                else f"{path.name}：{question * (80 if 'long' in question else 1)}".encode()
            )

        made[path.name] = ScriptedEngine(script, context=20_000)
        return made[path.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hanmo.serve.engines.open_engine", open_engine)
        with run_studio(root) as url:
            yield url, made


@pytest.fixture
def page(browser, engines) -> Iterator[Any]:
    pages = opened(browser, engines[0])
    page = next(pages)
    page.evaluate("location.hash = '#/chat'")
    page.wait_for_selector(".composer")
    yield page
    next(pages, None)


def ask(page, text: str) -> list[str]:
    page.fill(".composer textarea", text)
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".turn:last-child .answer")
    page.wait_for_function("() => !document.querySelector('.answer.live')")
    return [node.inner_text() for node in page.query_selector_all(".turn:last-child .answer p")]


def test_a_model_answers_and_remembers(page, engines) -> None:
    assert page.eval_on_selector(".choosing select", "node => node.value") == "run/sft"
    assert ask(page, "你好") == ["sft：你好"]
    assert "词元" in page.inner_text(".answer .foot")
    ask(page, "再来")
    assert engines[1]["sft"].served[-1] == "你好\nsft：你好\n再来\n"
    page.click("text=新对话")
    assert page.query_selector(".turn") is None and page.is_visible(".ideas")


def test_two_models_answer_side_by_side_with_the_same_settings(page, engines) -> None:
    page.select_option(".choosing label:nth-child(2) select", "run/base")
    page.click(".parameters summary")
    page.fill("#seed", "7")
    page.evaluate(
        "() => { const node = document.querySelector('#temperature'); node.value = 0.25;"
        "node.dispatchEvent(new Event('input')); }"
    )
    assert page.inner_text("output[for=temperature]") == "0.25"
    assert ask(page, "春天") == ["sft：春天", "base：春天"]
    left, right = (node.bounding_box() for node in page.query_selector_all(".answer"))
    assert left["y"] == right["y"] and left["x"] < right["x"]
    for engine in engines[1].values():
        assert (engine.samplings[-1].temperature, engine.samplings[-1].seed) == (0.25, 7)
    page.set_viewport_size({"width": 390, "height": 844})
    upper, lower = (node.bounding_box() for node in page.query_selector_all(".answer"))
    assert upper["x"] == lower["x"] and upper["y"] < lower["y"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_text_is_continued(page, engines) -> None:
    page.check("input[value=continue]")
    assert ask(page, "从前") == ["从前sft：从前"]
    assert engines[1]["sft"].served[-1] == "从前"


def test_what_a_model_writes_is_only_text(page) -> None:
    [shown] = ask(page, "html")
    assert shown.startswith("<img src=x") and "[U+202E]\\x1b" in shown
    assert page.query_selector(".talk img, .talk b") is None and "Hanmo" in page.title()


def test_an_answer_is_stopped_by_escape_and_failures_are_told(page, engines) -> None:
    ask(page, "好")
    engine = engines[1]["sft"]
    finished = engine.finished
    engine.delay = 0.1
    page.fill(".composer textarea", "long")
    page.press(".composer textarea", "Enter")
    page.wait_for_function("() => document.querySelector('.turn:last-child .answer p').textContent.length > 3")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('.answer.live')")
    assert "已停止" in page.inner_text(".turn:last-child .foot")
    engine.delay = 0.0
    ask(page, "fail")
    assert page.is_visible(".turn:last-child .fault") and "boom" not in page.inner_text(".talk")
    assert ask(page, "后来呢") == ["sft：后来呢"] and engine.finished > finished


def test_shift_enter_breaks_the_line_and_composing_does_not_send(page) -> None:
    page.focus(".composer textarea")
    page.keyboard.type("一")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("二")
    page.evaluate(
        "document.querySelector('.composer textarea').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, isComposing: true}))"
    )
    assert page.input_value(".composer textarea") == "一\n二" and page.query_selector(".turn") is None
    page.click("#language")
    assert page.inner_text(".composer .strong") == "Send" and page.inner_text(".modes label").strip() == "Chat"
