"""The stream of pretraining documents: a page of some kind per document, no two alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from hanmo.corpus.microworld import pages_people, pages_places, pages_school, pages_stories
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.overlap import Guard
from hanmo.corpus.microworld.teller import Teller

Page = Callable[[Teller, Dice], str]

#: kind of page -> (writer, share of the documents)
PAGES: dict[str, tuple[Page, float]] = {
    "portrait": (pages_people.portrait, 7),
    "introduction": (pages_people.introduction, 3),
    "family": (pages_people.family, 6),
    "letter": (pages_people.letter, 2),
    "talk": (pages_people.talk, 3),
    "diary": (pages_people.diary, 2),
    "guide": (pages_places.guide, 7),
    "walk": (pages_places.walk, 3),
    "market": (pages_places.market, 3),
    "calendar": (pages_places.calendar, 8),
    "animals": (pages_school.animals, 4),
    "riddles": (pages_school.riddles, 2),
    "measures": (pages_school.measures, 5),
    "antonyms": (pages_school.antonyms, 5),
    "sums": (pages_school.sums, 12),
    "legs": (pages_school.legs, 3),
    "errand": (pages_stories.errand, 10),
    "fable": (pages_stories.fable, 1.5),
    "ages": (pages_stories.compare, 4),
    "exercises": (pages_school.exercises, 40),
    "lesson": (pages_school.lesson, 10),
}
_WEIGHTS = [(kind, share) for kind, (_, share) in PAGES.items()]


def documents(teller: Teller, guard: Guard, seed: int, size: int) -> Iterator[dict[str, Any]]:
    """Yield records ``{id, text, source, meta}`` until their texts hold ``size`` UTF-8 bytes.

    A text that was there before is thrown away; 8 bytes are kept of each text that was written.
    """
    seen: set[bytes] = set()
    written = number = 0
    while written < size:
        dice = Dice(seed, "document", number)
        number += 1
        kind = dice.weighted(_WEIGHTS)
        text = PAGES[kind][0](teller, dice)
        data = text.encode("utf-8")
        digest = hashlib.blake2b(data, digest_size=8).digest()
        if digest in seen:
            guard.counts["repeated"] += 1
            continue
        if not guard.allows(text):
            continue
        seen.add(digest)
        written += len(data)
        yield {"id": f"microworld-{number:08d}", "text": text, "source": "microworld", "meta": {"kind": kind}}
