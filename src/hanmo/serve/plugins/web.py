"""The plugin `web`: what a web search says about a message.

Brave's search API (https://api.search.brave.com, key in BRAVE_API_KEY) or a SearXNG server that allows JSON
(https://docs.searxng.org/dev/search_api.html). Only the message goes there. One request each, bounded in time and size.
"""

from __future__ import annotations

import html
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import httpx
import orjson
from pydantic import Field

from hanmo.errors import HanmoError

BRAVE = "https://api.search.brave.com/res/v1/web/search"
#: Bytes of an answer, at most.
_MOST = 2 << 20
#: Brave refuses longer questions, characters.
_LONGEST = 400
_TAG = re.compile(r"<[^<>]*>")


def open_web(
    *,
    engine: Literal["brave", "searxng"] = "brave",
    url: str = "",
    top: Annotated[int, Field(ge=1, le=20)] = 3,
    size: Annotated[int, Field(ge=20, le=10_000)] = 300,
    timeout: Annotated[float, Field(gt=0, le=300)] = 10.0,
) -> Callable[[str], str]:
    """Return what asks a web search.

    Args:
        engine: whose interface.
        url: where it is; empty: Brave's own, or for SearXNG what SEARXNG_URL says.
        top: results that are given, at most.
        size: characters of each, at most.
        timeout: seconds that an answer may take, all in all.

    Returns:
        message -> results as "[1] TITLE (ADDRESS): text", with an empty line between them; empty where there are none.
        Raises `HanmoError` when there is no answer in time, or one that says no.

    Raises:
        HanmoError: the key or the address is missing.
    """
    headers, fixed = {"accept": "application/json"}, {}
    if engine == "brave":
        key = os.environ.get("BRAVE_API_KEY", "").strip()
        if not key:
            raise HanmoError("plugin 'web': BRAVE_API_KEY is not set: put your key of Brave's search API there")
        headers["x-subscription-token"] = key
        address, fixed = url or BRAVE, {"count": str(top)}
    else:
        server = url or os.environ.get("SEARXNG_URL", "")
        if not server:
            raise HanmoError("plugin 'web': name a SearXNG server by url=… or SEARXNG_URL")
        address, fixed = server.rstrip("/").removesuffix("/search") + "/search", {"format": "json"}
    if httpx.URL(address).scheme not in ("http", "https"):
        raise HanmoError(f"plugin 'web': '{address}' is no http or https address")

    def search(message: str) -> str:
        question = " ".join(message.split())[:_LONGEST]
        if not question:
            return ""
        found = _results(_get(address, {"q": question, **fixed}, headers, timeout), engine)
        lines = []
        for number, (title, place, text) in enumerate(found, 1):
            lines.append(f"[{number}] {title} ({place}): {text[:size]}")
            if number == top:
                break
        return "\n\n".join(lines)

    return search


def _get(address: str, asked: dict[str, str], headers: dict[str, str], timeout: float) -> Any:
    """The JSON that a server answers.

    Raises:
        HanmoError: none in time, a status that is not 200, too much, or no JSON.
    """
    host = httpx.URL(address).host
    until = time.monotonic() + timeout
    body = b""
    try:
        with httpx.stream("GET", address, params=asked, headers=headers, timeout=timeout) as answer:
            for part in answer.iter_bytes():
                body += part
                if len(body) > _MOST:
                    raise HanmoError(f"{host} answers with more than {_MOST >> 20} MiB")
                if time.monotonic() > until:  # httpx's own limit is for each piece
                    raise httpx.ReadTimeout("")
            status = answer.status_code
    except httpx.TimeoutException:
        raise HanmoError(f"{host} did not answer within {timeout:g} s") from None
    except (httpx.HTTPError, OSError) as error:
        raise HanmoError(f"{host} cannot be reached ({' '.join(str(error).split())[:200]})") from None
    if status != 200:
        why = {401: ": is the key right?", 403: ": is the key right, and JSON allowed?", 429: ": too many questions"}
        raise HanmoError(f"{host} answers with status {status}{why.get(status, '')}")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise HanmoError(f"{host} does not answer with JSON") from None


def _results(answer: Any, engine: str) -> Iterator[tuple[str, str, str]]:
    """(title, address, text) of each result; those that lack one of them are passed over."""
    holder = answer.get("web") if engine == "brave" and isinstance(answer, dict) else answer
    listed = holder.get("results") if isinstance(holder, dict) else None
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict):
            parts = [one.get("title"), one.get("url"), one.get("description" if engine == "brave" else "content")]
            title, place, text = (_plain(part) for part in parts)
            if title and place and text:
                yield title, place, text


def _plain(value: Any) -> str:
    """A text without markup, in one line; empty where it is none."""
    return " ".join(html.unescape(_TAG.sub("", value)).split()) if isinstance(value, str) else ""
