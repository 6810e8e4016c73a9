"""The command line: one thin command a verb."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import click

from hanmo import ranks
from hanmo.errors import HanmoError, describe_os_error
from hanmo.messages import LANGUAGES, choose_language, language
from hanmo.models.commands import COMMANDS as MODEL_COMMANDS
from hanmo.plan.commands import models, plan
from hanmo.posttrain.commands import COMMANDS as DATA_COMMANDS
from hanmo.process import ours
from hanmo.publish.commands import publish
from hanmo.remote import is_url
from hanmo.serve.commands import COMMANDS as TALKING
from hanmo.stage_commands import Group, Place, stage_command
from hanmo.stages import KINDS
from hanmo.studio.commands import studio

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Group, context_settings=_CONTEXT)
@click.version_option(package_name="hanmo")
@click.option("--lang", type=click.Choice(LANGUAGES), expose_value=False, help="The language of messages and of help.")
def cli() -> None:
    """Hanmo (翰墨): small Chinese language models, from raw text to an evaluated, exported and served model."""


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[STAGE.KEY=VALUE]...")
@click.option("--out", type=Place(path_type=Path), help="The run's folder (default: runs/NAME OF THE RECIPE).")
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
@click.option("--out", type=Place(path_type=Path), required=True, help="The run's folder; all machines see it.")
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
@click.argument("directory", type=Place(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(directory: Path, as_json: bool) -> None:
    """Say what stands in a run's folder: stages, seconds, memory."""
    from rich.table import Table

    from hanmo.console import Console, human_seconds
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


#: Rooms that have further commands beside their stage: the stage's own name among them, and where they are.
_ROOMS = {
    "corpus": ("make", "hanmo.corpus.commands:COMMANDS"),
    "tokenizer": ("train", "hanmo.tokenizer.commands:COMMANDS"),
    "understand": ("train", "hanmo.understand.commands:COMMANDS"),
    "eval": ("models", "hanmo.evaluate.commands:COMMANDS"),
    "convert": ("gguf", "hanmo.convert.commands:COMMANDS"),
}
#: Stages that are commands of another's room.
_INSIDE = {"exam", "generation"}

for _kind in KINDS.values():
    if _kind.do in _INSIDE:
        continue
    cli.add_command(stage_command(_kind, _ROOMS.get(_kind.do)))


@cli.group(cls=Group)
def model() -> None:
    """Change model folders and look into them: another vocabulary, hidden states."""


for _command in MODEL_COMMANDS:
    model.add_command(_command)


@cli.group(cls=Group)
def data() -> None:
    """Look into record files before training: forms, lengths, faults."""


for _command in DATA_COMMANDS:
    data.add_command(_command)


for _command in TALKING:
    cli.add_command(_command)
cli.add_command(studio)
cli.add_command(publish)


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
    choose_language(sys.argv[1:])
    if language() == "zh":
        from hanmo.messages.help import in_chinese

        in_chinese(cli)
    try:
        # Where somebody else's program has called us, torch may have threads and devices open.
        with ours() if "torch" not in sys.modules else contextlib.nullcontext():
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
