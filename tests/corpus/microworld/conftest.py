"""One small microworld, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanmo.corpus.microworld import generate

SIZES = {"megabytes": 0.8, "dialogues": 500, "preferences": 250}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("microworld")
    generate(folder, **SIZES)
    return folder
