"""The studio in headless Chromium, in front of a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from at_work import begun, log

from browsing import opened
from fabricate import NASTY

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def url(run_studio, runs: Path) -> Iterator[str]:
    with run_studio(runs, only_loopback=True) as url:
        yield url


@pytest.fixture
def page(browser, url: str) -> Iterator[Any]:
    yield from opened(browser, url)


def go(page, route: str, sees: str) -> None:
    page.evaluate("route => { location.hash = route; }", route)
    page.wait_for_selector(sees)


def ink(page, canvas: str = ".chart canvas") -> int:
    """How many dots of a canvas are drawn on."""
    return page.eval_on_selector(
        canvas,
        "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data"
        ".filter((value, place) => place % 4 == 3 && value > 0).length",
    )


def test_it_opens_with_the_runs_and_is_walked_by_keys(page) -> None:
    page.wait_for_selector(".runs a")
    assert {link.inner_text() for link in page.query_selector_all(".runs a")} >= {"demo", "新 run #1"}
    assert page.evaluate("document.documentElement.lang") == "zh-Hans" and "次训练" in page.inner_text("main")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip", "the first key leads past the frame"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main" and page.is_visible(".runs")
    page.keyboard.press("/")
    page.keyboard.type("新 r")
    assert [link.inner_text() for link in page.query_selector_all(".runs li:not([hidden]) a")] == ["新 run #1"]
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('新 run #1')")
    page.focus(".tabs a[aria-current]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chart canvas")
    assert page.evaluate("location.hash").endswith("/base")


def test_the_language_is_switched_and_kept(page) -> None:
    page.wait_for_selector(".runs a")
    page.click("#language")
    assert page.inner_text("#nav a") == "Runs" and page.get_attribute("#theme", "title") == "Light or dark"
    assert page.get_attribute("input[type=search]", "placeholder") == "Filter by name ( / )"
    page.reload()
    page.wait_for_selector(".runs a")
    assert page.evaluate("document.documentElement.lang") == "en" and "runs" in page.inner_text(".heading .lead")


def test_curves_are_drawn_read_and_zoomed(page) -> None:
    go(page, "#/run/demo/base", ".chart canvas")
    page.wait_for_function("() => document.querySelectorAll('.chart').length > 3")
    assert ink(page) > 2000
    page.focus(".chart canvas")
    page.keyboard.press("End")
    last = page.inner_text(".chart .place")
    assert float(page.inner_text(".chart output")) > 0 and last.startswith("步数")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".chart .place") != last and page.inner_text("#spoken").startswith("步数")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("+")
    page.wait_for_selector(".controls button:visible")
    page.keyboard.press("0")
    page.wait_for_selector(".controls button", state="hidden")
    assert "from=" in asked[0] and "from=" not in asked[-1]
    box = page.locator(".chart canvas").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 60, steps=3)
    page.mouse.up()
    page.wait_for_selector(".controls button:visible")
    page.select_option(".controls select", "tokens")
    page.wait_for_selector(".controls button", state="hidden")


def test_runs_are_compared_by_keys_in_one_picture(browser, run_studio, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "demo" / "base", tmp_path / "long" / "base")
    stage = begun(tmp_path / "短 #2" / "base")
    log(stage, 20)
    log(begun(tmp_path / "三" / "base"), 40)
    with run_studio(tmp_path) as url:
        pages = opened(browser, url)
        page = next(pages)
        page.wait_for_selector(".runs a")
        go(page, "#/run/long/base", ".chart canvas")
        page.click("text=与其他训练的曲线对比")
        page.wait_for_selector(".pairs .chart canvas")
        titles = [title.inner_text() for title in page.query_selector_all(".chart figcaption > b")]
        assert titles == ["损失（每词元 nat）", "留出文本比特/字节", "每秒词元数", "学习率"]
        before = ink(page)
        page.focus(".choice:has-text('短 #2/base') input")
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelectorAll('.chart .key').length == 6")
        # Loss and rate are logged by both, the others by one; the address can be sent to somebody.
        counted = [len(panel.query_selector_all(".key")) for panel in page.query_selector_all(".chart")]
        assert counted == [2, 1, 1, 2] and ink(page) > before
        assert page.evaluate("location.hash") == "#/compare/long%2Fbase/%E7%9F%AD%20%232%2Fbase"
        rows = [row.inner_text().split() for row in page.query_selector_all("tbody tr")]
        assert [row[0] for row in rows] == ["long/base", "短"] and rows[1][2:] == ["20", "0.4", "–", "–", "0.01"]
        page.focus(".chart canvas")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#spoken").startswith("步数 10: long/base") and "短 #2/base 0.8" in page.inner_text(
            "#spoken"
        )
        page.keyboard.press("End")
        assert page.inner_text("#spoken").startswith("步数 980: long/base") and "短" not in page.inner_text("#spoken")
        log(stage, 20, first=21)
        page.wait_for_function("() => document.querySelector('tbody tr:nth-child(2) td').textContent === '40'")
        page.select_option(".controls select", "seconds")
        page.wait_for_selector("text=未画出：其日志未记录秒数")
        page.select_option(".controls select", "step")
        page.set_viewport_size(PHONE)
        page.reload()
        page.wait_for_function("() => document.querySelectorAll('.chart .key').length == 6")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for box in page.query_selector_all(".choice input:checked"):
            box.uncheck()
        page.wait_for_selector("text=请在上方选择训练")
        assert page.query_selector(".chart") is None and page.evaluate("location.hash") == "#/compare"
        page.click("#language")
        assert "Choose trainings above." in page.inner_text("main")
        next(pages, None)


def test_a_run_at_work_is_followed(page, runs: Path) -> None:
    stage = begun(runs / "live" / "base")
    go(page, "#/run/live/base", ".live")
    assert page.is_visible("text=尚无日志")
    log(stage, 20)
    page.wait_for_selector(".chart canvas")
    page.focus(".chart canvas")
    page.keyboard.press("End")
    assert page.inner_text(".chart .place").endswith(" 20")
    log(stage, 20, first=21)
    page.wait_for_function(
        "() => { const c = document.querySelector('.chart canvas'); c.focus();"
        "c.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true}));"
        "return document.querySelector('.chart .place').textContent.endsWith(' 40'); }"
    )


def test_what_a_corpus_holds_is_only_text(page) -> None:
    go(page, "#/run/demo/corpus", ".raw details")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    shown = page.inner_text(".raw pre")
    assert "</script><script>alert(" in shown and "<b>&amp;" in shown and NASTY not in shown
    assert page.query_selector("main script, main b:has-text('&amp;')") is None
    assert not any(char in page.inner_text("main") for char in "\x00\x1b\u202e")


def test_text_is_cut_by_several_tokenizers(page) -> None:
    go(page, "#/tokenizers", ".pieces span")
    page.fill("textarea", "春天<b>到了")
    page.wait_for_function("() => document.querySelectorAll('.pieces span').length < 12")
    assert page.inner_text(".pieces").replace("2", "").replace("3", "").replace("\n", "") == "春天<b>到了"
    assert page.query_selector(".pieces b") is None and page.inner_text(".cutting .figures b").isdigit()
    page.click(".ids summary")
    assert page.inner_text(".ids p span")[0].isdigit()


def test_exam_corpus_and_vocabulary_are_shown(page) -> None:
    go(page, "#/run/demo/eval", ".scores .point")
    assert "随机猜测" in page.inner_text(".legend") and "base" in page.get_attribute(".lane", "aria-label")
    go(page, "#/run/demo/corpus", ".river path")
    page.click(".reasons summary")
    page.wait_for_selector(".sample")
    assert "<b>&amp;" in page.inner_text(".reasons") and page.query_selector(".sample script") is None
    go(page, "#/run/demo/tokenizer", ".tally")
    page.click("text=用自己的文字试试")
    page.wait_for_selector(".pieces span")


@pytest.mark.parametrize("options", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}, {"locale": "en-US"}])
def test_it_fits_a_phone_and_speaks_english(browser, url: str, options: dict[str, Any]) -> None:
    pages = opened(browser, url, **options)
    page = next(pages)
    page.wait_for_selector(".runs a")
    for route in ("#/", "#/run/demo", "#/run/demo/base", "#/run/demo/corpus", "#/run/demo/eval", "#/tokenizers"):
        go(page, route, "main > div")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), route
    if options.get("locale") == "en-US":
        assert page.get_attribute("html", "lang") == "en"
    next(pages, None)


def test_a_key_is_asked_for_once_and_used(browser, run_studio, runs: Path) -> None:
    with run_studio(runs, api_key="geheim") as url:
        pages = opened(browser, url)
        page = next(pages)
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('#key')?.value === ''")
        page.fill("#key", "geheim")
        page.keyboard.press("Enter")
        page.wait_for_selector(".runs a")
        page.reload()
        page.wait_for_selector(".runs a")
        next(pages, None)


def test_addresses_that_lead_nowhere_are_said_to(page) -> None:
    go(page, "#/nothing", "text=没有这个页面")
    go(page, "#/run/none", ".fault:has-text('none')")
    go(page, "#/run/%E0%A4%A", ".fault")
    go(page, "#/", ".runs a")


def test_a_server_that_is_gone_is_said_to_be_gone(browser, run_studio, runs: Path) -> None:
    with run_studio(runs) as url:
        pages = opened(browser, url)
        page = next(pages)
        page.wait_for_selector(".runs a")
    page.evaluate("location.hash = '#/run/demo'")
    page.wait_for_selector(".fault:has-text('连不上服务器')")
    next(pages, None)
