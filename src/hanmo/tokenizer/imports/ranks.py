"""Byte-level BPEs: the first Qwen's ranks, and a tokenizer.json."""

from __future__ import annotations

import base64
import binascii
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hanmo.errors import HanmoError
from hanmo.tokenizer.chat import END_OF_TEXT, SPECIAL_TOKENS
from hanmo.tokenizer.imports.written import fast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Special tokens of the first Qwen behind its 151,643 ranks.
QWEN_SPECIAL = (*SPECIAL_TOKENS, *(f"<|extra_{number}|>" for number in range(205)))


def tiktoken(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    """The first Qwen's: a line each of base64 and rank. Its split expression is the house's."""
    from tokenizers import AddedToken, models

    from hanmo.tokenizer import skeleton
    from hanmo.tokenizer.train import byte_letters, merges_of

    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise HanmoError(f"{path}:{number}: not 'base64 rank'") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len([t for t in ranks if len(t) == 1]) != 256:
        raise HanmoError(f"{path}: ranks must run from 0 without gaps and hold every byte")
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    merges = merges_of(sorted(ranks, key=ranks.__getitem__))
    tokenizer = skeleton()
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    # tiktoken takes a word that is a token as it is; this matters only for tokens that no merges lead to.
    whole = len(merges) + 256 < len(ranks)
    tokenizer.model = models.BPE(
        vocab=vocabulary, merges=[(spell(left), spell(right)) for left, right in merges], ignore_merges=whole
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_SPECIAL])
    return fast(tokenizer, out, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def json(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    """A tokenizer.json as it is, with the configuration beside it; refused where it does not load."""
    from tokenizers import Tokenizer

    from hanmo.tokenizer import load, save

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise HanmoError(f"{path}: tokenizers cannot read it ({error})") from None
    beside = [
        path.parent / name for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    ]
    if not beside[0].is_file():
        vocabulary = tokenizer.get_vocab()
        roles = {
            f"{token[1:-1].lower()}_token": token
            for token in ("[PAD]", "[EOS]", "[SEP]", "[BOS]", "[CLS]", "[MASK]", "[UNK]")
            if token in vocabulary
        }
        return fast(tokenizer, out, **roles)
    for file in (path, *beside):
        if file.is_file():
            shutil.copyfile(file, out / ("tokenizer.json" if file == path else file.name))
    loaded = load(out)
    save(loaded, out)
    return loaded
