"""Adapters: what is trained and what stays, the merge, what PEFT itself makes of the folder, faults in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.models.folder import resolve
from hanmo.posttrain import reporting, sft
from hanmo.posttrain.adapters import merge
from hanmo.posttrain.settings import SftSettings

from .conftest import dialogue

peft = pytest.importorskip("peft")
FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1, "batch_size": 8, "learning_rate": 5e-3, "log_every": 1}
IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "talk.jsonl"
    path.write_text("".join(json.dumps(dialogue(i), ensure_ascii=False) + "\n" for i in range(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(tiny_model_dir: Path, records: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """(folder, counts) of an SFT stage with an adapter of that kind; each is made once."""
    made: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in made:
            out = tmp_path_factory.mktemp(kind) / "out"
            options = SftSettings(**FIXED, adapter=kind, rank=4, validation=0.1)
            made[kind] = out, sft.run(options, {"model": [tiny_model_dir], "records": [records]}, out)
        return made[kind]

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", ["lora", "dora", "qlora"])
def test_an_adapter_learns_and_merges_into_a_plain_model(
    kind: str, tuned: Callable[[str], Any], tiny_model_dir: Path
) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    out, counts = tuned(kind)
    assert counts["adapter"] == kind
    assert counts["targets"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert counts["validation_loss_after"] < counts["validation_loss_before"] - 0.5
    assert sorted(item.name for item in out.iterdir()) == ["adapter", "log.jsonl", "model", "records.json"]
    weights = load_file(out / "adapter" / "adapter_model.safetensors")
    assert counts["trained_parameters"] == sum(tensor.numel() for tensor in weights.values())
    said = json.loads((out / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert said["base_model_name_or_path"] == str(tiny_model_dir.resolve())
    assert said["lora_alpha"] == 8 and said["use_dora"] == (kind == "dora")

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    untouched = logits(base)
    beside = logits(peft.PeftModel.from_pretrained(base, out / "adapter"))
    plain = AutoModelForCausalLM.from_pretrained(out / "model")
    assert type(plain).__name__ == "Qwen3ForCausalLM" and plain.generation_config.eos_token_id == [2, 0]
    assert torch.allclose(logits(plain), beside, atol=1e-4)
    assert (beside - untouched).abs().max() > 0.1
    # Only the layers that have an adapter differ from the base.
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    changed = {name.split(".")[-2] for name in after if not torch.equal(before[name], after[name])}
    assert changed == set(counts["targets"])


def test_a_large_model_gives_freed_memory_back_behind_every_step(
    tiny_model_dir: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(reporting, "return_freed_memory", lambda: given.append(True))
    options = SftSettings(**FIXED, adapter="lora", rank=2, merge=False, epochs=1, max_records=16, validation=0.0)
    for large, steps in ((1, 2), (10**9, 0)):
        given.clear()
        monkeypatch.setattr(reporting, "_LARGE", large)
        sft.run(options, {"model": [tiny_model_dir], "records": [records]}, tmp_path / str(large))
        assert len(given) == steps


def test_targets_and_rank_are_as_asked(tiny_model_dir: Path, records: Path, tmp_path: Path) -> None:
    options = SftSettings(
        **FIXED, adapter="lora", rank=2, alpha=6, targets=["q_proj", "v_proj"], merge=False, epochs=1, max_records=16
    )
    counts = sft.run(options, {"model": [tiny_model_dir], "records": [records]}, tmp_path / "out")
    assert counts["targets"] == ["q_proj", "v_proj"]
    assert not (tmp_path / "out" / "model").exists()
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in weights.values()} == {2}
    with pytest.raises(HanmoError, match=r"only an adapter .*hanmo model merge"):
        resolve(tmp_path / "out")
    for targets, words in ((["q_prj"], "called 'q_prj'; did you mean 'q_proj'"), (["lm_head"], "head takes no")):
        bad = options.model_copy(update={"targets": targets})
        with pytest.raises(HanmoError, match=words):
            sft.run(bad, {"model": [tiny_model_dir], "records": [records]}, tmp_path / "bad")


def test_merging_what_does_not_fit(tuned: Callable[[str], Any], tiny_model_dir: Path, tmp_path: Path) -> None:
    adapter = tuned("lora")[0] / "adapter"
    with pytest.raises(HanmoError, match=r"no adapter there \(no adapter_config.json"):
        merge(tiny_model_dir, tmp_path / "out")
    with pytest.raises(HanmoError, match="no such folder"):
        merge(adapter, tmp_path / "out", tmp_path / "none")
    (moved := tmp_path / "moved").mkdir()
    for file in adapter.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    said = json.loads((moved / "adapter_config.json").read_text(encoding="utf-8"))
    for change, words in (
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "name it by --base"),
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'"),
    ):
        (moved / "adapter_config.json").write_text(json.dumps(said | change), encoding="utf-8")
        with pytest.raises(HanmoError, match=words):
            merge(moved, tmp_path / "out")
    (moved / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    smaller = AutoModelForCausalLM.from_pretrained(tiny_model_dir).config
    smaller.intermediate_size //= 2
    AutoModelForCausalLM.from_config(smaller).save_pretrained(tmp_path / "smaller")
    with pytest.raises(HanmoError, match="not an adapter of the model in") as caught:
        merge(moved, tmp_path / "out", tmp_path / "smaller")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_done_again_ends_at_the_same_adapter(
    tuned: Callable[[str], Any], tiny_model_dir: Path, records: Path, tmp_path: Path
) -> None:
    options = SftSettings(**FIXED, adapter="lora", rank=4, validation=0.1, merge=False)
    sft.run(options, {"model": [tiny_model_dir], "records": [records]}, tmp_path / "again")
    first, second = (
        load_file(out / "adapter" / "adapter_model.safetensors") for out in (tuned("lora")[0], tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
