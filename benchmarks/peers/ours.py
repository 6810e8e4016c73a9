"""Our engine, through its own pretraining stage and with nothing but settings of that stage (`Job.extra`)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from peers.clock import Clock, Scorer
from peers.job import SIZES, Job
from peers.text import heldout


def run(job: Job) -> dict[str, Any]:
    """Pretrain for `job.steps` steps, decay included, and score the model folder that comes out."""
    import torch
    from transformers import AutoModelForCausalLM

    from hanmo.models.flops import model_flops
    from hanmo.pretrain.settings import PretrainSettings
    from hanmo.pretrain.stage import run as pretrain
    from hanmo.tokenizer import encode_text, load

    data, out = Path(job.data), Path(job.scratch)
    settings = PretrainSettings.model_validate(
        {
            "preset": SIZES[job.size].preset,
            "context": job.context,
            "batch_tokens": job.tokens,
            "tokens": job.tokens * job.steps,
            "device": job.device,
            "log_every": 1,
            "eval_every": 0,
            "eval_bytes": 1000,
            "sample_prompts": [],
            "checkpoint_seconds": 1e6,
            **job.extra,
        }
    )
    counts = pretrain(settings, {"data": [data / "tokens"]}, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [0.0] + [line["seconds"] for line in lines if "seconds" in line]
    clock = Clock(job.every, job.device)
    clock.seconds = [after - before for before, after in pairwise(ends)]
    model: Any = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    model.to(job.device)
    if job.every >= 0:
        tokenizer = load(data / "tokens" / "tokenizer")
        clock.scorer = Scorer(heldout(data), lambda text: encode_text(tokenizer, text), 0, 0, job.context)
        clock.score(model)
    return clock.record() | {
        "parameters": counts["parameters"],
        "before": counts.get("start_seconds", 0.0),
        "dtype": counts["dtype"],
        "flops_per_token": model_flops(model, job.context),
        "settings": {
            name: getattr(settings, name) for name in ("preset", "optimizer", "decay_fraction", "batch_tokens")
        }
        | {"rates": counts["rates"]}
        | job.extra,
    }
