"""The studio's application: one page, and what it asks for under /v1/studio.

Everything that reads files runs in threads; the event loop only passes messages on. A page from elsewhere is kept out
by `hanmo.serve.guard`, and where there is a key nothing below /v1 is told without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanmo.errors import HanmoError
from hanmo.evaluate.collect import training_samples
from hanmo.serve.guard import Guard, error_body
from hanmo.studio.logs import ACROSS, Logs
from hanmo.studio.pages import page_routes
from hanmo.studio.shelf import Missing, Shelf

_log = logging.getLogger("hanmo.studio")
_API = "/v1/studio"
#: Bytes that a request may have.
_MOST_BODY = 1 << 20
#: Points that a series may be asked for.
_MOST_POINTS = 5000

Answer = Callable[[Request], Any]


def create_app(
    runs: Path | str,
    *,
    api_key: str | None = None,
    only_loopback: bool = False,
) -> Starlette:
    """The ASGI application that shows `runs`.

    Args:
        runs: the folder of runs.
        api_key: must be sent for everything under /v1.
        only_loopback: refuse requests under a host name that is not loopback's.

    Raises:
        HanmoError: there is no such folder.
    """
    shelf, logs = Shelf(runs), Logs()

    def all_runs(_: Request) -> Any:
        return {"root": shelf.root.name, "runs": shelf.runs()}

    def one_run(request: Request) -> Any:
        return shelf.run(request.path_params["run"])

    def curves(request: Request) -> Any:
        path = _stage(shelf, request) / "log.jsonl"
        if not path.is_file():
            raise Missing(f"{path.parent.name}: no log there")
        across = request.query_params.get("x", "step")
        if across not in ACROSS:
            raise HanmoError(f"x: '{across}' is none of {', '.join(ACROSS)}")
        points = _number(request, "points") or 1000
        if not 2 <= points <= _MOST_POINTS:  # false for NaN, too
            raise HanmoError(f"points: must be from 2 to {_MOST_POINTS}")
        return logs.open(path).curves(int(points), across, _number(request, "from"), _number(request, "to"))

    def samples(request: Request) -> Any:
        return training_samples(_stage(shelf, request))

    stage = f"{_API}/runs/{{run}}/{{stage}}"
    app = Starlette(
        routes=[
            *page_routes(),
            _get(f"{_API}/runs", all_runs),
            _get(f"{_API}/runs/{{run}}", one_run),
            _get(f"{stage}/curves", curves),
            _get(f"{stage}/samples", samples),
        ],
        exception_handlers={HTTPException: _refused, HanmoError: _refused, Exception: _refused},
    )
    app.add_middleware(Guard, api_key=api_key, max_body=_MOST_BODY, only_loopback=only_loopback)  # type: ignore[arg-type]
    return app


def _get(path: str, answer: Answer) -> Route:
    async def endpoint(request: Request) -> Response:
        return _json(await asyncio.to_thread(answer, request))

    return Route(path, endpoint, methods=["GET"])


def _json(value: Any, status: int = 200) -> Response:
    # Corpora hold halves of characters, which orjson refuses and JSON can only spell.
    body = orjson.dumps(_whole(value), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(body, status, headers=headers, media_type="application/json")


def _whole(value: Any) -> Any:
    """The value with a replacement for characters that have no UTF-8."""
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        case dict():
            return {_whole(key): _whole(item) for key, item in value.items()}
        case list() | tuple():
            return [_whole(item) for item in value]
    return value


def _stage(shelf: Shelf, request: Request) -> Path:
    return shelf.folder(request.path_params["run"], request.path_params["stage"])


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    try:
        return float(text) if text is not None else None
    except ValueError:
        raise HanmoError(f"{name}: '{text}' is not a number") from None


async def _refused(request: Request, error: Exception) -> Response:
    """What the page is told, in the form of our other server."""
    match error:
        case HTTPException():
            status, message = error.status_code, f"{request.url.path}: {error.detail}"
        case Missing():
            status, message = 404, str(error)
        case HanmoError():
            status, message = 400, str(error)
        case _:
            _log.error("a request failed", exc_info=error)
            status, message = 500, f"the server failed on this request ({type(error).__name__}); see its log"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _json(error_body(message, kind), status)
