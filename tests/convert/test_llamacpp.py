"""The files in real llama.cpp: the same ids, the same greedy tokens, the same perplexity as in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hanmo.convert import parity
from hanmo.convert.llamacpp import LlamaCpp
from hanmo.convert.trials import KINDS, OPENINGS, conversations, hard_lines
from hanmo.errors import HanmoError
from hanmo.tokenizer import encode_text, load

from .conftest import TEXT

pytestmark = pytest.mark.usefixtures("llama_cpp")


@pytest.fixture(scope="module")
def tokenizer(trained_model_dir: Path) -> PreTrainedTokenizerFast:
    return load(trained_model_dir)


@pytest.fixture(scope="module")
def engine(gguf_files: dict[str, Path]) -> LlamaCpp:
    return LlamaCpp(gguf_files["q8_0"])


def test_token_ids_of_1000_hard_lines(trained_model_dir: Path, gguf_files: dict[str, Path]) -> None:
    lines = hard_lines(1000)
    assert len(set(lines)) > 950 and any("<|im_end|>" in line for line in lines)
    report = parity.token_ids(trained_model_dir, gguf_files["f16"], lines)
    assert report == {"lines": 1000, "identical": 1000, "identical_special": 1000, "first_difference": None}


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_token_ids_of_any_text(tokenizer: PreTrainedTokenizerFast, engine: LlamaCpp, text: str) -> None:
    assert engine.encode(text, special=False) == encode_text(tokenizer, text)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(["\r", "\n", " ", "\t", "\u3000", "a", "字", "1", "'s", ".", "é", "👨‍👩‍👧", "<|im_end|>"])
    )
)
def test_token_ids_of_any_mixture_of_spaces_and_words(
    tokenizer: PreTrainedTokenizerFast, engine: LlamaCpp, pieces: list[str]
) -> None:
    text = "".join(pieces)
    assert engine.encode(text, special=False) == encode_text(tokenizer, text)
    assert engine.encode(text, special=True) == tokenizer.encode(text)


def test_conversations_give_the_ids_of_training(trained_model_dir: Path, gguf_files: dict[str, Path]) -> None:
    report = parity.chat(trained_model_dir, gguf_files["f16"], conversations())
    assert report == {"conversations": 40, "same_text": 40, "same_ids": 40, "first_difference": None}


def test_greedy_tokens_are_those_of_transformers(
    trained_model_dir: Path, gguf_files: dict[str, Path], prompts: Sequence[list[int]]
) -> None:
    report = parity.greedy(trained_model_dir, gguf_files["f32"], prompts, tokens=64)
    assert report["prompts"] == 20 and report["steps"] == 20 * 64
    assert report["differences"] == []
    assert report["ties"] <= 2 and report["identical"] >= 18


@pytest.mark.parametrize(("form", "limit"), [("f32", 0.001), ("f16", 0.005), ("bf16", 0.02), ("q8_0", 0.02)])
def test_perplexity(trained_model_dir: Path, gguf_files: dict[str, Path], form: str, limit: float) -> None:
    texts = [TEXT, *OPENINGS, *hard_lines(60, seed=5)[40:]]
    report = parity.perplexity(trained_model_dir, gguf_files[form], texts, context=128)
    assert report["tokens"] > 500
    assert abs(report["relative"]) < limit


def test_llama_cpp_stops_where_the_model_was_taught_to(gguf_files: dict[str, Path]) -> None:
    engine = LlamaCpp(gguf_files["f16"])
    assert [token for token in range(engine.vocab_size) if engine.ends_generation(token)] == [0, 2]


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(HanmoError, match=r"x\.gguf: llama\.cpp cannot load it"):
        LlamaCpp(tmp_path / "x.gguf")


def test_every_kind_of_hard_line_is_made() -> None:
    assert len(KINDS) >= 20 and hard_lines(50) == hard_lines(50) != hard_lines(50, seed=1)
