"""Tokenizers made elsewhere, as folders that everything here and in transformers can use: `hanmo tokenizer import`.

| kind | what is read | what is written |
|---|---|---|
| sentencepiece | tokenizer.model or another .model (LLaMA 2, ChatGLM3, Chinese-LLaMA, UER) | stock fast tokenizer |
| the same, with ties | BPE of equal scores (tiny-llm-zh), rounded unigram (UER) | our `HanmoSentencePieceTokenizer` |
| llama2c | tokenizer.bin of llama2.c | stock fast tokenizer, tokenizer.model |
| tiktoken | qwen.tiktoken | stock fast tokenizer |
| bert | vocab.txt (BERT, GPT2-Chinese, UER) | `BertTokenizerFast` |
| linglong | LingLong's characters (13,312), maybe with its pinyin classes | stock fast tokenizer, pinyin.txt |
| word | CPM-2's words (26,240) | our `HanmoWordTokenizer` |
| json | tokenizer.json | the same, checked |

Ids are those of each project's own implementation; what was compared is in tests/tokenizer/test_imports.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError, nearest
from hanmo.files import atomic_write, read_json
from hanmo.tokenizer.chat import CHAT_TEMPLATE, SPECIAL_TOKENS
from hanmo.tokenizer.imports import ranks, sentencepiece, vocabularies
from hanmo.tokenizer.imports.written import lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def import_tokenizer(
    path: Path,
    out: Path,
    kind: str = "auto",
    chat: bool = False,
    lower_case: bool | None = None,
    pinyin: Path | None = None,
) -> dict[str, Any]:
    """Read the tokenizer at `path` and write a tokenizer folder.

    Args:
        path: a file, or a folder with one.
        out: the folder to make.
        kind: a key of `KINDS`, or "auto": by name and content.
        chat: add the ChatML markers that are missing, at the end, and our chat template.
        lower_case: for BERT's; None: yes if capital letters are missing from the vocabulary.
        pinyin: a file of pinyin classes that goes with it.

    Returns:
        kind, class, vocabulary size, the id that closes documents.

    Raises:
        HanmoError: no tokenizer there, or not of that kind.
    """
    from hanmo.tokenizer import end_of_document, load
    from hanmo.tokenizer.forms import pinyin as readings

    if not path.exists():
        raise HanmoError(f"{path}: no such file or folder")
    if kind != "auto" and kind not in KINDS:
        raise HanmoError(f"kind '{kind}' is unknown{nearest(kind, KINDS)} (known: auto, {', '.join(KINDS)})")
    file = _find(path)
    found = _guess(file) if kind == "auto" else kind
    classes = readings.read_classes(pinyin) if pinyin is not None else None
    if out.exists() and any(out.iterdir()):
        raise HanmoError(f"{out}: not empty; name a new folder")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tokenizer = KINDS[found](file, temporary, lower_case)
        if chat:
            _add_chat(tokenizer, temporary)
        if classes is not None:
            readings.save(classes, temporary)
        loaded = load(temporary)
        facts = {
            "kind": found,
            "class": type(loaded).__name__
            if not (temporary / "tokenizer.json").is_file()
            else "PreTrainedTokenizerFast",
            "vocab_size": len(loaded),
            "end_of_document": end_of_document(temporary),
        }
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return facts


def _find(path: Path) -> Path:
    """The tokenizer's file in a folder; a file as it is."""
    if path.is_file():
        return path
    for name in (
        "tokenizer.model",
        "*.model",
        "*.tiktoken",
        "tokenizer.json",
        "tokenizer.bin",
        "vocab.txt",
        "*vocab*.txt",
    ):
        files = sorted(path.glob(name))
        if len(files) > 1:
            raise HanmoError(f"{path}: several files {name} ({', '.join(f.name for f in files)}); name one of them")
        if files:
            return files[0]
    raise HanmoError(f"{path}: no tokenizer.model, .tiktoken, tokenizer.json, tokenizer.bin or vocab.txt there")


def _guess(path: Path) -> str:
    match path.suffix:
        case ".model":
            return "sentencepiece"
        case ".tiktoken":
            return "tiktoken"
        case ".bin":
            return "llama2c"
        case ".json":
            return "json"
        case ".txt":
            found = set(lines(path))
            # BERT's vocabularies may hold these signs as well, but not CPM-2's names.
            if {"\u2582", "\u2583"} <= found and found & {"<s>", "<unk>"}:
                return "word"
            # LingLong kept BERT's names but gave them other roles; its own two markers tell it.
            return "linglong" if {"[A]", "[Q]", "<S>", "<T>"} <= found and "[unused88]" in found else "bert"
    raise HanmoError(f"{path}: of which kind? name it with --kind ({', '.join(KINDS)})")


def _add_chat(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Add what is missing of the ChatML markers behind the vocabulary, and the template."""
    from transformers import AddedToken

    present = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    config = read_json(out / "tokenizer_config.json")
    missing = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS if token not in present]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(out))
    after = read_json(out / "tokenizer_config.json")
    with atomic_write(out / "tokenizer_config.json") as file:
        json.dump({**after, "tokenizer_class": config["tokenizer_class"]}, file, ensure_ascii=False, indent=2)


#: One function a kind: (file, folder to fill, lower_case) -> the tokenizer, saved.
KINDS: dict[str, Callable[[Path, Path, bool | None], Any]] = {
    "sentencepiece": sentencepiece.sentencepiece,
    "llama2c": sentencepiece.llama2c,
    "tiktoken": ranks.tiktoken,
    "bert": vocabularies.bert,
    "linglong": vocabularies.linglong,
    "word": vocabularies.word,
    "json": ranks.json,
}
