"""How far `hanmo plan` is from what tuning stages really take: peak memory and tokens a second on this CPU.

    python benchmarks/plan_tuning.py           # measure all runs, fit the prices, check, write
    python benchmarks/plan_tuning.py --again   # the runs of the last result, and those missing there

Every run is a stage of its own process on one thread, on random models and invented records; a run's speed is by the
processor's time, so that other work on the machine counts little. The prices of `hanmo.plan.tuning_cost` are fitted to
the runs of FIT and judged by those of CHECK.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from planned import Check, fit_prices

#: Tokens of the models' vocabulary.
VOCABULARY = 8192


def _run(do: str, preset: str, characters: int, count: int = 24, **more: Any) -> dict[str, Any]:
    return {"do": do, "preset": preset, "characters": characters, "count": count, **more}


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


def lay_out(run: dict[str, Any], folder: Path) -> tuple[Any, dict[str, list[Path]], Any]:
    """Settings, inputs and kind of a run: a random model and records of so many characters, less up to a fifth."""
    import random

    from transformers import AutoModelForCausalLM

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
    model = AutoModelForCausalLM.from_config(build_config(preset, VOCABULARY, 1024))
    save_model(model, tokenizer, folder / "model", chat.stop_ids)
    inputs = {"model": [folder / "model"]}
    if name := run.pop("teacher", None):
        teacher = AutoModelForCausalLM.from_config(build_config(name, VOCABULARY, 1024))
        save_model(teacher, tokenizer, folder / "teacher", chat.stop_ids)
        inputs["teacher"] = [folder / "teacher"]
    del model
    records = []
    for _ in range(count):
        if do in ("sft", "distill"):
            spoken = [{"role": "user", "content": text(characters // 3)}]
            records.append({"messages": [*spoken, {"role": "assistant", "content": text(characters)}]})
        else:
            records.append({"prompt": text(20), "chosen": text(characters), "rejected": text(characters)})
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    settings = KINDS[do].settings.model_validate(
        {"epochs": 1, "batch_size": 8, "threads": 1, "precision": "fp32", "device": "cpu", **run}
    )
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
        counts = kind.load()(settings, inputs, Path(made) / "out")
        peak = watch.peak_anonymous()
    return {"peak_anonymous": peak, "tokens_per_second": counts["tokens_per_second"], "matmul": rate}


def planned(run: dict[str, Any]) -> dict[str, Any]:
    """The planner's figures of a run, and its kinds of work."""
    from hanmo.plan.devices import Device
    from hanmo.plan.shape import of_config
    from hanmo.plan.tuning import task_of
    from hanmo.plan.tuning_cost import work

    with tempfile.TemporaryDirectory() as made:
        settings, inputs, _ = lay_out(run, Path(made))
        task = task_of(settings, inputs, Device("cpu", 1.0, 1e12, cpu=True, width=4))
        assert task
        again = settings.recompute == "layers"
        shape = of_config("", task.config, task.records.longest)
        flops, kept, update = work(task, shape, task.micro, again)
        row = (flops, kept, update / settings.batch_size / task.records.mean)
        return {"peak": task.need(task.micro, again).total, "work": row}


def with_plans(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, with "planned" in each."""
    for item in runs:
        if "planned" not in item:
            item["planned"] = planned(item["run"])
    return runs


def compare(runs: list[dict[str, Any]], prices: tuple[float, ...]) -> list[dict[str, Any]]:
    """Put the errors beside what was measured; a run has "planned" already."""
    found = []
    for item in runs:
        measured, plan = item["measured"], item["planned"]
        seconds = sum(price * amount for price, amount in zip(prices, plan["work"], strict=True)) / measured["matmul"]
        errors = {
            "peak": plan["peak"] / measured["peak_anonymous"] - 1,
            "tokens_per_second": 1 / seconds / measured["tokens_per_second"] - 1,
        }
        found.append({**item, "error": errors})
    return found


def fit(runs: list[dict[str, Any]]) -> tuple[float, ...]:
    """Prices of the kinds of work, from runs that have "planned"."""
    seconds = [item["measured"]["matmul"] / item["measured"]["tokens_per_second"] for item in runs]
    return fit_prices([item["planned"]["work"] for item in runs], seconds)


def in_use() -> tuple[float, ...]:
    """The prices of `hanmo.plan.tuning_cost`."""
    from hanmo.plan.tuning_cost import CPU_PRICES

    return CPU_PRICES


CHECKS = Check(
    script=Path(__file__).resolve(),
    what="what hanmo plan says of tuning beside what runs take",
    runs={"fit": FIT, "check": CHECK},
    measure=lambda run, _: measure(run),
    fit=lambda runs: fit(with_plans(runs)),
    compare=lambda runs, prices: compare(with_plans(runs), prices),
    prices=in_use,
    options={},
)

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    CHECKS.main(__doc__ or "")
