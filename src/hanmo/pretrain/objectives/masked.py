"""Filling masks: the objective of BERT and its like, on packed rows and whole Chinese words.

A share of each row's tokens is to be predicted. Of these 80 % are replaced by the mask, 10 % by a token drawn from the
vocabulary, and 10 % stay (Devlin et al., arXiv:1810.04805). With whole words, all characters of a word are chosen
together (Cui et al., arXiv:1906.08101): a single masked character of 北京 gives itself away. With n-grams, words that
follow each other are chosen together, one to n of them with chances that fall by as much each time (40, 30, 20 and 10 %
with 4, as MacBERT has it; Cui et al., arXiv:2004.13922), fewer where a document ends. Special tokens are never chosen.
The choice is drawn from the seed and the row's number alone, so that each pass over a document masks it anew
and a run that resumes masks what an undisturbed one masks.

A document is `[CLS] … [SEP]`, a pair `[CLS] … [SEP] … [SEP]` with the second part as token type 1. Rows are packed:
documents do not see each other, and their positions begin anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.objectives.pairs import SentencePairs
from hanmo.pretrain.settings import MaskSettings
from hanmo.tokenizer.forms.word import segmenter
from hanmo.tokenizer.opening import is_han
from hanmo.tokenizer.train import byte_letters
from hanmo.tokens.order import Rows

#: Of what is to be predicted: the shares that become a mask and any token; the rest stays.
_MASKED, _DRAWN = 0.8, 0.1
#: Parts the draws of masks from the other draws of a seed.
_TAG = 0x4D4C4D


class MaskedRows:
    """The rows of an order with masks: inputs with what the model sees, targets `IGNORE` where nothing was masked.

    Args:
        order: whose rows' targets are the text, documents opened by [CLS] and closed by [SEP].
        tokenizer: of the text; has a mask token.
        share: of the tokens of a row that are predicted, special ones not counted.
        whole_words: choose words (of rjieba), not tokens.
        seed: of the choice.
        ngrams: how many words that follow each other are at most chosen together.
    """

    def __init__(
        self,
        order: RowSource,
        tokenizer: PreTrainedTokenizerFast,
        share: float,
        whole_words: bool,
        seed: int,
        ngrams: int = 1,
    ) -> None:
        self.context, self.mix, self.total, self.form = order.context, order.mix, order.total, order.form
        self.taken = order.taken
        self._order, self._share, self._seed = order, share, seed
        falling = np.arange(ngrams, 0, -1)
        self._chances = falling / falling.sum()
        mask = tokenizer.mask_token_id
        if not isinstance(mask, int):
            raise HanmoError("objective: masked needs a tokenizer with a mask token ([MASK])")
        self._mask = mask
        vocabulary = tokenizer.get_vocab()
        self._special = np.zeros(max(vocabulary.values()) + 1, bool)
        self._special[tokenizer.all_special_ids] = True
        known = np.zeros_like(self._special)
        known[list(vocabulary.values())] = True
        self._ordinary = np.flatnonzero(known & ~self._special)
        self._cut: Callable[[str], Any] | None = segmenter("rjieba") if whole_words else None
        self._surfaces = _surfaces(vocabulary, self._special) if whole_words else []

    @classmethod
    def of(cls, masks: MaskSettings, order: RowSource, tokenizer: PreTrainedTokenizerFast, seed: int) -> MaskedRows:
        """The rows that the settings ask for."""
        if masks.sentence_order:
            order = SentencePairs(order, tokenizer, seed)
        return cls(order, tokenizer, masks.share, masks.whole_words, seed, masks.ngrams)

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`."""
        plain = self._order.rows(first, count)
        inputs = plain.targets.copy()
        targets = np.full_like(inputs, IGNORE)
        for row in range(count):
            self.hide(first + row, inputs[row], targets[row], plain.segment[row])
        return replace(plain, inputs=inputs, targets=targets)

    def hide(
        self, number: int, inputs: NDArray, targets: NDArray, segment: NDArray, among: NDArray[np.bool_] | None = None
    ) -> None:
        """Mask the row of that number, in place; only places `among` [context], where these are given."""
        generator = np.random.Generator(np.random.PCG64([self._seed, _TAG, number]))
        open_ = ~self._special[inputs]
        if among is not None:
            open_ &= among
        words = self._words(inputs, segment)
        if len(self._chances) > 1:
            words = self._runs(words, open_, generator)
        # A word, or run of words, is masked as a whole or not at all.
        sizes = np.bincount(words, open_)
        drawn = generator.permutation(np.flatnonzero(sizes))
        wanted = self._share * open_.sum()
        before = np.cumsum(sizes[drawn]) - sizes[drawn]
        chosen = np.zeros(len(sizes), bool)
        # Half of the word at the border, on the average: so the share holds.
        chosen[drawn[before + sizes[drawn] / 2 <= max(wanted, 1.0)]] = True
        places = np.flatnonzero(chosen[words] & open_)
        targets[places] = inputs[places]
        fate = generator.random(len(places))
        inputs[places[fate < _MASKED]] = self._mask
        some = places[(fate >= _MASKED) & (fate < _MASKED + _DRAWN)]
        inputs[some] = generator.choice(self._ordinary, len(some))

    def _words(self, ids: NDArray, segment: NDArray) -> NDArray[np.int64]:
        """For each token the number of its word in the row [context]."""
        if self._cut is None:
            return np.arange(len(ids))
        pieces = [self._surfaces[index] for index in ids]
        ends = np.cumsum([len(piece) for piece in pieces])
        cuts = np.cumsum([len(word) for word in self._cut("".join(pieces))])
        # A token begins a word where its own text, without the space before it, begins at a cut.
        spaced = np.array([piece.startswith(" ") for piece in pieces])
        begins = np.isin(ends - [len(piece) for piece in pieces] + spaced, np.concatenate([[0], cuts]))
        begins[1:] |= segment[1:] != segment[:-1]
        begins[0] = True
        return np.cumsum(begins) - 1

    def _runs(self, words: NDArray, open_: NDArray, generator: np.random.Generator) -> NDArray[np.int64]:
        """For each token the number of its run of words, of which none goes past a special token."""
        begins = np.flatnonzero(np.diff(words, prepend=-1))
        lengths = generator.choice(len(self._chances), len(begins), p=self._chances) + 1
        first = np.zeros(len(begins), bool)
        ends = np.cumsum(lengths)
        first[np.concatenate([[0], ends[ends < len(begins)]])] = True
        starts = np.zeros(len(words), bool)
        starts[begins[first]] = True
        # [CLS] and [SEP] stand between documents, and where a row cuts one there is nothing behind it.
        starts |= ~open_
        starts[1:] |= ~open_[:-1]
        return np.cumsum(starts) - 1


def _surfaces(vocabulary: dict[str, int], special: NDArray) -> list[str]:
    """By id, what stands for a token in the text that is cut into words; a newline for special ones."""
    found = ["\n"] * len(special)
    # The lossless kind spells words in letters that stand for bytes.
    letters = byte_letters()
    lossless = all(letter in vocabulary and f"##{letter}" in vocabulary for letter in letters)
    bytes_of = {letter: bytes([byte]) for byte, letter in enumerate(letters)} if lossless else {}
    for piece, index in vocabulary.items():
        if special[index]:
            continue
        if lossless:
            spelled = piece.removeprefix("##") if len(piece) > 2 else piece
            found[index] = b"".join(map(bytes_of.__getitem__, spelled)).decode(errors="replace")
            continue
        if piece.startswith("##"):
            found[index] = piece[2:]
        elif len(piece) == 1 and (is_han(piece) or not piece.isalnum()):
            found[index] = piece
        else:  # words of letters stand apart
            found[index] = f" {piece}"
    return found
