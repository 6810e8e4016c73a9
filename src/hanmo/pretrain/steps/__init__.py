"""The forward and backward pass of each family over packed rows: `step_of` knows which is a model's own.

To add a family whose layers are called otherwise: a class below `StackStep` (or `PackedStep`, for what continues text),
and a line in `_OWN`. A step must give the model's own loss for documents alone in their rows; `hanmo.pretrain.loading`
sees that it does, for every model that is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hanmo.pretrain.objectives import Step, StepBuilder
from hanmo.pretrain.steps.encoder import EncoderStep
from hanmo.pretrain.steps.experts import ExpertsStep
from hanmo.pretrain.steps.gpt2 import GPT2Step
from hanmo.pretrain.steps.linglong import LingLongStep
from hanmo.pretrain.steps.modernbert import ModernBertStep
from hanmo.pretrain.steps.packed import PackedStep
from hanmo.pretrain.steps.seq2seq import MegatronT5Step, T5Step
from hanmo.pretrain.steps.unified import UnifiedStep

#: Steps by `model_type`, where it is not that of the objective.
_OWN: dict[str, StepBuilder] = {
    "gpt2": GPT2Step,
    "linglong": LingLongStep,
    "modernbert": ModernBertStep,
    "qwen2_moe": ExpertsStep,
    "glm4_moe": ExpertsStep,
    "hanmo_megatron_t5": MegatronT5Step,
}
_OF_OBJECTIVE: dict[str, StepBuilder] = {
    "causal": PackedStep,
    "masked": EncoderStep,
    "unified": UnifiedStep,
    "spans": T5Step,
}


def step_of(model: Any, objective: str) -> Callable[..., Step]:
    """What makes the loss of a transformers model that learns `objective`."""
    return _OWN.get(model.config.model_type, _OF_OBJECTIVE[objective])
