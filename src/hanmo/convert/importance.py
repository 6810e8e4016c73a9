"""Which columns of a matrix matter: the mean square of what it is multiplied with, over text of the corpus.

A quantiser that knows this rounds a weight that is multiplied with large numbers more carefully than one that is not
(llama.cpp's importance matrix). It is measured where the model is exact, in transformers, and handed over by the
names that the matrices have in GGUF.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from hanmo.convert.architectures import find, layers_of
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl
from hanmo.models.folder import resolve
from hanmo.tokenizer import encode_text, load

#: Tokens that go through the model together.
_ROW = 512


def measure(model_dir: Path | str, corpus: Path, tokens: int, threads: int = 0) -> dict[str, NDArray[np.float32]]:
    """The mean squares of the inputs of every matrix, float32 [columns], by its name in GGUF.

    Experts, whose matrices transformers keeps as one, are not measured; llama.cpp rounds them without.

    Args:
        model_dir: a model folder, or a stage's.
        corpus: folder of a corpus stage, whose training text is read.
        tokens: about how many are read.
        threads: 0 for torch's default.

    Raises:
        HanmoError: no such architecture in llama.cpp, or no training text there.
    """
    import transformers
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    folder = resolve(model_dir)
    config = read_json(folder / "config.json")
    architecture = find(config, folder / "config.json")
    if architecture.encoder:
        raise HanmoError(f"{folder}: an encoder, whose importance is not measured; leave the corpus out")
    names = gguf.get_tensor_name_map(architecture.arch, layers_of(config))
    if threads:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    sums: dict[str, torch.Tensor] = {}
    seen: dict[str, int] = {}

    def listen(name: str) -> Any:
        def hear(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            rows = given[0].detach().reshape(-1, given[0].shape[-1])
            sums[name] = sums.get(name, 0) + rows.double().square().sum(0)
            seen[name] = seen.get(name, 0) + len(rows)

        return hear

    for name, module in model.named_modules():
        target = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if target and isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_pre_hook(listen(target))
    with torch.inference_mode():
        for row in rows_of(folder, corpus, tokens, min(_ROW, getattr(model.config, "max_position_embeddings", _ROW))):
            model(input_ids=row[None])
    found = {name: (total / seen[name]).float().numpy() for name, total in sums.items()}
    if "output.weight" in found and config.get("tie_word_embeddings"):
        found["token_embd.weight"] = found["output.weight"]  # the one matrix is stored under this name
    return found


def rows_of(folder: Path, corpus: Path, tokens: int, length: int) -> Iterator[torch.Tensor]:
    """Documents of the training text as ids, cut into rows, until there are so many tokens."""
    tokenizer = load(folder)
    files = sorted((corpus / "train").glob("*.jsonl.zst"))
    if not files:
        raise HanmoError(f"{corpus}: no training text (no train/*.jsonl.zst); give the folder of a corpus stage")
    left = tokens
    for file in files:
        for _, record in read_jsonl(file):
            ids = encode_text(tokenizer, record["text"])[:left]
            for start in range(0, len(ids), length):
                yield torch.tensor(ids[start : start + length])
            left -= len(ids)
            if left <= 0:
                return
