"""BERT's word pieces as llama.cpp knows them: those that begin a word are marked, not those that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import TokenType

from hanmo.convert.vocabulary import Vocabulary
from hanmo.errors import HanmoError
from hanmo.files import read_json

#: What BertNormalizer has to be: llama.cpp drops controls, sets Chinese characters apart, and lower-cases by option.
_NORMALISER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def is_wordpiece(folder: Path) -> bool:
    """Whether a folder's tokenizer is of word pieces."""
    path = folder / "tokenizer.json"
    return path.is_file() and (read_json(path).get("model") or {}).get("type") == "WordPiece"


def read_wordpieces(folder: Path, rows: int) -> Vocabulary:
    """Read the tokenizer of an encoder whose embedding has `rows` rows.

    Raises:
        HanmoError: some part of the tokenizer is nothing that llama.cpp does.
    """
    path = folder / "tokenizer.json"
    data = read_json(path)

    def refuse(what: str) -> HanmoError:
        return HanmoError(
            f"{path}: {what}; llama.cpp would give other token ids. What can be converted is BERT's own form"
        )

    normaliser = data.get("normalizer") or {}
    if any(normaliser.get(name) != value for name, value in _NORMALISER.items()):
        raise refuse(f"its normaliser is {normaliser.get('type', 'none')}, not BertNormalizer as BERT has it")
    if (data.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        raise refuse("its pre-tokenizer is not BertPreTokenizer")
    model: dict[str, Any] = data["model"]
    if model.get("continuing_subword_prefix") != "##" or model.get("unk_token") != "[UNK]":
        raise refuse("its pieces that go on are not marked by ##, or what it does not know is not [UNK]")
    ids: dict[str, int] = dict(model["vocab"])
    special = {one["content"]: one["id"] for one in data.get("added_tokens", []) if one["special"]}
    ids |= special
    if missing := [name for name in _SPECIAL if name not in special]:
        raise refuse(f"{missing[0]} is no special token of it")
    single = [next(iter(part.values())).get("id") for part in (data.get("post_processor") or {}).get("single", ())]
    if single != ["[CLS]", "A", "[SEP]"]:
        raise refuse("it does not put [CLS] before a text and [SEP] behind it")
    tokens: list[str | None] = [None] * rows
    for token, index in ids.items():
        if index >= rows:
            raise HanmoError(f"{path}: token {token!r} has id {index}, but the embedding has {rows} rows")
        tokens[index] = token
    lower = bool(normaliser.get("lowercase"))
    accents = normaliser.get("strip_accents")
    return Vocabulary(
        pre="default",
        tokens=[f"[PAD{index}]" if token is None else _written(token, special) for index, token in enumerate(tokens)],
        types=[
            int(TokenType.UNUSED if token is None else TokenType.CONTROL if token in special else TokenType.NORMAL)
            for token in tokens
        ],
        merges=[],
        padded=tokens.count(None),
        ids=ids,
        model="bert",
        unknown=special["[UNK]"],
        lower=lower,
        accents=not (lower if accents is None else accents),
    )


def _written(token: str, special: dict[str, int]) -> str:
    if token in special:
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"
