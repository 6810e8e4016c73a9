"""The stage that tunes a model on an understanding task: each seed, split and swept setting is a run; the best is kept.

Out: `model/` (the best run's best checkpoint, with task.json), `results.json`, `log-*.jsonl` and the predictions on the
test file (else dev) in CLUE's form.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import xxhash
from transformers import TrainingArguments

from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.families import objective_of
from hanmo.models.folder import resolve
from hanmo.models.save import save_model
from hanmo.posttrain import reporting, training
from hanmo.posttrain.settings import SftSettings
from hanmo.pretrain.precision import choose, pick_device
from hanmo.tokenizer import load as load_tokenizer
from hanmo.understand import heads
from hanmo.understand.files import Account, part_of, read_examples
from hanmo.understand.forms import Example
from hanmo.understand.rows import Row, Rows
from hanmo.understand.scoring import predict, score
from hanmo.understand.settings import UnderstandSettings
from hanmo.understand.submit import write_submission
from hanmo.understand.tasks import RECORD, Task, task

#: What a run leaves in the stage's folder; an earlier try's is removed first.
_LEFT = ("model", ".model.*.tmp", "log-*.jsonl", "results.json", "*_predict.json", "predict.json", "trainer")


@dataclass
class Data:
    """The examples of a run, and what became of the records."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    accounts: dict[str, Account]
    labels: list[str]
    names: dict[str, str]


@dataclass
class Run:
    """One training: its settings, and after it the score of its best checkpoint."""

    seed: int
    fold: int | None
    chosen: dict[str, Any]
    dev: dict[str, Any]
    test: dict[str, Any] | None
    best_step: int
    seconds: float

    def as_json(self, metric: str) -> dict[str, Any]:
        """As it stands in results.json."""
        where = {"seed": self.seed, **({} if self.fold is None else {"fold": self.fold}), **self.chosen}
        return where | {
            "metric": metric,
            "dev": self.dev,
            "test": self.test,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 1),
        }


class _Trainer(training.Careful):
    """transformers' trainer on units of rows, with the loss of a head."""

    def __init__(self, head: Any, rows: Rows, units: Sequence[Sequence[Row]], **kwargs: Any) -> None:
        self.head = head
        self.lengths = [sum(map(len, unit)) for unit in units]

        def collate(batch: list[Sequence[Row]]) -> dict[str, Any]:
            return {"units": batch, "batch": rows.batch([row for unit in batch for row in unit])}

        super().__init__(train_dataset=units, data_collator=collate, **kwargs)  # type: ignore[arg-type]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The head's; the trainer divides it by the micro-batches of a step."""
        return self.head.loss(model, inputs["units"], inputs["batch"])


def run(settings: UnderstandSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Tune a model on a task.

    Args:
        inputs: `model` (one model folder or stage), `data` (the folder with the task's files).
        out: see the module.

    Returns:
        Counts: examples, runs, the mean score on dev and on test with its deviation over seeds and splits, skipped.

    Raises:
        HanmoError: an unusable model, file, record or setting.
    """
    clear(out)
    training.quiet()
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    what, folder = task(settings.task), resolve(inputs["model"][0])
    plan = [
        (variant, fold, seed)
        for variant in settings.variants()
        for fold in (settings.folds or [None])
        for seed in settings.seeds
    ]
    read: dict[int | None, Data] = {
        fold: load_data(settings, what, inputs["data"][0], fold) for fold in (settings.folds or [None])
    }
    for fold, data in read.items():
        for part, account in data.accounts.items():
            reporting.announce(account.line(part if fold is None else f"{part}, split {fold}"))
    runs: list[Run] = []
    best: tuple[float, Any, Any, Data] | None = None
    for number, (variant, fold, seed) in enumerate(plan, 1):
        chosen = settings.model_copy(update=variant)
        one, tuner = _one(chosen, what, folder, read[fold], out / f"log-{number}.jsonl", seed)
        one.fold, one.chosen = fold, variant
        runs.append(one)
        value = one.dev[what.metric]
        reporting.announce(_said(what, one, number, len(plan)))
        if best is None or value > best[0]:
            best = (value, tuner, chosen, read[fold])
    assert best is not None
    shutil.rmtree(out / "trainer", ignore_errors=True)
    _, tuner, chosen, data = best
    tuner.save(out / "model", what)
    asked = data.test or data.dev
    write_submission(out / (what.submission or "predict.json"), what, asked, tuner.predict(asked))
    results = summary(settings, what, runs) | {"cut_rows": tuner.rows.cut, "not_told": tuner.head.lost}
    results |= {"records": {part: account.as_json() for part, account in data.accounts.items()}}
    results |= {"runs": [one.as_json(what.metric) for one in runs]}
    write_json(out / "results.json", results)
    return {
        "task": what.name,
        "examples": len(data.train),
        "runs": len(runs),
        "metric": what.metric,
        **{name: results[name] for name in ("score", "deviation", "on", "low", "high", "chance", "n")},
        "skipped": sum(sum(account.skipped.values()) for account in data.accounts.values()),
    }


def clear(out: Path) -> None:
    """Remove what an earlier, unfinished try left: a short stage starts again."""
    out.mkdir(parents=True, exist_ok=True)
    for path in (found for pattern in _LEFT for found in out.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def load_data(settings: UnderstandSettings, what: Task, folder: Path, fold: int | None) -> Data:
    """The examples of a task's folder, of one FewCLUE split where `fold` is given.

    Without a dev file a share of the training file is held out, by a hash of each example's content; where nothing is
    trained, nothing is chosen, and the test file will do.
    """
    parts: dict[str, list[Path]] = {}
    for part in ("train", "dev", "test"):
        named = getattr(settings, part)
        parts[part] = [folder / named] if named else part_of(folder, part, fold)
    if settings.shots == "none":
        parts["train"] = []
    elif not parts["train"]:
        raise HanmoError(f"{folder}: no training file there; name one: train: dev.json holds a part of it out as dev")
    if parts["dev"] == parts["train"]:  # the one file there is
        parts["dev"] = []
    if parts["test"] and parts["test"] in (parts["train"], parts["dev"]):
        parts["test"] = []
    accounts: dict[str, Account] = {}
    found: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for part, paths in parts.items():
        if paths:
            found[part], accounts[part] = read_examples(paths, what, settings.on_bad_record)
    train, dev, test = found["train"], [e for e in found["dev"] if e.label is not None], found["test"]
    told = [example for example in train if example.label is not None]
    if not dev and settings.shots == "none":
        dev = [example for example in test if example.label is not None]
    elif not dev and len(told) > 1:
        told = sorted(told, key=lambda example: _draw(example, 0))
        held = max(1, round(settings.validation * len(told)))
        dev, told = told[:held], told[held:]
    if settings.max_records and len(told) > settings.max_records:
        told = sorted(told, key=lambda example: _draw(example, 1))[: settings.max_records]
    if not dev or (not told and settings.shots == "all"):
        raise HanmoError(
            f"{folder}: {len(told)} labelled examples to train on and {len(dev)} to choose by; some are needed"
        )
    known = [*told, *(dev if settings.shots == "none" else [])]
    names = {example.label: example.name for example in known if example.name}
    return Data(told, dev, test, accounts, _labels(what, known), names)


def _draw(example: Example, salt: int) -> float:
    """A number from 0 to 1 that hangs on the content alone."""
    return xxhash.xxh3_64_intdigest(repr((example.texts, example.options)).encode(), salt) / 2**64


def _labels(what: Task, examples: Sequence[Example]) -> list[str]:
    """The task's labels, else those that the training examples have."""
    if what.labels or what.head in ("choice", "reading"):
        return list(what.labels)
    if what.head == "entities":
        return sorted({kind for example in examples for *_, kind in example.label})
    return sorted({example.label for example in examples})


def _one(settings: UnderstandSettings, what: Task, folder: Path, data: Data, log: Path, seed: int) -> tuple[Run, Tuner]:
    """One run: train from the folder's weights, go back to the best checkpoint, measure it."""
    torch.manual_seed(seed)
    if settings.method == "head":
        tuner = Tuner(settings, what, folder, data.labels)
    else:
        from hanmo.understand.prompts import PromptTuner

        tuner = PromptTuner(settings, what, folder, data.labels, data.names)
    step, seconds = (0, 0.0) if settings.shots == "none" else tuner.train(data, log, seed)
    dev = score(what, len(data.labels), data.dev, tuner.predict(data.dev))
    test = score(what, len(data.labels), data.test, tuner.predict(data.test)) if data.test else None
    assert dev is not None
    return Run(seed, None, {}, dev, test, step, seconds), tuner


class Tuner:
    """A model with a head for a task, that is trained and asked.

    Args:
        folder: of the model.
        labels: in the order of the outputs.
        names: of labels in words, where the records have them.
    """

    #: Of the rate that the model's size suggests: 5e-5 at 110M parameters.
    rate = 0.25

    def __init__(
        self,
        settings: UnderstandSettings,
        what: Task,
        folder: Path,
        labels: Sequence[str],
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.settings, self.task, self.labels, self.names = settings, what, list(labels), dict(names or {})
        self.device = pick_device(settings.device)
        self.dtype = choose(self.device, settings.precision)
        self.tokenizer = load_tokenizer(folder)
        self.open(folder)
        context = getattr(self.model.config, "max_position_embeddings", None)
        wanted = settings.max_length or what.length
        if settings.max_length and context and settings.max_length > context:
            raise HanmoError(f"max_length is {settings.max_length}, but the model in {folder} has {context} positions")
        self.rows = Rows(self.tokenizer, self.model.config, min(wanted, context or wanted))
        self.model.to(self.device)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def open(self, folder: Path) -> None:
        """Load the model with its head."""
        if objective_of(folder) == "spans":
            raise HanmoError(f"{folder}: an encoder-decoder; understanding tasks take encoders and decoders")
        self.head: Any = heads.head_for(self.task.head, self.labels, self.settings.entities)
        self.model = heads.open_model(folder, self.head, self.tokenizer)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which products run in the chosen dtype."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def predict(self, examples: Sequence[Example]) -> list[Any]:
        """A prediction for each example."""
        units = self.head.units(examples, self.rows, False)
        return predict(self.model, self.head, examples, units, self.rows, self.autocast())

    def train(self, data: Data, log: Path, seed: int) -> tuple[int, float]:
        """Train, look at dev from time to time, and go back to the best state; returns its step and the seconds."""
        shared = ("batch_size", "micro_batch", "learning_rate", "warmup", "weight_decay", "clip", "log_every")
        epochs = self.settings.epochs or self.task.epochs
        settings = SftSettings(epochs=epochs, seed=seed, **{name: getattr(self.settings, name) for name in shared})
        units = self.head.units(data.train, self.rows, True)
        if not units:
            raise HanmoError("no training example can be told to the model; see the counts, or raise max_length")
        lengths = [max(map(len, unit)) * len(unit) for unit in units]
        # What is learnt here is far from what was learnt before; gradients are averaged longer than in SFT.
        arguments: dict[str, Any] = training.common_arguments(cast(Any, self), settings, log.parent, lengths, self.rate)
        arguments["adam_beta2"] = 0.999
        trainer = _Trainer(
            self.head,
            self.rows,
            units,
            model=self.model,
            args=TrainingArguments(**arguments),
        )
        best: dict[str, Any] = {"value": -1.0}

        def look() -> dict[str, float]:
            figures = score(self.task, len(self.labels), data.dev, self.predict(data.dev))
            assert figures is not None
            value, step = figures[self.task.metric], trainer.state.global_step
            if step and value > best["value"]:
                state = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
                best.update(value=value, step=step, state=state)
            return {f"dev_{self.task.metric}": value}

        reporter = reporting.Reporter(
            log,
            self.task.name,
            {"loss": "loss", "grad_norm": "gradient_norm"},
            look,
            self.settings.evaluations or epochs,
        )
        reporting.train(trainer, reporter)
        self.model.load_state_dict(best["state"])
        return best["step"], reporter.seconds

    def save(self, folder: Path, what: Task) -> None:
        """Write the model with its head, tokenizer and task.json."""
        save_model(self.model.cpu(), self.tokenizer, folder, [])
        self.model.to(self.device)
        write_json(folder / RECORD, self.record(what))

    def record(self, what: Task) -> dict[str, Any]:
        """What task.json holds."""
        told = {"task": what.name, "labels": self.labels, "names": self.names, "max_length": self.rows.length}
        return told | {"method": self.settings.method, "entities": self.settings.entities}


def summary(settings: UnderstandSettings, what: Task, runs: Sequence[Run]) -> dict[str, Any]:
    """Means over seeds and splits; of several swept settings the one that is best on dev counts."""
    tried = []
    for variant in settings.variants():
        same = [one for one in runs if one.chosen == variant]
        dev = [one.dev[what.metric] for one in same]
        tried.append({**variant, "dev": statistics.mean(dev), "dev_deviation": _deviation(dev), "same": same})
    chosen = max(tried, key=lambda one: one["dev"])
    same: list[Run] = chosen["same"]
    on = "test" if all(one.test for one in same) else "dev"
    figures: list[dict[str, Any]] = [getattr(one, on) for one in same]
    values = [one[what.metric] for one in figures]
    return {
        "task": what.name,
        "metric": what.metric,
        "on": on,
        "score": statistics.mean(values),
        "deviation": _deviation(values),
        **{key: statistics.mean(one[key] for one in figures) for key in ("low", "high", "chance")},
        "n": figures[0]["n"],
        "best": {name: value for name, value in chosen.items() if name not in ("same", "dev", "dev_deviation")},
        "sweep": [{name: value for name, value in one.items() if name != "same"} for one in tried],
    }


def _deviation(values: Sequence[float]) -> float:
    """Sample deviation; 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _said(what: Task, one: Run, number: int, count: int) -> str:
    figures = one.test or one.dev
    chosen = "".join(f", {name} {value}" for name, value in one.chosen.items())
    split = "" if one.fold is None else f", split {one.fold}"
    return (
        f"{what.name} {number}/{count} (seed {one.seed}{split}{chosen}): {what.metric} {figures[what.metric]:.4f} "
        f"[{figures['low']:.4f}, {figures['high']:.4f}] on {figures['n']} of {'test' if one.test else 'dev'}"
    )
