"""The studio's application: one page, and what it asks for under /v1/studio.

Everything that reads files runs in threads; the event loop only passes messages on. A page from elsewhere is kept out
by `hanmo.serve.guard`, and where there is a key nothing below /v1 is told without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from hanmo.errors import HanmoError
from hanmo.evaluate.collect import training_samples
from hanmo.serve.guard import Guard, error_body
from hanmo.studio import downloads, looking
from hanmo.studio.exporting import Exports
from hanmo.studio.logs import ACROSS, Logs
from hanmo.studio.pages import page_routes
from hanmo.studio.pieces import Tokenizers, asked
from hanmo.studio.shelf import Missing, Shelf
from hanmo.studio.talking import Talking

_log = logging.getLogger("hanmo.studio")
_API = "/v1/studio"
#: Bytes that a request may have.
_MOST_BODY = 1 << 20
#: Points that a series may be asked for.
_MOST_POINTS = 5000

#: Headers of files: nothing in them is run, whatever they are.
_SENT = {"cache-control": "no-store", "x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
#: A report has a script of its own, which runs apart from the studio: in no origin, and with no way to any network.
_REPORT = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"

Answer = Callable[[Request], Any]


def create_app(
    runs: Path | str,
    *,
    api_key: str | None = None,
    only_loopback: bool = False,
    device: str = "auto",
    threads: int | None = None,
    context: int | None = None,
) -> Starlette:
    """The ASGI application that shows `runs`.

    Args:
        runs: the folder of runs.
        api_key: must be sent for everything under /v1.
        only_loopback: refuse requests under a host name that is not loopback's.
        device, threads, context: for the models that are talked to, see `hanmo.serve.engines.open_engine`.

    Raises:
        HanmoError: there is no such folder.
    """
    shelf, logs = Shelf(runs), Logs()
    tokenizers = Tokenizers(shelf)
    talking = Talking(shelf, device=device, threads=threads, context=context)
    exports = Exports(shelf)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Read before the first visitor comes: what has not changed until then is not read again.
        first = asyncio.create_task(asyncio.to_thread(shelf.runs))
        yield
        await asyncio.wait([first])
        await talking.close()
        await asyncio.to_thread(exports.close)

    def folder(request: Request) -> Path:
        return shelf.folder(*_names(request))

    def all_runs(_: Request) -> Any:
        return {"root": shelf.root.name, "runs": shelf.runs()}

    def one_run(request: Request) -> Any:
        return shelf.run(request.path_params["run"])

    def curves(request: Request) -> Any:
        path = shelf.showing(*_names(request), "curves") / "log.jsonl"
        across = request.query_params.get("x", "step")
        if across not in ACROSS:
            raise HanmoError(f"x: '{across}' is none of {', '.join(ACROSS)}")
        points = _number(request, "points") or 1000
        if not 2 <= points <= _MOST_POINTS:  # false for NaN, too
            raise HanmoError(f"points: must be from 2 to {_MOST_POINTS}")
        return logs.open(path).curves(int(points), across, _number(request, "from"), _number(request, "to"))

    def rejects(request: Request) -> Any:
        skip = _number(request, "skip") or 0
        if not 0 <= skip < 1e12:
            raise HanmoError("skip: must be a number of documents")
        return looking.rejects(
            shelf.showing(*_names(request), "corpus"), request.query_params.get("reason", ""), int(skip)
        )

    async def cut(request: Request) -> Response:
        sides, text = asked(await _body(request))
        return _json(await asyncio.to_thread(lambda: [tokenizers.cut(run, stage, text) for run, stage in sides]))

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        path = await asyncio.to_thread(lambda: downloads.file(shelf, folder(request), name))
        return FileResponse(path, filename=path.name, headers=_SENT)

    async def zipped(request: Request) -> Response:
        parts = await asyncio.to_thread(lambda: downloads.zipped(shelf, folder(request)))
        run, stage = shelf.title(request.path_params["run"]), request.path_params["stage"]
        name = quote(f"{run}-{stage}.zip")
        headers = _SENT | {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return StreamingResponse(parts, media_type="application/zip", headers=headers)

    async def report(request: Request) -> Response:
        path = await asyncio.to_thread(lambda: downloads.file(shelf, folder(request), "report.html"))
        return FileResponse(path, media_type="text/html", headers=_SENT | {"content-security-policy": _REPORT})

    async def export(request: Request) -> Response:
        body = await _body(request)
        form = body.get("format") if isinstance(body, dict) else None
        return _json(await asyncio.to_thread(exports.begin, *_names(request), form))

    def looked(what: str, look: Callable[[Path], Any]) -> Route:
        return _get(f"{stage}/{what}", lambda request: look(shelf.showing(*_names(request), what)))

    stage = f"{_API}/runs/{{run}}/{{stage}}"
    app = Starlette(
        routes=[
            *page_routes(),
            _get(f"{_API}/runs", all_runs),
            _get(f"{_API}/runs/{{run}}", one_run),
            _get(f"{stage}/curves", curves),
            looked("samples", training_samples),
            looked("corpus", looking.corpus),
            _get(f"{stage}/rejects", rejects),
            looked("tokenizer", looking.tokenizer),
            looked("exam", looking.exam),
            looked("card", looking.card),
            _get(f"{stage}/files", lambda request: downloads.files(shelf, folder(request))),
            Route(f"{stage}/files/{{name:path}}", file, methods=["GET"]),
            Route(f"{stage}/report", report, methods=["GET"]),
            _get(f"{stage}/export", lambda request: exports.state(*_names(request))),
            Route(f"{stage}/export", export, methods=["POST"]),
            Route(f"{stage}/model.zip", zipped, methods=["GET"]),
            _get(f"{_API}/tokenizers", lambda _: tokenizers.all()),
            Route(f"{_API}/pieces", cut, methods=["POST"]),
            _get(f"{_API}/models", lambda _: talking.all()),
            Route("/v1/models", talking, methods=["GET"]),
            Route("/v1/chat/completions", talking, methods=["POST"]),
            Route("/v1/completions", talking, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, HanmoError: _refused, Exception: _refused},
        lifespan=lifespan,
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


async def _body(request: Request) -> Any:
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise HanmoError(f"the body is not JSON: {error}") from None


def _names(request: Request) -> tuple[str, str]:
    return request.path_params["run"], request.path_params["stage"]


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
