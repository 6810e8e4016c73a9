"""The catalogue: every entry is complete, and its recipe lines are valid."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.corpus.catalog import entries, entry
from hanmo.corpus.hubapi import is_hub, parse
from hanmo.corpus.settings import CorpusSettings
from hanmo.errors import HanmoError


@pytest.mark.parametrize("name", list(entries()))
def test_recipe_lines_are_valid_sources(name: str) -> None:
    found = entry(name)
    settings = CorpusSettings(**yaml.safe_load(found.recipe()))
    assert len(settings.sources) == len(found.sources) >= 1
    assert all(source.name for source in settings.sources)
    for source in settings.sources:
        if is_hub(source.path):
            assert parse(source.path).repo.split("/")[0] in found.home or parse(source.path).repo in found.notes
        else:
            assert source.path.startswith("data/")
            assert re.search(r"git clone|[Dd]ownload|drive|Write to", found.notes)  # how to come by it
    assert found.home.startswith("https://") and found.licence and found.size


def test_known_ones_are_there() -> None:
    assert {"wikipedia-zh", "skypile", "wudao", "wanjuan1", "cci3-hq", "mnbvc", "chinese-poetry"} <= set(entries())
    with pytest.raises(HanmoError, match=r"no corpus 'skypil' in the catalogue; did you mean 'skypile'"):
        entry("skypil")


def test_the_command() -> None:
    listed = CliRunner().invoke(cli, ["corpus", "catalog"], terminal_width=200)
    assert listed.exit_code == 0 and "skypile" in listed.output
    shown = CliRunner().invoke(cli, ["corpus", "catalog", "wikipedia-zh"])
    assert shown.exit_code == 0 and "path: hf:wikimedia/wikipedia:20231101.zh" in shown.output
    value = json.loads(CliRunner().invoke(cli, ["corpus", "catalog", "skypile", "--json"]).output)
    assert value["training"] == "yes" and yaml.safe_load(value["recipe"])["sources"] == value["sources"]
    assert len(json.loads(CliRunner().invoke(cli, ["corpus", "catalog", "--json"]).output)) == len(entries())
