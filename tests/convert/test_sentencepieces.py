"""SentencePiece tokenizers in real llama.cpp: the same ids, or a line that says why not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TEXT
from transformers import AutoModelForCausalLM, LlamaConfig

from hanmo.convert import convert_gguf
from hanmo.convert.llamacpp import LlamaCpp
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl, write_json
from hanmo.models.save import save_model
from hanmo.tokenizer import encode_text, load
from hanmo.tokenizer.forms import spm
from hanmo.tokenizer.imports import import_tokenizer

LINES = [
    *(line for line in spm.HARD if line and "\x00" not in line),
    *TEXT.split("\n"),
    "<|user|>sop sop eop[MASK]</s>",
]


def model_of(tokenizer_dir: Path, folder: Path) -> Path:
    """A Llama of nearly no size with a tokenizer."""
    tokenizer = load(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder, [tokenizer.eos_token_id or 0])
    return folder


def agree(tokenizer_dir: Path, tmp_path: Path, lines: list[str]) -> LlamaCpp:
    report = convert_gguf(model_of(tokenizer_dir, tmp_path / "model"), tmp_path / "model.gguf", "f16")
    assert report.padded_tokens == 3
    engine, tokenizer = LlamaCpp(tmp_path / "model.gguf"), load(tokenizer_dir)
    lines = [line for line in lines if spm.SPACE not in line]
    parted = [line for line in lines if engine.encode(line, special=False) != encode_text(tokenizer, line)]
    print(f"{len(lines) - len(parted)} of {len(lines)} lines equal")
    assert parted == []
    return engine


def trained(model_type: str, **options: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    settings = {"vocab_size": 450, "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"remove_extra_whitespaces": False, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n") * 4),
        model_writer=model,
        model_type=model_type,
        **(settings | options),
    )
    return model.getvalue()


def imported(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(content)
    import_tokenizer(tmp_path / "tokenizer.model", tmp_path / "tokenizer", chat=True)
    return tmp_path / "tokenizer"


def test_trained_here(llama_cpp: Any, tmp_path: Path) -> None:
    spm.build([TEXT * 4], 440, "bpe", tmp_path / "tokenizer")
    engine = agree(tmp_path / "tokenizer", tmp_path, LINES)
    assert engine.metadata["tokenizer.ggml.model"] == "llama"
    assert engine.encode("<|im_start|>a<|im_end|>", special=True)[::2] == [1, 2]


@pytest.mark.parametrize("prefix", [True, False])
def test_imported(llama_cpp: Any, tmp_path: Path, prefix: bool) -> None:
    folder = imported(tmp_path, trained("bpe", add_dummy_prefix=prefix))
    engine = agree(folder, tmp_path, LINES)
    marked = "<|im_start|>user\n你好<|im_end|>\n"
    assert engine.encode(marked, special=True) == load(folder)(marked, add_special_tokens=False).input_ids


def test_scores_that_tie(llama_cpp: Any, tmp_path: Path) -> None:
    model = spm.parsed(trained("bpe"))
    for piece in model.pieces:
        if piece.type == spm.NORMAL and len(piece.piece) > 1:
            piece.score = 0
    folder = imported(tmp_path, model.SerializeToString())
    assert not (folder / "tokenizer.json").exists()
    agree(folder, tmp_path, LINES)


@pytest.mark.parametrize(
    ("model_type", "options", "word"),
    [
        ("unigram", {}, "no bytes to fall back on for its unigrams"),
        ("unigram", {"byte_fallback": False}, "another precision"),
        ("bpe", {"normalization_rule_name": "nmt_nfkc"}, "normalises text"),
        ("bpe", {"remove_extra_whitespaces": True}, "removes spaces"),
        ("bpe", {"byte_fallback": False}, "no bytes to fall back on"),
        ("bpe", {"user_defined_symbols": ["<x>"]}, "user-defined"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(
    tmp_path: Path, model_type: str, options: dict[str, Any], word: str
) -> None:
    folder = imported(tmp_path, trained(model_type, **options))
    model = model_of(folder, tmp_path / "model")
    with pytest.raises(HanmoError, match=word):
        convert_gguf(model, tmp_path / "model.gguf", "f16")
    assert not (tmp_path / "model.gguf").exists()


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    spm.build([TEXT * 4], 440, "bpe", tmp_path / "tokenizer")
    model = model_of(tmp_path / "tokenizer", tmp_path / "model")
    data = read_json(model / "tokenizer.json")
    data["model"]["merges"] = data["model"]["merges"][::-1]
    write_json(model / "tokenizer.json", data)
    with pytest.raises(HanmoError, match=r"not made of the tokenizer\.model beside it"):
        convert_gguf(model, tmp_path / "model.gguf", "f16")
    (model / "tokenizer.json").unlink()
    with pytest.raises(HanmoError, match="hanmo tokenizer import"):
        convert_gguf(model, tmp_path / "model.gguf", "f16")


@pytest.mark.parametrize("name", ["chatglm3", "llama2/tokenizer.model", "tinyllm-zh/tinyllm_tokenizer_hf"])
def test_published(llama_cpp: Any, shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    lines: list[str] = []
    for file in sorted((shared_data / "pretrain").glob("*.jsonl.zst")):
        mine: list[str] = []
        for _, record in read_jsonl(file):
            mine += [line for line in record["text"].split("\n") if line][:12]
            if len(mine) >= 100:
                break
        lines += mine[:100]
    import_tokenizer(path, tmp_path / "tokenizer")
    agree(tmp_path / "tokenizer", tmp_path, LINES + lines)
