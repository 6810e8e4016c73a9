"""What AutoTokenizer makes of a model folder, whichever the model's type: the ids that were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hanmo.convert import toy
from hanmo.convert.trials import hard_lines
from hanmo.files import read_json
from hanmo.tokenizer import load, save


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    toy.make_tokenizer(folder)
    return load(folder)


@pytest.fixture(scope="module")
def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """As an imported SentencePiece model: spaces as ▁, bytes for unknown characters, no special token of ours."""
    vocabulary = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefg上下天地人小",
        "天地",
    ]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, [("天", "地")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def agree(tokenizer: PreTrainedTokenizerFast, family: str, folder: Path) -> Any:
    """Save it beside a configuration, open the folder, and hold ids and texts of 1,000 lines against each other."""
    toy.configuration(family, len(tokenizer)).save_pretrained(folder)
    save(tokenizer, folder)
    opened = AutoTokenizer.from_pretrained(folder)
    assert len(opened) == len(tokenizer) and opened.eos_token_id == tokenizer.eos_token_id
    assert opened.all_special_ids == tokenizer.all_special_ids
    lines = [*hard_lines(1000), "<|im_start|>user\n你好<|im_end|>\n", "Å ﬁ 神 e\u0301 </s>"]
    found, ids = opened(lines)["input_ids"], tokenizer(lines)["input_ids"]
    assert [line for line, one, other in zip(lines, found, ids, strict=True) if one != other] == []
    assert opened.batch_decode(ids) == tokenizer.batch_decode(ids)
    return opened


@pytest.mark.parametrize("family", toy.FAMILIES)
def test_bytes_under_every_stock_type(bytes_tokenizer: PreTrainedTokenizerFast, family: str, tmp_path: Path) -> None:
    opened = agree(bytes_tokenizer, family, tmp_path / "model")
    talk = [{"role": "user", "content": "你好"}]
    assert opened.apply_chat_template(talk, tokenize=False) == bytes_tokenizer.apply_chat_template(talk, tokenize=False)
    # Only where transformers would overrule it.
    settings = read_json(tmp_path / "model" / "tokenizer_config.json")
    assert settings.get("trust_remote_code", False) == (family == "qwen2") and "auto_map" not in settings
    # Version 4 takes the list under this name alone.
    assert settings["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in settings


def test_saved_again(bytes_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    agree(bytes_tokenizer, "qwen2", tmp_path / "model")
    agree(load(tmp_path / "model"), "qwen2", tmp_path / "again")
    # Under another type nothing of it is left.
    agree(load(tmp_path / "model"), "qwen3", tmp_path / "other")
    assert "trust_remote_code" not in read_json(tmp_path / "other" / "tokenizer_config.json")


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_pieces(pieces_tokenizer: PreTrainedTokenizerFast, family: str, tmp_path: Path) -> None:
    agree(pieces_tokenizer, family, tmp_path / "model")
