"""A decoder that begins as a bigram model: its embeddings and its head are a fit to counted pairs of tokens.

With layers that add nothing yet, a decoder computes logits = head @ norm(embedding[token]): a bigram model of the rank
of its width. The best such model need not be learnt by gradients over millions of tokens; counts of pairs give it in
seconds. Training then begins where a fresh model arrives after many steps, and layers learn what pairs do not say.

The target are the probabilities of interpolated Kneser-Ney smoothing (Chen & Goodman 1999). The fit is a Newton
iteration on the logits, with the diagonal of the Hessian, each step followed by a truncated singular value
decomposition under weights (rows by how often a token comes, columns by how often it follows), since factors of that
rank are all that the model can hold. It begins at the logarithm of smoothed counts, as word vectors do (Levy & Goldberg
2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Tokens that get vectors, the most frequent ones; a table of pairs has the square of it. The others get their
#: frequency, and learn the rest.
TABLE = 8192
#: Discount of a count (Kneser-Ney).
DISCOUNT = 0.75
#: Newton steps; four more gain 0.006 bits a byte.
ROUNDS = 4
#: The bounds of a Newton step on a logit: where a pair was not expected at all, the slope says little of the distance.
BOUNDS = (-2.0, 4.0)
#: The beginning is log(1 + count / (this * probability of the second token)).
PRIOR = 1000.0
#: Columns beyond the rank in which the decomposition looks for its vectors.
SPARE = 32
#: Rows of a table that are worked on at a time.
BLOCK = 1024
#: Channels that hold no vector: one is the same for all tokens and carries the bias, one makes their norms alike.
RESERVED = 2


@dataclass(frozen=True)
class Bigrams:
    """Logits of the next token, `first[x] @ second[y] + bias[y]`.

    Attributes:
        first: [V, rank] fp32, of the token that is read; 0 for seldom ones.
        second: [V, rank] fp32, of the one that follows; 0 for seldom ones.
        bias: [V] fp32.
    """

    first: Tensor
    second: Tensor
    bias: Tensor


def fit(inputs: Tensor, targets: Tensor, vocabulary: int, rank: int, rounds: int = ROUNDS) -> Bigrams:
    """The bigram model of that rank for pairs of tokens.

    Args:
        inputs, targets: [n] int32 or int64 on the CPU; a token and the one that followed it.
        vocabulary: tokens.
        rounds: Newton steps.

    Raises:
        ValueError: there are no pairs.
    """
    if not len(inputs):
        raise ValueError("no pairs to count")
    seen = torch.bincount(targets, minlength=vocabulary)
    kept = seen.topk(min(TABLE, vocabulary)).indices.sort().values
    table = _count(inputs, targets, kept, vocabulary)
    small = _factors(table, min(rank, len(kept) - 1), rounds)
    found = Bigrams(torch.zeros(vocabulary, rank), torch.zeros(vocabulary, rank), torch.empty(vocabulary))
    found.first[kept, : small.first.shape[1]] = small.first
    found.second[kept, : small.second.shape[1]] = small.second
    # Tokens without vectors: as often as they are seen. Those never seen count for a tenth.
    found.bias.copy_(((seen + 0.1) / (seen[kept] + 0.1).sum()).log())
    found.bias[kept] = small.bias
    return found


def _count(inputs: Tensor, targets: Tensor, kept: Tensor, vocabulary: int) -> Tensor:
    """Counts [K, K] fp32 of the pairs among `kept`."""
    size = len(kept)
    number = torch.full((vocabulary,), -1, dtype=torch.int64)
    number[kept] = torch.arange(size)
    table = torch.zeros(size * size)
    one = torch.ones(1)
    for first, second in zip(inputs.split(1 << 20), targets.split(1 << 20), strict=True):
        row, column = number[first], number[second]
        if size < vocabulary:
            both = (row >= 0) & (column >= 0)
            row, column = row[both], column[both]
        table.index_add_(0, row * size + column, one.expand(len(row)))
    return table.view(size, size)


class _Target:
    """Kneser-Ney probabilities of a table of counts, a block of rows at a time."""

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self.times = table.sum(1)
        followers = torch.cat([(rows > 0).sum(1) for rows in table.split(BLOCK)])
        preceders = torch.zeros(table.shape[1])
        for rows in table.split(BLOCK):
            preceders += (rows > 0).sum(0)
        # In how many places a token follows says more of unseen pairs than how often it does.
        self._lower = (preceders + 0.1) / (preceders + 0.1).sum()
        self._left = torch.where(self.times > 0, DISCOUNT * followers / self.times.clamp(min=1), 1.0)

    def rows(self, part: slice) -> Tensor:
        """[block, K], each row sums to 1."""
        left = self._left[part, None]
        seen = (self._table[part] - DISCOUNT).clamp_(min=0) / self.times[part, None].clamp(min=1)
        return seen.add_(left * self._lower)


def _factors(table: Tensor, rank: int, rounds: int) -> Bigrams:
    """The bigram model of a whole table of counts."""
    target = _Target(table)
    columns = table.sum(0) + 0.1
    frequency = columns / columns.sum()
    bias = frequency.log()
    row, column = (target.times + 1).sqrt()[:, None], frequency.sqrt()
    # The table of logits, weighted, is made where the decomposition wants it and nowhere else.
    work = torch.empty_like(table)
    parts = [slice(start, start + BLOCK) for start in range(0, len(table), BLOCK)]
    for part in parts:
        torch.log1p(table[part] / (PRIOR * frequency), out=work[part])
        work[part].mul_(row[part]).mul_(column)
    generator = torch.Generator().manual_seed(0)
    guess = work @ torch.randn(len(table), rank + SPARE, generator=generator)
    left, right = _truncated(work, _truncated(work, guess, rank + SPARE)[0], rank)
    for _ in range(rounds):
        first, second = left / row, right / column[:, None]
        wanted, given = torch.zeros_like(bias), torch.zeros_like(bias)
        for part in parts:
            logits = first[part] @ second.T
            model = (logits + bias).softmax(-1)
            probability = target.rows(part)
            wanted += target.times[part] @ probability
            given += target.times[part] @ model
            step = (probability - model).div_(torch.maximum(model, frequency)).clamp_(*BOUNDS)
            torch.add(logits, step, out=work[part])
            work[part].mul_(row[part]).mul_(column)
        bias = bias + ((wanted - given) / (given + 1e-9)).clamp(-0.5, 0.5)
        spare = work @ torch.randn(len(table), SPARE, generator=generator)
        left, right = _truncated(work, torch.cat([left, spare], 1), rank)
    return Bigrams(left / row, right / column[:, None], bias)


def _truncated(matrix: Tensor, near: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left [n, rank], right [m, rank]) with left @ right.T near the best of that rank; `right` has unit columns.

    One subspace iteration from the columns of `near` (Halko, Martinsson & Tropp 2011).
    """
    basis = torch.linalg.qr(matrix.T @ torch.linalg.qr(near)[0])[0]
    image = matrix @ basis
    # image = matrix basis; with image's Gram matrix = v s^2 v^T the decomposition is (image v) (basis v)^T.
    _, vectors = torch.linalg.eigh((image.T @ image).double())
    turn = vectors.flip(1)[:, :rank].float()
    return image @ turn, basis @ turn


def vectors(bigrams: Bigrams, width: int) -> tuple[Tensor, Tensor]:
    """Embedding and head, both [V, width] fp32, of which norm(embedding[x]) @ head[y] are the logits.

    Every embedding has a mean square of 1, so that a norm with gains of 1 leaves it as it is.
    """
    first, second = bigrams.first, bigrams.second
    # Each channel as large on the one side as on the other.
    balance = ((second.square().mean(0) + 1e-12) / (first.square().mean(0) + 1e-12)).sqrt().sqrt()
    first, second = first * balance, second / balance
    norms = first.norm(dim=1)
    # A few seldom tokens are far out; all others would be small beside them.
    most = norms.quantile(0.999) if norms.numel() < 1 << 24 else norms.max()
    first = first * (most / norms.clamp(min=1e-9)).clamp(max=1)[:, None]
    same = max(0.3 * float(most), 1e-3)
    total = float(most) ** 2 * 1.0001 + same**2
    rest = (total - same**2 - first.square().sum(1)).clamp(min=0).sqrt()
    scale = (width / total) ** 0.5
    embedding = torch.cat([first, torch.full_like(rest, same)[:, None], rest[:, None]], 1) * scale
    head = torch.cat([second, bigrams.bias[:, None] / same, torch.zeros_like(rest)[:, None]], 1) / scale
    return embedding, head


def same_channel(width: int) -> int:
    """The channel of `vectors` that is the same for all tokens."""
    return width - RESERVED
