"""The export button in headless Chromium: pressed, followed, and the file that it made looked into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from at_work import model

from browsing import opened


@pytest.mark.usefixtures("warm_stages")
def test_the_button_makes_a_file_that_can_be_taken_along(
    browser, run_studio, tiny_model_dir: Path, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (the extra [gguf])")
    model(tmp_path / "runs" / "run" / "sft", "sft")
    shutil.copytree(tiny_model_dir, tmp_path / "runs" / "run" / "sft" / "model", dirs_exist_ok=True)
    with run_studio(tmp_path / "runs") as url:
        pages = opened(browser, url)
        page = next(pages)
        page.set_default_timeout(60_000)  # a conversion is waited for
        page.evaluate("location.hash = '#/run/run/sft'")
        page.wait_for_selector(".export")
        assert page.eval_on_selector(".export select", "node => node.value") == "q8_0"
        page.focus(".export button")
        page.keyboard.press("Enter")
        page.wait_for_selector(".export [role=status]:has-text('导出中')")
        assert page.is_disabled(".export button")
        page.click(".export a:has-text('已导出：sft-q8_0')")
        with page.expect_download() as taken:
            page.click(".files a:has-text('.gguf')")
        file = tmp_path / "taken.gguf"
        taken.value.save_as(file)
        next(pages, None)
    made = next((tmp_path / "runs" / "run" / "sft-q8_0").glob("*.gguf"))
    assert json.loads((made.parent / "manifest.json").read_text())["do"] == "convert"
    reader = gguf.GGUFReader(made)
    assert {tensor.tensor_type.name for tensor in reader.tensors} >= {"Q8_0"}
    assert file.read_bytes() == made.read_bytes()
