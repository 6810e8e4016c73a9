"""Commands of this room beside its stage: `hanmo convert …`. Each imports what it needs when it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hanmo.messages import translated


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--config", type=click.Path(path_type=Path), help="Its configuration, where none lies beside it.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its tokenizer, where none lies beside it.")
@click.option(
    "--strict/--no-strict",
    default=True,
    show_default=True,
    help="Refuse weights that have no place in the class, and a class that would miss some.",
)
def import_(path: Path, out: Path, config: Path | None, tokenizer: Path | None, strict: bool) -> None:
    """Make a Hugging Face folder from the checkpoint at PATH (a file, or a folder with one).

    What it is is seen by its tensors and configuration. Of stock classes: Tiny LLM zh, llama2.c (.pt and .bin),
    MiniMind, GPT-2 (Wenzhong), BERT and MegatronBert (Erlangshen), fine-tuned and reward models. Of classes of
    Hanmo's own: LingLong (.pt with its YAML by --config, or a folder), Zhouwenwang, Randeng. None of its code is run.
    """
    from hanmo.convert.imports import describe, import_model

    record = import_model(path, out, config, tokenizer, strict)
    click.echo(describe({"out": str(out), **record}))


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="GGUF...")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The model that they were made of.")
@click.option(
    "--corpus", type=click.Path(path_type=Path), required=True, help="Corpus folder; its held-out text is read."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--exam", type=click.Path(path_type=Path), help="An exam (jsonl), for models that chat.")
@click.option("--items", type=click.IntRange(min=1), default=200, show_default=True, help="Questions, at most.")
@click.option("--kilobytes", type=click.IntRange(min=1), default=60, show_default=True, help="Held-out text, at most.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of llama.cpp.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(files: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Measure GGUF files (or folders of them) of one model: size, quality, speed, memory, and which one to take."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from hanmo.console import Console, human_bytes
    from hanmo.convert.compare import compare as function

    found = function(files, **given)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    exam = "exam" in found["files"][0]
    columns = ["file", "size", "bits/byte", "change", "KL", "same", *["exam"] * exam, "tokens/s", "memory"]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_row("float32", "", f"{found['model']['bits_per_byte']:.4f}", *[""] * (len(columns) - 3))
    for one in found["files"]:
        table.add_row(
            one["name"],
            human_bytes(one["bytes"]),
            f"{one['bits_per_byte']:.4f}",
            f"{one['worse']:+.2%}",
            f"{one['kl']:.2g}",
            f"{one['same_choice']:.1%}",
            *([f"{one['exam']['right'] / one['exam']['items']:.1%}"] if exam else []),
            f"{one['tokens_per_second']:,.0f}",
            f"{one['memory_mb']:,.0f} MB",
        )
    Console().print(table)
    click.echo(translated(f"recommended: {found['recommended'] or 'none'}: {found['why']}"))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--format", "form", default="q8_0", show_default=True, help="Of the weights; a .gguf keeps its own.")
@click.option("--system", default="", help="What every conversation begins with.")
def ollama(model: Path, out: Path, form: str, system: str) -> None:
    """Make a folder for Ollama of a MODEL (a model folder, a stage's folder, a .gguf file or hf:OWNER/NAME)."""
    from hanmo.convert.ollama import write_ollama

    found = write_ollama(model, out, form, system)
    click.echo(json.dumps(found, ensure_ascii=False))
    if found["template"] == "by Ollama":
        words = translated("its chat template is not ours: Ollama will use the one it knows for it, if any")
        click.echo(words, err=True)
    click.echo(f"ollama create {Path(found['file']).stem} -f {found['modelfile']}", err=True)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--int8", is_flag=True, help="Also with matrices in 8 bits, for CPUs.")
def onnx(model: Path, out: Path, int8: bool) -> None:
    """Write an encoder MODEL (masks, classes, entities, answers in a text) as ONNX, checked with onnxruntime."""
    from hanmo.convert.onnx import write_onnx

    click.echo(json.dumps({"out": str(out), **write_onnx(model, out, int8)}, ensure_ascii=False))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--format", "form", required=True, help="int8 (weights and activations) or int4 (weights).")
@click.option("--corpus", type=click.Path(path_type=Path), required=True, help="Corpus folder: what is rounded with.")
@click.option("--tokens", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Of it, about.")
@click.option("--kilobytes", type=click.IntRange(min=1), default=60, show_default=True, help="Held-out text, at most.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0: all.")
def vllm(model: Path, out: Path, form: str, **given: Any) -> None:
    """Round the matrices of a MODEL for vLLM by llm-compressor, and measure what that costs.

    HANMO_LLMCOMPRESSOR names the Python of its environment, where it is not this one.
    """
    from hanmo.convert.vllm import write_vllm

    click.echo(json.dumps({"out": str(out), **write_vllm(model, out, form, **given)}, ensure_ascii=False))


COMMANDS: list[click.Command] = [import_, compare, ollama, onnx, vllm]
