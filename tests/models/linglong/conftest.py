"""Tiny LingLong models, with weights large enough that tokens stand clearly apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.modeling import LingLongForCausalLM

SHAPE = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_position": 64, "attn_stride": 8, "attn_c": 2, "vocab_size": 50}


@pytest.fixture
def make() -> Callable[..., LingLongForCausalLM]:
    """A function that builds a model: `make(attn_mode="sparse")`."""

    def build(**other: Any) -> LingLongForCausalLM:
        torch.manual_seed(0)
        model = LingLongForCausalLM(LingLongConfig(**{**SHAPE, "n_vocab_pinyin": 20, **other})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    # The head is the embedding: were it large beside the rest, every token would repeat itself.
                    parameter.mul_({"transformer.wte.weight": 8, "transformer.wpe.weight": 30}.get(name, 14))
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        return model

    return build
