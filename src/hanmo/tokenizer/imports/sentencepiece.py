"""SentencePiece models, and llama2.c's export of one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError
from hanmo.files import atomic_write, read_json
from hanmo.tokenizer.imports.written import fast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Special tokens of ChatGLM3 behind its 64,789 pieces (tokenization_chatglm.py of the model's page, in this order).
CHATGLM_SPECIAL = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
_BIN_SPECIAL = {1: "<s>", 2: "</s>"}


def sentencepiece(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer.forms import spm

    return _from_model(spm.read(path), path.read_bytes(), path, out)


def _from_model(model: Any, content: bytes, path: Path, out: Path) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer import save
    from hanmo.tokenizer.forms import spm

    with atomic_write(out / "tokenizer.model", "wb") as file:
        file.write(content)
    spec = model.trainer_spec
    pieces = [piece.piece for piece in model.pieces]
    roles = {
        f"{role}_token": pieces[index]
        for role, index in (("unk", spec.unk_id), ("bos", spec.bos_id), ("eos", spec.eos_id), ("pad", spec.pad_id))
        if 0 <= index < len(pieces)
    }
    added = _added_beside(path, len(pieces))
    if _needs_library(model):
        from hanmo.tokenizer.forms.spm_class import HanmoSentencePieceTokenizer

        own = HanmoSentencePieceTokenizer(
            str(out / "tokenizer.model"), clean_up_tokenization_spaces=False, model_max_length=1_000_000, **roles
        )
        _add_at(own, added)
        save(own, out)
        return own
    tokenizer = spm.convert(model)
    made = fast(tokenizer, out, **roles)
    _add_at(made, added)
    save(made, out)
    return made


def _needs_library(model: Any) -> bool:
    """Whether no tokenizer.json gives a model's ids on every text.

    Of a BPE where many pieces share a score: an order of merges cannot stand for it. (LLaMA 2 gives one score to its
    fifteen runs of spaces; those come out alike.) Of a unigram where sums of scores are rounded: the library adds them
    in single precision from the start of a text, `tokenizers` in double, and ways that cost the same in one differ
    in the other.
    """
    from hanmo.tokenizer.forms import spm

    if model.trainer_spec.model_type == spm.UNIGRAM:
        return not spm.exact_sums(model)
    scores = [p.score for p in model.pieces if p.type == spm.NORMAL and p.piece.strip(spm.SPACE)]
    return len(set(scores)) < len(scores)


def _added_beside(path: Path, size: int) -> list[tuple[int, str]]:
    """Tokens that a project adds behind its model: by added_tokens.json, or ChatGLM3's by its configuration."""
    beside = path.parent / "added_tokens.json"
    if beside.is_file():
        return sorted((int(index), token) for token, index in read_json(beside).items())
    config = path.parent / "tokenizer_config.json"
    if config.is_file() and read_json(config).get("tokenizer_class") == "ChatGLMTokenizer":
        return [(size + number, token) for number, token in enumerate(CHATGLM_SPECIAL)]
    return []


def _add_at(tokenizer: PreTrainedTokenizerFast, added: Sequence[tuple[int, str]]) -> None:
    from transformers import AddedToken

    for index, token in added:
        if index != len(tokenizer):
            raise HanmoError(f"added token {token!r} should have id {index}, but the next free one is {len(tokenizer)}")
        # Words among them (ChatGLM's "sop") are no part of longer words.
        marker = AddedToken(token, special=True, normalized=False, single_word=token.isalpha())
        tokenizer.add_tokens([marker], special_tokens=True)


def llama2c(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    """llama2.c's export: int32 length of the longest, then a float32 score, an int32 length and the bytes of each."""
    from hanmo.tokenizer.forms import spm

    content = path.read_bytes()
    model = spm.empty()
    at = 4
    try:
        while at < len(content):
            score, length = struct.unpack_from("<fi", content, at)
            token = content[at + 8 : at + 8 + length]
            if length < 0 or len(token) != length:
                raise struct.error
            at += 8 + length
            index = len(model.pieces)
            text = _BIN_SPECIAL.get(index, token.decode().replace(" ", spm.SPACE))
            kind = spm.NORMAL
            if index == 0:
                text, kind = "<unk>", spm.UNKNOWN
            elif index in _BIN_SPECIAL:
                kind = spm.CONTROL
            elif len(text) == 6 and text.startswith("<0x"):
                kind = spm.BYTE
            model.pieces.add(piece=text, score=score, type=kind)
    except (struct.error, UnicodeDecodeError):
        raise HanmoError(f"{path}: no tokenizer.bin of llama2.c (torn at byte {at})") from None
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = spm.BPE, True, len(model.pieces)
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    rule = model.normalizer_spec
    rule.name, rule.add_dummy_prefix, rule.remove_extra_whitespaces, rule.escape_whitespaces = (
        "identity",
        True,
        False,
        True,
    )
    return _from_model(model, model.SerializeToString(), path, out)
