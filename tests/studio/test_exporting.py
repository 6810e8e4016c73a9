"""Exports: one at a time, in a process of their own, with the command's own words where they fail."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from at_work import model
from starlette.testclient import TestClient

from hanmo.cli import cli
from hanmo.studio import exporting
from hanmo.studio.app import create_app

WHERE = "/v1/studio/runs/run/sft/export"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    model(tmp_path / "run" / "sft", "sft")
    with TestClient(create_app(tmp_path), raise_server_exceptions=False) as client:
        yield client


def after(client: TestClient) -> dict[str, str]:
    """What the last export came to."""
    end = time.monotonic() + 60
    while (found := client.get(WHERE).json())["state"] == "working":
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_an_export_is_a_stage_beside_the_model(client: TestClient, monkeypatch, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"
    given = []

    def command(folder: Path, out: Path, form: str) -> list[str]:
        given.append((folder, out, form))
        return [sys.executable, "-c", script, str(gate)]

    monkeypatch.setattr(exporting, "command", command)
    assert client.get(WHERE).json()["state"] == "none"
    assert client.post(WHERE, json={"format": "q8_0"}).json()["state"] == "working"
    second = client.post(WHERE, json={"format": "f16"})
    assert second.status_code == 400 and "one at a time" in second.json()["error"]["message"]
    gate.touch()
    found = after(client)
    assert (found["state"], found["stage"]) == ("done", "sft-q8_0")
    assert given == [(tmp_path / "run" / "sft", tmp_path / "run" / "sft-q8_0", "q8_0")]


def test_the_command_is_one_that_there_is(tmp_path: Path) -> None:
    words = exporting.command(tmp_path, tmp_path / "out", "q8_0")[3:]
    group = cli.commands[words[0]]
    known = {option for parameter in group.commands[words[1]].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known


def test_a_failure_is_told_in_the_command_s_words(client: TestClient, monkeypatch) -> None:
    script = "import sys; print('step 1', file=sys.stderr); sys.exit('error: model: no weights there')"
    monkeypatch.setattr(exporting, "command", lambda *_: [sys.executable, "-c", script])
    client.post(WHERE, json={"format": "q8_0"})
    found = after(client)
    assert (found["state"], found["fault"]) == ("failed", "model: no weights there")


@pytest.mark.parametrize("body", [{"format": "q9"}, {"format": ["q8_0"]}, {"format": "../x"}, {}, [], 3])
def test_other_formats_are_refused(client: TestClient, body: object) -> None:
    answer = client.post(WHERE, json=body)
    assert answer.status_code == 400 and "q8_0" in answer.json()["error"]["message"]


def test_only_a_model_is_exported(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "run" / "corpus").mkdir()
    (tmp_path / "run" / "corpus" / "manifest.json").write_text('{"do": "corpus"}')
    for stage in ("corpus", "none"):
        assert client.post(WHERE.replace("sft", stage), json={"format": "q8_0"}).status_code == 404
    foreign = {"origin": "https://elsewhere.example"}
    assert client.post(WHERE, json={"format": "q8_0"}, headers=foreign).status_code == 403
