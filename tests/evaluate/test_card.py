"""Model cards: what manifests and results say, in a form that hubs and GGUF read; people's cards stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.evaluate.card import refresh, write_card
from hanmo.lineage import base_of, lineage, texts


def stage(run: Path, name: str, do: str, inputs: dict[str, list[str]], counts: dict[str, Any] | None = None) -> Path:
    folder = run / name
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "stage": name,
        "do": do,
        "inputs": {role: [str(run / path) for path in paths] for role, paths in inputs.items()},
        "counts": counts or {},
        "seconds": 61.5,
        "versions": {"hanmo": "0.1.0"},
        "machine": {"cpu": "a processor", "cores": 2},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """corpus -> tokens -> base -> sft, measured by an eval and an exam stage."""
    folder = tmp_path / "runs" / "demo"
    corpus = stage(folder, "corpus", "corpus", {}, {"train": {"documents": 1200, "bytes": 5_000_000}})
    source = {"licence": "CC0-1.0", "train": {"documents": 1200, "bytes": 5_000_000}}
    (corpus / "stats.json").write_text(json.dumps({"sources": {"laws": source}}), encoding="utf-8")
    stage(folder, "tokens", "tokens", {"corpus": ["corpus"]}, {"train": {"tokens": 1_500_000}})
    stage(folder, "base", "pretrain", {"data": ["tokens"]}, {"parameters": 2_000_000, "tokens": 1_500_000})
    sft = stage(folder, "sft", "sft", {"model": ["base"]}, {"records": 300, "steps": 20})
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "vocab_size": 500}
    for name in ("base", "sft"):
        (folder / name / "model").mkdir()
        (folder / name / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    total = {"n": 100, "k": 60, "accuracy": 0.6, "low": 0.5, "high": 0.69, "chance": 0.25, "versus_chance": "above"}
    bits = {"bits_per_byte": 1.25, "low": 1.2, "high": 1.3, "documents": 40, "bytes": 90_000}
    for name, do, file, more in (
        ("eval", "eval", "eval.json", {"method": {"name": "chat"}}),
        ("exam", "exam", "exams.json", {}),
    ):
        made = stage(folder, name, do, {"model": ["base", "sft"]})
        result = {
            "method": "ppl",
            "shots": 5,
            "exams": {"world": {}} if do == "eval" else {"ceval": {"title": "C-Eval", "contaminated": {"items": 3}}},
            "models": [
                {"name": "base", "heldout": None, "exams": {}},
                {
                    "name": "sft",
                    "heldout": bits,
                    "exams": {"world" if do == "eval" else "ceval": {"total": total, **more}},
                },
            ],
        }
        (made / file).write_text(json.dumps(result), encoding="utf-8")
    assert sft.is_dir()
    return folder


def test_lineage_is_in_the_order_of_reading(run: Path) -> None:
    assert [one.name for one in lineage(run / "sft" / "model")] == ["corpus", "tokens", "base", "sft"]
    assert texts(lineage(run / "sft")) == {"laws": {"documents": 1200, "bytes": 5_000_000, "licence": "CC0-1.0"}}
    assert base_of(lineage(run / "sft")) is None
    moved = run.with_name("moved")
    shutil.move(run, moved)
    assert [one.name for one in lineage(moved / "sft")] == ["corpus", "tokens", "base", "sft"]
    (moved / "base" / "manifest.json").unlink()
    assert base_of(lineage(moved / "sft")) == (moved / "base", "base")


def test_a_base_that_was_given_by_name_is_called_so(run: Path) -> None:
    (run / "base" / "manifest.json").unlink()
    told = json.loads((run / "sft" / "manifest.json").read_text(encoding="utf-8"))
    told["results"] = {"model": ["hf:Qwen/Qwen3-0.6B@" + "a" * 40]}
    (run / "sft" / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    assert base_of(lineage(run / "sft")) == (run / "base", "Qwen/Qwen3-0.6B")
    text = write_card(run / "sft", licence="apache-2.0").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "Qwen/Qwen3-0.6B"


def test_the_card_says_what_is_known(run: Path) -> None:
    path = write_card(run / "sft", licence="apache-2.0")
    text = path.read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "apache-2.0" and head["datasets"] == ["laws"] and head["language"] == ["zh"]
    assert [result["dataset"]["name"] for result in head["model-index"][0]["results"]] == ["world", "C-Eval"]
    assert "**1.2500 bits per byte** [1.2000, 1.3000]" in text
    assert "| C-Eval | **60.0%**, above chance | 50.0% – 69.0% | 25.0% | 100 | ppl, 5 shots | 3 items |" in text
    assert "| laws | 1,200 | 5.0 MB | CC0-1.0 |" in text
    assert "| base | pretrained | 2.00M parameters, 1.50M tokens | 1 m 02 s |" in text
    assert str(run.parent) not in text
    assert gguf.Metadata.load_model_card(path.parent)["model_name"] == "demo-sft"


def test_a_refreshed_card_keeps_its_name_and_licence(run: Path) -> None:
    path = write_card(run / "sft", name="翰墨一号", licence="mit")
    refresh(run / "sft")
    head = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    assert (head["model_name"], head["license"]) == ("翰墨一号", "mit")


def test_peoples_cards_stay(run: Path) -> None:
    card = run / "base" / "model" / "README.md"
    card.write_text("my own words\n", encoding="utf-8")
    refresh(run / "base")
    assert card.read_text(encoding="utf-8") == "my own words\n"
    with pytest.raises(HanmoError, match="--overwrite"):
        write_card(run / "base")
    done = CliRunner().invoke(cli, ["eval", "card", str(run / "base"), "--overwrite"])
    assert done.exit_code == 0 and card.read_text(encoding="utf-8").startswith("---\nmodel_name: demo-base\n")


def test_a_foreign_folder_has_a_short_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    refresh(tmp_path)
    assert not (tmp_path / "README.md").exists(), "only what a stage of ours made is written without being asked"
    assert "## Use" in write_card(tmp_path).read_text(encoding="utf-8")
    with pytest.raises(HanmoError, match="no model there"):
        write_card(tmp_path.parent)
