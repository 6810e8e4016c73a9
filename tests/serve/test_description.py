"""Our OpenAPI description, and requests that schemathesis makes up from it (2,000 of them: benchmarks/serving.py)."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from hanmo.serve.api import create_app
from hanmo.serve.models import Models

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/embeddings",
    "/v1/fill-mask",
    "/v1/classify",
    "/v1/entities",
]


@pytest.fixture(scope="module")
def app(scripted):
    app = create_app(Models.holding(scripted(b"ok"), waiting=1000))
    with TestClient(app):
        yield app


def test_every_endpoint_is_described(app):
    assert set(PATHS) | {"/v1/models", "/v1/models/{name}", "/health", "/metrics"} == set(app.openapi()["paths"])


@pytest.mark.parametrize("path", PATHS)
def test_made_up_requests_are_answered_or_refused_and_never_fail(app, path):
    operation: Any = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["POST"]

    @settings(max_examples=12, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)  # type: ignore[arg-type]
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call()
        assert answer.status_code < 500, answer.text

    ask()
