"""What Q8_0 and Q4_K_M cost small trained models of several families, in bits per byte of held-out text.

    HANMO_DATA=/path/to/data hanmo run benchmarks/race.yaml --out runs/race/data
    python benchmarks/quantised.py --data runs/race/data --work runs/quantised [--tokens 200000] [--only llama]

Each model is trained from its preset's family on the same text, on one thread (minutes each), written as GGUF by
`hanmo convert gguf`, with and without an importance matrix of the corpus, and measured by `hanmo convert compare`:
bits per byte of the same held-out text in llama.cpp, against the model's own in transformers. All rows divide by 256,
so that K-quants apply everywhere; what the quantiser changed all the same stands beside the figures (`instead`). With
a larger --tokens the same models go on: budgets are to be asked for in their order. The result goes to
benchmarks/results/quantised.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.files import read_json, write_json

RESULT = Path(__file__).parent / "results" / "quantised.json"
FORMATS = {"": "q8_0,q4_k_m", "-importance": "q4_k_m"}
#: Bits per byte beyond the original's, as a share of them, that issue 7 allows.
ALLOWED = {"q8_0": 0.005, "q4_k_m": 0.03}
CONTEXT, KILOBYTES = 512, 50


def _shape(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {"hidden": hidden, "ffn": ffn, "layers": layers, "heads": heads, "kv-heads": kv_heads, "head-dim": 64}


#: Name -> (preset, what of its shape is other).
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "qwen2": ("tinyllm-16m", _shape(256, 768, 3, 4, 4)),
    "llama": ("tinyllama-1.1b-zh", _shape(256, 768, 3, 4, 2)),
    "gpt2": ("wenzhong-2m", _shape(256, 1024, 3, 4, 4)),
    "qwen3": ("hanmo-4m", {}),
    "qwen3-wide": ("hanmo-4m", _shape(512, 1536, 2, 8, 4)),
}


def hanmo(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "hanmo", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def trained(name: str, data: Path, work: Path, tokens: int) -> Path:
    """The stage's folder of a model; trained where it is not there, gone on with where the budget was smaller."""
    preset, shape = MODELS[name]
    out = work / name
    if not (out / "manifest.json").is_file() or read_json(out / "manifest.json")["counts"]["tokens"] < tokens:
        words = [word for key, value in shape.items() for word in (f"--shape.{key}", str(value))]
        words += ["--preset", preset, "--tokens", str(tokens), "--context", str(CONTEXT), "--threads", "1"]
        hanmo(
            "pretrain", "--data", data / "tokens", "--out", out, *words, "--eval-every", "0", "--sample-prompts", "[]"
        )
    return out


def measured(model: Path, data: Path, tokens: int) -> dict[str, Any]:
    """Bits per byte of the model and of its files, those by an importance matrix under a name of their own."""
    corpus = data / "corpus"
    found: dict[str, Any] = {}
    for ending, told in (("", []), ("-importance", ["--corpus", str(corpus)])):
        files, compared = (model.with_name(f"{model.name}-{tokens}{part}{ending}") for part in ("-gguf", "-compared"))
        if not (files / "manifest.json").is_file():
            words = ["--model", str(model), "--formats", FORMATS[ending], "--threads", "1", *told]
            hanmo("convert", "gguf", "--out", files, *words)
        if not (compared / "compare.json").is_file():
            words = ["--model", str(model), "--corpus", str(corpus), "--kilobytes", str(KILOBYTES)]
            hanmo("convert", "compare", files, "--out", compared, *words)
        result = read_json(compared / "compare.json")
        found |= {"bits_per_byte": result["model"]["bits_per_byte"], "heldout_bytes": result["heldout"]["bytes"]}
        for file in result["files"]:
            figures = {
                key: file[key] for key in ("bytes", "bits_per_byte", "worse", "kl", "same_choice") if key in file
            }
            made = read_json(files / "manifest.json")["counts"]["files"][file["name"]]
            figures |= {key: made[key] for key in ("types", "instead") if key in made}
            found.setdefault("files", {})[file["name"] + ending] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/race/data"), help="a folder made by race.yaml")
    parser.add_argument("--work", type=Path, default=Path("runs/quantised"))
    parser.add_argument("--tokens", type=int, default=200_000, help="that each model is trained on")
    parser.add_argument("--only", choices=MODELS, action="append", help="models to measure; all, unless said")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    if not (given.data / "tokens" / "tokens.json").is_file():
        console.print(f"skipped: {given.data}/tokens is not there; the head of this file says how it is made")
        return
    kept = read_json(given.result)["models"] if given.result.is_file() else {}
    for name in given.only or MODELS:
        folder, key = trained(name, given.data, given.work, given.tokens), f"{name}-{given.tokens}"
        counts = read_json(folder / "manifest.json")["counts"]
        preset, shape = MODELS[name]
        facts = {"preset": preset, "shape": shape, "parameters": counts["parameters"], "tokens": counts["tokens"]}
        kept[key] = facts | measured(folder, given.data, given.tokens)
        kept[key]["within"] = {form: kept[key]["files"][form]["worse"] <= most for form, most in ALLOWED.items()}
        what = "bits per byte of quantised files beyond the original's, by family; `worse` is a share of the original's"
        head = {"what": what, "allowed": ALLOWED, "context": CONTEXT, "machine": machine(), "versions": versions()}
        write_json(given.result, head | {"models": kept})
        told = {form: f"{100 * file['worse']:+.3f} %" for form, file in kept[key]["files"].items()}
        console.print(f"{key}: {kept[key]['bits_per_byte']:.4f} bits per byte, {told}")


if __name__ == "__main__":
    main()
