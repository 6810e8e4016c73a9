"""MiniMind and nanochat, by their own training scripts, run unchanged from checkouts of theirs.

The script runs as `__main__` in this process. Around it stand only: a hook behind the optimiser's step, which is where
the clock ticks, and a look at the model as the script makes it, so that it can be scored. Settings are given by the
script's own options.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from peers.clock import Clock, Scorer
from peers.job import SIZES, Job, commit_of
from peers.text import heldout

MINIMIND = "trainer/train_pretrain.py"
NANOCHAT = "scripts/base_train.py"


def minimind(job: Job) -> dict[str, Any]:
    """MiniMind's trainer/train_pretrain.py: fp32 on a CPU, bf16 autocast on CUDA, cosine to a tenth over `steps`."""
    checkout, out = Path(job.checkout or ""), Path(job.scratch)
    # The script reads ../model and writes ../checkpoints, seen from the working directory.
    (out / "cwd").mkdir(parents=True, exist_ok=True)
    if not (out / "model").exists():
        (out / "model").symlink_to(checkout.resolve() / "model")
    with (
        (Path(job.data) / "pieces.jsonl").open(encoding="utf-8") as source,
        (out / "text.jsonl").open("w", encoding="utf-8") as text,
    ):
        # Its schedule and its end follow from the size of the file.
        wanted = job.steps * job.rows
        while wanted > 0:
            taken = 0
            for line in itertools.islice(source, wanted):
                text.write(line)
                taken += 1
            wanted -= taken
            source.seek(0)
    # What it must not do is keep a copy of every text in the user's cache.
    os.environ["HF_DATASETS_CACHE"] = str(out / "cache")
    clock, seen = Clock(job.every, job.device), types.SimpleNamespace(model=None)
    sys.path.insert(0, str(checkout.resolve()))
    import trainer.trainer_utils as utils  # type: ignore[import-not-found]

    make = utils.init_model

    def init_model(*args, **kwargs):
        model, tokenizer = make(*args, **kwargs)
        seen.model = model
        if job.every >= 0:
            clock.scorer = Scorer(
                heldout(Path(job.data)),
                lambda text: tokenizer(text, add_special_tokens=False).input_ids,
                tokenizer.bos_token_id,
                tokenizer.eos_token_id,
                job.context,
                anchored=True,
            )
        model.register_forward_pre_hook(count, with_kwargs=True)
        clock.start()
        return model, tokenizer

    def count(module, args, kwargs) -> None:
        if module.training and kwargs.get("labels") is not None:
            clock.targets.append(int((kwargs["labels"][:, 1:] != -100).sum()))

    utils.init_model = init_model
    register_optimizer_step_post_hook(lambda *_: clock.step(seen.model))
    hidden, layers = SIZES[job.size].minimind
    sys.argv = [
        MINIMIND,
        *("--save_dir", str(out / "out"), "--data_path", str(out / "text.jsonl")),
        *("--epochs", "1", "--batch_size", str(job.rows), "--accumulation_steps", "1"),
        *("--learning_rate", repr(job.rate), "--device", job.device, "--num_workers", "2"),
        *("--hidden_size", str(hidden), "--num_hidden_layers", str(layers), "--max_seq_len", str(job.context)),
        *("--save_interval", "1000000000"),
    ]
    os.chdir(out / "cwd")
    runpy.run_path(str(checkout.resolve() / MINIMIND), run_name="__main__")
    clock.score(seen.model)
    model, config = seen.model, seen.model.config
    weights = sum(p.numel() for p in model.parameters())  # the head is the embedding, so all are multiplied
    return clock.record() | {
        "parameters": weights,
        "dtype": "float32" if job.device == "cpu" else "bfloat16",
        "flops_per_token": 6 * weights + 12 * layers * config.num_attention_heads * config.head_dim * job.context,
        "commit": commit_of(checkout),
    }


class _Logits(torch.nn.Module):
    """nanochat's model as the score calls models."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits of `input_ids`."""
        return self.model(input_ids)


def nanochat(job: Job) -> dict[str, Any]:
    """nanochat's scripts/base_train.py in bf16 with its own schedule over `steps`; all its rates times `rate`.

    Its tokenizer is the one that its scripts/tok_train.py trains on the same text, with as many tokens as ours.
    """
    checkout, base = Path(job.checkout or "").resolve(), Path(job.data).resolve() / "nanochat"
    environment = {"NANOCHAT_BASE_DIR": str(base), "NANOCHAT_DTYPE": "bfloat16"}
    os.environ.update(environment)
    vocabulary = json.loads((Path(job.data) / "tokens" / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
    if not (base / "tokenizer" / "token_bytes.pt").is_file():
        command = [sys.executable, "-m", "scripts.tok_train", "--vocab-size", str(vocabulary)]
        # As much text as ours is trained on (40 MB): its trainer takes minutes for it, and far longer for all.
        command += ["--max-chars", "20000000"]
        subprocess.run(command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, check=True)
    clock, seen = Clock(job.every, job.device), types.SimpleNamespace(model=None)
    try:
        import wandb  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        sys.modules["wandb"] = types.ModuleType("wandb")  # imported by the script, and not called with `--run dummy`
    sys.path.insert(0, str(checkout))
    from nanochat.gpt import GPT  # type: ignore[import-not-found]
    from nanochat.tokenizer import get_tokenizer  # type: ignore[import-not-found]

    set_up = GPT.setup_optimizer

    def setup_optimizer(self, *args, **kwargs):
        seen.model = self
        if job.every >= 0:
            tokenizer = get_tokenizer()
            begin = tokenizer.get_bos_token_id()
            clock.scorer = Scorer(heldout(Path(job.data)), tokenizer.encode, begin, begin, job.context, anchored=True)
        clock.start()
        return set_up(self, *args, **kwargs)

    GPT.setup_optimizer = setup_optimizer
    register_optimizer_step_post_hook(lambda *_: clock.step(_Logits(seen.model)))
    tag = f"race-{os.getpid()}"
    rates = {"embedding-lr": 0.3, "unembedding-lr": 0.008, "matrix-lr": 0.02, "scalar-lr": 0.5}
    sys.argv = [
        NANOCHAT,
        *("--depth", str(SIZES[job.size].nanochat), "--head-dim", "64", "--window-pattern", "L"),
        *("--max-seq-len", str(job.context), "--device-batch-size", str(job.rows)),
        *("--total-batch-size", str(job.tokens), "--num-iterations", str(job.steps)),
        *("--eval-every", "-1", "--core-metric-every", "-1", "--sample-every", "-1"),
        *("--device-type", job.device, "--model-tag", tag),
        *(item for name, value in rates.items() for item in (f"--{name}", repr(value * job.rate))),
    ]
    try:
        runpy.run_path(str(checkout / NANOCHAT), run_name="__main__")
    finally:
        shutil.rmtree(base / "base_checkpoints" / tag, ignore_errors=True)
    clock.score(_Logits(seen.model))
    return clock.record() | {
        "parameters": sum(p.numel() for p in seen.model.parameters()),
        "dtype": "bfloat16",
        "flops_per_token": seen.model.estimate_flops(),
        "commit": commit_of(checkout),
    }
