"""A SentencePiece model that no tokenizer.json can stand for, run by the SentencePiece library itself.

Unigrams add scores up in single precision, and take one of two ways that come out alike; `tokenizers` adds in double.
Merged BPE vocabularies (tiny-llm-zh, Chinese-LLaMA) gave all their new pieces one score. SentencePiece takes the
leftmost of equals; the merges of `tokenizers` are a strict order. On real Chinese, a line in six came out otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hanmo.extras import need
from hanmo.tokenizer.forms import spm
from hanmo.tokenizer.forms.segmented import Cutter, SegmentedTokenizer


class HanmoSentencePieceTokenizer(SegmentedTokenizer):
    """A tokenizer.model as a transformers class.

    Args:
        vocab_file: tokenizer.model.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    _made = ("_processor", "_names", "_vocabulary")

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self._content = Path(vocab_file).read_bytes()
        super().__init__(**kwargs)

    @property
    def _ids(self) -> dict[str, int]:
        return self._vocabulary

    def _make(self) -> Tokenizer:
        library = need("sentencepiece", "tokenizers")
        self._processor = library.SentencePieceProcessor(model_proto=self._content)
        model = spm.parsed(self._content)
        self._names = [piece.piece for piece in model.pieces]
        self._vocabulary = {name: index for index, name in enumerate(self._names)}
        unknown = next(p.piece for p in model.pieces if p.type == spm.UNKNOWN)
        tokenizer = Tokenizer(models.WordLevel(self._vocabulary, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Cutter(self))
        back: list[Any] = [decoders.Replace(spm.SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if model.normalizer_spec.add_dummy_prefix:
            back.append(decoders.Strip(" ", 1, 0))
        tokenizer.decoder = decoders.Sequence(back)  # pyright: ignore[reportAttributeAccessIssue]
        special = [p.piece for p in model.pieces if p.type in (spm.UNKNOWN, spm.CONTROL)]
        tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
        return tokenizer

    def cut(self, text: str) -> list[tuple[int, Sequence[str]]]:
        """See `SegmentedTokenizer.cut`."""
        found: list[tuple[int, Sequence[str]]] = []
        waiting: list[str] = []
        at = 0
        for piece in self._processor.encode(text, return_type="proto").pieces:
            if piece.begin > at:  # spaces that the model's normaliser removes
                found.append((piece.begin - at, ()))
            at = max(at, piece.end)
            # The library spells what it does not know as it stands in the text, which may be some other piece's name.
            waiting.append(self._names[piece.id])
            # The bytes of a character share it: all but the last cover nothing.
            if piece.end > piece.begin:
                found.append((piece.end - piece.begin, tuple(waiting)))
                waiting = []
        if waiting:
            found.append((0, tuple(waiting)))
        return found

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """See `SegmentedTokenizer.encode_texts`."""
        return self._processor.encode(list(texts))

    def _files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._content}
