"""A tiny model for the tests of this room."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def tiny_model():
    """A function that builds a random model of 320 tokens."""
    from transformers import Qwen3ForCausalLM

    from hanmo.models.presets import build_config

    def build():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(build_config("hanmo-1m", 320, 32)).train()

    return build
