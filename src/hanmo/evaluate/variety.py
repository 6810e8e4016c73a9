"""How repetitive and how varied sampled texts are: of one text, of many, and of many that begin alike.

* **repetition**: 1 - different 4-grams / 4-grams of a text, averaged over the texts (Welleck et al. 2020, seq-rep-4);
* **distinct-1, distinct-2**: different n-grams / n-grams over all texts (Li et al. 2016). It falls with the amount of
  text, so only equal amounts are comparable;
* **self-BLEU**: BLEU-4 of each text against the others of its group, averaged (Zhu et al. 2018); 1 where all are alike.

All count characters without white space, which needs no word segmenter and is the same for every tokenizer. The same
figures of human text, cut to the same lengths, say what is usual.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

_REPEATED = 4
_BLEU = 4


def figures(groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """The figures of texts in groups (those of a group begin alike, or are of one kind).

    Returns:
        texts, characters, repetition, distinct_1, distinct_2, and self_bleu where a group has two texts or more.

    Raises:
        ValueError: no group holds a text with a character in it.
    """
    cleaned = [[made for text in group if (made := "".join(text.split()))] for group in groups]
    texts = [text for group in cleaned for text in group]
    if not texts:
        raise ValueError("no text to measure")
    several = [group for group in cleaned if len(group) > 1]
    alike = [bleu(text, [*group[:at], *group[at + 1 :]]) for group in several for at, text in enumerate(group)]
    return {
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "repetition": sum(map(_repetition, texts)) / len(texts),
        "distinct_1": _distinct(texts, 1),
        "distinct_2": _distinct(texts, 2),
        **({"self_bleu": sum(alike) / len(alike)} if alike else {}),
    }


def bleu(text: str, references: Sequence[str], most: int = _BLEU) -> float:
    """BLEU by characters of one text against several (Papineni et al. 2002), 0 to 1.

    Precisions of which there is none are halved from one order to the next, as NIST's script does (sacreBLEU's
    smoothing "exp"); texts shorter than `most` are measured up to their length.
    """
    logs, smooth = 0.0, 1.0
    orders = range(1, min(most, len(text)) + 1)
    for size in orders:
        own = _grams(text, size)
        best: Counter[str] = Counter()
        for reference in references:
            best |= _grams(reference, size)
        hits = (own & best).total()
        if not hits:
            if size == 1:
                return 0.0
            smooth *= 2
        logs += math.log(hits / own.total() if hits else 1 / (smooth * own.total()))
    if not orders:
        return 0.0
    # The reference nearest in length; of two, the shorter one.
    nearest = min((abs(len(one) - len(text)), len(one)) for one in references)[1]
    brevity = min(0.0, 1 - nearest / len(text))
    return math.exp(logs / len(orders) + brevity)


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[at : at + size] for at in range(len(text) - size + 1))


def _repetition(text: str) -> float:
    grams = _grams(text, _REPEATED)
    return 1 - len(grams) / grams.total() if grams else 0.0


def _distinct(texts: Sequence[str], size: int) -> float:
    found: Counter[str] = Counter()
    for text in texts:
        found += _grams(text, size)
    return len(found) / max(1, found.total())
