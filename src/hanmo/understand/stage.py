"""The stage that tunes a model on an understanding task: each seed, split and swept setting is a run; the best is kept.

Out: `model/` (the best run's best checkpoint, with task.json), `results.json`, `log-*.jsonl` and the predictions on the
test file (else dev) in CLUE's form.

A killed stage does no finished run again, and goes on with the one that it was at from its last checkpoint: same
records, same settings, same number of threads end at the same scores and the same weights to the last bit.
"""

from __future__ import annotations

import contextlib
import shutil
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
from hanmo.posttrain.resuming import Checkpoints
from hanmo.posttrain.settings import SftSettings
from hanmo.pretrain.precision import choose, pick_device, short_name
from hanmo.tokenizer import load as load_tokenizer
from hanmo.understand import heads
from hanmo.understand.files import Account, part_of, read_examples
from hanmo.understand.forms import Example
from hanmo.understand.rows import Row, Rows
from hanmo.understand.runs import Best, Run, best_of, done, folder_of, keep, summary
from hanmo.understand.scoring import predict, score
from hanmo.understand.settings import UnderstandSettings
from hanmo.understand.submit import write_submission
from hanmo.understand.tasks import RECORD, Task, task

#: What a run leaves in the stage's folder; that of an earlier try that ended none is removed first.
_LEFT = ("model", ".model.*.tmp", "log-*.jsonl", "results.json", "*_predict.json", "predict.json")


@dataclass
class Data:
    """The examples of a run, and what became of the records."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]
    accounts: dict[str, Account]
    labels: list[str]
    names: dict[str, str]


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
    runs = done(out)
    if not runs:
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
    # What a probe finds may be another thing in every process, and its draws are not a seed's.
    dtype = training.arithmetic(out, pick_device(settings.device), settings.precision)
    settings = settings.model_copy(update={"precision": short_name(dtype)})
    if runs:
        reporting.announce(f"goes on behind run {len(runs)} of {len(plan)}, where an earlier stage was stopped")
    for number, (variant, fold, seed) in enumerate(plan[len(runs) :], len(runs) + 1):
        data = read[fold]
        one, tuner, said = _one(settings.model_copy(update=variant), what, folder, data, out, number, seed)
        one.fold, one.chosen = fold, variant
        runs.append(one)
        reporting.announce(one.line(what, number, len(plan)))
        if one is best_of(runs, what):
            tuner.save(out / "model", what)
            write_submission(out / (what.submission or "predict.json"), what, data.test or data.dev, said)
        keep(out, number, one)
    best = best_of(runs, what)
    data = read[best.fold]
    results = summary(settings, what, runs) | {"cut_rows": best.cut, "not_told": best.lost}
    results |= {"records": {part: account.as_json() for part, account in data.accounts.items()}}
    results |= {"runs": [one.as_json(what.metric) for one in runs]}
    write_json(out / "results.json", results)
    shutil.rmtree(out / "trainer", ignore_errors=True)
    return {
        "task": what.name,
        "examples": len(data.train),
        "runs": len(runs),
        "metric": what.metric,
        **{name: results[name] for name in ("score", "deviation", "on", "low", "high", "chance", "n")},
        "skipped": sum(sum(account.skipped.values()) for account in data.accounts.values()),
    }


def clear(out: Path) -> None:
    """Remove what an earlier try left that ended no run, besides its checkpoints."""
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


def _one(
    settings: UnderstandSettings, what: Task, folder: Path, data: Data, out: Path, number: int, seed: int
) -> tuple[Run, Tuner, list[Any]]:
    """One run: train from the folder's weights, go back to the best checkpoint, measure it; with what it predicts."""
    torch.manual_seed(seed)
    if settings.method == "head":
        tuner = Tuner(settings, what, folder, data.labels)
    else:
        from hanmo.understand.prompts import PromptTuner

        tuner = PromptTuner(settings, what, folder, data.labels, data.names)
    step, seconds = (0, 0.0) if settings.shots == "none" else tuner.train(data, out, number, seed)
    said = tuner.predict(data.dev)
    dev = score(what, len(data.labels), data.dev, said)
    test = None
    if data.test:
        said = tuner.predict(data.test)
        test = score(what, len(data.labels), data.test, said)
    assert dev is not None
    return Run(seed, None, {}, dev, test, step, seconds, tuner.rows.cut, tuner.head.lost), tuner, said


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
        #: The examples that were asked last, and their units: dev is looked at again and again.
        self._asked: tuple[Sequence[Example], Any] | None = None
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def open(self, folder: Path) -> None:
        """Load the model with its head."""
        if objective_of(folder) == "spans":
            raise HanmoError(f"{folder}: an encoder-decoder; understanding tasks take encoders and decoders")
        self.head: Any = heads.head_for(self.task.head, self.labels, self.settings.entities)
        self.model = heads.open_model(folder, self.head, self.tokenizer, self.settings.pooling)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which products run in the chosen dtype."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def predict(self, examples: Sequence[Example]) -> list[Any]:
        """A prediction for each example."""
        if self._asked is None or self._asked[0] is not examples:
            self._asked = examples, self.head.units(examples, self.rows, False)
        return predict(self.model, self.head, examples, self._asked[1], self.rows, self.autocast())

    def train(self, data: Data, out: Path, number: int, seed: int) -> tuple[int, float]:
        """Train, look at dev from time to time, and go back to the best state; returns its step and the seconds.

        Args:
            out: gets the log, and checkpoints on the way.
            number: of the run.
        """
        shared = ("batch_size", "micro_batch", "learning_rate", "warmup", "weight_decay", "clip", "log_every")
        epochs = self.settings.epochs or self.task.epochs
        settings = SftSettings(epochs=epochs, seed=seed, **{name: getattr(self.settings, name) for name in shared})
        units = self.head.units(data.train, self.rows, True)
        if not units:
            raise HanmoError("no training example can be told to the model; see the counts, or raise max_length")
        lengths = [max(map(len, unit)) * len(unit) for unit in units]
        # What is learnt here is far from what was learnt before; gradients are averaged longer than in SFT.
        arguments: dict[str, Any] = training.common_arguments(cast(Any, self), settings, out, lengths, self.rate)
        arguments["adam_beta2"] = 0.999
        trainer = _Trainer(
            self.head,
            self.rows,
            units,
            model=self.model,
            args=TrainingArguments(**arguments),
        )
        best = Best()
        checkpoints = Checkpoints(folder_of(out, number), self.settings.checkpoint_seconds, best.save)
        if last := checkpoints.last():
            best.load(last)

        def look() -> dict[str, float]:
            figures = score(self.task, len(self.labels), data.dev, self.predict(data.dev))
            assert figures is not None
            value, step = figures[self.task.metric], trainer.state.global_step
            if step and value > best.value:
                best.value, best.step = value, step
                best.state = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
            return {f"dev_{self.task.metric}": value}

        reporter = reporting.Reporter(
            out / f"log-{number}.jsonl",
            self.task.name,
            {"loss": "loss", "grad_norm": "gradient_norm"},
            look,
            self.settings.evaluations or epochs,
        )
        reporting.train(trainer, reporter, checkpoints)
        self.model.load_state_dict(best.state)
        return best.step, reporter.seconds

    def save(self, folder: Path, what: Task) -> None:
        """Write the model with its head, tokenizer and task.json."""
        save_model(self.model.cpu(), self.tokenizer, folder, [])
        self.model.to(self.device)
        write_json(folder / RECORD, self.record(what))

    def record(self, what: Task) -> dict[str, Any]:
        """What task.json holds."""
        told = {"task": what.name, "labels": self.labels, "names": self.names, "max_length": self.rows.length}
        told |= {"method": self.settings.method, "entities": self.settings.entities}
        return told | {"pooling": "mean" if hasattr(self.model, "mean_classifier") else "cls"}
