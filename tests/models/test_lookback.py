"""Heads that look back: where they look in the model itself, and that outputs do not change by it."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3ForCausalLM

from hanmo.models.lookback import distances, look_back
from hanmo.models.presets import build_config


@pytest.mark.parametrize(("heads", "wanted"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 2]), (8, [1, 1, 1, 1, 1, 2, 3, 4])])
def test_distances(heads: int, wanted: list[int]) -> None:
    assert distances(heads) == wanted


@pytest.mark.parametrize("name", ["hanmo-1m", "hanmo-8m", "hanmo-42m"])
def test_heads_look_where_they_are_told_to(name: str) -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(build_config(name, 320, 64)).eval()
    model.set_attn_implementation("eager")
    channel = model.config.hidden_size - 2
    with torch.no_grad():
        model.get_input_embeddings().weight[:, channel] = 0.3
    look_back(model, 0, channel)
    with torch.no_grad():
        attention = model(torch.randint(0, 320, (1, 64)), output_attentions=True).attentions[0][0]
    for head, far in enumerate(distances(model.config.num_attention_heads)):
        for place in range(10, 64):
            assert attention[head, place].argmax() == place - far
            assert 0.6 < attention[head, place, place - far] < 0.95
