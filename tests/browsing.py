"""Pages in headless Chromium, for the tests of all our pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a fresh profile; fails when a script of the page failed or anything foreign was asked for."""
    context = browser.new_context(**{"locale": "zh-CN", "viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(15_000)
    page = context.new_page()
    faults: list[str] = []
    foreign: list[str] = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("request", lambda request: None if request.url.startswith(url) else foreign.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert not faults and not foreign
