"""Learning the pieces of words by merging frequent neighbours, with ties broken the same way every time.

(The trainer of `tokenizers` for WordPiece breaks ties by the order of a hash table, so that two runs give two
vocabularies. Words outside Han script are few beside the text: plain Python is fast enough.)
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping


def merged(words: Mapping[str, int], count: int, mark: str, known: set[str], least: int) -> list[str]:
    """At most `count` new tokens, in the order they were merged.

    Args:
        words: how often each word occurs.
        count: tokens wanted.
        mark: what continuations begin with (`##`).
        known: tokens that are there already; they count for nothing.
        least: pairs that occur less often are not merged.

    Source: Sennrich et al. 2016 (byte-pair encoding); spelled as WordPiece does.
    """
    forms = [[letter if not place else mark + letter for place, letter in enumerate(word)] for word in words]
    times = list(words.values())
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for number, form in enumerate(forms):
        for pair in itertools.pairwise(form):
            pairs[pair] += times[number]
            where[pair].add(number)
    heap = [(-frequency, pair) for pair, frequency in pairs.items() if frequency >= least]
    heapq.heapify(heap)
    found: dict[str, None] = {}
    while heap and len(found) < count:
        negative, pair = heapq.heappop(heap)
        if pairs[pair] != -negative:  # it has changed since, and stands there again with its new count
            continue
        token = pair[0] + pair[1].removeprefix(mark)
        if token not in known:
            found.setdefault(token)
        changed: set[tuple[str, str]] = set()
        for number in where.pop(pair, ()):
            form = forms[number]
            if pair not in itertools.pairwise(form):
                continue
            for old in itertools.pairwise(form):
                pairs[old] -= times[number]
                changed.add(old)
            form = forms[number] = _joined(form, pair, token)
            for new in itertools.pairwise(form):
                pairs[new] += times[number]
                where[new].add(number)
                changed.add(new)
        for one in changed:
            if pairs[one] >= least:
                heapq.heappush(heap, (-pairs[one], one))
    return list(found)


def _joined(form: list[str], pair: tuple[str, str], token: str) -> list[str]:
    result: list[str] = []
    place = 0
    while place < len(form):
        if place + 1 < len(form) and (form[place], form[place + 1]) == pair:
            result.append(token)
            place += 2
        else:
            result.append(form[place])
            place += 1
    return result
