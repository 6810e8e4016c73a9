"""Hidden states of a model by name: what any of its parts gives for some texts.

The names are those of `hanmo.models.parts`, the same for decoders and encoders of every family: `embeddings`,
`layers.3`, `layers.3.attention`, `layers.3.mlp`, `norm`, `head` (the logits). A state is what that part returns:
`layers.3` the residual stream behind layer 3; `layers.3.attention` and `layers.3.mlp` what these parts return, which in
a decoder is what is added to the stream, and in BERT the stream behind their norm. An encoder-decoder
reads a text with its encoder, and its decoder the same text behind the id that opens what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.folder import resolve
from hanmo.models.parts import chosen, modules_of

#: Classes of ours that are no part of transformers, and the table there that has them.
_OURS = {
    "UnifiedForMaskedLM": "AutoModelForMaskedLM",
    "MegatronT5ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "LingLongForCausalLM": "AutoModelForCausalLM",
}
#: Tensors beside the states.
IDS, LENGTHS = "ids", "lengths"


@torch.no_grad()
def hidden(
    model: Path | str | Any,
    texts: Sequence[str],
    layers: Sequence[str] = (),
    *,
    tokenizer: Any = None,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """What the parts `layers` of a model give for `texts`.

    Args:
        model: a model folder, the folder of a stage that made one, or a loaded transformers model (with `tokenizer`).
        texts: one row each, run one by one, so that no padding is in the sums; encoded as the tokenizer itself does
            (an encoder's gets its [CLS] and [SEP]).
        layers: names or patterns (`layers.0-3`, `layers.*.attention`); see `hanmo.models.parts`. None: the last norm
            (of an encoder-decoder, its encoder's).
        tokenizer: for a loaded model; a folder brings its own.

    Returns:
        name -> fp32 [texts, longest, width] (of `head` [texts, longest, vocabulary]), zero behind the end of a shorter
        text; and "ids", int64 [texts, longest], with "lengths", int64 [texts].

    Raises:
        HanmoError: no model or tokenizer there, a name that stands for no part, or a text longer than the context.
    """
    if not texts:
        raise HanmoError("hidden: no text is given")
    if isinstance(model, (str, Path)):
        from hanmo.tokenizer import load

        folder = resolve(model)
        network, tokenizer = _open(folder), load(folder)
    else:
        network = model
        if tokenizer is None:
            raise HanmoError("hidden: a loaded model needs its `tokenizer`")
    network = network.to(device).eval()
    parts = modules_of(network)
    two = network.config.is_encoder_decoder
    names = chosen(layers or ["encoder.norm" if two else "norm"], parts, "layers")
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    ids: list[Tensor] = []
    with _recorded({name: parts[name][-1] for name in names}) as seen:
        for number, text in enumerate(texts):
            row = torch.tensor([tokenizer(text, split_special_tokens=True)["input_ids"]], device=device)
            if not 0 < row.shape[1] <= (longest or row.shape[1]):
                limit = f"; the model's context is {longest}" if row.shape[1] else ""
                raise HanmoError(f"hidden: text {number + 1} has {row.shape[1]} tokens{limit}")
            seen.clear()
            if two:
                begin = torch.full_like(row[:, :1], network.config.decoder_start_token_id or 0)
                network(input_ids=row, decoder_input_ids=torch.cat([begin, row[:, :-1]], 1))
            else:
                network(input_ids=row)
            ids.append(row[0].cpu())
            for name in names:
                if name not in seen:
                    raise HanmoError(f"hidden: the model did not come by '{name}'; ask for another part")
                found[name].append(seen[name][0].float().cpu())
    padded = {name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for name, rows in found.items()}
    lengths = torch.tensor([len(row) for row in ids])
    return padded | {IDS: torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), LENGTHS: lengths}


def _open(folder: Path) -> Any:
    """The model by the class that its configuration names, so that a head is there where it has one."""
    name = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    # Of our own classes, the tables of transformers know which belongs to a configuration.
    known = getattr(transformers, _OURS.get(name, name), None)
    if known is None:
        raise HanmoError(f"{folder}/config.json: architectures: transformers has no class {name}")
    transformers.utils.logging.disable_progress_bar()
    try:
        return known.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise HanmoError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None


@contextmanager
def _recorded(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, what the modules return is put down by name (of several values, the first)."""
    seen: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def put(_module: Any, _inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return put

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
