"""What a masked model does on held-out text: the same rows with the same masks at every look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerFast

from hanmo.console import console
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.settings import PretrainSettings
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import Split

#: Bytes of Chinese text behind a token of an encoder's vocabulary, about.
_BYTES = 3


def masked_look(
    settings: PretrainSettings, heldout: dict[str, Split], tokenizer: PreTrainedTokenizerFast
) -> Callable[[Any], dict[str, Any]]:
    """A function that measures `heldout_loss`, in nats a masked token, on about `eval_bytes` of held-out text.

    Of several tokens folders it is that of the first, and `heldout_loss_by_data` has all of them.
    """
    masks = settings.masks
    sources = {
        name: MaskedRows(
            Order(split, settings.context, settings.seed), tokenizer, masks.share, masks.whole_words, settings.seed
        )
        for name, split in heldout.items()
        if len(split)
    }

    def look(trainer: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        losses: dict[str, float] = {}
        for name, source in sources.items():
            wanted = min(source.total, settings.eval_bytes // _BYTES)
            # Whole micro-batches, as many in every process: the compiled step then sees no other shape.
            micro, world = trainer.batches.micro, trainer.world
            together = micro * world.size
            count = max(1, wanted // (settings.context * together)) * together
            nats = targets = 0.0
            for first in range(world.rank * micro, count, together):
                rows: Rows = source.rows(first, micro)
                nats += trainer.spread.measure(rows)
                targets += int((rows.targets != IGNORE).sum())
            nats, targets = world.sum(nats, targets)
            losses[name] = round(nats / max(1.0, targets), 5)
        if losses:
            found["heldout_loss"] = next(iter(losses.values()))
            if len(heldout) > 1:
                found["heldout_loss_by_data"] = losses
            trainer.append("log.jsonl", {"step": trainer.step, **found})
            shown = ", ".join(f"{name} {value:.3f}".strip() for name, value in losses.items())
            console.print(f"step {trainer.step}: held-out loss {shown} nats a masked token", markup=False)
        return found

    return look
