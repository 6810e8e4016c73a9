"""What people write themselves: transformers' Trainer on concatenated chunks, and a plain lab script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanmo.models.flops import model_flops
from hanmo.models.loss import chunk_step, linear_cross_entropy
from hanmo.models.presets import build_config
from hanmo.pretrain.precision import choose, pick_device
from hanmo.tokenizer import encode_text, load
from hanmo.tokens.shards import open_split, read_info
from peers.clock import Clock, Scorer
from peers.job import SIZES, Job
from peers.text import heldout


def _scorer(job: Job) -> Scorer | None:
    if job.every < 0:
        return None
    tokenizer = load(Path(job.data) / "tokens" / "tokenizer")
    return Scorer(heldout(Path(job.data)), lambda text: encode_text(tokenizer, text), 0, 0, job.context)


def chunks(job: Job, extra: int) -> np.ndarray:
    """int64 [steps * rows, context + extra]: the shuffled documents, one after the other, cut into rows."""
    split = open_split(Path(job.data) / "tokens", "train")
    ends = np.asarray(split.doc_ends, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    order = np.random.default_rng(1).permutation(len(ends))
    wanted, found, size = job.steps * job.tokens + extra, [], 0
    while size < wanted:
        for index in order:
            found.append(np.asarray(split.tokens[int(starts[index]) : int(ends[index])], np.int64))
            size += len(found[-1])
            if size >= wanted:
                break
    flat = np.concatenate(found)[:wanted]
    return np.lib.stride_tricks.sliding_window_view(flat, job.context + extra)[:: job.context].copy()


def run_clm(job: Job, fast: bool) -> dict[str, Any]:
    """As transformers' run_clm.py: the Trainer at its defaults, or `fast`; our tokenizer and shape.

    `fast` is with torch.compile, and with bf16 where this device computes it faster than fp32: a CPU that has no
    products in bf16 makes them many times as slow.
    """
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    half = fast and choose(pick_device(job.device), "auto") == torch.bfloat16
    torch.manual_seed(0)
    vocabulary = read_info(Path(job.data) / "tokens")["vocab_size"]
    model = AutoModelForCausalLM.from_config(build_config(SIZES[job.size].preset, vocabulary, job.context))
    rows = torch.from_numpy(chunks(job, 0))
    data = [{"input_ids": row, "labels": row} for row in rows]
    clock = Clock(job.every, job.device)
    clock.scorer = _scorer(job)

    class Timed(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs) -> None:
            clock.start()

        def on_step_end(self, args, state, control, **kwargs) -> None:
            # Scored is the module as it was given, whose shapes may change; the compiled one would compile each.
            clock.step(model)

    arguments = TrainingArguments(
        output_dir=job.scratch,
        per_device_train_batch_size=job.rows,
        learning_rate=job.rate,
        max_steps=job.steps,
        use_cpu=job.device == "cpu",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        bf16=half,
        torch_compile=fast,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Timed()])  # type: ignore[arg-type]
    trainer.train()
    clock.score(model)
    return clock.record() | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "bfloat16" if half else "float32",
        "flops_per_token": model_flops(model, job.context),
    }


def lab(job: Job) -> dict[str, Any]:
    """Stock Qwen3 (15.7M at 16m), packed, bf16, compile, fused loss, Muon 0.02, AdamW 3e-3, no decay."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from hanmo.models.presets import preset

    torch.manual_seed(0)
    vocabulary, shape = read_info(Path(job.data) / "tokens")["vocab_size"], preset(SIZES[job.size].preset)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=round(shape.hidden * 8 / 3),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=job.context,
        tie_word_embeddings=True,
    )
    model: Any = Qwen3ForCausalLM(config)
    model.to(job.device)
    decoder = torch.compile(model.model)
    loss_step = torch.compile(chunk_step)
    inner = [p for p in model.model.layers.parameters() if p.dim() == 2]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(inner, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    clock = Clock(job.every, job.device)
    clock.scorer = _scorer(job)
    clock.start()
    for batch in _batches(job):
        batch = batch.to(job.device)
        with torch.autocast(job.device.split(":")[0], dtype=torch.bfloat16):
            hidden = decoder(input_ids=batch[:, :-1], use_cache=False).last_hidden_state.to(torch.bfloat16)
            targets = batch[:, 1:].flatten()
            loss = linear_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, targets, step=loss_step)
        (loss / targets.numel()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        clock.step(model)
    clock.score(model)
    return clock.record() | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "bfloat16",
        "flops_per_token": model_flops(model, job.context),
    }


def _batches(job: Job) -> Iterator[torch.Tensor]:
    rows = torch.from_numpy(chunks(job, 1))
    for start in range(0, len(rows), job.rows):
        yield rows[start : start + job.rows]
