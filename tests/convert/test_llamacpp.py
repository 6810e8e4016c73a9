"""The files in real llama.cpp: the same ids, the same greedy tokens, the same perplexity as in transformers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from hanmo.convert import convert_gguf, parity
from hanmo.convert.llamacpp import LlamaCpp
from hanmo.convert.toy import PAGE
from hanmo.convert.trials import KINDS, OPENINGS, conversations, hard_lines
from hanmo.errors import HanmoError
from hanmo.tokenizer import encode_text, load

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


def test_perplexity_and_everything_together(trained_model_dir: Path, gguf_files: dict[str, Path]) -> None:
    texts = [PAGE, *OPENINGS, *hard_lines(60, seed=5)[40:]]
    report = parity.check(trained_model_dir, gguf_files, texts, lines=100, tokens=4)
    assert report["agrees"]
    assert report["perplexity"]["tokens"] > 500
    relative = {form: abs(file["relative"]) for form, file in report["perplexity"]["llama_cpp"].items()}
    assert relative["f32"] < 0.001 and relative["f16"] < 0.005
    assert relative["bf16"] < 0.02 and relative["q8_0"] < 0.02


def test_a_file_of_another_model_does_not_agree(
    trained_model_dir: Path, gguf_files: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained_model_dir, tmp_path / "other"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("\\n", " "), encoding="utf-8")
    other = convert_gguf(folder, tmp_path / "other.gguf", "f32").path
    report = parity.check(trained_model_dir, {"f32": other}, OPENINGS, lines=60, tokens=8)
    assert not report["agrees"]
    assert report["greedy"]["differences"] and abs(report["perplexity"]["llama_cpp"]["f32"]["relative"]) > 0.005
    assert report["chat"]["same_text"] == report["chat"]["same_ids"] == 0
    assert report["token_ids"]["identical"] == 60


def test_a_file_with_a_smaller_vocabulary_is_refused(
    tiny_model_dir: Path, trained_model_dir: Path, tmp_path: Path
) -> None:
    other = convert_gguf(tiny_model_dir, tmp_path / "tiny.gguf", "f32").path
    with pytest.raises(HanmoError, match="not the file of that model"):
        parity.perplexity(trained_model_dir, {"f32": other}, OPENINGS)


def test_llama_cpp_stops_where_the_model_was_taught_to(gguf_files: dict[str, Path]) -> None:
    engine = LlamaCpp(gguf_files["f16"])
    assert [token for token in range(engine.vocab_size) if engine.ends_generation(token)] == [0, 2]


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(HanmoError, match=r"x\.gguf: llama\.cpp cannot load it"):
        LlamaCpp(tmp_path / "x.gguf")


def test_every_kind_of_hard_line_is_made() -> None:
    assert len(KINDS) >= 20 and hard_lines(50) == hard_lines(50) != hard_lines(50, seed=1)
