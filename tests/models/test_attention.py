"""The products attention gives what torch's own attention gives: over packed rows, and behind a cache."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3ForCausalLM

from hanmo.models.attention import PRODUCTS
from hanmo.models.presets import build_config


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    """Four query heads in two groups; weights so large that no two tokens are equally good."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(build_config("hanmo-1m", 400, 256)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model


def of_both(model: Qwen3ForCausalLM, call: str, *args: object, **kwargs: object) -> list[torch.Tensor]:
    found = []
    for name in ("sdpa", PRODUCTS):
        model.set_attn_implementation(name)
        with torch.no_grad():
            result = getattr(model, call)(*args, **kwargs)
        found.append(result if isinstance(result, torch.Tensor) else result.logits)
    return found


def test_plain_rows(model: Qwen3ForCausalLM) -> None:
    theirs, ours = of_both(model, "forward", input_ids=torch.randint(3, 400, (2, 33)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_packed_documents_do_not_see_each_other(model: Qwen3ForCausalLM) -> None:
    """Two documents in one row, told by their positions, have the logits that each has alone."""
    first, second = torch.randint(3, 400, (1, 12)), torch.randint(3, 400, (1, 20))
    row = {
        "input_ids": torch.cat([first, second], 1),
        "position_ids": torch.cat([torch.arange(12), torch.arange(20)])[None],
        "use_cache": False,
    }
    theirs, ours = of_both(model, "forward", **row)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    _, alone = of_both(model, "forward", input_ids=second)
    torch.testing.assert_close(ours[:, 12:], alone, atol=1e-4, rtol=1e-4)


def test_gradients(model: Qwen3ForCausalLM) -> None:
    ids = torch.randint(3, 400, (2, 17))
    found = []
    for name in ("sdpa", PRODUCTS):
        model.set_attn_implementation(name)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        found.append({key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None})
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-4, rtol=1e-3, msg=key)


def test_generation_with_a_cache_and_padding(model: Qwen3ForCausalLM) -> None:
    ids = torch.randint(3, 400, (3, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    theirs, ours = of_both(
        model, "generate", ids, attention_mask=mask, max_new_tokens=40, do_sample=False, eos_token_id=None
    )
    assert ours.shape == (3, 47) and torch.equal(ours, theirs)
