"""The table of presets: figures against the models themselves, and the command."""

from __future__ import annotations

import json

import torch
import transformers
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.models.families import AUTO, FAMILIES, learns
from hanmo.models.presets import PRESETS, build_config
from hanmo.plan.presets import bases, presets


def test_every_preset_has_a_line_with_its_own_count() -> None:
    lines = presets()
    assert [line.name for line in lines] == list(PRESETS)
    for line in lines:
        with torch.device("meta"):
            auto = getattr(transformers, AUTO[learns(line.name)[0]])
            model = auto.from_config(build_config(line.name, line.vocabulary, line.context))
        assert sum(weight.numel() for weight in model.parameters()) == line.parameters
        assert line.train > line.train_least > 4 * 3 * line.parameters, "masters, gradients and momentum at least"
        assert 2 * line.parameters < line.serve < 3 * line.parameters + 1e9
    published = {line.name: line.parameters for line in lines}
    assert published["tinyllama-1.1b-zh"] == 1_235_314_688


def test_what_is_given_counts() -> None:
    lines = presets(vocabulary=1000, context=64)
    assert {(line.vocabulary, line.context) for line in lines} == {(1000, 64)}


def test_the_command() -> None:
    shown = CliRunner().invoke(cli, ["models"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert all(name in shown.output for name in PRESETS)
    found = json.loads(CliRunner().invoke(cli, ["models", "--json", "--vocabulary", "1000"]).output)
    assert found[0]["name"] == "hanmo-1m" and found[0]["vocabulary"] == 1000


def test_public_models_are_of_classes_that_are_trained_here() -> None:
    found = bases()
    assert len({base["name"] for base in found}) == len(found) > 10
    for base in found:
        assert base.keys() == {"name", "family", "parameters", "licence", "for"} and "/" in base["name"]
        assert base["family"] in FAMILIES or base["family"] in ("bert", "t5")
    shown = CliRunner().invoke(cli, ["models", "--bases"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "Qwen/Qwen3-0.6B-Base  600M, Apache-2.0" in shown.output
    assert json.loads(CliRunner().invoke(cli, ["models", "--bases", "--json"]).output) == found
