"""Records packed into rows by SFT do not see each other and have the loss of rows of their own; NEFTune's noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.posttrain import own, sft
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.encode import IGNORE
from hanmo.posttrain.settings import SftSettings

from .conftest import dialogue

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1, "batch_size": 8, "log_every": 1, "validation": 0.0}


def record(length: int, first: int) -> dict[str, list[int]]:
    ids = [first + at % 50 for at in range(length)]
    return {"input_ids": ids, "labels": [IGNORE] * 3 + ids[3:]}


def test_changing_one_packed_record_leaves_the_others_logits_unchanged(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32, attn_implementation=NAME).eval()
    collator = sft.Collator(0, 64)
    records = [record(30, 10), record(25, 70), record(20, 130), record(9, 200)]

    def logits(given: list[dict[str, list[int]]]) -> list[torch.Tensor]:
        batch = collator(given)
        assert batch["input_ids"].shape == (2, 64)
        with torch.no_grad():
            out = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        found = []
        for one in given:
            ids = torch.tensor(one["input_ids"])
            rows = batch["input_ids"].unfold(1, len(ids), 1)
            row, at = (rows == ids).all(-1).nonzero()[0].tolist()
            assert batch["position_ids"][row, at : at + len(ids)].tolist() == list(range(len(ids)))
            assert batch["labels"][row, at : at + len(ids)].tolist() == one["labels"]
            found.append(out[row, at : at + len(ids)])
        return found

    before = logits(records)
    for number in range(4):
        after = logits([record(len(r["input_ids"]), 260) if at == number else r for at, r in enumerate(records)])
        for at in range(4):
            assert torch.equal(before[at], after[at]) == (at != number)
    for one, packed in zip(records, before, strict=True):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([one["input_ids"]])).logits[0]
        assert torch.allclose(packed, alone, atol=1e-4)


def test_a_packed_run_has_the_losses_of_a_padded_one(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    inputs = {"model": [tiny_model_dir], "records": [jsonl([dialogue(index) for index in range(24)])]}
    losses = []
    for packing in (False, True):
        out = tmp_path / str(packing)
        sft.run(SftSettings(**FIXED, packing=packing, epochs=1), inputs, out)
        losses.append([json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_every_record_is_in_one_row_with_room_for_it(lengths: list[int]) -> None:
    rows = sft.packed_rows(lengths, 40)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 40 for row in rows)


def test_neftune_changes_training_and_not_the_look_at_held_out_records(
    tiny_model_dir: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    inputs = {"model": [tiny_model_dir], "records": [jsonl([dialogue(index) for index in range(40)])]}
    found = []
    for alpha in (0.0, 30.0):
        options = SftSettings(**FIXED | {"validation": 0.2}, epochs=1, neftune=alpha)
        found.append(sft.run(options, inputs, tmp_path / str(alpha)))
    assert found[0]["validation_loss_before"] == found[1]["validation_loss_before"]
    assert abs(found[0]["first_loss"] - found[1]["first_loss"]) > 1e-3


def test_what_only_stock_decoders_take_is_refused_for_others() -> None:
    own.check(SftSettings(), "spans")
    for settings, word in ((SftSettings(adapter="lora"), "adapter"), (SftSettings(neftune=5), "neftune")):
        with pytest.raises(HanmoError, match=f"{word}: for decoders of stock classes; this model learns spans"):
            own.check(settings, "spans")
