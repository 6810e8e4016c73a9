"""The pages of docs/ that show commands are executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shown import Pages, needs_bash

PAGES = ["corpus", "tokenizers", "training", "continuing", "importing", "exporting", "evaluating", "understanding"]
PAGES += ["tuning", "publishing", "serving", "chatting"]


@needs_bash
@pytest.mark.parametrize("page", PAGES)
def test_it_runs(page: str, tmp_path: Path, pages: Pages) -> None:
    pages.run(f"docs/{page}.md", tmp_path)
