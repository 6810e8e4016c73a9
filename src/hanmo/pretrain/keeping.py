"""Models that are kept beside the final one: as it was before the first step, and every so many tokens.

They are whole Hugging Face folders with the tokenizer, named `model-initial` and `model-step-00001000`, with the prefix
behind `model-` where one is given (`model-law-step-00001000`). A run that resumes writes those behind its checkpoint
again: after a change of the budget they may be others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hanmo.console import console
from hanmo.pretrain.settings import PretrainSettings


def kept_name(prefix: str, step: int) -> str:
    """The folder of the model after `step` steps."""
    return "-".join(filter(None, ("model", prefix, f"step-{step:08d}" if step else "initial")))


def keeper(settings: PretrainSettings, save: Callable[[Any, str], None]) -> Callable[[Any], None] | None:
    """What the trainer calls before the first step and after each, or None where nothing is to be kept.

    Args:
        save: writes the trainer's model to the folder of that name.
    """
    every = settings.save_every_tokens
    if not every and not settings.save_initial:
        return None

    def keep(trainer: Any) -> None:
        step = trainer.step
        if step == 0:
            wanted = settings.save_initial
        else:
            before, now = (trainer.sizes.first(number) * settings.context for number in (step - 1, step))
            # The first step at which that many tokens, or a multiple of them, have been seen.
            wanted = bool(every) and now // every > before // every
        if wanted:
            name = kept_name(settings.prefix, step)
            save(trainer, name)
            console.print(f"step {step}: kept as {name}", markup=False)

    return keep
