"""Settings of the stage that tunes a model on an understanding task."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import field_validator, model_validator

from hanmo.errors import HanmoError, nearest
from hanmo.files import expand
from hanmo.posttrain.settings import ResumedSettings
from hanmo.stage import factory, setting
from hanmo.understand.tasks import task

Method = Literal["head", "pet", "options"]
#: What a sweep may vary, and its short names.
SWEPT = ("learning_rate", "epochs", "batch_size", "max_length", "warmup", "weight_decay", "entities")
_SHORT = {"lr": "learning_rate", "batch": "batch_size", "length": "max_length"}


class UnderstandSettings(ResumedSettings):
    """Tuning on a labelled task, choosing the best checkpoint, predictions."""

    task: str = setting(..., "afqmc, tnews, cluener, ... (see `hanmo understand tasks`)")
    method: Method = setting(
        "head",
        "head: a new one on the model; pet: a cloze question with a word for each label; options: one mark for each "
        "option, as UniMC (a decoder: the likelihood of each option)",
    )
    shots: Literal["all", "none"] = setting("all", "pet and options: train on the records, or ask the model as it is")
    train: str = setting("", "file to train on, in the task's folder; empty: found by its name")
    dev: str = setting("", "file to choose the best checkpoint by; empty: found by its name")
    test: str = setting("", "file for the score and the predictions; empty: found by its name, else dev")
    folds: list[int] = factory(list, "numbers of FewCLUE's splits, e.g. [0,1,2,3,4]; their scores are averaged")
    validation: float = setting(0.2, "share of the training file that is held out where there is no dev", gt=0, le=0.5)
    on_bad_record: Literal["fail", "skip"] = setting(
        "fail", "a record with a fault: stop with its file and line, or leave it out and count it"
    )
    max_records: int = setting(0, "train on at most this many examples, a fixed sample; 0: all", ge=0)
    max_length: int = setting(0, "longest row in tokens; 0: the task's, at most the model's context", ge=0)
    epochs: int = setting(0, "passes over the training examples; 0: the task's", ge=0)
    batch_size: int = setting(32, "examples in one optimiser step", ge=1)
    learning_rate: float = setting(0.0, "peak of the rate; 0: by the model's size", ge=0)
    warmup: float = setting(0.1, "fraction of the steps in which the rate rises", ge=0, le=1)
    weight_decay: float = setting(0.01, "decoupled weight decay", ge=0)
    clip: float = setting(1.0, "largest norm of the gradient", gt=0)
    entities: Literal["crf", "span"] = setting(
        "crf", "how entities are found: tags under a CRF, or their beginnings and ends"
    )
    pooling: Literal["cls", "mean"] = setting(
        "cls", "what an encoder's class is read from: [CLS], or the mean of all tokens (no stock class loads that)"
    )
    seeds: list[int] = factory(lambda: [1], "one run each; the scores are averaged, the best model is kept")
    sweep: list[str] = factory(
        list, "values to try, the best by dev is kept: lr=1e-5,3e-5, or several: [lr=1e-5;3e-5, epochs=3;5]"
    )
    device: str = setting("auto", "auto, cpu, cuda, mps, ...", affects="speed")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "arithmetic of the products; auto: bf16 where a probe finds it fast", affects="speed"
    )
    micro_batch: int = setting(
        0, "rows in one forward pass; 0: the batch, less where rows are long", affects="speed", ge=0
    )
    threads: int = setting(0, "CPU threads; 0: torch's default", affects="speed", ge=0)
    log_every: int = setting(10, "steps between lines of log.jsonl", affects="speed", ge=1)
    evaluations: int = setting(0, "looks at dev in a run; 0: one after each pass", ge=0)

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return task(value).name
        except HanmoError as error:
            raise ValueError(str(error)) from None

    @field_validator("seeds", "folds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A number where a list belongs is a list of one; so is "1,2,3" a list."""
        if isinstance(value, str):
            return value.replace(",", " ").split()
        return [value] if isinstance(value, int) else value

    @model_validator(mode="after")
    def _whole(self) -> UnderstandSettings:
        if not self.seeds:
            raise ValueError("seeds: give at least one")
        if self.shots == "none" and self.method == "head":
            raise ValueError("shots: none asks a model as it is, which a new head cannot answer; set method: pet")
        for part in ("train", "dev", "test"):
            if self.folds and part != "test" and getattr(self, part):
                raise ValueError(f"folds name the files to train on and choose by; leave {part} out")
        self.variants()
        return self

    def variants(self) -> list[dict[str, Any]]:
        """The settings that the sweep tries, each as name -> value; one without any where there is no sweep."""
        axes: dict[str, list[Any]] = {}
        for given in self.sweep:
            for word in given.split():
                short, equals, values = word.partition("=")
                name = _SHORT.get(short, short.replace("-", "_"))
                if not equals or name not in SWEPT:
                    raise ValueError(
                        f"sweep: '{word}' is no name=value,value{nearest(name, SWEPT)} (names: {', '.join(SWEPT)})"
                    )
                axes[name] = [_checked(name, one) for one in values.replace(";", ",").split(",") if one]
                if not axes[name]:
                    raise ValueError(f"sweep: '{word}' has no values")
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def external(self) -> list[Path]:
        """The files that are named with a path of their own."""
        return [path for part in (self.train, self.dev, self.test) if (path := Path(part)).is_absolute()]

    def anchored(self, folder: Path) -> UnderstandSettings:
        """Files named with a folder (`./a.json`) are taken from `folder`; a bare name is one of the task's own."""
        named = {part: getattr(self, part) for part in ("train", "dev", "test")}
        return self.model_copy(update={part: str(expand(name, folder)) for part, name in named.items() if "/" in name})


def _checked(name: str, text: str) -> Any:
    """A swept value, as the setting would take it."""
    from pydantic import TypeAdapter, ValidationError

    kind: Any = UnderstandSettings.model_fields[name].annotation
    try:
        return TypeAdapter(kind).validate_python(text if name == "entities" else yaml_number(text))
    except ValidationError as error:
        raise ValueError(f"sweep: {name}: '{text}' ({error.errors()[0]['msg']})") from None


def yaml_number(text: str) -> Any:
    """A number as people write it; YAML alone takes 1e-5 for text."""
    try:
        return float(text) if any(mark in text.lower() for mark in ".e") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text
