"""`hanmo generate` with an encoder-decoder: the gaps of the prompts are filled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSeq2SeqLM

from hanmo.errors import HanmoError
from hanmo.models.folder import resolve
from hanmo.models.gaps import fill
from hanmo.serve.engines.base import Completion
from hanmo.serve.engines.transformers import device_of
from hanmo.serve.sampler import Sampler
from hanmo.serve.sampling import Sampling
from hanmo.tokenizer import end_of_document, load


class GapFiller:
    """An encoder-decoder folder, loaded.

    Raises:
        HanmoError: it cannot be loaded.
    """

    def __init__(self, model: Path | str, device: str = "auto", threads: int | None = None) -> None:
        folder = resolve(model)
        if threads:
            torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        place = device_of(device)
        try:
            loaded: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise HanmoError(f"{folder}: the model cannot be loaded ({type(error).__name__}: {reason})") from error
        self._model = loaded.to(place).eval()
        self._tokenizer, self._closing = load(folder), end_of_document(folder)

    def complete(self, texts: Sequence[str], sampling: Sampling, first: int = 0) -> list[Completion]:
        """The texts with their gaps filled, computed together.

        Args:
            first: number of the first text, which a seed's draws go by.
        """
        size = len(self._tokenizer)
        samplers = [Sampler(sampling, [], size, number) for number in range(first, first + len(texts))]
        found = fill(
            self._model,
            self._tokenizer,
            texts,
            self._closing,
            lambda row, logits: samplers[row](logits),
            sampling.max_tokens or 256,
        )
        return [Completion(one.text, one.read, one.written, "stop" if one.ended else "length") for one in found]
