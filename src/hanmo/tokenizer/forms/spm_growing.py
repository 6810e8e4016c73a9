"""SentencePiece BPE models with further pieces.

SentencePiece merges the two neighbours whose joint piece has the highest score, the leftmost of equals; any two pieces
whose concatenation is a piece may be merged. `tokenizers` merges by the rank of a pair. The two agree where every piece
has a score of its own: its pairs then take the ranks that follow from the order of the scores. Where many pieces share
a score (merged vocabularies that gave all new pieces 0) they agree only mostly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError
from hanmo.tokenizer.forms.spm import BPE, CONTROL, NORMAL, convert

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Scores below this mark pieces that must not be merged to (LLaMA's runs of spaces).
_BARRED = -1e8


def merges(scores: dict[str, float], among: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, best first.

    Args:
        scores: piece -> score, of the pieces that can be merged or merged to.
        among: only pairs that make one of these.
    """
    order = {piece: place for place, piece in enumerate(sorted(scores, key=lambda piece: -scores[piece]))}
    found = []
    for piece in scores if among is None else among:
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                # Of the pairs that make one piece, the one with the longer left part is what a run from the left gives.
                found.append((order[piece], -cut, piece))
    return [(piece[:-cut], piece[-cut:]) for _, cut, piece in sorted(found)]


def fast_tokenizer(proto: Any) -> Tokenizer:
    """A SentencePiece BPE model as a tokenizer of `tokenizers` with the same ids, and its token for the begin in front.

    Raises:
        HanmoError: it is of another kind than BPE, or it normalises text in a way that cannot be written down.
    """
    from tokenizers import processors

    if proto.trainer_spec.model_type != BPE:
        raise HanmoError("the SentencePiece model is not a BPE (unigram models are not converted here)")
    tokenizer = convert(proto)
    begin = proto.trainer_spec.bos_id
    if 0 <= begin < len(proto.pieces) and proto.pieces[begin].type == CONTROL:
        name = proto.pieces[begin].piece
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, begin)]
        )
    return tokenizer


def lowest_score(proto: Any) -> float:
    """The score of the last piece that is merged to."""
    return min((piece.score for piece in proto.pieces if piece.type == NORMAL and piece.score > _BARRED), default=0.0)


def append(proto: Any, name: str, score: float, kind: int = NORMAL) -> None:
    """Add a piece behind all others."""
    entry = proto.pieces.add()
    entry.piece, entry.score, entry.type = name, score, kind
    proto.trainer_spec.vocab_size = len(proto.pieces)
