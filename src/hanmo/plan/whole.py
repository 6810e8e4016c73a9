"""The plan of a whole recipe, as `hanmo plan` prints it: text to tokens, then training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.models import hub
from hanmo.plan import text as texts
from hanmo.plan import training as trainings
from hanmo.plan import tuning_cost as tunings
from hanmo.plan.devices import Device, look_up
from hanmo.pool import cores as here
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import Recipe


@dataclass
class Whole:
    """What was planned. `rates`, `own` and `text` are of the text, where that could be measured."""

    rates: texts.Rates | None = None
    own: float = 0.0
    text: list[dict[str, Any]] = field(default_factory=list)
    device: Device | None = None
    price: float | None = None
    training: list[dict[str, Any]] = field(default_factory=list)
    tuning: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        found: dict[str, Any] = {"rates": vars(self.rates), "plans": self.text} if self.rates else {}
        found |= {"training": self.training} if self.training else {}
        return found | ({"tuning": self.tuning} if self.tuning else {})


def _fetch_bases(recipe: Recipe) -> None:
    """Put the folders of models that are given by name into the recipe; their shapes are what is planned."""
    for items in (items for stage in recipe.stages for items in stage.sources.values()):
        items[:] = [hub.fetched(item)[0] if isinstance(item, Path) and hub.named(item) else item for item in items]


def plan_recipe(
    recipe: Recipe,
    text: Sequence[str] = (),
    cores: int | None = None,
    sample: float = 16.0,
    device: str = "this",
    devices: int | None = None,
    mfu: float | None = None,
    price: float | None = None,
    watts: float | None = None,
) -> Whole:
    """Plan what of a recipe can be planned.

    Args:
        text: sizes such as "200GB"; none: that of the sources.
        cores: processors for the way to tokens.
        sample: megabytes of text to measure on; 0 leaves the text out.
        device, devices, mfu, price, watts: see `hanmo.plan.training.plan_training`.

    Raises:
        HanmoError: nothing of it can be planned, or not what was asked for.
    """
    found = Whole(price=price)
    _fetch_bases(recipe)
    sizes = [texts.size_of(item) for item in text]
    trains = any(
        isinstance(stage.settings, PretrainSettings) or stage.kind.planner in tunings.PLANNERS
        for stage in recipe.stages
    )
    if trains:
        found.device = look_up(device)
        found.training = trainings.plan_training(recipe, found.device, devices, mfu, price, watts)
        found.tuning = tunings.plan_tuning(recipe, found.device, mfu, price, watts)
    if sample <= 0:
        if not trains:
            raise HanmoError(f"{recipe.name}: no training in it, and --sample 0 leaves its text out")
        return found
    try:
        found.rates, found.own, sample_mb = texts.plan(recipe, sample)
    except HanmoError as error:
        if not trains or text:
            raise
        console.print(f"the way from text to tokens is not planned: {error}", markup=False)
        return found
    found.text = [texts.describe(found.rates, size, cores or here(), sample_mb) for size in sizes or [found.own]]
    return found


def show(found: Whole) -> None:
    """Print a plan for people."""
    if found.rates:
        texts.show(found.rates, found.own, found.text)
    if found.device:
        trainings.show(found.training, found.device, found.price)
        tunings.show(found.tuning, found.device, found.price)
