"""How far `hanmo plan` is from what tuning stages really take: peak memory and tokens a second on this CPU.

    python benchmarks/plan_tuning.py           # measure all runs, fit the prices, check, write
    python benchmarks/plan_tuning.py --again   # the runs of the last result, and those missing there

Every run is a stage of its own process on one thread, on random models and invented records; a run's speed is by the
processor's time, so that other work on the machine counts little. The prices of `hanmo.plan.tuning_cost` are fitted to
the runs of FIT and judged by those of CHECK. What writing answers takes (`grpo`, `rloo`) has prices of its own, fitted
to the time that it takes in WRITING, and so have our own classes, fitted to OWN.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planned import Check, fit_prices

#: Tokens of the models' vocabulary.
VOCABULARY = 8192


def _run(do: str, preset: str, characters: int, count: int = 24, **more: Any) -> dict[str, Any]:
    return {"do": do, "preset": preset, "characters": characters, "count": count, **more}


def _rl(preset: str, characters: int, prompts: int, generations: int, answer: int, **more: Any) -> dict[str, Any]:
    given = {"prompts": prompts, "generations": generations, "answer_tokens": answer, "steps": 3}
    return _run("grpo", preset, characters, **given, **more)


def _own(preset: str, width: int, layers: int, characters: int, **more: Any) -> dict[str, Any]:
    """A model of a class of ours, wider and deeper than its preset."""
    return _run("sft", preset, characters, width=width, layers=layers, **more)


FIT = [
    _run("sft", "hanmo-4m", 300),
    _run("sft", "hanmo-16m", 100),
    _run("sft", "hanmo-8m", 400, micro_batch=2),
    _run("sft", "hanmo-8m", 300, recompute="layers"),
    _run("sft", "hanmo-8m", 200, adapter="lora"),
    _run("dpo", "hanmo-4m", 200, answers=8),
]
CHECK = [
    _run("sft", "hanmo-8m", 200),
    _run("sft", "hanmo-16m", 200, adapter="lora"),
    _run("sft", "hanmo-16m", 200, micro_batch=4),
    _run("sft", "hanmo-4m", 500, recompute="layers"),
    _run("dpo", "hanmo-8m", 150, answers=0, micro_batch=4),
    _run("dpo", "hanmo-4m", 200, answers=0, loss="orpo"),
    _run("reward", "hanmo-4m", 250),
    _run("sft", "hanmo-4m", 150, packing=True, max_length=512),
    _run("distill", "hanmo-4m", 200, teacher="hanmo-16m"),
    _run("distill", "hanmo-8m", 150, teacher="hanmo-16m", micro_batch=4),
]
#: Learning from rewards: what writing the answers takes.
WRITING = [
    _rl("hanmo-4m", 60, 4, 4, 48),
    _rl("hanmo-4m", 100, 8, 8, 96),
    _rl("hanmo-8m", 60, 4, 8, 64),
    _rl("hanmo-16m", 40, 2, 4, 64),
    _rl("hanmo-2m", 200, 4, 8, 160, beta=0.0),
    _rl("hanmo-16m", 120, 8, 4, 32),
]
WRITING_CHECK = [
    _rl("hanmo-8m", 100, 4, 8, 96),
    _rl("hanmo-4m", 60, 8, 8, 64, method="rloo"),
    _rl("hanmo-16m", 60, 4, 4, 48, beta=0.0),
    _rl("hanmo-2m", 100, 8, 8, 128, micro_batch=8),
    _rl("hanmo-4m", 200, 4, 4, 128, recompute="layers"),
]
#: Models that the pretraining engine tunes.
OWN = [
    _own("zhouwenwang-2m", 384, 6, 200, max_length=256),
    _own("randeng-2m", 320, 4, 200, max_length=256),
    _own("linglong-1m", 384, 6, 200, max_length=256),
    _own("zhouwenwang-2m", 256, 8, 400, max_length=512),
    _own("t5-1m", 320, 6, 150, max_length=256),
]
OWN_CHECK = [
    _own("zhouwenwang-2m", 512, 6, 150, max_length=256, micro_batch=4),
    _own("randeng-2m", 384, 4, 300, max_length=512),
    _own("linglong-1m", 320, 8, 250, max_length=384),
    _own("linglong-1m", 512, 6, 150, max_length=256, recompute="layers"),
    _own("t5-1m", 384, 4, 250, max_length=512, micro_batch=2),
]


def lay_out(run: dict[str, Any], folder: Path) -> tuple[Any, dict[str, list[Path]], Any]:
    """Settings, inputs and kind of a run: a random model and records of so many characters, less up to a fifth."""
    import random

    import transformers
    from transformers import AutoModelForCausalLM

    from hanmo.models.families import AUTO, FAMILIES
    from hanmo.models.presets import build_config
    from hanmo.models.save import save_model
    from hanmo.stages import KINDS
    from hanmo.tokenizer import load
    from hanmo.tokenizer.chat import ChatFormat

    run = dict(run)
    do, preset, characters, count = (run.pop(name) for name in ("do", "preset", "characters", "count"))
    draw = random.Random(1)

    def text(most: int) -> str:
        return "".join(chr(draw.randrange(0x4E00, 0x5200)) for _ in range(draw.randint(most * 4 // 5, most)))

    tokenizer = load(tokenizer_of(folder))
    chat = ChatFormat(tokenizer)
    tokenizer.chat_template = chat.template
    config: Any = build_config(preset, VOCABULARY, run.get("max_length", 1024))
    if width := run.pop("width", 0):
        config.hidden_size, config.num_attention_heads = width, width // 32
        config.num_hidden_layers = config.num_decoder_layers = run.pop("layers")
        config.d_ff = config.intermediate_size = 4 * width
    learns = FAMILIES[config.model_type].learns[0]
    model = getattr(transformers, AUTO[learns]).from_config(config)
    save_model(model, tokenizer, folder / "model", chat.stop_ids)
    inputs = {"model": [folder / "model"]}
    if name := run.pop("teacher", None):
        teacher = AutoModelForCausalLM.from_config(build_config(name, VOCABULARY, 1024))
        save_model(teacher, tokenizer, folder / "teacher", chat.stop_ids)
        inputs["teacher"] = [folder / "teacher"]
    del model
    records = []
    for _ in range(count):
        if do in ("sft", "distill", "grpo"):
            spoken = [{"role": "user", "content": text(characters // 3)}]
            records.append({"messages": [*spoken, {"role": "assistant", "content": text(characters)}]})
        else:
            records.append({"prompt": text(20), "chosen": text(characters), "rejected": text(characters)})
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    given = {"rewards": {"length": 1.0}, "validation": 0.0} if do == "grpo" else {"epochs": 1, "batch_size": 8}
    settings = KINDS[do].settings.model_validate({**given, "threads": 1, "precision": "fp32", "device": "cpu", **run})
    return settings, {**inputs, "pairs" if do in ("dpo", "reward") else "records": [path]}, KINDS[do]


def tokenizer_of(folder: Path) -> Path:
    """A small tokenizer of those characters."""
    from hanmo.api import tokenizer
    from hanmo.files import JsonlZstWriter

    (folder / "corpus" / "train").mkdir(parents=True)
    with JsonlZstWriter(folder / "corpus" / "train" / "00000.jsonl.zst") as file:
        for start in range(0x4E00, 0x5200, 64):
            text = "".join(chr(code) for code in range(start, start + 64)) * 2
            file.write({"id": str(start), "text": text, "source": "made", "meta": {}})
    tokenizer(folder / "corpus", folder / "tokenizer", vocab_size=2048)
    return folder / "tokenizer"


def measure(run: dict[str, Any]) -> dict[str, Any]:
    """Do a run: its peak of anonymous memory, its tokens a second of the processor's time, the rate of a product."""
    import torch

    from hanmo.child import MemoryWatch
    from hanmo.posttrain import reporting

    with tempfile.TemporaryDirectory() as made:
        settings, inputs, kind = lay_out(run, Path(made))
        watch = MemoryWatch()
        torch.set_num_threads(1)
        left = torch.randn(2048, 2048)

        def product() -> float:
            start = time.process_time()
            _ = left @ left
            return 2 * 2048**3 / (time.process_time() - start)

        rate = max(product() for _ in range(8))

        class Clock:
            perf_counter = staticmethod(time.process_time)

        reporting.time = Clock  # type: ignore[assignment]
        timed = {"width": _timed_steps, "prompts": _timed_writing}
        found = next((timed[name]() for name in run if name in timed), None)
        counts = kind.load()(settings, inputs, Path(made) / "out")
        peak = watch.peak_anonymous()
        if run["do"] == "grpo":
            lines = [json.loads(line) for line in (Path(made) / "out" / "log.jsonl").read_text().splitlines()]
            counts["tokens_per_second"] = lines[-1]["tokens"] / lines[-1]["seconds"]
            found = {"writing_seconds_a_token": found["writing"] / lines[-1]["tokens"]}  # type: ignore[index]
        elif found is not None:
            counts["tokens_per_second"], found = found["tokens"] / found["seconds"], None
    return {"peak_anonymous": peak, "tokens_per_second": counts["tokens_per_second"], "matmul": rate, **(found or {})}


def _timed_steps() -> dict[str, float]:
    """Sums up the processor's time and the tokens of the pretraining engine's steps, but for the first."""
    from hanmo.pretrain.trainer import Trainer

    found = {"seconds": 0.0, "tokens": 0.0}
    step = Trainer._one_step

    def one(self: Trainer, rows: Any, targets: int) -> None:
        began = time.process_time()
        step(self, rows, targets)
        if self.step:
            found["seconds"] += time.process_time() - began
            found["tokens"] += rows.inputs.size

    Trainer._one_step = one  # type: ignore[method-assign]
    return found


def _timed_writing() -> dict[str, float]:
    """Sums up the processor's time of writing answers."""
    from hanmo.posttrain.rl import rollouts

    found = {"writing": 0.0}
    write = rollouts.answers_of

    def one(*given: Any) -> list[list[int]]:
        began = time.process_time()
        answers = write(*given)
        found["writing"] += time.process_time() - began
        return answers

    rollouts.answers_of = one
    return found


def planned(run: dict[str, Any]) -> dict[str, Any]:
    """The planner's figures of a run, and its kinds of work; those of writing answers stand apart."""
    from hanmo.plan import rewarded, tuning
    from hanmo.plan.devices import Device
    from hanmo.plan.tuning_cost import work

    with tempfile.TemporaryDirectory() as made:
        settings, inputs, _ = lay_out(run, Path(made))
        planner: Any = rewarded if run["do"] == "grpo" else tuning
        task = planner.task_of(settings, inputs, Device("cpu", 1.0, 1e12, cpu=True, width=4))
        assert task
        again = settings.recompute == "layers"
        shape = task.shape
        flops, kept, update = work(task, shape, task.micro, again)
        row = (flops, kept, update / task.step_tokens)
        found = {"peak": task.need(task.micro, again).total, "own" if "width" in run else "work": row}
        return found | ({"writing": task.writing_work(shape)} if run["do"] == "grpo" else {})


def with_plans(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, with "planned" in each."""
    for item in runs:
        if "planned" not in item:
            item["planned"] = planned(item["run"])
    return runs


def compare(runs: list[dict[str, Any]], prices: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    """Put the errors beside what was measured; a run has "planned" already."""
    found = []
    for item in runs:
        measured, plan = item["measured"], item["planned"]
        seconds = sum(_cost(prices[name], plan.get(name, ())) for name in prices) / measured["matmul"]
        errors = {
            "peak": plan["peak"] / measured["peak_anonymous"] - 1,
            "tokens_per_second": 1 / seconds / measured["tokens_per_second"] - 1,
        }
        found.append({**item, "error": errors})
    return found


def _cost(prices: tuple[float, ...], amounts: Any) -> float:
    return sum(price * amount for price, amount in zip(prices, amounts or [0.0] * len(prices), strict=True))


def fit(runs: list[dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    """Prices of the kinds of work, from runs that have "planned": those of writing from its own time."""

    def priced(name: str, time: Callable[[dict[str, Any]], float]) -> tuple[float, ...]:
        some = [item for item in runs if name in item["planned"] and (name != "work" or item["run"]["do"] != "grpo")]
        seconds = [item["measured"]["matmul"] * time(item["measured"]) for item in some]
        return fit_prices([item["planned"][name] for item in some], seconds)

    names = ("work", "own")
    found = {name: priced(name, lambda measured: 1 / measured["tokens_per_second"]) for name in names}
    return found | {"writing": priced("writing", lambda measured: measured["writing_seconds_a_token"])}


def in_use() -> dict[str, tuple[float, ...]]:
    """The prices of the planner."""
    from hanmo.plan import own, rewarded, tuning_cost

    return {"work": tuning_cost.CPU_PRICES, "writing": rewarded.CPU_PRICES, "own": own.CPU_PRICES}


CHECKS = Check(
    script=Path(__file__).resolve(),
    what="what hanmo plan says of tuning beside what runs take",
    runs={"fit": FIT + WRITING + OWN, "check": CHECK + WRITING_CHECK + OWN_CHECK},
    measure=lambda run, _: measure(run),
    fit=lambda runs: fit(with_plans(runs)),
    compare=lambda runs, prices: compare(with_plans(runs), prices),
    prices=in_use,
    options={},
)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    CHECKS.main(__doc__ or "")
