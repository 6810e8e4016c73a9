"""Bulk encoding gives the ids of Hugging Face tokenizers, whatever the text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanmo.errors import HanmoError
from hanmo.files import read_jsonl
from hanmo.tokenizer import encode, load
from hanmo.tokenizer.chat import encode_text
from hanmo.tokenizer.encode import PROBES, BulkEncoder


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer_dir: Path) -> BulkEncoder:
    return BulkEncoder(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def reference(tiny_tokenizer_dir: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def same(encoder: BulkEncoder, reference: Tokenizer, texts: list[str]) -> None:
    found = encoder.encode_batch(texts)
    assert len(found) == len(texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids, repr(text)
        assert reference.decode(ids.tolist(), skip_special_tokens=False) == text


def test_the_fast_library_is_the_one_at_work(encoder: BulkEncoder) -> None:
    pytest.importorskip("fastokens")
    assert encoder.engine == "fastokens"


def test_probes(encoder: BulkEncoder, reference: Tokenizer) -> None:
    same(encoder, reference, list(PROBES))
    assert encoder.encode_batch([]) == []
    assert encoder.encode_batch([""])[0].dtype == np.uint32


def test_special_tokens_in_a_text_are_characters(encoder: BulkEncoder, tiny_tokenizer_dir: Path) -> None:
    text = "<|im_start|>user\n你好<|im_end|><|endoftext|>"
    (ids,) = encoder.encode_batch([text])
    assert not set(ids.tolist()) & {0, 1, 2}
    assert ids.tolist() == encode_text(load(tiny_tokenizer_dir), text)


nasty = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("  \n\r\t'sStTlLdD的一。，！12Ⅷ½a\u0301\u200d\ufeff\u3000\x00𠮷👨<|>_#"),
        st.sampled_from(["<|im_end|>", "\r\n", "'ll", "  \n"]).flatmap(st.sampled_from),
    ),
    max_size=40,
)


@given(st.lists(nasty, max_size=5))
@settings(max_examples=400, deadline=None)
def test_any_text(encoder: BulkEncoder, reference: Tokenizer, texts: list[str]) -> None:
    same(encoder, reference, texts)


@pytest.mark.parametrize("text", [" " * 200_000, "的我是" * 60_000, "\n" * 100_000, "！" * 200_000, "a" * 100_000])
def test_long_runs(encoder: BulkEncoder, reference: Tokenizer, text: str) -> None:
    (ids,) = encoder.encode_batch([text])
    assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids


def test_where_they_differ_the_reference_is_used(
    tiny_tokenizer_dir: Path, reference: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong:
        def encode_batch_flat(self, texts: list[str], split_special_tokens: bool) -> tuple[bytes, bytes]:
            return b"", np.zeros(len(texts) + 1, "<u8").tobytes()

    monkeypatch.setattr(encode, "_fastokens", lambda path: Wrong())
    slow = BulkEncoder(tiny_tokenizer_dir)
    assert slow.engine == "tokenizers"
    assert "gives other ids" in capsys.readouterr().err
    same(slow, reference, list(PROBES))


def test_a_text_that_the_fast_library_cannot_take_goes_to_the_reference(
    tiny_tokenizer_dir: Path, reference: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = BulkEncoder(tiny_tokenizer_dir)

    def limits(texts: list[str]) -> None:
        raise RuntimeError("match limit")

    monkeypatch.setattr(found, "_encode_fast", limits)
    same(found, reference, ["你好", "x"])


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no tokenizer\.json"):
        BulkEncoder(tmp_path)


def test_real_text(shared_data: Path, encoder: BulkEncoder, reference: Tokenizer) -> None:
    for path in sorted((shared_data / "pretrain").glob("*.jsonl.zst")):
        texts = [record["text"][:2000] for _, record in islice(read_jsonl(path), 25)]
        same(encoder, reference, texts)
