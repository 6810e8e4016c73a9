"""小世界: a small world, told in natural Chinese, that a small model can learn whole in minutes.

One seed and a size give people, places, animals, words and numbers; documents that tell about them; dialogues and
preference pairs; and an exam whose joined conclusions stand nowhere in the training text. See ``bank.py`` for the kinds
of question, ``overlap.py`` for what is kept apart, ``retrieval.py`` for the baseline an exam must beat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanmo.corpus.microworld.settings import MicroworldSettings


def generate(out: Path | str, **settings: Any) -> dict[str, Any]:
    """Write a microworld into the folder ``out``; ``settings`` are those of :class:`MicroworldSettings`.

    Returns the counts of stats.json. Raises HanmoError where the sizes do not fit together.
    """
    from hanmo.corpus.microworld.stage import run

    return run(MicroworldSettings(**settings), {}, Path(out))
