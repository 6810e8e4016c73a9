"""Runs where llm-compressor is installed: quantises a model as a case says, and reads held-out text with the result.

    python compressing.py CASE.json RESULT.json

It is run by its path and imports nothing of ours, since llm-compressor pins its own torch and transformers.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM


def main(case_path: Path, result_path: Path) -> None:
    case: dict[str, Any] = json.loads(case_path.read_text(encoding="utf-8"))
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(case["model"], dtype=torch.bfloat16, local_files_only=True)
    samples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in case["samples"]]
    # What stays as it is: the matrix before the words, whose errors are every word's.
    recipe = GPTQModifier(config_groups=case["groups"], ignore=["lm_head"])
    oneshot(
        model=model,
        dataset=Dataset.from_list(samples),
        recipe=[recipe],
        max_seq_length=max(map(len, case["samples"])),
        num_calibration_samples=len(samples),
    )
    model.save_pretrained(case["out"], save_compressed=True)
    del model

    made: Any = AutoModelForCausalLM.from_pretrained(case["out"], dtype=torch.float32, local_files_only=True).eval()
    scored = sum(len(ids) - start for ids, start in zip(case["rows"], case["starts"], strict=True))
    said = np.lib.format.open_memmap(case["logits"], "w+", np.float32, (scored, case["vocabulary"]))
    at = 0
    with torch.inference_mode():
        for ids, start in zip(case["rows"], case["starts"], strict=True):
            logits = made(input_ids=torch.tensor([ids[:-1]])).logits[0, start - 1 :, : case["vocabulary"]]
            said[at : at + len(logits)] = logits.float().numpy()
            at += len(logits)
    said.flush()
    versions = {name: version(name) for name in ("llmcompressor", "compressed-tensors", "torch", "transformers")}
    result_path.write_text(json.dumps({"versions": versions}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
