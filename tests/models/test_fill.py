"""Filling masks: against the models' own logits, several masks, files and stdin, and each slip in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.evaluate.stage import load as load_to_measure
from hanmo.models.fill import fill
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedForMaskedLM
from hanmo.serve.engines import open_engine
from hanmo.tokenizer import load
from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"春天来到了。花开", "a", "##b"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def make(family: str, folder: Path) -> Path:
    """A folder of a model with three rows more than tokens."""
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": len(PIECES) + 3, "max_position_embeddings": 16, "pad_token_id": 0}
    if family == "Unified":
        model = UnifiedForMaskedLM(UnifiedConfig(**shape))
    else:
        name, _, form = family.partition("For")
        extra = {"local_attention": 4} if name == "ModernBert" else {}
        config = getattr(transformers, f"{name}Config")(**shape, **extra)
        model = getattr(transformers, f"{name}For{form}")(config)
    model.save_pretrained(folder)
    save_bert(skeleton({piece: index for index, piece in enumerate(PIECES)}, True), True, folder)
    return folder


FAMILIES = [
    "BertForMaskedLM",
    "MegatronBertForMaskedLM",
    "MegatronBertForPreTraining",
    "ModernBertForMaskedLM",
    "Unified",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_guesses_are_the_models_own(family: str, tmp_path: Path) -> None:
    folder = make(family, tmp_path / "model")
    (found,) = fill(folder, ["春[MASK]来了，花[MASK]"], top=3)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = load(folder)
    ids = tokenizer("春[MASK]来了，花[MASK]", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    for place, mask in zip(torch.nonzero(ids[0] == PIECES.index("[MASK]"))[:, 0], found["masks"], strict=True):
        likely = logits[place, : len(PIECES)].softmax(-1).topk(3)
        assert [guess["id"] for guess in mask] == likely.indices.tolist()
        assert [guess["probability"] for guess in mask] == pytest.approx(likely.values.tolist(), rel=1e-4)
    words = [mask[0]["token"].removeprefix("##") for mask in found["masks"]]
    assert found["filled"] == f"春{words[0]}来了，花{words[1]}" and found["text"] == "春[MASK]来了，花[MASK]"


def test_the_second_part_of_a_pair_is_of_the_other_type(tmp_path: Path) -> None:
    folder = make("BertForMaskedLM", tmp_path / "model")
    (found,) = fill(folder, ["春天[SEP]花[MASK]"], top=1)
    given = load(folder)("春天", "花[MASK]", return_tensors="pt")
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    assert given["input_ids"].shape == types.shape
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        chance = model(input_ids=given["input_ids"], token_type_ids=types).logits[0, 5, : len(PIECES)].softmax(-1).max()
    assert found["masks"][0][0]["probability"] == pytest.approx(float(chance), rel=1e-4)


def test_the_command_reads_arguments_files_and_stdin(tmp_path: Path) -> None:
    folder = make("MegatronBertForPreTraining", tmp_path / "model")
    (tmp_path / "texts.txt").write_text("花[MASK]了\n\n春[MASK]\n", encoding="utf-8")
    runner = CliRunner()
    shown = runner.invoke(cli, ["model", "fill", str(folder), "[MASK]天", "--input", str(tmp_path / "texts.txt")])
    assert shown.exit_code == 0 and [line.count("->") for line in shown.stdout.splitlines()] == [1, 0, 1, 0, 1, 0]
    piped = runner.invoke(cli, ["model", "fill", str(folder), "--input", "-", "--json", "--top", "2"], input="花[MASK]")
    assert [len(mask) for mask in json.loads(piped.stdout)["masks"]] == [2]


def test_slips_are_one_line(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = make("BertForMaskedLM", tmp_path / "model")
    with pytest.raises(HanmoError, match=r"Qwen3ForCausalLM does not fill masks; `hanmo generate`"):
        list(fill(tiny_model_dir, ["春[MASK]"]))
    with pytest.raises(HanmoError, match=r"text 2 \('春天'\) has no \[MASK\] to fill"):
        list(fill(folder, ["春[MASK]", "春天"]))
    with pytest.raises(HanmoError, match="text 1 has 20 tokens; the model's context is 16"):
        list(fill(folder, ["春" * 17 + "[MASK]"]))
    with pytest.raises(HanmoError, match="nothing to fill"):
        list(fill(folder, []))


def test_an_encoder_is_not_taken_for_a_writer(tmp_path: Path) -> None:
    folder = make("MegatronBertForMaskedLM", tmp_path / "model")
    line = "an encoder, which fills masks and writes no text"
    with pytest.raises(HanmoError, match=f"{line}; its run's log.jsonl has its `heldout_loss`"):
        load_to_measure(folder, torch.float32, torch.device("cpu"))
    with pytest.raises(HanmoError, match=f"{line}; `hanmo model fill`"):
        open_engine(folder, device="cpu")
