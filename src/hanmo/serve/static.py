"""The files of a page as routes: read once, sent as they are, allowed to load nothing from elsewhere."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

#: What a page is made of.
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
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


def file_route(path: str, content: bytes, suffix: str) -> Route:
    """A route that sends `content`, which is of the kind that `suffix` (of `KINDS`) names."""

    async def send(_: Request) -> Response:
        return Response(content, media_type=KINDS[suffix], headers=_HEADERS)

    return Route(path, send, methods=["GET"], include_in_schema=False)
