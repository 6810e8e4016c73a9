"""Entities: spans and tags, a linear-chain CRF, and the two heads that find spans in rows of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

#: (start, end, type), `end` behind the last character.
Entity = tuple[int, int, str]


def spans_of(tags: Sequence[str], widths: Sequence[int], notes: Counter[str] | None = None) -> tuple[Entity, ...]:
    """The entities of tags in BIO, BIOES, BMES or IOB1; `widths` are the characters that each tag stands for.

    A tag that continues nothing (I-PER behind O or B-LOC) begins an entity, which `notes` counts.
    """
    found: list[Entity] = []
    start, kind, at = 0, "", 0
    for tag, width in zip(tags, widths, strict=True):
        place, _, this = tag.partition("-")
        goes_on = place in ("I", "M", "E") and this == kind
        if kind and not goes_on:
            found.append((start, at, kind))
            kind = ""
        if not kind and place != "O":
            if place in ("I", "M", "E") and notes is not None:
                notes["tag that continues nothing"] += 1
            start, kind = at, this
        at += width
        if kind and place in ("E", "S"):
            found.append((start, at, kind))
            kind = ""
    if kind:
        found.append((start, at, kind))
    return tuple(found)


def tag_names(kinds: Sequence[str]) -> list[str]:
    """O, then B- and I- of each type."""
    return ["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]


def tags_of(
    entities: Iterable[Entity], offsets: Sequence[tuple[int, int]], names: Sequence[str]
) -> tuple[list[int], int]:
    """Tags of tokens, and how many entities they cannot tell: their ends are inside tokens, or they overlap.

    Args:
        offsets: characters of each token, (0, 0) for one that stands for none.
        names: of the tags, from `tag_names`.
    """
    number = {name: index for index, name in enumerate(names)}
    tags, lost = [0] * len(offsets), 0
    begins = {start: index for index, (start, end) in reversed(list(enumerate(offsets))) if end > start}
    ends = {end: index for index, (start, end) in enumerate(offsets) if end > start}
    for start, end, kind in entities:
        first, last = begins.get(start), ends.get(end)
        if first is None or last is None or last < first or any(tags[first : last + 1]):
            lost += 1
            continue
        tags[first] = number[f"B-{kind}"]
        tags[first + 1 : last + 1] = [number[f"I-{kind}"]] * (last - first)
    return tags, lost


def entities_of(tags: Sequence[int], offsets: Sequence[tuple[int, int]], names: Sequence[str]) -> list[Entity]:
    """The entities that tags of tokens tell, in characters."""
    real = [(tag, span) for tag, span in zip(tags, offsets, strict=True) if span[1] > span[0]]
    return [
        (real[first][1][0], real[end - 1][1][1], kind)
        for first, end, kind in spans_of([names[tag] for tag, _ in real], [1] * len(real))
    ]


class CRF(nn.Module):
    """A linear chain over tags (Lafferty et al. 2001): how likely each tag is behind each other one.

    Rows may be padded on the right only; their first place is always real.

    Args:
        tags: how many there are.
    """

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))  # [before, behind]
        self.first = nn.Parameter(torch.zeros(tags))
        self.last = nn.Parameter(torch.zeros(tags))

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Mean over tokens of the negative log-likelihood of the tags, in nats.

        Args:
            emissions: [rows, length, tags].
            tags: [rows, length], any at padding.
            mask: [rows, length], true where there is a token.
        """
        emissions = emissions.float()
        return (self._partition(emissions, mask) - self._score(emissions, tags, mask)).sum() / mask.sum()

    def _score(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Score of the tags given, [rows]."""
        real = mask.to(emissions.dtype)
        own = emissions.gather(2, tags[:, :, None])[:, :, 0] * real
        steps = self.transitions[tags[:, :-1], tags[:, 1:]] * real[:, 1:]
        ends = tags.gather(1, (mask.sum(1, keepdim=True) - 1))[:, 0]
        return own.sum(1) + steps.sum(1) + self.first[tags[:, 0]] + self.last[ends]

    def _partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log of the sum over all tags, [rows]."""
        total = self.first + emissions[:, 0]
        for place in range(1, emissions.shape[1]):
            after = torch.logsumexp(total[:, :, None] + self.transitions, 1) + emissions[:, place]
            total = torch.where(mask[:, place, None], after, total)
        return torch.logsumexp(total + self.last, 1)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """The likeliest tags of each row (Viterbi), as many as it has tokens."""
        emissions = emissions.float()
        best, back = self.first + emissions[:, 0], []
        for place in range(1, emissions.shape[1]):
            scores, chosen = (best[:, :, None] + self.transitions).max(1)
            real = mask[:, place, None]
            best = torch.where(real, scores + emissions[:, place], best)
            # Padding points to itself, so that the way back runs through it unchanged.
            back.append(torch.where(real, chosen, torch.arange(best.shape[1], device=best.device)))
        tag = (best + self.last).argmax(1)
        way = [tag]
        for chosen in reversed(back):
            tag = chosen.gather(1, tag[:, None])[:, 0]
            way.append(tag)
        rows = torch.stack(way[::-1], 1).tolist()
        return [row[:length] for row, length in zip(rows, mask.sum(1).tolist(), strict=True)]


def ends_of(
    entities: Iterable[Entity], offsets: Sequence[tuple[int, int]], kinds: Sequence[str]
) -> tuple[list[list[int]], int]:
    """For the span head: first and last tokens of entities, as [(token, column), ...], and how many it cannot tell.

    Column k is "an entity of type k begins here", column `len(kinds) + k` "one ends here"; entities may nest.
    """
    begins = {start: index for index, (start, end) in reversed(list(enumerate(offsets))) if end > start}
    ends = {end: index for index, (start, end) in enumerate(offsets) if end > start}
    marks, lost = [], 0
    for start, end, kind in entities:
        first, last = begins.get(start), ends.get(end)
        if first is None or last is None or last < first:
            lost += 1
            continue
        column = list(kinds).index(kind)
        marks += [[first, column], [last, len(kinds) + column]]
    return marks, lost


def spans_between(
    begins: Tensor, ends: Tensor, offsets: Sequence[tuple[int, int]], kinds: Sequence[str]
) -> list[Entity]:
    """Entities from logits of beginnings and ends, both [length, types]: a beginning and its nearest end."""
    found: list[Entity] = []
    for column, kind in enumerate(kinds):
        starts = (begins[:, column] > 0).nonzero()[:, 0].tolist()
        stops = (ends[:, column] > 0).nonzero()[:, 0].tolist()
        for number, start in enumerate(starts):
            limit = starts[number + 1] if number + 1 < len(starts) else len(offsets)
            stop = next((one for one in stops if start <= one < limit), None)
            if stop is not None and offsets[start][1] > offsets[start][0] and offsets[stop][1] > offsets[stop][0]:
                found.append((offsets[start][0], offsets[stop][1], kind))
    return sorted(found)
