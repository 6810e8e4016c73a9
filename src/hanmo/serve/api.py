"""The server's application: OpenAI's endpoints and the chat page, over one model or several.

Everything that takes time (loading, encoding, computing) happens in threads; the event loop only passes messages on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from hanmo.errors import HanmoError
from hanmo.serve.faults import ApiError, to_api_error
from hanmo.serve.guard import Guard
from hanmo.serve.journal import Journal
from hanmo.serve.metrics import Metrics
from hanmo.serve.models import Models
from hanmo.serve.reading import Reading
from hanmo.serve.sampling import Sampling
from hanmo.serve.static import KINDS, file_route
from hanmo.serve.writing import Writing

_PAGE = Path(__file__).parent / "page"
_BRANCHES = ("str", "list", "TextPart")


def create_app(
    models: Models,
    *,
    api_key: str | None = None,
    defaults: Sampling | None = None,
    max_body: int = 1 << 20,
    patience: float = 600.0,
    only_loopback: bool = False,
    log_text: bool = False,
) -> FastAPI:
    """The ASGI application that serves `models`; it unloads them when it shuts down.

    Args:
        models: what may be asked for.
        api_key: clients must send it for everything but the page, /health and the description.
        defaults: settings for what a request leaves out.
        max_body: bytes a request may have; larger ones get status 413.
        patience: seconds that an answer may take, waiting in line included.
        only_loopback: refuse requests under a host name that is not loopback's.
        log_text: put what people ask and what models answer into the log of requests, too.
    """
    metrics = Metrics(models)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    # FastAPI's own documentation pages load scripts from elsewhere; the description at /openapi.json stays.
    app = FastAPI(title="Hanmo", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, api_key=api_key, max_body=max_body, only_loopback=only_loopback)  # type: ignore[arg-type]
    app.add_middleware(Journal, metrics=metrics)  # type: ignore[arg-type]
    _add_errors(app)
    _add_page(app)
    Writing(app, models, metrics, defaults or Sampling(), patience, log_text)
    Reading(app, models, metrics, patience)

    async def counts() -> Response:
        """What the server counts, for Prometheus."""
        return Response(await asyncio.to_thread(metrics.page), media_type=Metrics.content_type)

    app.get("/metrics", response_class=Response)(counts)
    return app


def _add_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        return to_api_error(error).response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Where a field may be one of several things, the deepest complaint is about the one that was meant.
        first = max(error.errors(), key=lambda item: len(item["loc"]))
        if first["type"] == "json_invalid":
            return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at byte {first['loc'][-1]}").response()
        if first["loc"] == ("body",) and not isinstance(error.body, dict):
            return ApiError(400, "send a JSON object with the header 'content-type: application/json'").response()
        # Of a union, pydantic also names the branch it tried ("str", "list[...]"); clients know only fields and places.
        parts = [str(p) for p in first["loc"] if isinstance(p, int) or (p.isidentifier() and p not in _BRANCHES)]
        where = ".".join(parts[1:])
        message = str(first["msg"]).removeprefix("Value error, ")
        return ApiError(400, f"{where}: {message}" if where else message, param=where or None).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}: " if error.status_code in (404, 405) else ""
        return ApiError(error.status_code, f"{where}{error.detail}").response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(HanmoError, known)
    app.add_exception_handler(Exception, known)


def _add_page(app: FastAPI) -> None:
    files = [file for file in sorted(_PAGE.iterdir()) if file.suffix in KINDS]
    routes = [("/", _PAGE / "index.html"), *((f"/page/{file.name}", file) for file in files)]
    app.router.routes += [file_route(path, file.read_bytes(), file.suffix) for path, file in routes]
