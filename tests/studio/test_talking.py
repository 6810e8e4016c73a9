"""Models of the runs: found, loaded when asked for, unloaded, loaded anew when they were trained anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from at_work import model
from starlette.testclient import TestClient

from hanmo.studio.app import create_app
from hanmo.studio.talking import Talking
from scripted_engine import ScriptedEngine

CHAT, WRITE = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded, in order; every model repeats what it is asked, behind its own name."""
    names: list[str] = []

    def open_engine(path: Path, **_) -> ScriptedEngine:
        names.append(f"{path.parent.name}/{path.name}")
        return ScriptedEngine(lambda text: f"{path.name}: {text}".encode())

    monkeypatch.setattr("hanmo.serve.engines.open_engine", open_engine)
    return names


@pytest.fixture
def client(tmp_path: Path, opened: list[str]) -> Iterator[TestClient]:
    for stage, do in (("base", "pretrain"), ("sft", "sft"), ("dpo", "dpo")):
        model(tmp_path / "run" / stage, do)
    model(tmp_path / "run" / "judge", "reward", "Qwen3ForSequenceClassification")
    model(tmp_path / "run" / "reader", "pretrain", "MegatronBertForPreTraining")
    gguf = tmp_path / "run" / "gguf"
    gguf.mkdir()
    (gguf / "manifest.json").write_text(json.dumps({"do": "convert", "inputs": {"model": ["/else/where/base"]}}))
    (gguf / "model-f16.gguf").write_bytes(b"GGUF")
    with TestClient(create_app(tmp_path), raise_server_exceptions=False) as client:
        yield client


def say(client: TestClient, name: str, text: str = "你好") -> str:
    answer = client.post(CHAT, json={"model": name, "messages": [{"role": "user", "content": text}]})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_models_that_write_are_listed(client: TestClient, opened: list[str]) -> None:
    found = {one["id"]: one["chats"] for one in client.get("/v1/studio/models").json()}
    assert found == {"run/base": False, "run/sft": True, "run/dpo": True, "run/gguf/model-f16.gguf": False}
    assert {one["id"] for one in client.get("/v1/models").json()["data"]} == found.keys()
    assert opened == [], "a list loads nothing"


def test_models_answer_by_name_and_two_are_held(client: TestClient, opened: list[str]) -> None:
    assert say(client, "run/dpo") == "dpo: 你好\n" and say(client, "run/sft") == "sft: 你好\n"
    assert say(client, "run/dpo") == "dpo: 你好\n" and opened == ["run/dpo", "run/sft"]
    answer = client.post(WRITE, json={"model": "run/base", "prompt": "从前", "max_tokens": 50})
    assert answer.json()["choices"][0]["text"] == "base: 从前"
    assert say(client, "run/dpo") and opened == ["run/dpo", "run/sft", "run/base"], "the one least recently used went"
    say(client, "run/gguf/model-f16.gguf")
    assert opened[-1] == "gguf/model-f16.gguf"


@pytest.mark.parametrize("name", ["run/none", "../etc", "run", "run/judge", "/etc/passwd", "run/gguf/../sft"])
def test_other_names_are_no_models(client: TestClient, opened: list[str], name: str) -> None:
    answer = client.post(CHAT, json={"model": name, "messages": [{"role": "user", "content": "x"}]})
    assert answer.status_code == 404 and "does not exist here" in answer.json()["error"]["message"]
    assert opened == []


def test_a_model_trained_anew_is_loaded_anew_and_one_that_is_gone_is_gone(
    client: TestClient, opened: list[str], tmp_path: Path
) -> None:
    say(client, "run/sft")
    os.utime(tmp_path / "run" / "sft" / "manifest.json", (1, 1))
    say(client, "run/sft")
    assert opened == ["run/sft", "run/sft"]
    model(tmp_path / "run" / "late", "sft")
    assert say(client, "run/late").startswith("late")
    shutil.rmtree(tmp_path / "run" / "sft")
    assert client.post(CHAT, json={"model": "run/sft", "messages": []}).status_code in (400, 404)
    assert all(one["id"] != "run/sft" for one in client.get("/v1/models").json()["data"])


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    client = TestClient(create_app(tmp_path))
    assert client.get("/v1/studio/models").json() == []
    answer = client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}]})
    assert answer.status_code == 404 and "no model here yet" in answer.json()["error"]["message"]


def test_a_key_is_needed_to_talk(tmp_path: Path) -> None:
    model(tmp_path / "run" / "sft", "sft")
    client = TestClient(create_app(tmp_path, api_key="geheim"))
    for where in (CHAT, WRITE):
        assert client.post(where, json={}).status_code == 401
    assert client.get("/v1/models").status_code == 401


def test_a_real_model_answers(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = tmp_path / "run" / "sft"
    model(folder, "sft")
    shutil.copytree(tiny_model_dir, folder / "model", dirs_exist_ok=True)
    with TestClient(create_app(tmp_path, device="cpu", threads=1)) as client:
        body = {
            "model": "run/sft",
            "messages": [{"role": "user", "content": "春天"}],
            "max_tokens": 5,
            "temperature": 0,
        }
        first, second = (client.post(CHAT, json=body).json() for _ in range(2))
    assert first["usage"]["completion_tokens"] <= 5
    assert first["choices"][0]["message"] == second["choices"][0]["message"]


def test_what_a_conversion_read_says_whether_it_chats(tmp_path: Path) -> None:
    from hanmo.studio.shelf import Shelf

    model(tmp_path / "run" / "sft", "sft")
    model(tmp_path / "run" / "swapped", "convert")
    told = {"do": "convert", "inputs": {"model": ["/somewhere/run/sft"]}}
    (tmp_path / "run" / "swapped" / "manifest.json").write_text(json.dumps(told))
    looped = {"do": "convert", "inputs": {"model": ["/somewhere/run/round"]}}
    model(tmp_path / "run" / "round", "convert")
    (tmp_path / "run" / "round" / "manifest.json").write_text(json.dumps(looped))
    found = {one["stage"]: one["chats"] for one in Talking(Shelf(tmp_path)).all()}
    assert found == {"sft": True, "swapped": True, "round": False}
