"""The unified model as a judge: pairs seen whole, padding on either side, folders, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.heads import UnifiedForSequenceClassification, UnifiedForTokenClassification
from hanmo.models.unified.model import UnifiedForMaskedLM

AUTO = {
    UnifiedForSequenceClassification: AutoModelForSequenceClassification,
    UnifiedForTokenClassification: AutoModelForTokenClassification,
}
JUDGES = list(AUTO)


def make(cls: Any, labels: int = 3) -> Any:
    torch.manual_seed(4)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return cls(UnifiedConfig(vocab_size=50, initializer_range=0.2, num_labels=labels, **shape)).eval()


@pytest.mark.parametrize("cls", JUDGES)
@torch.no_grad()
def test_the_first_token_sees_a_pair_s_second_text(cls: Any) -> None:
    model, types = make(cls), torch.tensor([[0, 0, 0, 1, 1, 1]])
    one, other = torch.tensor([[2, 7, 3, 9, 11, 3]]), torch.tensor([[2, 7, 3, 9, 12, 3]])
    first = model(one, token_type_ids=types).logits.reshape(1, -1)[:, :3]
    assert (first - model(other, token_type_ids=types).logits.reshape(1, -1)[:, :3]).abs().max() > 1e-3
    # The types are told apart nevertheless.
    assert (first - model(one).logits.reshape(1, -1)[:, :3]).abs().max() > 1e-3


@pytest.mark.parametrize("cls", JUDGES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_in_a_batch_as_alone(cls: Any, side: str) -> None:
    model, types = make(cls), torch.tensor([[0, 0, 0, 1, 1]])
    row = torch.tensor([[2, 7, 3, 9, 3]])
    pad = (3, 0) if side == "left" else (0, 3)
    both = torch.cat([F.pad(row, pad), torch.tensor([[2, 8, 9, 10, 3, 7, 7, 3]])])
    mask = torch.cat([F.pad(torch.ones_like(row), pad), torch.ones(1, 8, dtype=torch.long)])
    found = model(both, attention_mask=mask, token_type_ids=torch.cat([F.pad(types, pad), torch.zeros(1, 8).long()]))
    alone = model(row, token_type_ids=types).logits[0]
    kept = found.logits[0] if cls is UnifiedForSequenceClassification else found.logits[0][mask[0] == 1]
    torch.testing.assert_close(kept, alone)


@pytest.mark.parametrize("cls", JUDGES)
@torch.no_grad()
def test_it_begins_with_a_pretrained_body_and_is_kept(cls: Any, tmp_path: Path) -> None:
    base = make(UnifiedForMaskedLM)
    base.save_pretrained(tmp_path / "base")
    model, info = AUTO[cls].from_pretrained(tmp_path / "base", num_labels=4, output_loading_info=True)
    assert type(model) is cls and {name.split(".")[0] for name in info["missing_keys"]} <= {"pooler", "classifier"}
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, base.bert.embeddings.word_embeddings.weight)
    model.eval().save_pretrained(tmp_path / "tuned")
    again, info = AUTO[cls].from_pretrained(tmp_path / "tuned", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.arange(1, 9)[None]
    assert torch.equal(again.eval()(ids).logits, model(ids).logits) and again.config.num_labels == 4


def test_losses() -> None:
    ids = torch.randint(5, 50, (6, 8), generator=torch.Generator().manual_seed(0))
    model, labels = make(UnifiedForSequenceClassification), torch.tensor([0, 1, 2, 0, 1, 2])
    found = model(ids, labels=labels)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, labels))
    one = make(UnifiedForSequenceClassification, 1)
    found = one(ids, labels=labels.float())
    torch.testing.assert_close(found.loss, F.mse_loss(found.logits[:, 0], labels.float()))
    tagger, tags = make(UnifiedForTokenClassification), ids % 3
    tags[:, 0] = -100
    found = tagger(ids, labels=tags)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits[:, 1:].flatten(0, 1), tags[:, 1:].flatten()))


def test_it_learns_whether_two_texts_share_a_token() -> None:
    """Which needs the second text to be seen; a judge that did not would stay at ln 2."""
    model = make(UnifiedForSequenceClassification, 2).train()
    draw = torch.Generator().manual_seed(1)
    first, second = torch.randint(5, 15, (256, 1), generator=draw), torch.randint(5, 15, (256, 1), generator=draw)
    second[::2] = first[::2]
    ids = torch.cat([torch.full_like(first, 2), first, torch.full_like(first, 3), second], 1)
    types, labels = torch.tensor([[0, 0, 0, 1]]).expand(256, -1), (first == second)[:, 0].long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, token_type_ids=types, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(ids, token_type_ids=types).logits.argmax(-1)
    assert (found == labels).float().mean() > 0.95
