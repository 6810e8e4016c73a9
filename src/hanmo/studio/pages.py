"""The page's own files as routes: read once, sent as they are, allowed to load nothing from elsewhere.

Palette and type are those of all our pages (`hanmo/page/page.css`); the words are made into a module of two languages.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanmo.studio.words import all_words

_PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: The page loads nothing from elsewhere, runs no inline script and cannot be framed.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """A route for the page and for each file it loads."""
    files = {file.name: file for file in sorted(_PAGE.iterdir()) if file.suffix in _KINDS}
    rooms = _PAGE.parents[1]
    files |= {"base.css": rooms / "page" / "page.css"}
    files |= {name: rooms / "serve" / "page" / name for name in ("seal.svg", "client.js")}
    routes = [_route(f"/page/{name}", file.read_bytes(), file.suffix) for name, file in files.items()]
    table = b"export default " + orjson.dumps(all_words()) + b";\n"
    return [
        _route("/", files["index.html"].read_bytes(), ".html"),
        *routes,
        _route("/page/table.js", table, ".js"),
    ]


def _route(path: str, content: bytes, suffix: str) -> Route:
    async def send(_: Request) -> Response:
        return Response(content, media_type=_KINDS[suffix], headers=_HEADERS)

    return Route(path, send, methods=["GET"])
