"""Weights in 8 and 4 bits in the real vLLM: bits per byte of held-out text, against the original there and here.

    HANMO_LLMCOMPRESSOR=quantiser/bin/python python benchmarks/vllm_quantised.py --python .venv-vllm/bin/python \
        --model runs/demo/dpo --corpus runs/demo/corpus --report benchmarks/results/vllm_quantised.json

Makes both formats by `hanmo convert vllm` and has vLLM read the same rows of ids with each (`vllm_bits.py`).
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hanmo.child import machine, versions
from hanmo.console import console
from hanmo.convert.trial import Reference, reference, try_reference
from hanmo.convert.vllm import FORMATS, parameters, write_vllm
from hanmo.errors import HanmoError
from hanmo.evaluate.heldout import draw
from hanmo.files import read_json, write_json
from hanmo.models.folder import resolve

KILOBYTES, TOKENS = 20, 20_000
#: Of one turn of vLLM.
TIMEOUT = 500


def ask(python: Path, folder: Path, own: Reference, context: int, dtype: str, room: Path) -> dict[str, Any]:
    """Bits per byte and greedy tokens a second of a folder in vLLM; or why it failed: not all CPUs have all kernels."""
    case = {
        "model": str(folder.resolve()),
        "rows": [ids.tolist() for ids in own.rows],
        "starts": own.starts,
        "context": context,
        "dtype": dtype,
    }
    question, answer = room / "case.json", room / "result.json"
    answer.unlink(missing_ok=True)
    write_json(question, case)
    script = Path(__file__).with_name("vllm_bits.py")
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [str(python), str(script), str(question), str(answer)],
        env={**os.environ, **variables, "HF_HUB_OFFLINE": "1"},
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode or not answer.is_file():
        said = [line for line in (done.stdout + done.stderr).splitlines() if "Error: " in line]
        return {"failed": said[0].rpartition("] ")[2][:300] if said else f"status {done.returncode}"}
    found = read_json(answer)
    return {"bits_per_byte": found.pop("nats") / math.log(2) / own.size, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of vLLM's environment")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16", help="what vLLM computes in")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    folder = resolve(given.model)
    context = read_json(folder / "config.json")["max_position_embeddings"]
    texts, _ = draw(given.corpus, 10_000, KILOBYTES * 1000)
    found: dict[str, Any] = {"parameters": parameters(folder), "dtype": given.dtype, "vllm": {}, "transformers": {}}
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        # Room for the token behind a row, and for the one that vLLM has to write.
        own = reference(folder, [text.text for text in texts], room, 1, min(512, context - 2))
        found["heldout_bytes"] = own.size
        found["original"] = {
            "transformers, float32": try_reference(own)["bits_per_byte"],
            "vllm, float32": ask(given.python, folder, own, context, "float32", room),
            f"vllm, {given.dtype}": ask(given.python, folder, own, context, given.dtype, room),
        }
        for form in FORMATS:
            made = room / form
            options = {"tokens": TOKENS, "kilobytes": KILOBYTES, "threads": 1}
            found["transformers"][form] = write_vllm(given.model, made, form, given.corpus, **options)
            found["vllm"][form] = ask(given.python, made, own, context, given.dtype, room)
            console.print(f"{form}: {found['transformers'][form]} {found['vllm'][form]}")
    found |= {"machine": machine(), "versions": versions()}
    if given.report:
        write_json(given.report, found)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HanmoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
