"""The command line: one thin command a verb.

The commands of stages are made from their schemas: every input role and every setting is an option, so that what a
recipe can say, the command line can say by the same name.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from copy import copy
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic_core import PydanticUndefined

from hanmo import ranks
from hanmo.errors import HanmoError, describe_os_error, nearest
from hanmo.models.commands import COMMANDS as MODEL_COMMANDS
from hanmo.plan.commands import models, plan
from hanmo.remote import as_path, is_url
from hanmo.stage import Settings, StageKind
from hanmo.stages import KINDS

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Place(click.Path):
    """A path, or the URL of something elsewhere (see `hanmo.remote`)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return as_path(value) if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


class _Group(click.Group):
    """Keeps the commands in the corridor's order and names the nearest on a slip."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise HanmoError(f"unknown command '{args[0]}'{nearest(args[0], self.commands)} (see `hanmo --help`)")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.version_option(package_name="hanmo")
def cli() -> None:
    """Hanmo (翰墨): small Chinese language models, from raw text to an evaluated, exported and served model."""


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[STAGE.KEY=VALUE]...")
@click.option("--out", type=_Place(path_type=Path), help="The run's folder (default: runs/NAME OF THE RECIPE).")
@click.option("--from", "start", metavar="STAGE", help="Run this stage and all that reads it anew.")
@click.option("--until", metavar="STAGE", help="Stop behind this stage.")
@click.option("--only", metavar="STAGE", help="Run this stage alone; what it reads must be done.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")
@click.option("--fit", is_flag=True, help="Choose micro-batches and the like so that training fits into memory.")
def run(
    recipe: Path,
    settings: tuple[str, ...],
    out: Path | None,
    start: str | None,
    until: str | None,
    only: str | None,
    dry_run: bool,
    fit: bool,
) -> None:
    """Run a RECIPE: all its stages that are not done, each in a process of its own.

    Run it again after a kill or a change: what is done is skipped, what was interrupted goes on, what would come out
    otherwise is made anew.
    """
    from hanmo.recipe import load_recipe
    from hanmo.run import run_recipe

    checked = load_recipe(recipe, list(settings))
    run_recipe(checked, out or Path("runs") / checked.name, start, until, dry_run, only, fit)


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[STAGE.KEY=VALUE]...")
@click.option("--out", type=_Place(path_type=Path), required=True, help="The run's folder; all machines see it.")
@click.option("--partition", default="", help="Slurm's partition.")
@click.option("--time", default="", help="Limit of each job, e.g. 12:00:00.")
@click.option("--cpus", type=click.IntRange(min=1), default=4, show_default=True, help="Processors of each job.")
@click.option("--mem", default="", help="Memory of each job, e.g. 16G.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="GPUs of stages that compute with a model.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Machines that train together.")
@click.option("--array", type=click.IntRange(min=1), default=16, show_default=True, help="Elements of an array job.")
@click.option("--sbatch", "more", multiple=True, metavar="OPTION", help="Another option, e.g. --sbatch=--account=lab.")
@click.option("--dry-run", is_flag=True, help="Write the scripts and submit nothing.")
def slurm(recipe: Path, settings: tuple[str, ...], out: Path, dry_run: bool, **given: Any) -> None:
    """Run a RECIPE as Slurm jobs: writes the scripts to OUT/slurm and submits them.

    Corpus and tokens stages become arrays of jobs that share the work. Submit again after a failure or a change: what
    is done is not done again.
    """
    from hanmo.recipe import load_recipe
    from hanmo.slurm import Resources, submit, write_scripts

    if is_url(str(out)):
        raise HanmoError(f"{out}: scripts and logs need a folder that all machines see; give such an --out")
    script = write_scripts(load_recipe(recipe, list(settings)), recipe, settings, out.absolute(), Resources(**given))
    click.echo(script)
    if not dry_run:
        click.echo(submit(script))


@cli.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--phase", required=True)
@click.option("--share", required=True, metavar="I/N")
@click.option("--workers", type=click.IntRange(min=1), default=1)
def work(folder: Path, phase: str, share: str, workers: int) -> None:
    """Do a share of the tasks that a stage has left for a phase; for the scripts of `hanmo slurm`."""
    from hanmo.slurm import work as function

    index, count = (int(part) for part in share.split("/"))
    now, before = function(folder, phase, index, count, workers)
    click.echo(f"{phase}: {now} tasks done, {before} done before")


cli.add_command(plan)
cli.add_command(models)


@cli.command()
@click.argument("directory", type=_Place(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(directory: Path, as_json: bool) -> None:
    """Say what stands in a run's folder: stages, seconds, memory."""
    from rich.console import Console
    from rich.table import Table

    from hanmo.console import human_seconds
    from hanmo.run import status as find

    found = find(directory)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    table = Table("stage", "does", "state", "time", "memory", "counts", title=str(directory))
    for item in found:
        seconds = human_seconds(item["seconds"]) if "seconds" in item else ""
        memory = f"{item['peak_memory_mb']:.0f} MB" if "peak_memory_mb" in item else ""
        counts = {k: v for k, v in item.get("counts", {}).items() if isinstance(v, int | float | str)}
        shown = ", ".join(f"{k} {v}" for k, v in list(counts.items())[:4])
        table.add_row(item["stage"], item["do"], item["state"], seconds, memory, shown)
    Console().print(table)


class _StageGroup(_Group):
    """A stage's command that also holds commands of its room: `hanmo corpus --out …` and `hanmo corpus inspect …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:  # what the stage must be given is not asked of the others
            for option in self.params:
                option.required = False
        return super().parse_args(ctx, args)


def _stage_command(what: StageKind, room: tuple[str, str] | None = None) -> click.Command:
    """The command of one kind of stage.

    Args:
        room: the stage's own name among the room's commands, and "module:name" of a list of the others.
    """
    options: list[click.Parameter] = []
    for item in what.inputs:
        options.append(
            click.Option(
                [f"--{item.role}", f"input_{item.role}"],
                type=_Place(exists=True, path_type=Path),
                required=item.required,
                multiple=item.many,
                help=item.doc + (" (may be given several times)" if item.many else ""),
            )
        )
    options.append(click.Option(["--out"], type=_Place(path_type=Path), required=True, help="the folder to make"))
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


#: Rooms that have further commands beside their stage: the stage's own name among them, and where they are.
_ROOMS = {
    "corpus": ("make", "hanmo.corpus.commands:COMMANDS"),
    "tokenizer": ("train", "hanmo.tokenizer.commands:COMMANDS"),
    "convert": ("gguf", "hanmo.convert.commands:COMMANDS"),
}

for _kind in KINDS.values():
    cli.add_command(_stage_command(_kind, _ROOMS.get(_kind.do)))


@cli.group(cls=_Group)
def model() -> None:
    """Change model folders and look into them: another vocabulary, hidden states."""


for _command in MODEL_COMMANDS:
    model.add_command(_command)


def _talking(command: Any) -> Any:
    """The options that generate, chat and serve share; they arrive as `sampling` and as engine options."""
    for option in reversed(
        [
            click.option("--max-tokens", type=int, help="Longest answer in tokens."),
            click.option("--temperature", type=float, help="0 takes the likeliest token; 0.7 is the default."),
            click.option("--top-p", type=float, help="Draw from the likeliest tokens of this share; 0.9."),
            click.option("--top-k", type=int, help="Draw from so many of the likeliest tokens; 0 is off."),
            click.option("--repetition-penalty", type=float, help="Above 1 makes repetition dearer."),
            click.option("--seed", type=int, help="Makes the draw repeatable."),
            click.option("--stop", multiple=True, help="End an answer before this text (may be given several times)."),
            click.option("--context", type=int, help="Tokens of prompt and answer together."),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps, ..."),
            click.option("--threads", type=int, help="CPU threads."),
        ]
    ):
        command = option(command)
    return command


def _sampling(given: dict[str, Any], **defaults: Any) -> Any:
    """Take the sampling options out of `given` and make a `Sampling` of them."""
    from dataclasses import fields

    from hanmo.serve.sampling import Sampling

    chosen = {f.name: given.pop(f.name) for f in fields(Sampling) if f.name in given}
    return Sampling(**{**defaults, **{name: value for name, value in chosen.items() if value not in (None, ())}})


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1)
@click.option("--input", type=click.Path(path_type=Path), help="A file of prompts: one a line, or jsonl {prompt}.")
@click.option("--output", type=click.Path(path_type=Path), help="Write completions there as jsonl.")
@click.option("--prefix", default="", help="Text before every prompt.")
@click.option("--suffix", default="", help="Text behind every prompt.")
@click.option("--as-chat", is_flag=True, help="Ask the prompts as questions instead of continuing them.")
@_talking
def generate(model: Path, prompts: tuple[str, ...], **given: Any) -> None:
    """Continue PROMPTS with a MODEL (a model folder, a stage's folder or a .gguf file)."""
    from hanmo.serve import generate as function

    sampling = _sampling(given, max_tokens=256)
    function(model, list(prompts), sampling=sampling, **given)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--system", help="A system message at the head of the conversation.")
@_talking
def chat(model: Path, **given: Any) -> None:
    """Talk to a MODEL in the terminal; /help there lists what can be done."""
    from hanmo.serve import chat as function

    sampling = _sampling(given)
    function(model, sampling=sampling, **given)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything but loopback needs a key.")
@click.option("--port", default=8000, show_default=True, help="0 takes any free one.")
@click.option("--api-key", help="What clients must send; or set HANMO_API_KEY.")
@click.option("--waiting", default=16, show_default=True, help="Requests that may wait; more get status 503.")
@_talking
def serve(model: Path, **given: Any) -> None:
    """Serve a MODEL over an OpenAI-compatible API, with a chat page at /."""
    from hanmo.serve import serve as function

    sampling = _sampling(given)
    function(model, sampling=sampling, **given)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--full", is_flag=True, help="Also try the compiler (takes half a minute).")
def doctor(as_json: bool, full: bool) -> None:
    """Say what this machine can do, what is missing and how to mend it."""
    from hanmo.doctor import collect, print_report

    found = collect(full=full)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print_report(found)


def main() -> None:
    """Entry point: faults the user can mend are one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal's code page may lack a character; no reason to stop
            stream.reconfigure(errors="replace")
    try:
        cli(standalone_mode=False)
    except HanmoError as error:
        _fail(str(error))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message())
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        line = describe_os_error(error)
        if line is None:
            raise
        _fail(line)


def _fail(line: str) -> None:
    from hanmo.console import console

    if not ranks.first_to_tell():
        sys.exit(2)
    console.quiet = False
    console.print(f"error: {line}", style="red", markup=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
