"""Span corruption, the objective of T5: stretches of a row are cut out, and the decoder writes them.

Each stretch leaves a sentinel in the input, another one at each place; the target names them in turn, each followed by
what stood there (Raffel et al., arXiv:1910.10683, section 3.1.4):

    input   春天 <extra_id_0> 花园里的 <extra_id_1> 开了
    target  <extra_id_0> 到了， <extra_id_1> 花都
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Parts the draws of spans from the other draws of a seed.
_TAG = 0x5350414E


def corrupt(
    ids: NDArray[np.int64],
    seed: int,
    row: int,
    sentinels: Sequence[int],
    special: Sequence[int],
    share: float = 0.15,
    mean: float = 3.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(input, target) of a row, a pure function of the row's ids, its number and the seed.

    `share` of the ordinary tokens are cut out, to the nearest token and at least one, in as many stretches as make
    `mean` tokens a stretch. Stretches do not touch, and all ways to lay them are equally likely. One that a special
    token stands in is two, so that in rows of many short documents they are shorter on the average. Without two
    ordinary tokens nothing is cut. What opens and closes the two sequences is the caller's.

    Args:
        ids: int64 [length].
        seed, row: of the draw.
        sentinels: ids of <extra_id_0>, <extra_id_1>, …; there are no more stretches than these.
        special: ids that are never cut out, the sentinels not counted.
        share: of the ordinary tokens, in (0, 1).
        mean: tokens in a stretch, at least 1.

    Returns:
        (int64 [kept + stretches], int64 [cut out + stretches]).

    Raises:
        ValueError: a sentinel is in the text, so that nobody could tell what the target means.
    """
    if np.isin(ids, sentinels).any():
        raise ValueError(f"row {row}: a sentinel is in the text; take the data's own special tokens out of it")
    places = np.flatnonzero(~np.isin(ids, special))
    ordinary = len(places)
    if ordinary < 2 or not len(sentinels):
        return ids.copy(), ids[:0].copy()
    cut = min(max(round(share * ordinary), 1), ordinary - 1)
    kept = ordinary - cut
    count = min(max(round(cut / mean), 1), cut, kept + 1, len(sentinels))
    generator = np.random.Generator(np.random.PCG64([seed, _TAG, row]))
    lengths = _parts(generator, cut, count)
    gaps = _parts(generator, kept + 2, count + 1)
    gaps[[0, -1]] -= 1  # a row may begin and end with a stretch; between two there is a token
    starts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    chosen = np.zeros(len(ids), bool)
    chosen[places[np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])]] = True
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)[: len(sentinels)]
    inputs: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    behind = 0
    for (start, stop), sentinel in zip(edges, sentinels, strict=False):
        mark = np.array([sentinel], np.int64)
        inputs += [ids[behind:start], mark]
        targets += [mark, ids[start:stop]]
        behind = stop
    return np.concatenate([*inputs, ids[behind:]]), np.concatenate(targets)


def _parts(generator: np.random.Generator, total: int, count: int) -> NDArray[np.int64]:
    """`count` whole numbers of at least 1 that add up to `total`, every such sequence equally likely."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)
