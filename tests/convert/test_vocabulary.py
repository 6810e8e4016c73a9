"""Only a tokenizer that llama.cpp follows to the letter is written under the name of one that it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hanmo.convert.vocabulary import read_vocabulary
from hanmo.errors import HanmoError


@pytest.fixture
def folder(tiny_tokenizer_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_tokenizer_dir, tmp_path / "tokenizer"))


def change(folder: Path, edit) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def test_ours_is_qwen2(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, 400)
    assert vocabulary.pre == "qwen2" and vocabulary.padded == 0
    assert (vocabulary.end_of_text, vocabulary.turn_end) == (0, 2)


def test_merges_as_strings_are_read_too(folder: Path) -> None:
    merges = read_vocabulary(folder, 400).merges
    change(folder, lambda data: data["model"].update(merges=merges))
    assert read_vocabulary(folder, 400).merges == merges


def _split(data: dict) -> dict:
    return data["pre_tokenizer"]["pretokenizers"][0]


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda data: data.update(normalizer={"type": "NFC"}), "NFC"),
        (lambda data: _split(data)["pattern"].update(Regex=r"\p{N}{1,3}"), "split expression"),
        (lambda data: _split(data).update(behavior="Removed"), "behavior"),
        (lambda data: data["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "ByteLevel"),
        (lambda data: data.update(pre_tokenizer={"type": "ByteLevel"}), "pre-tokenizer"),
        (lambda data: data.update(pre_tokenizer=None), "pre-tokenizer"),
        (lambda data: data["model"].update(type="Unigram"), "Unigram"),
        (lambda data: data["model"].update(byte_fallback=True), "byte_fallback"),
        (lambda data: data["post_processor"].update(special_tokens={"<s>": {}}), "<s>"),
        (lambda data: data["added_tokens"][0].update(lstrip=True), "lstrip"),
        (lambda data: data["model"]["vocab"].pop("!"), "byte"),
    ],
)
def test_anything_else_is_refused(folder: Path, edit, word: str) -> None:
    change(folder, edit)
    with pytest.raises(HanmoError, match=word) as caught:
        read_vocabulary(folder, 448)
    assert "tokenizer.json" in str(caught.value)


def test_a_class_that_overrides_the_file_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"tokenizer_class": "Qwen2Tokenizer"}), encoding="utf-8")
    with pytest.raises(HanmoError, match="Qwen2Tokenizer"):
        read_vocabulary(folder, 400)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path) -> None:
    with pytest.raises(HanmoError, match="does not belong to this model"):
        read_vocabulary(folder, 399)
