"""The chat page in headless Chromium, in front of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from browsing import opened

PHONE = {"width": 390, "height": 844}
STORY = "春天来了，小院里的桃花开了。\n\n小明搬来一把小凳子，坐在树下听奶奶讲故事。"


@pytest.fixture(scope="module")
def server(run_server, scripted):
    def script(prompt: str) -> bytes:
        question = prompt.splitlines()[-1]
        if "fail" in question:
            raise ZeroDivisionError("boom")
        if "html" in question:
            return b"<img src=x onerror='document.title=1'><b>bold</b> & <script>document.title=2</script>"
        return STORY.encode() * (50 if "long" in question else 1)

    engine = scripted(script, context=20_000)
    with run_server(engine) as server:
        yield server


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    server.engine.delay = 0.0
    yield from opened(browser, server.url)


def ask(page, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


def answers(page) -> list[str]:
    return page.eval_on_selector_all(".assistant p", "nodes => nodes.map(node => node.textContent)")


def test_an_answer_streams_into_the_page(page, server):
    page.wait_for_selector("#model:text-is('scripted')")
    assert page.is_visible("#welcome") and page.is_disabled("#send")
    server.engine.delay = 0.1  # a token, of more than a hundred
    ask(page, "讲个故事")
    assert page.input_value("#input") == ""
    page.wait_for_selector(".live p:not(:empty)")
    seen = answers(page)[0]
    server.engine.delay = 0.0
    assert STORY.startswith(seen) and len(seen) < len(STORY) and page.is_hidden("#welcome")
    page.wait_for_selector(".assistant:not(.live) .foot")
    assert answers(page) == [STORY] and "\ufffd" not in page.inner_text("body")
    assert "词元" in page.inner_text(".foot")
    ask(page, "再来")
    page.wait_for_selector(".assistant:nth-of-type(4) .foot")
    assert server.engine.served[-1] == f"讲个故事\n{STORY}\n再来\n"


def test_shift_enter_breaks_the_line_and_composing_does_not_send(page, server):
    page.focus("#input")
    page.keyboard.type("一")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("二")
    assert page.input_value("#input") == "一\n二"
    height = page.eval_on_selector("#input", "node => node.clientHeight")
    assert height > 40
    # A real composition, as an input method for Chinese makes it, and an Enter within it.
    input_method = page.context.new_cdp_session(page)
    input_method.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    for extra in ({"isComposing": True}, {"keyCode": 229}):
        page.evaluate(
            "extra => document.querySelector('#input').dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ...extra}))",
            extra,
        )
    assert page.is_visible("#welcome")
    input_method.send("Input.insertText", {"text": "你好"})
    page.keyboard.press("Enter")
    page.wait_for_selector(".foot")
    assert server.engine.served[-1] == "一\n二你好\n"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_an_answer_can_be_stopped_and_the_talk_goes_on(page, server, until, how):
    server.engine.delay = 0.05
    finished = server.engine.finished
    ask(page, "long")
    page.wait_for_selector(".live p:not(:empty)")
    assert page.get_attribute("#send", "aria-label") == "停止"
    page.click("#send") if how == "button" else page.keyboard.press("Escape")
    page.wait_for_selector(".foot")
    assert "已停止" in page.inner_text(".foot")
    until(lambda: server.engine.finished == finished + 1)
    server.engine.delay = 0.0
    stopped = answers(page)[0]
    ask(page, "后来呢")
    page.wait_for_selector(".assistant:nth-of-type(4) .foot")
    assert server.engine.served[-1] == f"long\n{stopped}\n后来呢\n"


def test_what_a_model_writes_is_only_text(page):
    ask(page, "<i>html</i>")
    page.wait_for_selector(".foot")
    page.wait_for_selector("#model:text-is('scripted')")
    assert answers(page)[0].startswith("<img src=x") and page.title() == "scripted · 翰墨"
    assert page.query_selector("#talk img, #talk b, #talk i, #talk script") is None


def test_a_failure_is_shown_and_can_be_tried_again(page, server):
    ask(page, "fail")
    page.wait_for_selector(".error")
    assert "没能得到回答" in page.inner_text(".error") and "boom" not in page.inner_text(".error")
    assert page.query_selector(".live") is None
    page.click(".error button")
    page.wait_for_selector(".error")
    assert len(page.query_selector_all(".user")) == 1
    # A new question takes the failed one's place, in the page and in what the model sees.
    ask(page, "好")
    page.wait_for_selector(".foot")
    assert page.query_selector(".error") is None and server.engine.served[-1] == "好\n"


def test_a_question_too_long_is_given_back(page):
    ask(page, "长" * 10_000)
    page.wait_for_selector(".error")
    assert "太长" in page.inner_text(".error")
    page.click(".error button")
    assert page.input_value("#input") == "长" * 10_000 and page.is_visible("#welcome")


def test_a_server_that_is_gone_is_said_to_be_gone(browser, run_server, scripted):
    with run_server(scripted(b"x" * 5000, delay=0.05)) as server:
        pages = opened(browser, server.url)
        page = next(pages)
        ask(page, "你好")
        page.wait_for_selector(".live p:not(:empty)")
    page.wait_for_selector(".error")
    ask(page, "还在吗")
    page.wait_for_selector(".error:has-text('连不上')")
    next(pages, None)


def test_settings_are_sent_kept_and_reset(page, server):
    page.click("#open-settings")
    page.evaluate(
        "() => { const node = document.querySelector('#temperature'); node.value = 0.25;"
        "node.dispatchEvent(new Event('input')); }"
    )
    assert page.inner_text("output[for=temperature]") == "0.25"
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "你好")
    page.wait_for_selector(".foot")
    assert server.engine.samplings[-1].temperature == 0.25 and server.engine.samplings[-1].top_p == 0.9
    page.click("#open-settings")
    page.click("#defaults")
    assert page.inner_text("output[for=temperature]") == "0.7"
    page.click("#settings .strong")
    assert page.is_hidden("#settings")


def test_a_reload_keeps_the_talk_and_a_new_chat_clears_it(page, server):
    ask(page, "你好")
    page.wait_for_selector(".foot")
    page.reload()
    assert answers(page) == [STORY]
    page.click("#clear")
    assert page.is_visible("#welcome") and answers(page) == []
    ask(page, "新的")
    page.wait_for_selector(".foot")
    assert server.engine.served[-1] == "新的\n"


def test_a_key_is_asked_for_and_used(browser, run_server, scripted):
    with run_server(scripted(b"open"), api_key="geheim") as server:
        pages = opened(browser, server.url)
        page = next(pages)
        ask(page, "你好")
        page.wait_for_selector(".error")
        assert "密钥" in page.inner_text(".error")
        page.click("#open-settings")
        page.fill("#key", "geheim")
        page.click("#settings .strong")
        page.click(".error button")
        page.wait_for_selector(".foot")
        assert answers(page) == ["open"]
        next(pages, None)


@pytest.mark.parametrize("options", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}, {"locale": "en-US"}])
def test_it_fits_a_phone_and_speaks_english(browser, server, options):
    pages = opened(browser, server.url, **options)
    page = next(pages)
    ask(page, "long" + "w" * 300)
    page.wait_for_selector(".foot", timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('#scroll').scrollWidth <= innerWidth")
    box = page.query_selector("#send").bounding_box()
    assert box["y"] + box["height"] <= page.viewport_size["height"]
    if options.get("locale") == "en-US":
        assert page.get_attribute("html", "lang") == "en" and "tokens" in page.inner_text(".foot")
    next(pages, None)
