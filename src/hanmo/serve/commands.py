"""The commands that talk to a model: generate, chat, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def _talking(command: Any) -> Any:
    """The options that generate, chat and serve share; they arrive as `sampling` and as engine options."""
    for option in reversed(
        [
            click.option("--max-tokens", type=int, help="Longest answer in tokens."),
            click.option("--temperature", type=float, help="0 takes the likeliest token; 0.7 is the default."),
            click.option("--top-p", type=float, help="Draw from the likeliest tokens of this share; 0.9."),
            click.option("--top-k", type=int, help="Draw from so many of the likeliest tokens; 0 is off."),
            click.option("--min-p", type=float, help="Drop tokens less likely than this share of the likeliest; 0."),
            click.option("--repetition-penalty", type=float, help="Above 1 makes repetition dearer."),
            click.option("--presence-penalty", type=float, help="Taken from the logit of what was written; 0."),
            click.option("--frequency-penalty", type=float, help="Taken from it for each time; 0."),
            click.option("--seed", type=int, help="Makes the draw repeatable."),
            click.option("--stop", multiple=True, help="End an answer before this text (may be given several times)."),
            click.option("--context", type=int, help="Tokens of prompt and answer together."),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps, ..."),
            click.option("--threads", type=int, help="CPU threads."),
        ]
    ):
        command = option(command)
    return command


def _framed(command: Any) -> Any:
    """The options that generate and chat share beside those."""
    for option in reversed(
        [
            click.option("--prefix", default="", help="Text before every prompt or message; may have {PLUGIN} in it."),
            click.option("--suffix", default="", help="Text behind it."),
            click.option(
                "--plugin",
                "plugins",
                multiple=True,
                metavar="'NAME OPTION=VALUE …'",
                help="Fills {NAME} in them: 'search folder=PATH' from texts, 'web' from the web; or one installed.",
            ),
            click.option("--beams", type=int, help="Take the likeliest of so many answers; 1 draws. Model folders."),
            click.option("--length-penalty", type=float, help="Above 0, a beam search favours long answers; 1."),
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


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1)
@click.option("--input", type=click.Path(path_type=Path), help="A file of prompts: one a line, or jsonl {prompt}.")
@click.option("--output", type=click.Path(path_type=Path), help="Write completions there as jsonl.")
@click.option("--as-chat", is_flag=True, help="Ask the prompts as questions instead of continuing them.")
@click.option("--clip/--no-clip", default=True, help="Cut the beginning of prompts that are too long, or refuse them.")
@click.option("--batch-size", default=8, show_default=True, help="Prompts computed together, where the engine can.")
@_framed
@_talking
def generate(model: Path, prompts: tuple[str, ...], **given: Any) -> None:
    """Continue PROMPTS with a MODEL: a model folder, a stage's folder, a .gguf file or hf:OWNER/NAME."""
    from hanmo.serve import generate as function

    sampling = _sampling(given, max_tokens=256)
    function(model, list(prompts), sampling=sampling, **given)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--system", help="A system message at the head of the conversation.")
@click.option("--history", help="A file for what you type; off keeps none.  [default: in ~/.local/state/hanmo]")
@_framed
@_talking
def chat(model: Path, history: str | None, **given: Any) -> None:
    """Talk to a MODEL (a folder, a .gguf file, hf:OWNER/NAME) in the terminal; /help there lists what can be done."""
    from hanmo.serve import chat as function
    from hanmo.serve.typed import default_history

    sampling = _sampling(given)
    kept = None if history == "off" else Path(history) if history else default_history()
    function(model, sampling=sampling, history=kept, **given)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything but loopback needs a key.")
@click.option("--port", default=8000, show_default=True, help="0 takes any free one.")
@click.option("--api-key", help="What clients must send; or set HANMO_API_KEY.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "transformers", "llama.cpp", "llama-server", "vllm"]),
    default="auto",
    show_default=True,
    help="llama-server answers several at once from a .gguf file; it is built once where there is none. "
    "vllm: HANMO_VLLM names a running one's URL, its program or its Python.",
)
@click.option("--parallel", default=4, show_default=True, help="Answers computed at once, where the engine can.")
@click.option("--loaded", default=0, show_default=True, help="Models in memory at once; 0 is no limit.")
@click.option("--waiting", default=16, show_default=True, help="Requests that may wait; more get status 503.")
@click.option("--patience", default=600.0, show_default=True, help="Seconds an answer may take; then status 504.")
@click.option("--log", default="-", show_default=True, help="A file for a line of JSON a request; - is stderr, or off.")
@click.option("--log-text", is_flag=True, help="Log what people ask and what models answer, too.")
@_talking
def serve(models: tuple[str, ...], **given: Any) -> None:
    """Serve MODELS (PATH, NAME=PATH or hf:OWNER/NAME) over an OpenAI-compatible API, with a chat page at /.

    Decoders, .gguf files, encoders, and what `hanmo understand train` made. The first is loaded at once, the others
    when they are asked for.
    """
    from hanmo.serve import serve as function

    sampling = _sampling(given)
    function(*models, sampling=sampling, **given)


#: What `hanmo` itself has from this room.
COMMANDS = [generate, chat, serve]
