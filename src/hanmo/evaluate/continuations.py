"""Log-likelihoods of answers to contexts: what multiple-choice exams ask of a model, without reading anything twice.

Five worked examples in front of every question are most of the tokens of an exam, and a question stands once for each
of its options. Two things are therefore shared:

* contexts are sorted, and neighbours that begin alike (a subject's description and examples) become a group, whose
  common opening is read once; its keys and values stand before every row of the group;
* all answers to one context are read behind it in one row, as branches of a tree: each token sees the opening, the
  context and the tokens of its own answer before it, and has the position that it would have alone. (Tree attention: a
  mask of four dimensions and explicit positions, which transformers' stock decoders take as they are.) Behind a long
  opening a row holds several contexts, since each row needs a copy of the opening's keys and values.

Logits are computed for the answers only. The results are those of every pair alone, up to the rounding of another order
of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from hanmo.evaluate import opening

#: Logits that are computed at once, in floats (256 MB).
_LOGITS = 1 << 26
#: Tokens of answers in one row: as many as of the context before them, or this. A branch sees nothing of its
#: neighbours, but its attention runs over them all the same.
_BRANCHES = 64
#: Tokens of a row of several contexts, at most; no more than the opening before them has, since each attends to all.
_ROW = 512
#: Tokens that a common beginning has to save to be a piece of its own.
_WORTH = 64
#: What a pass costs beside its tokens, as a part of the tokens that a pass may have.
_PASS = 1 / 16


@dataclass(frozen=True)
class Likelihood:
    """Of one answer behind its context.

    Attributes:
        nats: ln p(answer | context), summed over its tokens.
        tokens: of the answer.
        greedy: whether each of its tokens was the likeliest.
    """

    nats: float
    tokens: int
    greedy: bool


@dataclass
class _Tree:
    """A context with some of its answers; `own` is the context behind the group's opening."""

    context: tuple[int, ...]
    answers: list[tuple[int, ...]]
    own: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.own) + sum(len(answer) - 1 for answer in self.answers)


@dataclass
class _Row:
    """What is read behind a group's opening in one row."""

    trees: list[_Tree]

    @property
    def length(self) -> int:
        return sum(tree.length for tree in self.trees)

    @property
    def kept(self) -> int:
        """Places whose logits are wanted: each context's last one and all but each answer's last."""
        return sum(1 + sum(len(answer) - 1 for answer in tree.answers) for tree in self.trees)


def likelihoods(
    model: PreTrainedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    context: int | None = None,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """ln p of each answer behind its context.

    Args:
        model: a transformers decoder with a key-value cache.
        pairs: (context ids, answer ids); neither is empty.
        context: longest input in tokens (default: the model's own). Of longer ones the left end is cut off, as lm-eval
            does.
        batch_tokens: ids per forward pass (one row at least).
        advance: told how many pairs were finished.

    Returns:
        One for each pair, in their order.

    Raises:
        ValueError: an empty context or answer, or an answer that is longer than the context.
    """
    limit = context or int(model.config.max_position_embeddings)
    wanted: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for index, (before, answer) in enumerate(pairs):
        if not before or not answer or len(answer) > limit:
            raise ValueError(f"pair {index}: {len(before)} and {len(answer)} tokens in a context of {limit}")
        wanted.append((tuple(before[-(limit + 1 - len(answer)) :]), tuple(answer)))
    by_context: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
    for before, answer in wanted:
        by_context.setdefault(before, {})[answer] = None
    trees = takes_trees(model)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Likelihood] = {}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for contexts, shared in _groups(sorted(by_context)):
                read = opening.read(model, contexts[0][:shared]) if shared else None
                grown = [tree for one in contexts for tree in _trees(one, list(by_context[one]), shared, trees)]
                rows = _rows(grown, min(_ROW, shared) if trees else 0)
                for batch in _batches(rows, batch_tokens, int(model.config.vocab_size), trees):
                    _score(model, batch, shared, read, trees, found)
                    if advance:
                        advance(sum(len(tree.answers) for row in batch for tree in row.trees))
    finally:
        model.train(was_training)
    return [found[pair] for pair in wanted]


def text_nats(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], *, context: int | None = None, batch_tokens: int = 4096
) -> list[float]:
    """-ln p of each text's ids behind its first one, in nats. What texts begin with in common is read once.

    Args:
        texts: ids, at least two each, at most `context` (default: the model's own).
    """
    ordered = sorted({tuple(text) for text in texts})
    same = [0, *(_alike(a, b) for a, b in pairwise(ordered)), 0]
    #: Of every piece that is read, a text or a common beginning: up to where it is another piece's.
    cuts: dict[tuple[int, ...], int] = {}

    def cut(low: int, high: int, paid: int) -> None:
        """Cut the texts low .. high (exclusive), which are alike up to `paid` at least, into pieces."""
        if high - low == 1:
            cuts[ordered[low]] = min(paid, len(ordered[low]) - 1)
            return
        alike = min(same[low + 1 : high])
        if (high - low - 1) * (alike - paid) >= _WORTH:
            cuts[ordered[low][:alike]], paid = paid, alike
        edges = [low, *(at for at in range(low + 1, high) if same[at] == alike), high]
        for start, end in pairwise(edges):
            cut(start, end, paid)

    cut(0, len(ordered), 1)
    pairs = [(piece[:at], piece[at:]) for piece, at in cuts.items()]
    found = likelihoods(model, pairs, context=context, batch_tokens=batch_tokens)
    own = {piece: -one.nats for piece, one in zip(cuts, found, strict=True)}
    # A piece comes behind those that it begins with.
    for piece, at in cuts.items():
        own[piece] += own[piece[:at]] if at > 1 else 0.0
    return [own[tuple(text)] for text in texts]


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether a model takes masks of four dimensions with positions of their own: transformers' decoders, not ours."""
    return not type(model).__module__.startswith("hanmo.")


def _trees(context: tuple[int, ...], answers: Sequence[tuple[int, ...]], shared: int, trees: bool) -> Iterator[_Tree]:
    """A context with its answers, or with as many of them as go into a row."""
    own = context[shared:]
    # Answers of one token need no branch: they are read off the context's last logits.
    single = [answer for answer in answers if len(answer) == 1]
    if single:
        yield _Tree(context, single, own)
    most = max(len(own), _BRANCHES) if trees else 0
    tree = _Tree(context, [], own)
    for answer in sorted((answer for answer in answers if len(answer) > 1), key=len):
        if tree.answers and tree.length + len(answer) - 1 > len(own) + most:
            yield tree
            tree = _Tree(context, [], own)
        tree.answers.append(answer)
    if tree.answers:
        yield tree


def _rows(trees: Sequence[_Tree], most: int) -> list[_Row]:
    """Rows of at most so many tokens, or of one tree: each goes where the least room is left (best fit decreasing)."""
    rows: list[_Row] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda tree: tree.length, reverse=True):
        fitting = [place for place, left in enumerate(room) if left >= tree.length]
        if fitting:
            place = min(fitting, key=lambda place: room[place])
            rows[place].trees.append(tree)
            room[place] -= tree.length
        else:
            rows.append(_Row([tree]))
            room.append(most - tree.length)
    return rows


def _groups(contexts: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[tuple[int, ...]], int]]:
    """Sorted contexts in groups that begin alike, and how many ids those of each group share.

    One joins the group before it while that saves at least as many tokens as it saved without. A group of a single one
    does not take another from neighbours that it has more in common with.
    """
    same = [0, *(_alike(a, b) for a, b in pairwise(contexts)), 0]
    group: list[tuple[int, ...]] = []
    shared = 0
    for index, one in enumerate(contexts):
        alike = min(shared, same[index], len(one) - 1)
        saves = alike * len(group) >= shared * (len(group) - 1) and alike >= opening.SHORTEST
        if group and saves and (len(group) > 1 or 2 * alike >= same[index + 1]):
            group.append(one)
            shared = alike
            continue
        if group:
            yield group, shared if len(group) > 1 else 0
        group, shared = [one], len(one) - 1
    if group:
        yield group, shared if len(group) > 1 else 0


def alike_groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The places of prompts that begin alike, group by group: each group's opening is worth being read once."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(place)
    for group, _ in _groups(sorted(places)):
        yield [place for one in group for place in places[one]]


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    most = min(len(first), len(second))
    same = np.fromiter(first[:most], np.int64, most) == np.fromiter(second[:most], np.int64, most)
    return most if same.all() else int(same.argmin())


def _batches(rows: Sequence[_Row], batch_tokens: int, vocabulary: int, trees: bool) -> Iterator[list[_Row]]:
    """Rows of like length together, longest first; without trees only rows of one length, which need no mask.

    Of all ways to cut the sorted rows the one with the least padding, a pass being worth some of it.
    """
    rows = sorted(rows, key=lambda row: (row.length, row.kept), reverse=True)
    best, begins = [0.0], [0]
    for end in range(1, len(rows) + 1):
        least, begin, kept = float("inf"), end - 1, 0
        for start in range(end - 1, -1, -1):
            kept, widest, count = kept + rows[start].kept, rows[start].length, end - start
            full = widest * count > batch_tokens or kept * count * vocabulary > _LOGITS
            if count > 1 and (full or (not trees and widest != rows[end - 1].length)):
                break
            cost = best[start] + widest * count + _PASS * batch_tokens
            if cost < least:
                least, begin = cost, start
        best.append(least)
        begins.append(begin)
    edges = [len(rows)]
    while edges[-1]:
        edges.append(begins[edges[-1]])
    for start, end in pairwise(edges[::-1]):
        yield rows[start:end]


def _score(
    model: PreTrainedModel,
    batch: list[_Row],
    shared: int,
    read: DynamicCache | None,
    trees: bool,
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Likelihood],
) -> None:
    """One forward pass over rows that are aligned at their right ends."""
    width = max(row.length for row in batch)
    ids = np.zeros((len(batch), width), np.int64)
    positions = np.zeros((len(batch), width), np.int64)
    plain = all(len(row.trees) == 1 and (len(row.trees[0].answers) == 1 or row.kept == 1) for row in batch)
    masked = not plain or any(row.length < width for row in batch)
    seen = np.zeros((len(batch), width, shared + width), bool) if masked else None
    #: Of each answer: its context, the row, and the places (in the row) whose logits say its tokens.
    wanted: list[tuple[_Tree, tuple[int, ...], int, list[int]]] = []
    for number, row in enumerate(batch):
        at = width - row.length
        if seen is not None:
            seen[number, at:, :shared] = True
        for tree in row.trees:
            end, last = at + len(tree.own), at + tree.length
            ids[number, at:end] = tree.own
            positions[number, at:end] = np.arange(shared, len(tree.context))
            if seen is not None:
                seen[number, at:last, shared + at : shared + end] = np.tri(last - at, len(tree.own), dtype=bool)
            for answer in tree.answers:
                size = len(answer) - 1
                ids[number, end : end + size] = answer[:-1]
                positions[number, end : end + size] = np.arange(len(tree.context), len(tree.context) + size)
                if seen is not None:
                    seen[number, end : end + size, shared + end : shared + end + size] = np.tri(size, dtype=bool)
                wanted.append((tree, answer, number, [at + len(tree.own) - 1, *range(end, end + size)]))
                end += size
            at = last
    device = model.device
    mask = None
    if seen is not None:
        # Added to the scores: the lowest number instead of -inf, so that padding, which sees nothing, makes no NaN.
        low = torch.finfo(model.dtype).min
        mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(~torch.from_numpy(seen), low)
        mask = mask[:, None].to(device)
    # Options of one token share a place: its distribution is taken once.
    columns = np.unique(np.concatenate([places for *_, places in wanted]))
    logits = model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask,
        position_ids=torch.from_numpy(positions).to(device),
        past_key_values=opening.repeated(read, len(batch)) if read else DynamicCache(config=model.config),
        use_cache=True,
        # Models of ours count from the end; their rows hold one tree.
        logits_to_keep=torch.from_numpy(columns).to(device) if trees else int(width - columns[0]),
    ).logits
    if not trees:
        columns = np.arange(columns[0], width)
    rows = np.concatenate([np.full(len(places), number) for _, _, number, places in wanted])
    targets = np.concatenate([answer for _, answer, _, _ in wanted])
    picked_columns = np.searchsorted(columns, np.concatenate([places for *_, places in wanted]))
    keys, inverse = np.unique(np.stack([rows, picked_columns]), axis=1, return_inverse=True)
    chosen = logits[torch.from_numpy(keys[0]).to(device), torch.from_numpy(keys[1]).to(device)].float()
    total, best = chosen.logsumexp(-1).cpu().numpy(), chosen.argmax(-1).cpu().numpy()
    back = torch.from_numpy(inverse.reshape(-1)).to(device)
    picked = chosen[back, torch.from_numpy(targets).to(device)].cpu().numpy()
    logp = picked.astype(np.float64) - total[inverse.reshape(-1)]
    right = best[inverse.reshape(-1)] == targets
    at = 0
    for tree, answer, *_ in wanted:
        end = at + len(answer)
        found[tree.context, answer] = Likelihood(float(logp[at:end].sum()), len(answer), bool(right[at:end].all()))
        at = end
