"""Saving a model so that it loads elsewhere: weights, configuration, generation settings, tokenizer, chat template."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.utils import logging

from hanmo.errors import rust_number
from hanmo.tokenizer import save


@contextlib.contextmanager
def weights_written(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Inside, safetensors writes weights into `folder`, which holds a config.json when this ends.

    safetensors has an error class of its own, which becomes the `OSError` that it would be elsewhere, and makes files
    that only their owner may read, so that a server under another name could not load them: they get the config's mode.

    Args:
        shown: the name of the folder in errors, where it is to be moved there.
    """
    try:
        yield
    except SafetensorError as error:
        number = rust_number(str(error))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(shown or folder)) from None
    for path in folder.glob("*.safetensors"):
        path.chmod(stat.S_IMODE((folder / "config.json").stat().st_mode))


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    stops: list[int],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a Hugging Face folder in one step: it is whole under its name or not there at all.

    Args:
        model: a transformers model on the CPU.
        folder: replaced if it exists.
        stops: ids that end a generation, the end of a document last (generation pads with it); kept in
            generation_config.json, where every engine looks. An encoder writes no text, and has none.
        dtype: of the saved weights.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if model.can_generate():
            # What an answer of an encoder-decoder begins with; others have no such key.
            opening = getattr(model.config, "decoder_start_token_id", None)
            begins = {} if opening is None else {"decoder_start_token_id": opening}
            model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=stops[-1], **begins)
        logging.disable_progress_bar()
        with weights_written(temporary, folder):
            model.to(dtype).save_pretrained(temporary)
        save(tokenizer, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
