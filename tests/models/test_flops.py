"""The closed form of a step's arithmetic against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3ForCausalLM

from hanmo.models.flops import model_flops
from hanmo.models.presets import build_config


@pytest.mark.parametrize("tied", [True, False])
def test_equals_what_is_counted(tied: bool) -> None:
    config = build_config("hanmo-1m", 320, 64)
    config.tie_word_embeddings = tied
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 300, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    # Gains of norms count as weights here and are no products: a per mille.
    assert model_flops(model, 64) * ids.numel() == pytest.approx(counter.get_total_flops(), rel=0.005)
