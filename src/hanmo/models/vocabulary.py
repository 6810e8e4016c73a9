"""Another vocabulary for a model: an extended tokenizer, or another one altogether.

A new token starts as the mean of what it was: of the rows of those tokens that the old tokenizer makes of its text.
Input and output embeddings and the head's biases are treated alike. A token that both have keeps its row to the bit;
special tokens are matched by name, then by role (the end of a sequence is the end of a sequence, however it is called).
Rows beyond the vocabulary, and tokens of which the old tokenizer knows no part, start as the mean of all old rows.

Means of the parts are how Chinese-LLaMA and TinyLlama's other vocabularies were started; see also Hewitt,
"Initializing new word embeddings for pretrained language models" (2021), on why a row outside the cloud of the old ones
makes a token too likely everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json, whole_folder, write_json
from hanmo.models.folder import resolve
from hanmo.models.save import weights_written
from hanmo.tokenizer import load, save
from hanmo.tokenizer.opening import OpenTokenizer, open_tokenizer

#: What is written beside the model, and by which its folder is known.
RECORD = "resize.json"
#: Roles that stand in for one that the old tokenizer lacks, best first.
_ROLES: dict[str, tuple[str, ...]] = {
    "bos": ("bos", "cls", "eos"),
    "eos": ("eos", "sep", "bos"),
    "pad": ("pad", "eos", "unk"),
    "unk": ("unk",),
    "cls": ("cls", "bos"),
    "sep": ("sep", "eos"),
    "mask": ("mask", "unk"),
}
#: Files of a model folder that go with it wherever it goes.
_PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md")


def resize(model: Path, tokenizer: Path, out: Path, multiple: int = 64) -> dict[str, Any]:
    """Give a model the vocabulary of another tokenizer and save both in `out`.

    Args:
        model: a Hugging Face folder with its old tokenizer, or the folder of a stage that made one.
        tokenizer: a Hugging Face tokenizer folder, such as `hanmo tokenizer extend` makes.
        multiple: the number of rows is rounded up to a multiple of this.

    Returns:
        What resize.json holds: numbers of rows and of tokens kept, started from a mean, and without a known part.

    Raises:
        HanmoError: a folder is not what its name says, or the model's weights do not fit its class.
    """
    folder = resolve(model)
    old, fast = open_tokenizer(folder), load(tokenizer)
    new = open_tokenizer(tokenizer)
    with whole_folder(out, RECORD) as made:
        network = _load(folder)
        rows = -(-len(new.pieces) // multiple) * multiple
        parts = starts(old, new)
        _resize(network, parts, len(old.pieces), rows)
        _configure(network, old, new)
        logging = transformers.utils.logging
        logging.disable_progress_bar()
        with weights_written(made, out):
            network.save_pretrained(made)
        _template(fast, folder, new)
        save(fast, made)
        if (Path(tokenizer) / "tokenizer.model").is_file():
            shutil.copyfile(Path(tokenizer) / "tokenizer.model", made / "tokenizer.model")
        for pattern in _PAPERS:
            for paper in folder.glob(pattern):
                shutil.copyfile(paper, made / paper.name)
        kept = sum(len(part) == 1 and new.pieces[index] == old.pieces[part[0]] for index, part in enumerate(parts))
        record = {
            "old_tokens": len(old.pieces),
            "tokens": len(new.pieces),
            "rows": rows,
            "kept": kept,
            "from_mean_of_parts": sum(map(bool, parts)) - kept,
            "from_mean_of_all": rows - sum(map(bool, parts)),
            "dtype": str(network.dtype).removeprefix("torch."),
        }
        write_json(made / RECORD, record)
    return record


def starts(old: OpenTokenizer, new: OpenTokenizer) -> list[list[int]]:
    """For every id of the new tokenizer the old ids whose rows it starts from; none where no part is known."""
    same_form = old.form == new.form
    names: dict[str, int] = {}
    for index, piece in enumerate(old.pieces):
        if piece.kind != "unused" and (same_form or piece.kind == "special"):
            names.setdefault(piece.name, index)
    roles = {index: role for role, index in reversed(new.roles.items())}
    found: list[list[int]] = []
    for index, piece in enumerate(new.pieces):
        same = names.get(piece.name)
        if piece.kind == "unused":
            found.append([])
        elif same is not None and old.pieces[same].kind == piece.kind:
            found.append([same])
        elif piece.kind in ("special", "unknown"):
            role = "unk" if piece.kind == "unknown" else roles.get(index, "")
            known = next((old.roles[name] for name in _ROLES.get(role, ()) if name in old.roles), None)
            found.append([known] if known is not None else old.spell(piece.name.encode()))
        else:
            found.append(old.spell(piece.bytes))
    return found


def embeddings(folder: Path) -> tuple[Tensor, Tensor | None]:
    """(input rows, output rows or None where they are the same) of a model folder, in the dtype they are saved in."""
    inputs, outputs = _ends(_load(folder))
    return inputs.weight.detach(), outputs.weight.detach() if outputs is not None else None


def _ends(network: Any) -> tuple[Any, Any]:
    """The input embedding, and the head where it has weights of its own."""
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    return inputs, outputs if outputs is not None and outputs.weight is not inputs.weight else None


def _load(folder: Path) -> Any:
    """The model in the dtype it was saved in, by the class its configuration names."""
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise HanmoError(f"{folder}: quantised weights cannot be averaged; start from the model they were made of")
    name = (config.get("architectures") or ["?"])[0]
    known = getattr(transformers, name, None)
    if known is None:
        raise HanmoError(f"{folder}/config.json: architectures: transformers has no class {name}")
    transformers.utils.logging.disable_progress_bar()
    model, info = known.from_pretrained(folder, dtype="auto", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if odd := sorted(map(str, info.get(kind) or ())):
            what = kind.removesuffix("_keys")
            raise HanmoError(f"{folder}: {len(odd)} {what} weights for {name} ({odd[0]}); is the folder whole?")
    return model


def _resize(network: Any, parts: Sequence[Sequence[int]], old_tokens: int, rows: int) -> None:
    """Resize embeddings, head and biases to `rows` and fill them from the old rows."""
    inputs, outputs = _ends(network)
    before = inputs.weight.shape[0]
    if before < old_tokens:
        raise HanmoError(f"the model has {before} rows for {old_tokens} tokens: the tokenizer beside it is another's")
    first = inputs.weight.detach().clone()
    head = network.get_output_embeddings()
    last = outputs.weight.detach().clone() if outputs is not None else None
    bias = getattr(head, "bias", None)
    bias = bias.detach().clone() if bias is not None else None
    network.resize_token_embeddings(rows, mean_resizing=False)
    inputs, outputs = _ends(network)
    with torch.no_grad():
        inputs.weight.copy_(means(first, parts, old_tokens, rows))
        if last is not None and outputs is not None:
            outputs.weight.copy_(means(last, parts, old_tokens, rows))
        if bias is not None:
            network.get_output_embeddings().bias.copy_(means(bias[:, None], parts, old_tokens, rows)[:, 0])


def means(old: Tensor, parts: Sequence[Sequence[int]], old_tokens: int, rows: int) -> Tensor:
    """New rows [rows, d] in the dtype of `old` [.., d], each the mean over its parts, taken in fp32.

    A row without parts gets the mean of the first `old_tokens` rows.
    """
    whole = old[:old_tokens].float().mean(0).to(old.dtype)
    new = whole.repeat(rows, 1)
    some = [index for index, part in enumerate(parts) if part]
    flat = torch.tensor([place for index in some for place in parts[index]])
    sizes = torch.tensor([len(parts[index]) for index in some])
    offsets = torch.cumsum(sizes, 0) - sizes
    # A vocabulary's rows in fp32 may be gigabytes: a stretch at a time.
    for start in range(0, len(some), 1 << 14):
        stop = min(start + (1 << 14), len(some))
        low = int(offsets[start])
        high = int(offsets[stop]) if stop < len(some) else len(flat)
        bag = torch.nn.functional.embedding_bag(
            torch.arange(high - low), old[flat[low:high]].float(), offsets[start:stop] - low, mode="mean"
        )
        new[torch.tensor(some[start:stop])] = bag.to(old.dtype)
    return new


def _configure(model: Any, old: OpenTokenizer, new: OpenTokenizer) -> None:
    """Put the new ids where the configuration and the generation settings name old ones."""
    names = {piece.name: index for index, piece in enumerate(new.pieces) if piece.kind != "unused"}

    def moved(index: Any) -> Any:
        if isinstance(index, list):
            return list(dict.fromkeys(found for found in map(moved, index) if found is not None)) or None
        if not isinstance(index, int) or not 0 <= index < len(old.pieces):
            return None
        role = next((role for role, place in old.roles.items() if place == index and role in new.roles), None)
        same = names.get(old.pieces[index].name)
        return same if same is not None else new.roles[role] if role else None

    end = new.roles.get("eos")
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        for role in ("bos", "eos", "sep", "cls", "decoder_start"):
            name = f"{role}_token_id"
            if getattr(config, name, None) is not None:
                setattr(config, name, moved(getattr(config, name)))
        if getattr(config, "eos_token_id", None) is None:
            config.eos_token_id = end
        if getattr(config, "pad_token_id", None) is not None:
            # The row of a padding id is never trained: an id that also ends texts must not be named as one.
            pad = moved(config.pad_token_id)
            config.pad_token_id = pad if pad not in (config.eos_token_id, end) else None
    settings = getattr(model, "generation_config", None)
    if settings is not None:
        for role in ("bos", "eos", "decoder_start"):
            name = f"{role}_token_id"
            if getattr(settings, name, None) is not None:
                setattr(settings, name, moved(getattr(settings, name)))
        if settings.eos_token_id is None:
            settings.eos_token_id = end
        settings.pad_token_id = new.roles.get("pad", end)


def _template(tokenizer: PreTrainedTokenizerFast, folder: Path, new: OpenTokenizer) -> None:
    """Keep the model's chat template where the new tokenizer has none of its own and knows all the marks in it."""
    if tokenizer.chat_template or not (folder / "tokenizer.json").is_file():
        return
    before = load(folder)
    template = before.chat_template
    if not isinstance(template, str):
        return
    there = {piece.name for piece in new.pieces}
    marks = [token for token in before.get_added_vocab() if token in template]
    if missing := [token for token in marks if token not in there]:
        console.print(f"chat template left out: the new tokenizer has no {missing[0]}", markup=False)
    else:
        tokenizer.chat_template = template
