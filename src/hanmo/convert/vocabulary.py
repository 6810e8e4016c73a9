"""A tokenizer.json as llama.cpp's vocabulary: the pieces, their types, the merges, and the name of the splitter.

A GGUF file does not carry the expression that cuts text before the merges: it carries a name, and llama.cpp has the
splitter of that name built in. A wrong name gives other ids than the model was trained on, and nothing complains. So
the name is given only to a tokenizer.json whose every part is what llama.cpp does under that name, and refused
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.tokenizer import QWEN2_SPLIT
from hanmo.tokenizer.chat import END_OF_TEXT, TURN_END

#: llama.cpp's name -> the expression its built-in splitter follows.
PRE_TOKENIZERS: dict[str, str] = {"qwen2": QWEN2_SPLIT}
#: llama.cpp's name of the splitter that a ByteLevel step has of itself: GPT-2's, and so Wenzhong's.
_BYTE_LEVEL = "gpt-2"

#: Tokenizer classes that put their own normaliser and splitter in the place of those in tokenizer.json.
_OVERRIDING = ("Qwen2Tokenizer", "Qwen2TokenizerFast")

#: Options of a BPE model that llama.cpp does not have: they must be off.
_BPE_OPTIONS = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs to turn text into the same ids as the tokenizer it was read from.

    Attributes:
        pre: llama.cpp's name of the splitter.
        tokens: the piece of every id, in the byte alphabet of GPT-2; special tokens as they are written.
        types: `gguf.TokenType` of every id.
        merges: "left right", best first.
        padded: rows of the embedding beyond the tokenizer, filled with unused `[PADn]`.
        model: llama.cpp's name of the algorithm: "gpt2" (merges over bytes), "llama" (a SentencePiece BPE) or "bert"
            (word pieces).
        scores: of every id; none for "gpt2".
        space_prefix: whether a space is put in front of a text.
        unknown, begin: ids of SentencePiece's `<unk>` and `<s>`.
        lower, accents: whether word pieces are of text in lower case, and keep its accents.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    padded: int
    ids: dict[str, int]
    model: str = "gpt2"
    scores: list[float] | None = None
    space_prefix: bool = False
    unknown: int | None = None
    begin: int | None = None
    lower: bool = False
    accents: bool = True

    @property
    def end_of_text(self) -> int | None:
        """Id of `<|endoftext|>`."""
        return self.ids.get(END_OF_TEXT)

    @property
    def turn_end(self) -> int | None:
        """Id of `<|im_end|>`."""
        return self.ids.get(TURN_END)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Read the tokenizer of a model folder whose embedding has `rows` rows.

    Raises:
        HanmoError: some part of the tokenizer is nothing that llama.cpp does, named with what was found.
    """
    from hanmo.convert.sentencepieces import is_sentencepiece, read_pieces
    from hanmo.convert.wordpieces import is_wordpiece, read_wordpieces

    if is_sentencepiece(folder):
        return read_pieces(folder, rows)
    if is_wordpiece(folder):
        return read_wordpieces(folder, rows)
    path = folder / "tokenizer.json"
    data = read_json(path)
    pre = _splitter(path, data)
    _refuse_overriding_class(folder)
    model = data["model"]
    ids: dict[str, int] = dict(model["vocab"])
    special: dict[int, bool] = {}
    for added in data.get("added_tokens", []):
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise HanmoError(
                f"{path}: token {added['content']!r} has lstrip, rstrip or single_word set, which llama.cpp does not do"
            )
        ids[added["content"]] = added["id"]
        special[added["id"]] = added["special"]
    _require_bytes(path, ids)
    tokens: list[str | None] = [None] * rows
    for token, index in ids.items():
        if index >= rows:
            raise HanmoError(
                f"{path}: token {token!r} has id {index}, but the embedding has {rows} rows: "
                "this tokenizer does not belong to this model"
            )
        tokens[index] = token
    types = [
        TokenType.UNUSED
        if token is None
        else TokenType.NORMAL
        if index not in special
        else TokenType.CONTROL
        if special[index]
        else TokenType.USER_DEFINED
        for index, token in enumerate(tokens)
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary(
        pre=pre,
        tokens=[f"[PAD{index}]" if token is None else token for index, token in enumerate(tokens)],
        types=[int(kind) for kind in types],
        merges=merges,
        padded=tokens.count(None),
        ids=ids,
    )


def _splitter(path: Path, data: dict[str, Any]) -> str:
    """llama.cpp's name for the way this tokenizer.json works, or an error that says what differs."""

    def refuse(what: str) -> HanmoError:
        return HanmoError(
            f"{path}: {what}; llama.cpp would give other token ids. What can be converted is a byte-level BPE with "
            f"the splitter of {' or '.join((*PRE_TOKENIZERS, _BYTE_LEVEL))} and no normaliser "
            "(`hanmo tokenizer` makes one)"
        )

    model = data.get("model") or {}
    if model.get("type") != "BPE":
        raise refuse(f"the model is {model.get('type')}, not BPE")
    for option in _BPE_OPTIONS:
        if model.get(option):
            raise refuse(f"the BPE option {option} is {model[option]!r}")
    if data.get("normalizer") is not None:
        raise refuse(f"it has a normaliser ({data['normalizer'].get('type')})")
    post = data.get("post_processor") or {}
    if post.get("special_tokens"):
        raise refuse(f"its post-processor adds {', '.join(post['special_tokens'])} to every text")
    if post and post.get("type") not in ("TemplateProcessing", "ByteLevel"):
        raise refuse(f"its post-processor is {post.get('type')}")
    whole = data.get("pre_tokenizer") or {}
    if whole.get("type") == "ByteLevel" and whole.get("use_regex", True) and whole.get("add_prefix_space") is False:
        return _BYTE_LEVEL
    steps = whole.get("pretokenizers", [])
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        raise refuse("its pre-tokenizer is neither GPT-2's nor an expression followed by ByteLevel")
    split, bytelevel = steps
    if bytelevel.get("add_prefix_space") or bytelevel.get("use_regex"):
        raise refuse("its ByteLevel step adds a space or splits a second time")
    if split.get("behavior") != "Isolated" or split.get("invert"):
        raise refuse("its expression does not keep what it matches as pieces of their own (behavior Isolated)")
    expression = split.get("pattern", {}).get("Regex")
    for name, known in PRE_TOKENIZERS.items():
        if expression == known:
            return name
    raise refuse(f"its split expression is {expression!r}")


def _refuse_overriding_class(folder: Path) -> None:
    """Loaders obey `tokenizer_class`, and some classes change what tokenizer.json says."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    name = read_json(path).get("tokenizer_class")
    if name in _OVERRIDING:
        raise HanmoError(
            f"{path}: tokenizer_class is {name}, which adds a normaliser (NFC) that tokenizer.json does not have, "
            "so that transformers and llama.cpp would disagree; write PreTrainedTokenizerFast there"
        )


def _require_bytes(path: Path, ids: dict[str, int]) -> None:
    """Every byte must be a token, or some text has no ids at all."""
    from tokenizers.pre_tokenizers import ByteLevel

    missing = [character for character in ByteLevel.alphabet() if character not in ids]
    if missing:
        raise HanmoError(
            f"{path}: {len(missing)} of the 256 byte tokens are missing, so some text cannot be encoded; "
            "train the tokenizer with the whole byte alphabet"
        )
