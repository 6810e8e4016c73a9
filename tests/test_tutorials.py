"""The tutorials of the site are executed, and say the same in two languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from shown import ROOT, Pages, needs_bash, same_commands

NAMES = ("first-model", "own-corpus", "own-tokenizer", "domain", "clue", "deploy", "many-gpus", "one-card")


@needs_bash
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path, pages: Pages) -> None:
    pages.run(f"docs/tutorials/{name}.md", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_chinese_one_has_the_same_commands(name: str) -> None:
    same_commands(f"docs/tutorials/{name}")


def test_none_is_forgotten() -> None:
    assert {path.name.split(".")[0] for path in (ROOT / "docs" / "tutorials").iterdir()} == set(NAMES)
