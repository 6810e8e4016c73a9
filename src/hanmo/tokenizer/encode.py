"""Bulk encoding: plain text to ids with fastokens, several times faster than the reference and held to its ids.

The reference is Hugging Face `tokenizers`. An encoder compares the two on texts made to part them when it is made;
where they differ, or where fastokens is not installed, everything is encoded by the reference. Special tokens that
stand in a text as characters are encoded as characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanmo.console import console
from hanmo.errors import HanmoError

#: Texts on which encoders of the same vocabulary are apt to differ.
PROBES = (
    "",
    " ",
    "春天到了，花园里的花都开了。\n\n　　小明说：“你好！”\r\n\r\n  he's I'LL don't ＡＢＣ１２３",
    "<s></s><unk><pad><0x0A><0xE4>[PAD][UNK][CLS][SEP][MASK]\u2581\u2582\u2583##a ##",
    "<|endoftext|><|im_start|>user\n<|im_end|><|im_end",
    "3.14159 2024年12月31日 ½ ² Ⅷ ① 一二三 ٣٤٥ १२३",
    "𠮷野家 𪚥 㐀䶵 龘 〇 々 ㄅㄆㄇ ｶﾀｶﾅ ﬁ ﷺ",
    "e\u0301 n\u0303 が \u200b\u200d\ufeff\u00ad \x00\x01\x7f\x85\u2028\u2029",
    "👨‍👩‍👧‍👦 👍🏽 🇨🇳 ☺️ 0️⃣",
    "def f(x):\n\treturn  x ** 2   # 平方\n\n\n\n    \t  \n",
    "...!!!???——……《》「」『』【】()[]{}<>\n\n!!\n",
    "a" * 300 + "的" * 300 + " " * 300 + "\n" * 30,
    "\ufffd\ufffe\uffff\U0010ffff",
)


class BulkEncoder:
    """Encodes many texts at once.

    Args:
        folder: a tokenizer folder (tokenizer.json).

    Attributes:
        engine: "fastokens" or "tokenizers", whichever does the work; the name of our own class where it is one.

    Raises:
        HanmoError: the folder holds no tokenizer.
    """

    def __init__(self, folder: Path | str) -> None:
        from tokenizers import Tokenizer

        from hanmo.tokenizer import is_tokenizer, load

        path = Path(folder) / "tokenizer.json"
        self._own: Any = None
        self._fast: Any = None
        if not path.is_file():
            if not is_tokenizer(folder):
                raise HanmoError(f"{folder}: no tokenizer.json there; give a folder made by `hanmo tokenizer`")
            self._own = load(folder)
            self.engine = type(self._own).__name__
            return
        self._reference = Tokenizer.from_file(str(path))
        self._reference.encode_special_tokens = True
        self._fast = _fastokens(path)
        if self._fast is not None and not self._agrees():
            self._fast = None
            line = f"{path}: fastokens gives other ids than tokenizers; encoding with the slower tokenizers"
            console.print(line, markup=False, soft_wrap=True)
        self.engine = "fastokens" if self._fast is not None else "tokenizers"

    def _agrees(self) -> bool:
        try:
            ids, ends = self._encode_fast(PROBES)
        except Exception:  # whatever it cannot read is a reason not to use it
            return False
        expected, expected_ends = self._encode_reference(PROBES)
        return np.array_equal(ids, expected) and np.array_equal(ends, expected_ends)

    def encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """(ids of all texts one after the other [tokens], the exclusive end of each text in them [texts])."""
        if self._own is not None:
            return _flat([np.array(ids, np.uint32) for ids in self._own.encode_texts(texts)])
        if self._fast is None:
            return self._encode_reference(texts)
        try:
            return self._encode_fast(texts)
        except Exception:
            # Its regular expressions have limits (say, on a run of millions of spaces) that the reference has not.
            return self._encode_reference(texts)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of every text."""
        ids, ends = self.encode_flat(texts)
        return np.split(ids, ends[:-1].astype(np.int64)) if len(texts) else []

    def _encode_fast(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        assert self._fast is not None
        ids, offsets = self._fast.encode_batch_flat(list(texts), split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")[1:]

    def _encode_reference(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        found = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return _flat([np.array(one.ids, np.uint32) for one in found])


def _flat(parts: Sequence[NDArray[np.uint32]]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    ids = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
    return ids, np.cumsum([len(part) for part in parts], dtype=np.uint64)


def _fastokens(path: Path) -> Any:
    try:
        import fastokens
    except ImportError:
        return None
    try:
        return fastokens.Tokenizer.from_file(str(path))
    except Exception:  # a tokenizer of a kind it does not know
        return None
