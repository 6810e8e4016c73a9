"""Files of ranks, by tiktoken."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.tokenizer import QWEN2_SPLIT
from hanmo.tokenizer.opening.base import Encoded, OpenTokenizer, Piece

#: How cl100k_base cuts text before the merges; what a .tiktoken file was trained with does not stand in it.
_CL100K_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


class Tiktoken(OpenTokenizer):
    """A .tiktoken file of ranks, through `tiktoken`; special tokens do not stand in such a file."""

    def __init__(self, path: Path) -> None:
        library = need("tiktoken", "tokenizers")
        self.path, self.form = path, "tiktoken BPE"
        ranks: dict[bytes, int] = {}
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            try:
                if line.strip():
                    token, rank = line.split()
                    ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise HanmoError(f"{path}:{number}: not a line of a .tiktoken file (base64 token, rank)") from None
        split = QWEN2_SPLIT if "qwen" in path.name.lower() else _CL100K_SPLIT
        self._encoding = library.Encoding(path.stem, pat_str=split, mergeable_ranks=ranks, special_tokens={})
        self.pieces = [Piece("", b"", "unused")] * (max(ranks.values()) + 1)
        for token, index in ranks.items():
            self.pieces[index] = Piece(token.decode("utf-8", "backslashreplace"), token)
        self.roles = {}

    def encode(self, text: str) -> Encoded:
        ids = np.array(self._encoding.encode(text, disallowed_special=()), np.int64)
        ends = np.cumsum([len(self.pieces[index].bytes) for index in ids.tolist()], dtype=np.int64)
        # Which character each byte belongs to.
        sizes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        widths = 1 + (sizes > 0x7F).astype(np.int64) + (sizes > 0x7FF) + (sizes > 0xFFFF)
        of_byte = np.repeat(np.arange(len(text)), widths)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ids)]
        return Encoded(ids, of_byte[starts], of_byte[ends - 1] + 1, np.zeros(len(ids), np.int64))

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(list(ids))

    def spell(self, text: bytes) -> list[int]:
        try:
            return self._encoding.encode(text.decode(), disallowed_special=())
        except UnicodeDecodeError:
            return [self._encoding.encode_single_token(bytes([byte])) for byte in text]
