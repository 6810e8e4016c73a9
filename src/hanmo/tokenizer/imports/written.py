"""What the readers of all kinds share: vocabulary files in, a saved fast tokenizer out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


def lines(path: Path) -> list[str]:
    """The tokens of a vocabulary file; lines end at \\n alone, since other separators are tokens."""
    try:
        found = path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise HanmoError(f"{path}: not UTF-8 at byte {error.start}") from None
    found = [line.removesuffix("\r") for line in found] if all(line.endswith("\r") for line in found) else found
    if len(found) < 2:
        raise HanmoError(f"{path}: a vocabulary has a token a line; there are {len(found)}")
    return found


def unique(path: Path) -> dict[str, int]:
    """A vocabulary by token. Of tokens that stand there twice the last counts, as in BERT's own reader."""
    return {token: index for index, token in enumerate(lines(path))}


def fast(tokenizer: Tokenizer, out: Path, **roles: Any) -> PreTrainedTokenizerFast:
    """Save a tokenizer with its roles as a folder."""
    from transformers import PreTrainedTokenizerFast

    from hanmo.tokenizer import save

    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=1_000_000, **roles
    )
    save(made, out)
    return made
