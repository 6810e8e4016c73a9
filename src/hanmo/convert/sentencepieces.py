"""A SentencePiece BPE as llama.cpp's vocabulary "llama": pieces with scores and types.

llama.cpp merges as SentencePiece does (the pair whose piece has the highest score, the leftmost of equals) and falls
back on bytes, so the model is written as it is, models whose scores tie included. It knows no normaliser but the space
put in front, and it finds every name in the vocabulary, whatever its type; what depends on more is refused.

As in the library itself, a U+2581 in a text is a space to it. (A tokenizer.json made here keeps the two apart.)

Unigrams are refused: llama.cpp's "t5" has no bytes to fall back on, which all trained here need, and adds scores in
double precision where the library adds in single.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import TokenType

from hanmo.convert.vocabulary import Vocabulary
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.tokenizer.forms import spm

_MINE = "HanmoSentencePieceTokenizer"


def is_sentencepiece(folder: Path) -> bool:
    """Whether the tokenizer in a model folder is a SentencePiece model, alone or with a tokenizer.json made of it."""
    if not (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.model").is_file()
    steps = json.dumps(read_json(folder / "tokenizer.json").get("decoder"))
    return (folder / "tokenizer.model").is_file() and "ByteFallback" in steps


def read_pieces(folder: Path, rows: int) -> Vocabulary:
    """Read the SentencePiece model of a model folder whose embedding has `rows` rows, with the tokens added behind it.

    Raises:
        HanmoError: llama.cpp would give other ids, with the reason; or the files do not belong together.
    """
    path = folder / "tokenizer.model"
    model = spm.read(path)
    _require_form(path, model)
    added = _added(folder, model)
    names = [piece.piece for piece in model.pieces]
    size = max([len(names), *(index + 1 for index in added)])
    if size > rows:
        raise HanmoError(
            f"{path}: its tokens go up to id {size - 1}, but the embedding has {rows} rows: "
            "this tokenizer does not belong to this model"
        )
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    scores = [0.0] * rows
    for index, piece in enumerate(model.pieces):
        tokens[index], types[index], scores[index] = piece.piece, piece.type, piece.score
    for index, token in added.items():
        # llama.cpp knows no markers that are whole words only: such a word would be found in every text.
        tokens[index] = f"<|{token}|>" if token.isalpha() else token
        types[index] = int(TokenType.CONTROL)
    _require_unreachable(path, tokens, types)
    spec = model.trainer_spec
    return Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        merges=[],
        padded=rows - len(names) - len(added),
        ids={token: index for index, token in enumerate(tokens)},
        scores=scores,
        space_prefix=model.normalizer_spec.add_dummy_prefix,
        unknown=spec.unk_id,
        begin=spec.bos_id if 0 <= spec.bos_id < len(names) else None,
    )


def _require_form(path: Path, model: Any) -> None:
    rule, spec = model.normalizer_spec, model.trainer_spec
    if spec.model_type != spm.BPE:
        why = (
            "has no bytes to fall back on for its unigrams"
            if spec.byte_fallback
            else "adds up its unigrams' scores in another precision"
        )
        raise HanmoError(
            f"{path}: a unigram, whose ids llama.cpp does not give exactly: it {why}; "
            "for GGUF train a BPE (`hanmo tokenizer train --kind sentencepiece-bpe`)"
        )
    user = next((piece.piece for piece in model.pieces if piece.type in (spm.USER, spm.UNUSED)), None)
    for fault, found in (
        ("normalises text", bool(rule.precompiled_charsmap)),
        ("removes spaces at the ends and between words", rule.remove_extra_whitespaces),
        ("keeps spaces as they are (escape_whitespaces off)", not rule.escape_whitespaces),
        ("puts the space behind words", spec.treat_whitespace_as_suffix),
        ("has no bytes to fall back on", not spec.byte_fallback),
        (f"has user-defined or unused pieces ({user!r})", user is not None),
    ):
        if found:
            raise HanmoError(f"{path}: the model {fault}, which llama.cpp does not do for a SentencePiece BPE")


def _added(folder: Path, model: Any) -> dict[int, str]:
    """Tokens behind the model's pieces, all of them special, by id."""
    path = folder / "tokenizer.json"
    if path.is_file():
        data = read_json(path)
        made = [json.loads(spm.convert(model, plain).to_str()) for plain in (False, True)]
        parts = ("model", "normalizer", "pre_tokenizer")
        if not any(all(_same(one[part], data.get(part)) for part in parts) for one in made):
            raise HanmoError(
                f"{path}: not made of the tokenizer.model beside it, so that llama.cpp might give other ids; "
                "make the folder by `hanmo tokenizer import tokenizer.model`"
            )
        entries = {entry["id"]: entry for entry in data.get("added_tokens", [])}
    else:
        config = folder / "tokenizer_config.json"
        if not config.is_file() or read_json(config).get("tokenizer_class") != _MINE:
            raise HanmoError(f"{path}: missing; make the folder by `hanmo tokenizer import tokenizer.model`")
        return dict(enumerate(read_json(config).get("added") or [], len(model.pieces)))
    found: dict[int, str] = {}
    for index, entry in entries.items():
        if index < len(model.pieces):
            continue
        if not entry["special"] or entry["lstrip"] or entry["rstrip"]:
            raise HanmoError(
                f"{folder}: added token {entry['content']!r} is not special, or takes spaces with it (lstrip, rstrip); "
                "llama.cpp would find it elsewhere"
            )
        found[index] = entry["content"]
    return found


def _same(one: Any, other: Any) -> bool:
    """Equality of two parts of a tokenizer.json; merges may be written as pairs or as one string."""
    if isinstance(one, dict) and isinstance(other, dict) and "merges" in one and "merges" in other:
        pairs = [
            [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in part["merges"]]
            for part in (one, other)
        ]
        return pairs[0] == pairs[1] and all(one[key] == other.get(key) for key in one if key != "merges")
    return one == other


def _require_unreachable(path: Path, tokens: list[str], types: list[int]) -> None:
    """Special tokens and bytes must not be spelled by two other tokens, which llama.cpp would merge in plain text."""
    known = set(tokens)
    for token, kind in zip(tokens, types, strict=True):
        if kind != TokenType.NORMAL and any(
            token[:cut] in known and token[cut:] in known for cut in range(1, len(token))
        ):
            raise HanmoError(
                f"{path}: {token!r} is a special token, and llama.cpp would find it in plain text as well, "
                "since pieces of this vocabulary make it up"
            )
