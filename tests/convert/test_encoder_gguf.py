"""Encoders as GGUF: vectors and ids by llama.cpp against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

from hanmo.convert import convert_gguf
from hanmo.convert.importance import measure
from hanmo.errors import HanmoError
from hanmo.serve.engines import open_engine
from hanmo.serve.pooling import pooled

WORDS = "春天到了花园里的都开小明和红一起去公玩他们看见只白色猫正在树下睡觉。，！？"
TEXTS = ["小猫在花园里睡觉。", "春天到了，The Cat is café 123！", "小明和小红一起去公园玩，" * 12]


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of two or four layers, with 150 characters as word pieces."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = [*specials, *WORDS, *letters, "the", "##e", "##a", "##t", "##1", "##s"]
    tokenizer = Tokenizer(models.WordPiece({one: at for at, one in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(specials)
    shape: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
    shape |= {"vocab_size": len(vocabulary) + 3, "max_position_embeddings": 256}
    ends = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(3)
    if request.param == "bert":
        model: Any = BertForMaskedLM(BertConfig(num_hidden_layers=2, **shape))
    else:
        # Narrow windows, so that what lies outside of them counts.
        model = ModernBertForMaskedLM(ModernBertConfig(num_hidden_layers=4, local_attention=16, **ends, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("encoder") / request.param
    model.save_pretrained(folder)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opened(llama_cpp: Any, encoder: Path) -> Any:
    report = convert_gguf(encoder, encoder / "exact.gguf", "f32")
    assert report.architecture in ("bert", "modern-bert") and report.padded_tokens == 3
    sizes = {"n_ctx": 256, "n_batch": 256, "n_ubatch": 256, "n_threads": 1, "n_threads_batch": 1}
    model = llama_cpp.Llama(str(encoder / "exact.gguf"), embedding=True, verbose=False, **sizes)
    yield model
    model.close()


def load(encoder: Path) -> tuple[Any, Any]:
    kind = BertForMaskedLM if encoder.name == "bert" else ModernBertForMaskedLM
    model: Any = kind.from_pretrained(encoder, attn_implementation="eager")
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(encoder)


def test_vectors_are_those_of_transformers(opened: Any, encoder: Path) -> None:
    model, tokenizer = load(encoder)
    expected, _ = pooled(model, tokenizer, TEXTS, "mean")
    found = np.array([opened.embed(text, normalize=True) for text in TEXTS])
    assert np.abs(found - np.array(expected)).max() < 2e-4
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_what_chinese_and_latin_text_is_made_of_has_the_same_ids(opened: Any, encoder: Path) -> None:
    """Not so: vowel signs of Indic scripts, punctuation that Unicode got late, words of more than 100 letters."""
    _, tokenizer = load(encoder)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x2010, 0x2028), (0x3000, 0x3040), (0x4E00, 0xA000), (0xFF01, 0xFF5F)]
    characters = [chr(code) for first, end in blocks for code in range(first, end, 1 if end - first < 1000 else 23)]
    lines = [*TEXTS, "", " \n", "[MASK]不是标记", *(f"春{one}a{one}the" for one in [*characters, *WORDS])]
    wrong = [
        line
        for line in lines
        if opened.tokenize(line.encode(), add_bos=True, special=False)
        != tokenizer.encode(line, split_special_tokens=True)
    ]
    assert not wrong


def test_half_precision_is_near_and_nothing_writes_with_it(opened: Any, encoder: Path, llama_cpp: Any) -> None:
    path = encoder / "half.gguf"
    convert_gguf(encoder, path, "f16")
    sizes = {"n_ctx": 256, "n_batch": 256, "n_ubatch": 256, "n_threads": 1, "n_threads_batch": 1}
    half = llama_cpp.Llama(str(path), embedding=True, verbose=False, **sizes)
    one, other = (np.array(model.embed(TEXTS[0], normalize=True)) for model in (opened, half))
    half.close()
    assert one @ other > 0.9999
    with pytest.raises(HanmoError, match="an encoder, which writes nothing; `llama-server --embedding`"):
        open_engine(path)
    with pytest.raises(HanmoError, match="leave the corpus out"):
        measure(encoder, encoder, 1000)


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("normalizer", "handle_chinese_chars"), False, "its normaliser is BertNormalizer, not BertNormalizer as BERT"),
        (("pre_tokenizer", "type"), "Whitespace", "not BertPreTokenizer"),
        (("model", "continuing_subword_prefix"), "@@", "not marked by ##"),
        (("post_processor", "single"), [{"Sequence": {"id": "A"}}], r"does not put \[CLS\]"),
    ],
)
def test_other_word_pieces_are_refused(
    encoder: Path, tmp_path: Path, place: tuple[str, str], value: Any, line: str
) -> None:
    for path in encoder.iterdir():
        if path.suffix != ".gguf":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data[place[0]][place[1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(HanmoError, match=line):
        convert_gguf(tmp_path, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_a_norm_before_each_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MegatronBertForMaskedLM"]}))
    with pytest.raises(HanmoError, match="norms stand before each part"):
        convert_gguf(tmp_path, tmp_path / "x.gguf")
