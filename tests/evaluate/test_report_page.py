"""The report in headless Chromium: it asks for nothing, fits a phone, speaks two languages and answers the pointer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fabricate import fabricate
from hanmo.evaluate.report import run
from hanmo.evaluate.settings import ReportSettings


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> str:
    folder = tmp_path_factory.mktemp("demo")
    run(ReportSettings(), {"eval": [fabricate(folder, tiny_tokenizer_dir)]}, folder / "report")
    return (folder / "report" / "report.html").as_uri()


def opened(browser: Any, address: str, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what went wrong on it: errors, and requests for anything but itself."""
    faults: list[str] = []
    page = browser.new_page(**options)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if request.url != address else None)
    page.goto(address)
    return page, faults


def test_desktop(browser: Any, address: str) -> None:
    page, faults = opened(browser, address, locale="en-GB", viewport={"width": 1280, "height": 900})
    language = "document.documentElement.dataset.lang"
    assert page.evaluate(language) == "en"
    assert page.locator("h2").first.inner_text() == "The corridor"
    canvas = page.locator(".canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    first, second = page.locator("#tip").inner_text().split("\n")
    assert first.endswith("M tokens") and second.startswith("loss (nats per token): ")
    page.click("#language")
    assert page.evaluate(language) == "zh" and page.locator("h2").first.inner_text() == "流程"
    page.locator(".score").first.hover()
    assert page.locator("#tip").inner_text().startswith("base：")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tip").inner_text() not in ("", first), "the arrows walk along the curve"
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate(language) == "zh", "the reader's choice is kept"
    assert faults == []


@pytest.mark.parametrize("width", [390, 768])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, width: int) -> None:
    page, faults = opened(browser, address, locale="zh-CN", viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.dataset.lang") == "zh"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert faults == []


def test_paper_is_white_whatever_the_screen(browser: Any, address: str) -> None:
    page, _ = opened(browser, address, color_scheme="dark")
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink')"
    assert page.evaluate(ink).strip() == "#e9e3d6"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ink).strip() == "#1d1b18"
