"""The convert stage: one model folder in, one GGUF file for each format out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanmo.console import console, human_bytes
from hanmo.convert.gguf import convert_gguf
from hanmo.convert.importance import measure
from hanmo.convert.settings import BLOCKS, ConvertSettings
from hanmo.models.folder import resolve


def run(settings: ConvertSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Write `model-{format}.gguf` into `out` for every format asked for; returns sizes by format.

    What an earlier, killed or different, try left in `out` is removed first.
    """
    (source,), corpus = inputs["model"], inputs.get("corpus")
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("model-*.gguf", ".model-*.gguf.*tmp"):
        for leftover in out.glob(pattern):
            leftover.unlink()
    folder = resolve(source)
    name = folder.resolve().parent.name if folder.name == "model" else None
    counts: dict[str, Any] = {"files": {}}
    importance = None
    if corpus and any(form in BLOCKS for form in settings.formats):
        importance = measure(folder, corpus[0], settings.importance_tokens, settings.threads)
        counts["importance"] = {"matrices": len(importance), "tokens": settings.importance_tokens}
    for form in settings.formats:
        report = convert_gguf(
            folder, out / f"model-{form}.gguf", form, name=name, importance=importance, threads=settings.threads
        )
        odd = "".join(f", {len(names)} matrices as {kind}" for kind, names in report.instead.items())
        note = f"{odd} (their rows do not divide into its blocks)" if odd else ""
        console.print(f"{report.path.name}: {human_bytes(report.bytes)}, {report.tensors} tensors{note}")
        counts["parameters"] = report.parameters
        counts["padded_tokens"] = report.padded_tokens
        counts["files"][form] = {
            "file": report.path.name,
            "bytes": report.bytes,
            "tensors": report.tensors,
            "types": report.types,
            "instead": {kind: len(names) for kind, names in report.instead.items()},
        }
    return counts
