"""What a client is told when something goes wrong: errors in OpenAI's form."""

from __future__ import annotations

import logging

from fastapi.responses import JSONResponse

from hanmo.errors import HanmoError
from hanmo.serve.engines.base import EngineDown
from hanmo.serve.guard import error_body
from hanmo.serve.models import Unknown, Unloadable
from hanmo.serve.prompt import PromptTooLong
from hanmo.serve.sampling import SamplingError
from hanmo.serve.worker import Busy, EngineFailure

_log = logging.getLogger("hanmo.serve")


class ApiError(Exception):
    """An error for the client, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = error_body(message, kind, code, param)

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body, self.status, headers={"retry-after": "1"} if self.status == 503 else None)


def to_api_error(error: Exception) -> ApiError:
    """What a client is told of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Unknown):
        return ApiError(404, str(error), "model_not_found", "model")
    if isinstance(error, Unloadable):
        # Its words name files of this machine.
        cause = error.__cause__
        _log.error("%s", error, exc_info=None if isinstance(cause, HanmoError) else cause)
        return ApiError(500, "this model cannot be loaded at the moment; the server's log says why")
    if isinstance(error, TimeoutError):
        return ApiError(504, "the answer took longer than this server allows", "timeout")
    if isinstance(error, Busy):
        return ApiError(503, str(error), "overloaded")
    if isinstance(error, EngineDown):
        return ApiError(503, str(error), "engine_down")
    if isinstance(error, EngineFailure):
        return ApiError(500, str(error))
    if isinstance(error, PromptTooLong):
        return ApiError(400, str(error), "context_length_exceeded")
    if isinstance(error, SamplingError):
        return ApiError(400, str(error), param=error.field)
    if isinstance(error, HanmoError):
        return ApiError(400, str(error))
    return ApiError(500, f"the server failed on this request ({type(error).__name__}); see its log")
