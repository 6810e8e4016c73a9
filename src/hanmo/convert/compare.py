"""The files made of a model side by side: size, quality, speed, memory; a table, a page, and which one to take."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from hanmo.convert.llamacpp import require_llama_cpp
from hanmo.convert.trial import Reference, reference, try_file, try_reference
from hanmo.errors import HanmoError
from hanmo.evaluate.exam import choose_items
from hanmo.evaluate.heldout import draw
from hanmo.evaluate.items import ExamItem, load_items, wilson
from hanmo.files import write_json
from hanmo.models.folder import resolve

#: Bits per byte beyond the model's own, as a share of them, up to which a file is as good as the model.
GOOD = 0.01


def compare(
    files: Sequence[Path],
    model: Path,
    corpus: Path,
    out: Path,
    *,
    exam: Path | None = None,
    items: int = 200,
    kilobytes: int = 60,
    context: int = 512,
    threads: int = 0,
) -> dict[str, Any]:
    """Measure GGUF files of one model, and write compare.json and compare.html into `out`.

    Args:
        files: .gguf files, or folders of them (a convert stage's).
        model: the folder that they were made of.
        corpus: folder of a corpus stage, whose held-out text is read.
        exam: questions in the form of `hanmo.evaluate.items`; for models that chat.
        items: of the exam, at most.
        kilobytes: of held-out text, at most.
        context: tokens that are read together.
        threads: of llama.cpp; 0 for one.

    Returns:
        What compare.json holds: {"model", "files": [{"name", …}], "recommended": name or None, "why"}.

    Raises:
        HanmoError: no such files, no llama.cpp, a file that it cannot read.
    """
    from hanmo.convert.comparison_page import write_page

    require_llama_cpp()
    paths = _found(files)
    folder = resolve(model)
    questions: list[ExamItem] = choose_items(load_items(exam), items) if exam else []
    texts, drawn = draw(corpus, 10_000, kilobytes * 1000)
    room = Path(tempfile.mkdtemp(prefix="hanmo-compare-"))
    try:
        own = reference(folder, [text.text for text in texts], room, threads, context)
        measured = [_alone(path, own, questions, threads or 1) for path in paths]
        itself = try_reference(own)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    for path, found in zip(paths, measured, strict=True):
        found["name"] = path.stem.removeprefix("model-")
        found["worse"] = found["bits_per_byte"] / itself["bits_per_byte"] - 1
        if "exam" in found:
            found["exam"] |= dict(zip(("low", "high"), wilson(**_counted(found["exam"])), strict=True))
    measured.sort(key=lambda found: -found["bytes"])
    result = {
        "model": {"folder": str(model), **itself},
        "heldout": {"documents": drawn["documents"], "bytes": own.size},
        "files": measured,
        **recommend(measured),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", result)
    write_page(result, out / "compare.html")
    return result


def recommend(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The smallest file that predicts as well as the model, to within `GOOD`."""
    good = [found for found in measured if found["worse"] <= GOOD]
    if not good:
        return {"recommended": None, "why": f"none predicts to within {GOOD:.0%} of the model; make q8_0 or f16"}
    best = min(good, key=lambda found: found["bytes"])
    return {
        "recommended": best["name"],
        "why": f"the smallest whose bits per byte are within {GOOD:.0%} of the model's",
    }


def _counted(exam: dict[str, int]) -> dict[str, int]:
    return {"k": exam["right"], "n": exam["items"]}


def _found(files: Sequence[Path]) -> list[Path]:
    paths: list[Path] = []
    for given in files:
        inside = sorted(given.glob("*.gguf")) if given.is_dir() else [given]
        if not inside or not inside[0].is_file():
            raise HanmoError(f"{given}: no .gguf file; make some with `hanmo convert gguf`")
        paths += inside
    names = [path.stem for path in paths]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise HanmoError(f"{repeated}.gguf is given twice; rename one, so that the table tells them apart")
    return paths


def _alone(path: Path, own: Reference, items: list[ExamItem], threads: int) -> dict[str, Any]:
    """`try_file` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(try_file, path, own, items, threads).result()
        except BrokenProcessPool:
            raise HanmoError(f"{path}: llama.cpp broke down on it; is it whole, and made of this model?") from None
