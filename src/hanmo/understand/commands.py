"""`hanmo understand …`: the table of tasks, and predictions with a tuned model."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("tasks")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(as_json: bool) -> None:
    """List the tasks: what is asked, the form of the files, the head, the metric."""
    from rich.table import Table

    from hanmo.console import Console
    from hanmo.understand.tasks import TASKS

    if as_json:
        for task in TASKS.values():
            record = {"task": task.name, "what": task.what, "form": task.form, "head": task.head}
            more = {"metric": task.metric, "labels": len(task.labels), "submission": task.submission}
            click.echo(json.dumps(record | more, ensure_ascii=False))
        return
    table = Table("task", "what", "head", "metric", "labels", "submission")
    for task in TASKS.values():
        labels = str(len(task.labels)) if task.labels else ""
        table.add_row(task.name, task.what, task.head, task.metric, labels, task.submission)
    Console().print(table)


@click.command("predict")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="What `hanmo understand train` made.")
@click.option("--input", type=click.Path(path_type=Path), required=True, help="A file in the task's form.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file of predictions to write.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps, ...")
def predict(model: Path, input: Path, out: Path, device: str) -> None:
    """Answer a file of records with a tuned model, in the form that CLUE's server takes; scores it if it has labels."""
    from hanmo.understand.predict import predict_file

    click.echo(json.dumps({"out": str(out), **predict_file(model, input, out, device)}, ensure_ascii=False))


COMMANDS: list[click.Command] = [tasks, predict]
