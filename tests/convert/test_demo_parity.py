"""The models that the last demo made, against real llama.cpp."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from hanmo.convert import convert_gguf, parity
from hanmo.files import read_jsonl

DEMO = Path(__file__).resolve().parents[2] / "runs" / "demo"
MODELS = [path.parent for path in sorted(DEMO.glob("*/model/config.json"))]


@pytest.mark.parity
@pytest.mark.skipif(not MODELS, reason="no demo has been run (make demo)")
@pytest.mark.parametrize("model_dir", MODELS, ids=lambda path: path.parent.name)
def test_the_models_of_the_demo(llama_cpp: object, model_dir: Path, tmp_path: Path) -> None:
    files = {form: convert_gguf(model_dir, tmp_path / f"{form}.gguf", form).path for form in ("f32", "f16", "q8_0")}
    held_out = (record["text"] for path in DEMO.glob("*/heldout/*.jsonl.zst") for _, record in read_jsonl(path))
    report = parity.check(model_dir, files, islice(held_out, 100))
    print(report)
    assert report["agrees"], report
