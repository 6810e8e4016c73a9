"""One model of a family: trained by us and by transformers' Trainer on the same rows, and held against references."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from hanmo.models.families import AUTO
from hanmo.models.linglong.generation import complete, pinyin_reader
from hanmo.models.loss import IGNORE
from hanmo.pretrain.data import Data, opened
from hanmo.pretrain.loading import load_model
from hanmo.pretrain.rules import batch_tokens
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.stage import learned, run
from hanmo.tokenizer import load
from hanmo.tokens.order import Order, Rows
from peers.clock import STARTUP, Clock, step_seconds

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import plain_references as plain  # type: ignore[import-not-found]

COMMON: dict[str, Any] = {"eval_every": 0, "eval_bytes": 1000, "sample_prompts": [], "checkpoint_seconds": 1e6}
COMMON |= {"device": "cpu", "log_every": 5}
#: Rows of training text that the unigrams are counted in, at most; tokens of held-out text that are measured.
COUNTED, MEASURED = 4000, 40_000
#: Tokens of the row that logits are compared on, of prompts, and of what is written.
SHORT, WRITTEN = 48, 24


class Family:
    """What a run of a preset needs, opened: rows of both splits, the step, and what the settings came to."""

    def __init__(self, data: Data, settings: PretrainSettings) -> None:
        self.data, self.settings = data, settings
        self.tokenizer = load(data.tokenizer)

    @property
    def context(self) -> int:
        """Tokens of a row."""
        return self.settings.context

    def model(self, folder: Path | None, out: Path) -> Any:
        """A new model, or the one in a folder."""
        return load_model(self.settings, folder, self.data.facts["vocab_size"], self.data.tokenizer, out).eval()

    def source(self, model: Any, heldout: bool = False) -> tuple[Any, Any]:
        """(rows, step builder), of the training text or of what is held out."""
        data = self.data
        if heldout:
            split = data.heldout[""]
            pinyin = data.reading.readings(split, "held-out text")
            seed, end = self.settings.seed, data.facts["eos_id"]
            data = replace(data, order=Order(split, self.context, seed, end, pinyin=pinyin))
        return learned(self.settings, data, self.tokenizer, model)[:2]


def settings_of(job: dict[str, Any], **more: Any) -> PretrainSettings:
    """The settings of a job, resolved."""
    given = COMMON | {"preset": job["preset"], "shape": job["shape"], "context": job["context"]}
    return PretrainSettings(**given | job["settings"] | more).resolved(None)


def learn(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train on the job's tokens; held-out nats a target before and after, beside what guessing costs."""
    settings = settings_of(job, tokens=job["budget"])
    with opened(settings, [Path(job["tokens"])], out) as data:
        family = Family(data, settings)
        torch.manual_seed(settings.seed)
        model = family.model(None, out)
        rows = model.get_input_embeddings().weight.shape[0]
        (train, step), (heldout, _) = family.source(model), family.source(model, heldout=True)
        count = min(MEASURED, heldout.total) // settings.context
        held = [heldout.rows(first, 2) for first in range(0, max(2, count // 2 * 2), 2)]
        many = min(COUNTED, max(1, train.total // settings.context))
        unigram = _unigram([train.rows(first, 50) for first in range(0, many, 50)], held, rows)
        found = {"uniform": round(math.log(rows), 4), "unigram": unigram, "start": _loss(model, step, held, settings)}
        del model
        counts = run(settings, {"data": [Path(job["tokens"])]}, out)
        trained = family.model(out / "model", out)
        found["end"] = _loss(trained, step, held, settings)
    kept = ("parameters", "active_parameters", "steps", "tokens", "training_seconds", "dtype")
    return found | {name: counts[name] for name in kept if name in counts} | {"vocabulary": rows}


def _unigram(train: Sequence[Rows], held: Sequence[Rows], rows: int) -> float:
    """Nats a held-out target by how often each token is a target in training, one added to every count."""
    counts = np.ones(rows)
    for batch in train:
        counts += np.bincount(batch.targets[batch.targets != IGNORE], minlength=rows)
    costs = math.log(counts.sum()) - np.log(counts)
    return round(float(np.mean(np.concatenate([costs[b.targets[b.targets != IGNORE]] for b in held]))), 4)


@torch.no_grad()
def _loss(model: Any, step: Any, held: Sequence[Rows], settings: PretrainSettings) -> float:
    """Nats a target, in fp32."""
    computed = step(model.eval(), torch.float32, False, settings.context)
    nats = sum(float(computed.loss(rows)) for rows in held)
    return round(nats / sum(int((rows.targets != IGNORE).sum()) for rows in held), 4)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of our stage over `job["steps"]` steps, the median of its lines."""
    settings = settings_of(job, tokens=1)
    batch = batch_tokens(settings_of(job, tokens=job["budget"]))
    settings = settings.model_copy(update={"tokens": batch * (STARTUP + job["steps"]), "batch_tokens": batch})
    settings = settings.model_copy(update={"log_every": 1})
    with tempfile.TemporaryDirectory() as folder:
        counts = run(settings, {"data": [Path(job["tokens"])]}, Path(folder))
    return {"tokens_per_second": counts["tokens_per_second"], "dtype": counts["dtype"]}


def peer(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of transformers' Trainer with the same class, rows and batch; `job["fast"]`: with bf16."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    settings = settings_of(job, tokens=job["budget"])
    count, steps = batch_tokens(settings) // settings.context, STARTUP + job["steps"]
    clock = Clock(-1)

    class Timed(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.step(torch.nn.Module())

    with tempfile.TemporaryDirectory() as folder, opened(settings, [Path(job["tokens"])], Path(folder)) as data:
        family = Family(data, settings)
        model = family.model(None, Path(folder)).train()
        train, _ = family.source(model)
        items = []
        for number in range(count * steps):
            batch = as_inputs(train.rows(number, 1), model.config.model_type)
            items.append({name: value[0] for name, value in batch.items()})
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=count,
            learning_rate=1e-4,
            max_steps=steps,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            bf16=job["fast"],
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=items, callbacks=[Timed()])  # type: ignore[arg-type]
        trainer.train()
    seconds = step_seconds(clock.seconds)
    return {"tokens_per_second": round(count * settings.context / seconds, 1)}


def as_inputs(rows: Rows, model_type: str) -> dict[str, torch.Tensor]:
    """Rows as the class takes them: documents behind each other, as who cuts a stream into rows has them."""
    targets = rows.targets.astype(np.int64)
    found: dict[str, Any] = {"input_ids": rows.inputs, "labels": targets}
    if rows.read is not None:
        found = {"input_ids": rows.read.inputs, "attention_mask": (rows.read.segment >= 0).astype(np.int64)}
        found |= {"decoder_input_ids": rows.inputs, "labels": targets}
    elif rows.types is not None:
        found["token_type_ids"] = rows.types
    elif model_type not in ("megatron-bert", "modernbert"):
        # Classes that go on with a text shift labels themselves.
        found["labels"] = np.concatenate([np.full_like(targets[:, :1], IGNORE), targets[:, :-1]], axis=1)
    if rows.pinyin is not None:
        found["pinyin_ids"] = rows.pinyin
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


def check(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """The trained model against a reference in float64, and what it writes with and without cache, alone and not."""
    settings = settings_of(job, tokens=job["budget"])
    with opened(settings, [Path(job["tokens"])], out) as data:
        family = Family(data, settings)
        model = family.model(out / "model", out)
        heldout, _ = family.source(model, heldout=True)
        batch = as_inputs(heldout.rows(0, 1), model.config.model_type)
    kept = {name: value[:, :SHORT] for name, value in batch.items() if name not in ("labels", "attention_mask")}
    found = _error(out / "model", model, kept, settings.objective)
    if settings.objective == "masked":
        found["batch_as_alone"] = _filled_alike(model, family, kept["input_ids"])
        return found
    return found | _written_alike(model, family, kept["input_ids"], out)


@torch.no_grad()
def _error(folder: Path, model: Any, given: dict[str, torch.Tensor], objective: str) -> dict[str, Any]:
    """The largest difference of float32 logits from the plain formulas in float64, or the class itself in float64."""
    config = model.config
    # The published models have the tanh form, and so has the reference.
    other = {"hidden_act": "gelu_new"} if config.model_type == "megatron-bert" else {}
    auto = getattr(transformers, AUTO[objective])
    single = auto.from_pretrained(folder, dtype=torch.float32, **other).eval()
    logits = single(**given).logits[0].double()
    reference = _plain(single, {name: value[0].tolist() for name, value in given.items()})
    against = "plain formulas in float64"
    if reference is None:
        against = "its class in float64, eager"
        double = auto.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        double.config._experts_implementation = "eager"  # grouped products know no float64
        reference = double(**given).logits[0]
    scale = float(reference.std())
    return {"error": float((logits - reference).abs().max()), "spread": round(scale, 3), "against": against}


def _plain(model: Any, given: dict[str, list[int]]) -> torch.Tensor | None:
    weights, config, ids = dict(model.state_dict()), model.config, given["input_ids"]
    kind = config.model_type
    if kind in ("qwen3", "qwen2", "llama"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        theta = config.rope_parameters["rope_theta"]
        hidden = plain.hf_decoder(weights, ids, head, config.rms_norm_eps, theta)
        return hidden @ weights["lm_head.weight"].double().T
    if kind == "gpt2":
        return plain.gpt2(weights, ids, config.n_head, "transformer.")
    if kind == "megatron-bert":
        types = given.get("token_type_ids", [0] * len(ids))
        hidden = plain.encoder(weights, ids, types, config.num_attention_heads, "bert.")
        return plain.fill_mask(weights, hidden, "bert.", tanh=True)
    if kind == "hanmo_unified":
        turned = {name: _neighbours(name, value, config.num_attention_heads) for name, value in weights.items()}
        bare = {name.removeprefix("bert."): value for name, value in turned.items()}
        return plain.zhouwenwang(bare, ids, given["token_type_ids"], config.num_attention_heads)
    if kind == "hanmo_megatron_t5":
        found = plain.randeng(weights, ids, given["decoder_input_ids"], config.num_heads)
        return found
    if kind == "linglong":
        names = {f"transformer.h.{n}.": f"transformer.blocks.{n}." for n in range(config.n_layer)}
        legacy = {}
        for name, value in weights.items():
            here = next((old for old in names if name.startswith(old)), None)
            if here:
                name = names[here] + name.removeprefix(here)
                if "ln_" not in name:
                    name = name.replace(".weight", ".w").replace(".bias", ".b")
            legacy[name.replace("transformer.pinyin", "transformer.wpinyin")] = value
        sparse = (config.attn_stride, config.attn_c) if config.attn_mode == "sparse" else None
        tanh = config.activation_function != "gelu"
        return plain.linglong(legacy, ids, config.n_head, sparse, given.get("pinyin_ids"), tanh)
    return None


def _neighbours(name: str, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries and keys with the two of a rotation beside each other, as published."""
    if ".self.query." not in name and ".self.key." not in name:
        return value
    parts = value.reshape(heads, 2, -1, *value.shape[1:])
    return parts.transpose(1, 2).reshape(value.shape)


@torch.no_grad()
def _filled_alike(model: Any, family: Family, ids: torch.Tensor) -> str:
    """Whether what is likeliest at every place is the same beside a longer row, padded, as alone."""
    pad = family.tokenizer.pad_token_id
    assert isinstance(pad, int)
    same = total = 0
    for length in (8, 16, 24, 40):
        row = ids[0, :length]
        both = torch.full((2, ids.shape[1]), int(pad))
        both[0, :length], both[1] = row, ids[0]
        mask = torch.ones_like(both)
        mask[0, length:] = 0
        together = model(input_ids=both, attention_mask=mask).logits[0, :length].argmax(-1)
        alone = model(input_ids=row[None]).logits[0].argmax(-1)
        same, total = same + int((together == alone).sum()), total + length
    return f"{same}/{total}"


@torch.no_grad()
def _written_alike(model: Any, family: Family, ids: torch.Tensor, out: Path) -> dict[str, Any]:
    """Greedy continuations: with the cache against without, and in a batch of prompts against alone."""
    write = _writer(model, family, out)
    prompts = [ids[0, 1 : 1 + length].tolist() for length in (6, 10, 14, 20, 26, 32)]
    alone = [write([prompt], True)[0] for prompt in prompts]
    together, uncached = write(prompts, True), [write([prompt], False)[0] for prompt in prompts]

    def count(other: list[list[int]]) -> str:
        return f"{sum(a == b for a, b in zip(alone, other, strict=True))}/{len(prompts)}"

    return {"cached_as_uncached": count(uncached), "batch_as_alone": count(together)}


def _writer(model: Any, family: Family, out: Path) -> Any:
    """A function (prompts, with cache) -> greedy tokens of each."""
    eos = family.data.facts["eos_id"]
    common: dict[str, Any] = {"max_new_tokens": WRITTEN, "do_sample": False, "eos_token_id": eos, "pad_token_id": eos}
    if model.config.model_type == "linglong":
        pinyin = pinyin_reader(out / "model") if model.config.use_pinyin else None
        whole = partial(complete, model, opening=[eos], pinyin_of=pinyin, **common)
        return lambda prompts, cached: whole(prompts, use_cache=cached)
    reads = bool(model.config.is_encoder_decoder)

    def write(prompts: list[list[int]], cached: bool) -> list[list[int]]:
        width = max(map(len, prompts))
        ids, mask = torch.full((len(prompts), width), eos), torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            # What is read stands at the left, what is gone on with at the right.
            place = slice(0, len(prompt)) if reads else slice(width - len(prompt), width)
            ids[row, place], mask[row, place] = torch.tensor(prompt), 1
        more = {"min_new_tokens": WRITTEN} if reads else {}
        found = model.generate(ids, attention_mask=mask, use_cache=cached, **common, **more)
        new = found if reads else found[:, width:]
        ends = [row.index(eos, 1) if eos in row[1:] else len(row) for row in new.tolist()]
        return [row[:end] for row, end in zip(new.tolist(), ends, strict=True)]

    return write
