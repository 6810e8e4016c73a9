"""A model that has learnt something, in every format, and real llama.cpp where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanmo.convert import convert_gguf, parity, toy
from hanmo.convert.settings import FORMATS
from hanmo.convert.toy import PAGE
from hanmo.files import JsonlZstWriter


@pytest.fixture(scope="session")
def llama_cpp() -> Any:
    """Real llama.cpp; without it a test is skipped."""
    return pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install 'hanmo[gguf]'")


@pytest.fixture(scope="session")
def trained_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model: a Qwen3 of 1.3M parameters that trained for ten seconds."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    toy.make_model(folder)
    return folder


@pytest.fixture(scope="session")
def gguf_files(tmp_path_factory: pytest.TempPathFactory, trained_model_dir: Path) -> dict[str, Path]:
    """The trained model in every format."""
    folder = tmp_path_factory.mktemp("gguf")
    for form in FORMATS:
        convert_gguf(trained_model_dir, folder / f"{form}.gguf", form)
    return {form: folder / f"{form}.gguf" for form in FORMATS}


@pytest.fixture(scope="session")
def prompts(trained_model_dir: Path) -> list[list[int]]:
    """20 prompts as ids."""
    return parity.prompts(trained_model_dir)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the toy model has learnt by heart, as a corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    for part in ("train", "heldout"):
        (folder / part).mkdir()
        with JsonlZstWriter(folder / part / "00000.jsonl.zst") as file:
            for number in range(3):
                file.write({"id": f"{part}-{number}", "text": PAGE[40 * number :], "source": "page"})
    return folder
