"""Every character that has a meaning, one by one: splitters are written from tables of Unicode that may differ in age.

Characters that Unicode 16 (2024) added outside of Han may be split differently, since transformers' tables and
llama.cpp's are not of the same year. All else, and all of Han up to Extension J, must agree.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from hanmo.convert.llamacpp import LlamaCpp
from hanmo.tokenizer import load

HAN = range(0x20000, 0x40000)


@pytest.mark.parity
@pytest.mark.parametrize("form", [" {}", "字{}字", "1{}2", "{}\n", "'{}"])
def test_every_character(llama_cpp: object, trained_model_dir: Path, gguf_files: dict[str, Path], form: str) -> None:
    backend, engine = load(trained_model_dir).backend_tokenizer, LlamaCpp(gguf_files["q8_0"])
    codes = [
        code for code in range(0x110000) if code in HAN or unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
    ]
    assert len(codes) > 200_000
    wrong = []
    for start in range(0, len(codes), 20_000):
        texts = [form.format(chr(code)) for code in codes[start : start + 20_000]]
        for text, expected in zip(texts, backend.encode_batch_fast(texts, add_special_tokens=False), strict=True):
            if engine.encode(text, special=False) != expected.ids:
                wrong.append(text)
    assert wrong == []
