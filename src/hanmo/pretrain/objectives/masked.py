"""Filling masks: the objective of BERT and its like, on packed rows and whole Chinese words.

A share of each row's tokens is to be predicted. Of these 80 % are replaced by the mask, 10 % by a token drawn from the
vocabulary, and 10 % stay (Devlin et al., arXiv:1810.04805). With whole words, all characters of a word are chosen
together (Cui et al., arXiv:1906.08101): a single masked character of 北京 gives itself away. Special tokens are never
chosen. The choice is drawn from the seed and the row's number alone, so that each pass over a document masks it anew
and a run that resumes masks what an undisturbed one masks.

A document is `[CLS] … [SEP]`, a pair `[CLS] … [SEP] … [SEP]` with the second part as token type 1. Rows are packed:
documents do not see each other, and their positions begin anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.models.loss import IGNORE, linear_cross_entropy
from hanmo.models.parts import layers_of, modules_of
from hanmo.pretrain.objectives import RowSource
from hanmo.pretrain.stack import StackStep
from hanmo.tokenizer.forms.word import segmenter
from hanmo.tokenizer.opening import is_han
from hanmo.tokens.order import Rows

#: Of what is to be predicted: the shares that become a mask and any token; the rest stays.
_MASKED, _DRAWN = 0.8, 0.1
#: Parts the draws of masks from the other draws of a seed.
_TAG = 0x4D4C4D
#: Positions whose logits are held at a time.
_CHUNK = 256
#: How far the packed step's logits may be from the model's own.
_TOLERANCE = 1e-4


class MaskedRows:
    """The rows of an order with masks: inputs with what the model sees, targets `IGNORE` where nothing was masked.

    Args:
        order: whose rows' targets are the text, documents opened by [CLS] and closed by [SEP].
        tokenizer: of the text; has a mask token.
        share: of the tokens of a row that are predicted, special ones not counted.
        whole_words: choose words (of rjieba), not tokens.
        seed: of the choice.
    """

    def __init__(
        self, order: RowSource, tokenizer: PreTrainedTokenizerFast, share: float, whole_words: bool, seed: int
    ) -> None:
        self.context, self.mix, self.total, self.form = order.context, order.mix, order.total, order.form
        self.taken = order.taken
        self._order, self._share, self._seed = order, share, seed
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

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` .. `first + count - 1`."""
        plain = self._order.rows(first, count)
        inputs = plain.targets.copy()
        targets = np.full_like(inputs, IGNORE)
        for row in range(count):
            self._hide(first + row, inputs[row], targets[row], plain.segment[row])
        return Rows(inputs, targets, plain.position, plain.segment)

    def _hide(self, number: int, inputs: NDArray, targets: NDArray, segment: NDArray) -> None:
        """Mask one row, in place."""
        generator = np.random.Generator(np.random.PCG64([self._seed, _TAG, number]))
        open_ = ~self._special[inputs]
        words = self._words(inputs, segment)
        # A word is masked as a whole or not at all; its number is that of its first token.
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


def _surfaces(vocabulary: dict[str, int], special: NDArray) -> list[str]:
    """By id, what stands for a token in the text that is cut into words; a newline for special ones."""
    found = ["\n"] * len(special)
    for piece, index in vocabulary.items():
        if special[index]:
            continue
        if piece.startswith("##"):
            found[index] = piece[2:]
        elif len(piece) == 1 and (is_han(piece) or not piece.isalnum()):
            found[index] = piece
        else:  # words of letters stand apart
            found[index] = f" {piece}"
    return found


class EncoderStep(StackStep):
    """Computes the summed loss of packed, masked rows for a stock encoder.

    Args:
        model: BertForMaskedLM or what has its parts (Ernie, MegatronBert): `embeddings`, layers that take a 4-d mask,
            and a head `cls.predictions`.
        context: tokens in a row.
        dtype, compiled, recompute, options: as those of `StackStep`.
        separator: the id behind which the second part of a pair begins (token type 1); None: there are no pairs.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        compiled: bool,
        context: int,
        recompute: bool = False,
        options: dict[str, Any] | None = None,
        separator: int | None = None,
    ) -> None:
        self.model, self._separator = model, separator
        self.device = next(model.parameters()).device
        parts = modules_of(model)
        self._embeddings = parts["embeddings"][0]
        self._norm: nn.Module | None = parts["norm"][0] if "norm" in parts else None
        self._predictions = model.cls.predictions
        decoder = model.get_output_embeddings()
        self._head, self._bias = decoder.weight, decoder.bias
        self._types = int(getattr(model.config, "type_vocab_size", 1))
        learns = self._head.requires_grad or (self._bias is not None and self._bias.requires_grad)
        super().__init__(layers_of(model), self._call, learns, dtype, compiled, recompute, options)

    @staticmethod
    def _call(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        found = layer(hidden, attention_mask=mask)
        return found[0] if isinstance(found, tuple) else found

    def hidden(self, inputs: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        """Last hidden states [rows, context, d] in the compute dtype.

        Args:
            inputs, position, segment: [rows, context], as in `Rows`.
        """
        embedded = self._embeddings(
            input_ids=inputs, position_ids=position.long(), token_type_ids=self._token_types(inputs, position)
        ).to(self.dtype)
        apart = segment[:, :, None] != segment[:, None, :]
        mask = torch.zeros(apart.shape, dtype=self.dtype, device=self.device).masked_fill_(apart, float("-inf"))
        hidden = self._through(embedded, mask[:, None])
        return hidden if self._norm is None else self._norm(hidden.float()).to(self.dtype)

    def _token_types(self, inputs: Tensor, position: Tensor) -> Tensor:
        """1 behind the first separator of a document's piece, else 0: [rows, context]."""
        if self._separator is None or self._types < 2:
            return torch.zeros_like(inputs)
        ends = (inputs == self._separator).long()
        before = ends.cumsum(1) - ends
        # What was counted when the piece began, which is where its position is 0.
        begun = torch.where(position == 0, before, 0).cummax(1).values
        return (before - begun).clamp(0, 1)

    def _sum(self, rows: Rows) -> Tensor:
        inputs, targets, position, segment = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in (rows.inputs, rows.targets, rows.position, rows.segment)
        )
        hidden = self.hidden(inputs, position, segment)
        places = torch.nonzero(targets.flatten() != IGNORE)[:, 0]
        picked = self._predictions.transform(hidden.flatten(0, 1)[places].float()).to(self.dtype)
        answers = targets.flatten()[places]
        # Whole chunks, so that the compiled loss sees one shape.
        lack = -len(places) % _CHUNK
        picked, weight = _with_bias(F.pad(picked, (0, 0, 0, lack)), self._head, self._bias)
        answers = F.pad(answers, (0, lack), value=IGNORE)
        return linear_cross_entropy(picked, weight, answers, chunk=_CHUNK, step=self._chunk)


def _with_bias(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A head's bias as eight more columns of its weight, so that the fused loss needs to know of none.

    hidden [n, d] gets a one and seven zeros; weight [V, d] the bias and seven zeros: products like multiples of eight.
    """
    if bias is None:
        return hidden, weight
    ones = torch.zeros(len(hidden), 8, dtype=hidden.dtype, device=hidden.device)
    ones[:, 0] = 1
    return torch.cat([hidden, ones], 1), torch.cat([weight, F.pad(bias[:, None], (0, 7))], 1)


def check_encoder(model: Any, given: Any) -> None:
    """See that the packed step computes this encoder's own hidden states for two short documents in one row.

    Raises:
        HanmoError: it cannot run the model, or computes something else.
    """
    name = type(model).__name__
    cannot = f"{given}: {name}: not an encoder that the packed step can run"
    known = "BertForMaskedLM, ErnieForMaskedLM and MegatronBertForMaskedLM can be continued"
    length = 8
    ids = torch.arange(2 * length)[None] % model.get_input_embeddings().weight.shape[0]
    position = torch.arange(length).repeat(2)[None]
    segment = torch.arange(2).repeat_interleave(length)[None]
    model.eval()
    try:
        with torch.no_grad():
            step = EncoderStep(model, torch.float32, compiled=False, context=2 * length)
            ours = step._predictions(step.hidden(ids, position, segment))[0]
            own = torch.cat([model(input_ids=part).logits[0] for part in ids.split(length, 1)])
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, HanmoError) as error:
        said = " ".join(str(error).split())[:100]
        raise HanmoError(f"{cannot} ({type(error).__name__}: {said}); {known}") from None
    finally:
        model.train()
    if not torch.allclose(ours, own, rtol=_TOLERANCE, atol=_TOLERANCE * float(own.abs().max())):
        raise HanmoError(f"{cannot} (other logits than its own on a probe); {known}")
