"""What the command line is made of: groups in the corridor's order, and the commands of stages.

The commands of stages are made from their schemas: every input role and every setting is an option, so that what a
recipe can say, the command line can say by the same name.
"""

from __future__ import annotations

import importlib
import json
from copy import copy
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic_core import PydanticUndefined

from hanmo import ranks
from hanmo.errors import HanmoError, nearest
from hanmo.models import hub
from hanmo.remote import as_path, is_url
from hanmo.stage import Settings, StageKind


class Place(click.Path):
    """A path, the URL of something elsewhere (see `hanmo.remote`), or a model's name on a hub (`hanmo.models.hub`)."""

    def __init__(self, *, by_name: bool = False, **given: Any) -> None:
        super().__init__(**given)
        self.by_name = by_name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.by_name and hub.named(value):
            return Path(value)
        return as_path(value) if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


class Group(click.Group):
    """Keeps the commands in the corridor's order and names the nearest on a slip."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise HanmoError(f"unknown command '{args[0]}'{nearest(args[0], self.commands)} (see `hanmo --help`)")
        return super().resolve_command(ctx, args)


class _StageGroup(Group):
    """A stage's command that also holds commands of its room: `hanmo corpus --out …` and `hanmo corpus inspect …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:  # what the stage must be given is not asked of the others
            for option in self.params:
                option.required = False
        return super().parse_args(ctx, args)


def stage_command(what: StageKind, room: tuple[str, str] | None = None) -> click.Command:
    """The command of one kind of stage.

    Args:
        room: the stage's own name among the room's commands, and "module:name" of a list of the others.
    """
    options: list[click.Parameter] = []
    for item in what.inputs:
        options.append(
            click.Option(
                [f"--{item.role}", f"input_{item.role}"],
                type=Place(exists=True, path_type=Path, by_name=item.role in hub.ROLES),
                required=item.required,
                multiple=item.many,
                help=item.doc + (" (may be given several times)" if item.many else ""),
            )
        )
    options.append(click.Option(["--out"], type=Place(path_type=Path), required=True, help="the folder to make"))
    if what.planner:
        options.append(
            click.Option(["--fit"], is_flag=True, help="choose what decides memory so that it fits into what is free")
        )
    options += _settings_options(what.settings)

    def call(out: Path, fit: bool = False, **given: Any) -> None:
        from hanmo.api import run_stage

        inputs = {key[6:]: value for key, value in given.items() if key.startswith("input_") and value}
        settings: dict[str, Any] = {}
        for key, text in given.items():
            if key.startswith("set_") and text is not None:
                *groups, name = key[4:].split("__")
                place = settings
                for group in groups:
                    place = place.setdefault(group, {})
                place[name] = _value(text, key[4:].replace("__", "."))
        manifest = run_stage(what.do, out=out, inputs=inputs, fit=fit, **settings)
        if not ranks.following():
            click.echo(json.dumps({"out": str(out), **manifest["counts"]}, ensure_ascii=False))

    summary = what.summary[0].upper() + what.summary[1:] + "."
    if room is None:
        return click.Command(what.do, callback=call, params=options, help=summary)

    @click.pass_context
    def call_alone(ctx: click.Context, **given: Any) -> None:
        if ctx.invoked_subcommand is None:
            call(**given)

    group = _StageGroup(what.do, callback=call_alone, params=options, help=summary, invoke_without_command=True)
    own, place = room
    group.add_command(click.Command(own, callback=call, params=[copy(option) for option in options], help=summary))
    module, _, name = place.partition(":")
    for command in getattr(importlib.import_module(module), name):
        group.add_command(command)
    return group


def _settings_options(schema: type[Settings], group: str = "") -> list[click.Parameter]:
    """One option per setting; those of a group of settings are called `--group.name`."""
    options: list[click.Parameter] = []
    for name, info in schema.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            options += _settings_options(info.annotation, f"{group}{name}.")
            continue
        default = info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined
        shown = "" if default is PydanticUndefined or default in (None, "") else f" [default: {_plain(default)}]"
        options.append(
            click.Option(
                [f"--{group}{name.replace('_', '-')}", f"set_{group.replace('.', '__')}{name}"],
                metavar="VALUE",
                help=(info.description or "") + shown,
            )
        )
    return options


def _plain(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value(text: str, name: str) -> Any:
    """An option's text as YAML: numbers, true, [lists] and {groups} as a recipe would hold them."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HanmoError(f"--{name.replace('_', '-')}: '{text}' is no YAML value ({error})") from None
