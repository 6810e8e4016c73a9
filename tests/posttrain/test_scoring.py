"""The scoring head against plain torch, with and without padding, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, Qwen3ForCausalLM

from hanmo.posttrain import scoring
from hanmo.posttrain.encode import IGNORE
from hanmo.posttrain.scoring import pad_rows, sequence_log_probs, use_label_scoring

ROWS = [
    ([5, 9, 30, 31, 32, 2], [IGNORE, IGNORE, IGNORE, 31, 32, 2]),
    ([5, 9, 8, 40, 41, 42, 43, 2, 7, 50, 2], [IGNORE, IGNORE, IGNORE, 40, 41, IGNORE, IGNORE, 2, IGNORE, 50, 2]),
    ([6, 60], [IGNORE, 60]),
]


@pytest.fixture
def model(tiny_model_dir: Path) -> PreTrainedModel:
    return Qwen3ForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


def by_hand(model: PreTrainedModel, ids: list[int], labels: list[int]) -> torch.Tensor:
    """Log-probability of one row's labels, row by row, from the model's own logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    terms = [logits[at - 1].log_softmax(-1)[label] for at, label in enumerate(labels) if at and label != IGNORE]
    return torch.stack(terms).sum()


@pytest.mark.parametrize("chunk", [1 << 26, 448 * 3])
def test_scores_equal_plain_torch(
    model: PreTrainedModel, tiny_model_dir: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_LOGITS", chunk)
    plain = Qwen3ForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    expected = torch.stack([by_hand(plain, *row) for row in ROWS])
    use_label_scoring(model)
    assert torch.allclose(sequence_log_probs(model, ROWS, 0), expected, atol=1e-4)

    ids, labels, real = pad_rows(ROWS, 0)
    output = model(input_ids=ids, labels=labels, attention_mask=real, fused_lm_head=True)
    logits = plain(input_ids=ids).logits[:, :-1]
    counts = labels[:, 1:] != IGNORE
    assert torch.equal(output.label_mask, counts)
    assert torch.equal(output.is_top1[counts], logits.argmax(-1)[counts] == labels[:, 1:][counts])
    entropy = torch.distributions.Categorical(logits=logits[counts]).entropy()
    assert torch.allclose(output.entropy[counts], entropy, atol=1e-4)
    assert not output.log_probs[~counts].any() and not output.entropy[~counts].any()

    # Gradients: those of the summed loss written down by hand.
    (-output.log_probs.sum()).backward()
    (-expected.sum()).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4), name


def test_no_gradient_comes_from_words_that_do_not_count(model: PreTrainedModel) -> None:
    """The loss depends on the logits of the places before an answer's tokens, and on no others."""
    ids, labels, _ = pad_rows(ROWS, 0)
    logits = model(input_ids=ids).logits.detach().requires_grad_()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
    loss.backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(-1)[:, :-1] > 0
    assert torch.equal(moved, labels[:, 1:] != IGNORE)
    use_label_scoring(model)
    ours = model(input_ids=ids, labels=labels, fused_lm_head=True).loss
    assert torch.allclose(ours, loss, atol=1e-5)


def test_without_the_flag_the_model_is_itself(model: PreTrainedModel) -> None:
    ids = torch.tensor([ROWS[1][0]])
    before = model(input_ids=ids).logits
    use_label_scoring(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 14)
