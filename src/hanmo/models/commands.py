"""Commands about model folders: `hanmo model …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hanmo.errors import HanmoError


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
    help="embeddings, layers.3, layers.0-3, layers.*.attention, layers.3.mlp, norm, head; of an encoder-decoder "
    "encoder.layers.3, decoder.layers.3.cross, decoder.norm, ... (may be given several times; the last norm).",
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--input", type=click.Path(path_type=Path), help="A file of more texts, one a line; - is stdin.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Tokens shown for each mask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a text.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps, ...")
def fill(model: Path, texts: tuple[str, ...], input: Path | None, top: int, as_json: bool, device: str) -> None:
    """Fill the masks of TEXTS ("春天[MASK]了") with a MODEL that learned to: an encoder, or a unified one.

    Several masks of a text are filled each by itself, as if the others stayed open.
    """
    from hanmo.models.fill import fill as function
    from hanmo.models.fill import read_texts

    for found in function(model, [*texts, *(read_texts(input) if input else [])], top, device=device):
        if as_json:
            click.echo(json.dumps(found, ensure_ascii=False))
            continue
        click.echo(f"{found['text']} -> {found['filled']}")
        for number, mask in enumerate(found["masks"], 1):
            tokens = "  ".join(f"{guess['token']} {guess['probability']:.3f}" for guess in mask)
            click.echo(f"  {number}  {tokens}")


@click.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="The model it was trained on, where it lies elsewhere now; or hf:OWNER/NAME.",
)
def merge(adapter: Path, out: Path, base: Path | None) -> None:
    """Compute an ADAPTER (LoRA or DoRA, as PEFT writes it, or the folder of an sft stage) into its model's weights."""
    from hanmo.posttrain.adapters import merge as function

    if out.exists() and any(out.iterdir()):
        raise HanmoError(f"{out}: the folder is not empty; choose another --out")
    click.echo(json.dumps({"out": str(out), **function(adapter, out, base)}, ensure_ascii=False))


COMMANDS: list[click.Command] = [resize, hidden, fill, merge]
