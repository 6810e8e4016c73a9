"""Commands about model folders: `hanmo model …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="The folder of the new tokenizer.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--multiple", default=64, show_default=True, type=click.IntRange(min=1), help="Round rows up to this.")
def resize(model: Path, tokenizer: Path, out: Path, multiple: int) -> None:
    """Give MODEL another vocabulary: an extended tokenizer or another one altogether.

    Each new row of the embeddings starts as the mean of the rows that the old tokenizer uses for its text.
    """
    from hanmo.models.vocabulary import resize as function

    click.echo(json.dumps({"out": str(out), **function(model, tokenizer, out, multiple)}, ensure_ascii=False))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, required=True, help="A text (may be given several times).")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    default=["norm"],
    show_default=True,
    help="embeddings, layers.3, layers.0-3, layers.*.attention, layers.3.mlp, norm, head (may be given several times).",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps, ...")
def hidden(model: Path, texts: tuple[str, ...], layers: tuple[str, ...], out: Path, device: str) -> None:
    """Write what parts of MODEL give for texts: [texts, tokens, width] by the part's name, with ids and lengths."""
    from safetensors.torch import save

    from hanmo.files import atomic_write
    from hanmo.models import hidden as function

    found = function(model, texts, layers, device=device)
    with atomic_write(out, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in found.items()}))
    click.echo(json.dumps({"out": str(out)} | {name: list(tensor.shape) for name, tensor in found.items()}))


COMMANDS: list[click.Command] = [resize, hidden]
