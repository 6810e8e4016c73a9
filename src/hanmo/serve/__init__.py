"""Talking to a model: complete text, chat in the terminal, serve an OpenAI-compatible API with a chat page.

    hanmo.serve.generate("run/base", ["春天来了，"])      continue texts
    hanmo.serve.chat("run/dpo")                           talk in the terminal
    hanmo.serve.serve("run/dpo", port=8000)               http://127.0.0.1:8000

All three take a Hugging Face model folder, a stage's folder, a .gguf file or a name on a hub (`hf:OWNER/NAME`,
`ms:OWNER/NAME`, see `hanmo.models.hub`). Importing this module is cheap; torch, llama.cpp and the web server are
imported by the call that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanmo.serve.sampling import Sampling

if TYPE_CHECKING:
    from hanmo.serve.engines import Completion, Kind
    from hanmo.serve.plugins import Plugins

__all__ = ["Sampling", "chat", "generate", "serve"]


def generate(
    model: Path | str,
    prompts: Sequence[str] = (),
    *,
    input: Path | str | None = None,
    output: Path | str | None = None,
    as_chat: bool = False,
    prefix: str = "",
    suffix: str = "",
    plugins: Plugins = (),
    clip: bool = True,
    batch_size: int = 8,
    sampling: Sampling | None = None,
    context: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> list[Completion]:
    """Continue prompts, and write what comes to stdout or to a file.

    A model that writes from right to left (LingLong's `backward`) gives what stands before a prompt.

    Args:
        model: a model folder, a stage's folder, a .gguf file or a name on a hub.
        prompts: texts to continue.
        input: a file of more prompts: .jsonl (maybe .gz, .zst, .xz) with {"prompt": text} on each line, or one prompt
            per line in any other file.
        output: a .jsonl file for {"prompt", "completion", "prompt_tokens", "tokens", "finish_reason"} per prompt, and
            "clipped" where characters were left out. It appears when all are done; until then the answers lie in
            OUTPUT.partial, and the same call goes on behind them. None prints prompts and completions to stdout.
        as_chat: put each prompt to the model as a question, instead of having it continued.
        prefix, suffix: texts before and behind every prompt, for instance what tells a task. The files at `output` name
            the prompts without them.
        plugins: what fills placeholders such as {search} in prefix and suffix: "NAME OPTION=VALUE …" each, or functions
            from the prompt to a text by name. See `hanmo.serve.plugins`.
        clip: a prompt that is too long loses its beginning, with a warning; otherwise it is an error.
        batch_size: prompts computed together where the engine can.
        sampling: how to draw; the default draws at most 256 tokens.
        context: tokens of prompt and answer together; None takes the model's own, at most 8192.
        device: a torch device, or "auto".
        threads: CPU threads; None lets the library choose.

    Returns:
        The completions, in the order of the prompts.

    Raises:
        HanmoError: no prompt, a bad file, a prompt that does not fit, a model that cannot be loaded.
    """
    from hanmo.serve.completion import run
    from hanmo.serve.plugins import Frame

    return run(
        model,
        prompts,
        input=Path(input) if input is not None else None,
        output=Path(output) if output is not None else None,
        as_chat=as_chat,
        frame=Frame(prefix, suffix, plugins),
        clip=clip,
        batch_size=batch_size,
        sampling=sampling or Sampling(max_tokens=256),
        context=context,
        device=device,
        threads=threads,
    )


def chat(
    model: Path | str,
    *,
    system: str | None = None,
    prefix: str = "",
    suffix: str = "",
    plugins: Plugins = (),
    history: Path | str | None = None,
    sampling: Sampling | None = None,
    context: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Chat in the terminal until /exit or the end of the input; answers go to stdout, all else to stderr.

    Args:
        model: a model folder, a stage's folder, a .gguf file or a name on a hub, with a chat template.
        system: a system message that stays at the head of the conversation.
        prefix, suffix: texts before and behind every message.
        plugins: what fills placeholders in them, see `generate`.
        history: a file for what is typed in a terminal; None keeps none.
        sampling: how to draw; `/set` changes it in the chat.
        context: tokens of conversation and answer together; the oldest turns are dropped to keep within it.
        device: a torch device, or "auto".
        threads: CPU threads; None lets the library choose.

    Raises:
        HanmoError: the model cannot be loaded or has no chat template.
    """
    from hanmo.serve.engines import open_engine
    from hanmo.serve.plugins import Frame
    from hanmo.serve.terminal import chat_loop

    frame = Frame(prefix, suffix, plugins)
    engine = open_engine(model, context=context, device=device, threads=threads)
    try:
        chat_loop(
            engine,
            system=system,
            sampling=sampling or Sampling(),
            frame=frame,
            history=Path(history) if history is not None else None,
        )
    finally:
        engine.close()


def serve(
    *models: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    engine: Kind = "auto",
    parallel: int = 4,
    loaded: int = 0,
    waiting: int = 16,
    patience: float = 600.0,
    log: str = "-",
    log_text: bool = False,
    sampling: Sampling | None = None,
    context: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Serve the OpenAI-compatible API and the chat page until Ctrl-C or SIGTERM.

    Args:
        models: model folders, stages' folders, .gguf files or names on a hub; "name=path" gives one a name. The first
            is loaded at once, the others when they are asked for. Encoders and models that `hanmo understand train`
            made, too.
        host: the address to listen on; anything but loopback needs a key.
        port: 0 takes any free one (it is printed).
        api_key: clients must send it; None looks at the environment variable HANMO_API_KEY.
        engine: "transformers" for a folder, "llama-server" or "llama.cpp" for a .gguf file; "auto" chooses, and takes
            llama-server where its program is found. Asked for by name, it is built where it is not (minutes, once).
            "vllm" for a folder: HANMO_VLLM names the URL of a running one, its program or its Python.
        parallel: answers computed at once, where the engine can (llama-server); each has a context of its own.
        loaded: so many models are in memory at once, then the least recently used one goes; 0: no limit.
        waiting: requests that may wait behind those being answered, of each model; more are refused with status 503.
        patience: seconds that an answer may take, waiting in line included; then status 504.
        log: a file that gets a line of JSON for each request, "-" for stderr or "off".
        log_text: put what people ask and what models answer into it, too.
        sampling: defaults for what a request leaves out.
        context: tokens of prompt and answer together; None takes the model's own, at most 8192.
        device: a torch device, or "auto".
        threads: CPU threads; None lets the library choose.

    Raises:
        HanmoError: the port is taken, the key is missing, a model is not there, the first cannot be loaded.
    """
    from hanmo.serve.server import run

    run(
        models,
        host=host,
        port=port,
        api_key=api_key,
        engine=engine,
        parallel=parallel,
        loaded=loaded,
        context=context,
        device=device,
        threads=threads,
        waiting=waiting,
        patience=patience,
        log=log,
        log_text=log_text,
        defaults=sampling or Sampling(),
    )
