"""Filling masks: what a model that learned to takes for likely where `[MASK]` stands in a text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models.families import objective_of
from hanmo.models.folder import resolve


class Filler:
    """A model that fills masks, loaded.

    Args:
        model: a model folder, or the folder of a stage that made one: BERT and its like, ModernBERT, our unified model.

    Raises:
        HanmoError: no model that fills masks there.
    """

    def __init__(self, model: Path | str, *, device: str = "cpu") -> None:
        network, self.tokenizer = _open(resolve(Path(model)))
        self.network = network.to(device).eval()

    def __call__(self, texts: Sequence[str], top: int = 5) -> Iterator[dict[str, Any]]:
        """Fill the masks of texts; see `fill`."""
        encoded = [_encode(self.tokenizer, text, number, self.network.config) for number, text in enumerate(texts, 1)]
        for text, given in zip(texts, encoded, strict=True):
            masks = self._masks(given, top)
            yield {"text": text, "filled": _filled(text, self.tokenizer.mask_token, masks), "masks": masks}

    @torch.no_grad()
    def _masks(self, given: dict[str, torch.Tensor], top: int) -> list[list[dict[str, Any]]]:
        tokenizer, known = self.tokenizer, len(self.tokenizer)
        places = torch.nonzero(given["input_ids"][0] == tokenizer.mask_token_id)[:, 0]
        inputs = {name: value.to(self.network.device) for name, value in given.items()}
        # Rows that only fill the embedding up stand for no token.
        logits = self.network(**inputs)[0][0, places, :known].float().cpu()
        likely = logits.softmax(-1).topk(min(top, known))
        return [
            [
                {"token": tokenizer.convert_ids_to_tokens(int(index)), "id": int(index), "probability": float(chance)}
                for chance, index in zip(chances, ids, strict=True)
            ]
            for chances, ids in zip(likely.values, likely.indices, strict=True)
        ]


def fill(model: Path | str, texts: Sequence[str], top: int = 5, *, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Fill the masks of texts, each by itself, as if the others stayed open.

    Args:
        model: a model folder, or the folder of a stage that made one: BERT and its like, ModernBERT, our unified model.
        texts: each with one mask token or more, as the tokenizer writes it ("[MASK]"); its other special tokens count
            as such, too, so that "[SEP]" parts two texts.
        top: tokens for each mask.

    Yields:
        {"text", "filled": the text with the likeliest token of each mask, "masks": for each mask a list of {"token",
        "id", "probability"}, the likeliest first}. Of a word's continuation the token is "##" and the piece.

    Raises:
        HanmoError: no model that fills masks there, no text, a text without a mask, or longer than the context.
    """
    if not texts:
        raise HanmoError('nothing to fill: give a text ("春天[MASK]了"), or a file of texts with --input')
    yield from Filler(model, device=device)(texts, top)


def read_texts(path: Path) -> list[str]:
    """The lines of a file, or of stdin for `-`; empty ones do not count.

    Raises:
        HanmoError: no such file, or not UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return [line for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise HanmoError(f"{path}: not UTF-8; convert the file first") from None
    except OSError as error:
        raise HanmoError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    from hanmo.tokenizer import load

    if objective_of(folder) not in ("masked", "unified"):
        name = (read_json(folder / "config.json").get("architectures") or ["a model"])[0]
        raise HanmoError(f"{folder}: {name} does not fill masks; `hanmo generate` continues a text with it")
    tokenizer = load(folder)
    if not isinstance(tokenizer.mask_token_id, int):
        raise HanmoError(f"{folder}: its tokenizer has no mask token; give a model with its own tokenizer")
    transformers.utils.logging.disable_progress_bar()
    before = transformers.utils.logging.get_verbosity()
    # Heads for other things, such as the order of sentences, are left out, which it would tell at length.
    transformers.utils.logging.set_verbosity_error()
    try:
        model, info = transformers.AutoModelForMaskedLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise HanmoError(f"{folder}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    finally:
        transformers.utils.logging.set_verbosity(before)
    if missing := sorted(info["missing_keys"]):
        raise HanmoError(
            f"{folder}: {len(missing)} weights are missing ({missing[0]}, …); it never learned to fill masks"
        )
    return model, tokenizer


def _encode(tokenizer: Any, text: str, number: int, config: Any) -> dict[str, torch.Tensor]:
    """Ids with what is around them, and token types where both the model and the text have two."""
    encoded = tokenizer(text, return_tensors="pt")
    ids = encoded["input_ids"]
    if not bool((ids == tokenizer.mask_token_id).any()):
        raise HanmoError(f"text {number} ('{text[:20]}') has no {tokenizer.mask_token} to fill")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and ids.shape[1] > longest:
        raise HanmoError(f"text {number} has {ids.shape[1]} tokens; the model's context is {longest}")
    given = {"input_ids": ids}
    if int(getattr(config, "type_vocab_size", 1)) > 1:
        # What is behind a [SEP] within the text is its second part, as in training.
        ends = (ids == tokenizer.sep_token_id).long()
        given["token_type_ids"] = (ends.cumsum(1) - ends).clamp(0, 1)
    return given


def _filled(text: str, mask: str, masks: list[list[dict[str, Any]]]) -> str:
    """The text with the likeliest token in place of each mask; a continuation without its sign."""
    parts = text.split(mask)
    words = [guesses[0]["token"].removeprefix("##") for guesses in masks]
    return parts[0] + "".join(word + part for word, part in zip(words, parts[1:], strict=False))
