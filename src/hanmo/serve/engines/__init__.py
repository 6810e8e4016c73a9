"""Engines: a Hugging Face folder through transformers or vLLM, a .gguf file through llama.cpp, behind one interface."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hanmo.errors import HanmoError
from hanmo.models import hub
from hanmo.models.folder import is_encoder_decoder
from hanmo.serve.engines.base import Completion, Delta, Engine

__all__ = ["Completion", "Delta", "Engine", "Kind", "open_engine"]

MOST_PARALLEL = 256
#: What an engine may be asked for by.
Kind = Literal["auto", "transformers", "llama.cpp", "llama-server", "vllm"]


def open_engine(
    model: Path | str,
    *,
    context: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    parallel: int = 1,
    kind: Kind = "auto",
) -> Engine:
    """Load a model for answering.

    Args:
        model: a .gguf file, a Hugging Face model folder, the folder of a stage that made one, or a name on a hub.
        context: tokens of prompt and answer together; None takes the model's own, at most 8192.
        device: a torch device such as "cpu" or "cuda:0"; "auto" takes the accelerator if there is one. For a .gguf
            file, anything but "cpu" offloads every layer that llama.cpp was built to offload.
        threads: CPU threads; None lets the library choose.
        parallel: answers to compute at once, where the engine can.
        kind: the engine. "auto" takes transformers for a folder; for a .gguf file `llama-server`, if several answers
            are wanted at once and the program is there, else llama.cpp in this process. "llama-server" builds the
            program first where there is none, which takes minutes. "vllm" starts the vLLM that HANMO_VLLM names, or
            asks the running one whose URL that is.

    Raises:
        HanmoError: there is no such model, or it cannot be loaded.
    """
    path = hub.local(model)
    if not 1 <= parallel <= MOST_PARALLEL:
        raise HanmoError(f"parallel: {parallel} is out of range, must be from 1 to {MOST_PARALLEL}")
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise HanmoError(f"{path}: no such file")
        if kind in ("transformers", "vllm"):
            raise HanmoError(f"{path}: {kind} does not run .gguf files; give the model's folder, or --engine auto")
        return _open_gguf(path, context, device, threads, parallel, kind)
    if path.is_file():
        raise HanmoError(f"{path}: is a file but not a .gguf; give a model folder or a .gguf file")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "model").is_dir():
        files = sorted(path.glob("*.gguf"))
        if files:
            names = ", ".join(file.name for file in files)
            raise HanmoError(f"{path}: holds {names}; name the one you mean, such as {files[0]}")
    if is_encoder_decoder(path):
        raise HanmoError(f"{path}: an encoder-decoder, which holds no conversation; `hanmo generate` fills its gaps")
    if kind == "vllm":
        from hanmo.serve.engines.vllm import VllmEngine

        return VllmEngine(path, context=context, device=device, threads=threads, parallel=parallel)
    if kind not in ("auto", "transformers"):
        raise HanmoError(f"{path}: {kind} runs .gguf files; make one with `hanmo convert gguf`")
    from hanmo.serve.engines.transformers import TransformersEngine

    return TransformersEngine(path, context=context, device=device, threads=threads, parallel=parallel)


def _open_gguf(path: Path, context: int | None, device: str, threads: int | None, parallel: int, kind: Kind) -> Engine:
    from hanmo.serve.engines.binary import build_llama_server, find_llama_server

    program = find_llama_server() if kind == "llama-server" or (kind == "auto" and parallel > 1) else None
    if program is None and kind == "llama-server":
        program = build_llama_server()
    if program is not None:
        from hanmo.serve.engines.llamaserver import LlamaServerEngine

        return LlamaServerEngine(path, program, parallel=parallel, context=context, device=device, threads=threads)
    from hanmo.serve.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(path, context=context, device=device, threads=threads)
