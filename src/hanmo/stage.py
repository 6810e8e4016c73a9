"""What a stage is: a kind with a settings schema, named inputs and one function that fills one folder.

The contract is small enough to hold in the head:

* `run(settings, inputs, out)` reads the folders in `inputs` (role -> list of paths), fills `out` and returns counts;
* `out` may hold what a killed try left behind: go on from it, or wipe it and start again;
* `manifest.json`, written by the runner after the function returned, is what makes the folder a result.

Settings are pydantic models owned by the rooms. Every field says by `affects` what a change of it means for a stage
that has already run: "result" (run again), "budget" (a larger value extends, e.g. more training tokens) or "speed"
(nothing: device, micro-batch, processes, logging).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Affects = Literal["result", "budget", "speed"]


def _split(words: list[str]) -> list[str]:
    return [name.strip() for word in words for name in word.split(",")]


#: A list of names, which a command line may give as one word: `--formats f16,q8_0`.
Names = Annotated[list[str], AfterValidator(_split)]
StageFunction = Callable[[Any, dict[str, list[Path]], Path], dict[str, Any]]


class Settings(BaseModel):
    """Base of every settings schema: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """One word where a list of words belongs is a list of one: `freeze: embeddings`."""
        if not isinstance(given, dict):
            return given
        words = [name for name, info in cls.model_fields.items() if info.annotation == list[str]]
        return given | {name: [given[name]] for name in words if isinstance(given.get(name), str)}

    def external(self) -> list[Path]:
        """Files and folders outside the run that these settings name; a result is stale when their content changes."""
        return []

    def anchored(self, folder: Path) -> Settings:
        """A copy whose relative paths are taken from `folder` (the recipe's)."""
        return self

    def phases(self) -> list[str]:
        """The phases of tasks that the stage will run, by their titles (see `hanmo.pool.run_phase`)."""
        return []


def setting(default: Any = ..., doc: str = "", *, affects: Affects = "result", **limits: Any) -> Any:
    """A pydantic field with its help text, what a change of it means, and limits (`ge`, `gt`, `le`, ...)."""
    return Field(default, description=doc, json_schema_extra={"affects": affects}, **limits)


def factory(make: Callable[[], Any], doc: str = "", *, affects: Affects = "result") -> Any:
    """Like `setting`, for defaults that need a new object each time (lists, nested settings)."""
    return Field(default_factory=make, description=doc, json_schema_extra={"affects": affects})


def affects_of(schema: type[BaseModel], name: str) -> Affects:
    """What a change of the field `name` means for an earlier result."""
    extra = schema.model_fields[name].json_schema_extra
    return extra["affects"] if isinstance(extra, dict) and "affects" in extra else "result"  # type: ignore[return-value]


def by_effect(settings: Settings, effect: Affects) -> dict[str, Any]:
    """The settings, as JSON values, whose change means `effect`; without what says otherwise inside groups and lists of
    settings.
    """
    schema = type(settings)
    return {
        name: _only(getattr(settings, name), value, effect)
        for name, value in settings.model_dump(mode="json").items()
        if affects_of(schema, name) == effect
    }


def _only(value: Any, dumped: Any, effect: Affects) -> Any:
    if isinstance(value, Settings):
        return by_effect(value, effect)
    if isinstance(value, list):
        return [_only(item, shown, effect) for item, shown in zip(value, dumped, strict=True)]
    return dumped


@dataclass(frozen=True)
class Input:
    """A role that a stage reads: a stage's name in a recipe, a path on the command line."""

    role: str
    doc: str
    required: bool = True
    many: bool = False


@dataclass(frozen=True)
class StageKind:
    """One verb of the corridor. `function` is "module:name" and is imported only where the stage runs."""

    do: str
    summary: str
    settings: type[Settings]
    inputs: tuple[Input, ...]
    function: str
    #: What of it may be elsewhere (see `hanmo.remote`): "reads" for its inputs, "writes" for its folder too. What may
    #: not is brought to this machine first, and sent when it is done.
    remote: Literal["", "reads", "writes"] = ""
    #: What is run as the stage's process, as `python -m MODULE FOLDER`; "hanmo.child" is one process.
    process: str = "hanmo.child"
    #: The module that knows which settings fit into memory: its `fitted` chooses them, its `explain` names them.
    planner: str = ""

    def load(self) -> StageFunction:
        """Import and return the stage's function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)

    def role(self, name: str) -> Input | None:
        """The input with that role, or None."""
        return next((item for item in self.inputs if item.role == name), None)
