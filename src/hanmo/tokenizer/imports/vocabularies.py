"""Vocabularies with a token a line, BERT's, LingLong's and CPM-2's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError
from hanmo.tokenizer.imports.written import fast, lines, unique

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def bert(path: Path, out: Path, lower_case: bool | None) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton

    vocabulary = unique(path)
    if "[UNK]" not in vocabulary:
        raise HanmoError(f"{path}: no [UNK] in it; BERT's vocabularies have one")
    lower = _lower(vocabulary) if lower_case is None else lower_case
    return save_bert(skeleton(vocabulary, lower), lower, out)


def _lower(vocabulary: dict[str, int]) -> bool:
    """Whether capitals are missing (a stray Q or X in a vocabulary of Chinese says nothing)."""
    return sum(chr(code) in vocabulary for code in range(ord("A"), ord("Z") + 1)) < 13


def linglong(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    """LingLong's characters: BERT's rules, every digit alone, a newline is the separator.

    Ids 8, 9 and 10 close a document, stand for a newline and open a document, whatever their names are.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    from hanmo.tokenizer.forms.wordpiece import skeleton

    tokens = lines(path)
    tokenizer = skeleton({token: index for index, token in enumerate(tokens)}, True, framed=False)
    end, separator, begin = tokens[8:11]
    bert = tokenizer.normalizer
    # BERT's normaliser takes a newline for a space; this mark, unknown to the vocabulary, carries it past.
    mark = next(chr(code) for code in range(0x2580, 0x2800) if chr(code) not in tokens)
    steps: list[Any] = [normalizers.Replace("\n", f" {mark} "), bert, normalizers.Replace(mark, f" {separator} ")]
    tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    name = separator.replace("[", r"\[").replace("]", r"\]")
    cuts: list[Any] = [
        pre_tokenizers.Split(Regex(rf"{name}|[0-9]|[!-/:-@\[-`{{-~\p{{P}}]"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s+"), "removed"),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)  # pyright: ignore[reportAttributeAccessIssue]
    return fast(
        tokenizer, out, unk_token="[UNK]", pad_token="[PAD]", eos_token=end, sep_token=separator, bos_token=begin
    )


def word(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer import save
    from hanmo.tokenizer.forms.word import make

    tokens = lines(path)
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise HanmoError(f"{path}: {twice[0]!r} stands there twice")
    roles = {
        role: name
        for role, names in (
            ("unk_token", ("[UNK]", "<unk>")),
            ("bos_token", ("<s>",)),
            ("eos_token", ("<eod>", "</s>")),
            ("pad_token", ("[PAD]", "<pad>")),
            ("sep_token", ("[SEP]",)),
            ("cls_token", ("[CLS]",)),
            ("mask_token", ("[MASK]",)),
        )
        for name in names
        if name in tokens
    }
    markers = [token for token in tokens if token.startswith("<s_") and token.endswith(">")]
    tokenizer = make(tokens, out, "jieba", markers=markers, **roles)
    save(tokenizer, out)
    return tokenizer
