"""How greedy outputs are judged, on numbers small enough to check by eye."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hanmo.convert.llamacpp import LlamaCpp
from hanmo.convert.parity import Continuation, continuations, judge
from hanmo.errors import HanmoError

ONE = Continuation(prompt=[5], ids=[1, 2, 3], near=[[1], [2, 9], [3]])


def test_identical() -> None:
    report = judge([ONE], [[1, 2, 3]])
    assert report == {"prompts": 1, "steps": 3, "identical": 1, "ties": 0, "differences": []}


def test_a_tie_is_counted_and_no_difference() -> None:
    report = judge([ONE], [[1, 9, 3]])
    assert report == {"prompts": 1, "steps": 3, "identical": 0, "ties": 1, "differences": []}


def test_a_difference_is_named() -> None:
    report = judge([ONE, ONE], [[1, 2, 3], [1, 7]])
    assert report["identical"] == 1 and report["ties"] == 0
    assert report["differences"] == [{"prompt": 1, "step": 1, "expected": 2, "got": 7}]


def test_an_output_that_is_too_short_is_a_difference() -> None:
    assert judge([ONE], [[1, 2]])["differences"] == [{"prompt": 0, "step": 2, "expected": "more", "got": "nothing"}]


def test_without_llama_cpp_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(HanmoError, match=r"pip install 'hanmo\[gguf\]'"):
        LlamaCpp(tmp_path / "m.gguf")


def test_continuations_are_what_transformers_generates(trained_model_dir: Path, prompts: Sequence[list[int]]) -> None:
    from transformers import Qwen3ForCausalLM

    model: Any = Qwen3ForCausalLM.from_pretrained(trained_model_dir, dtype=torch.float32)
    for prompt, ours in zip(prompts[::7], continuations(trained_model_dir, prompts[::7], 24), strict=True):
        ids = torch.tensor([prompt])
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        theirs = generated[0, len(prompt) :].tolist()
        assert ours.ids[: len(theirs)] == theirs
        assert all(best in near for best, near in zip(ours.ids, ours.near, strict=True))
