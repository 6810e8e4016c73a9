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

import base64
import binascii
import json
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError, nearest
from hanmo.files import atomic_write, read_json
from hanmo.tokenizer.chat import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: Special tokens of the first Qwen behind its 151,643 ranks.
QWEN_SPECIAL = (*SPECIAL_TOKENS, *(f"<|extra_{number}|>" for number in range(205)))
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
            lines = set(_lines(path))
            # BERT's vocabularies may hold these signs as well, but not CPM-2's names.
            if {"\u2582", "\u2583"} <= lines and lines & {"<s>", "<unk>"}:
                return "word"
            # LingLong kept BERT's names but gave them other roles; its own two markers tell it.
            return "linglong" if {"[A]", "[Q]", "<S>", "<T>"} <= lines and "[unused88]" in lines else "bert"
    raise HanmoError(f"{path}: of which kind? name it with --kind ({', '.join(KINDS)})")


def _lines(path: Path) -> list[str]:
    """The tokens of a vocabulary file; lines end at \\n alone, since other separators are tokens."""
    try:
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise HanmoError(f"{path}: not UTF-8 at byte {error.start}") from None
    lines = [line.removesuffix("\r") for line in lines] if all(line.endswith("\r") for line in lines) else lines
    if len(lines) < 2:
        raise HanmoError(f"{path}: a vocabulary has a token a line; there are {len(lines)}")
    return lines


def _unique(path: Path) -> dict[str, int]:
    """A vocabulary by token. Of tokens that stand there twice the last counts, as in BERT's own reader."""
    return {token: index for index, token in enumerate(_lines(path))}


def _fast(tokenizer: Tokenizer, out: Path, **roles: Any) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    from hanmo.tokenizer import save

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=1_000_000, **roles
    )
    save(fast, out)
    return fast


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


# One function a kind: (file, folder to fill, lower_case) -> the tokenizer, saved.


def _sentencepiece(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
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
    fast = _fast(tokenizer, out, **roles)
    _add_at(fast, added)
    save(fast, out)
    return fast


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


def _llama2c(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
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


def _tiktoken(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
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
    return _fast(tokenizer, out, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def _bert(path: Path, out: Path, lower_case: bool | None) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton

    vocabulary = _unique(path)
    if "[UNK]" not in vocabulary:
        raise HanmoError(f"{path}: no [UNK] in it; BERT's vocabularies have one")
    lower = _lower(vocabulary) if lower_case is None else lower_case
    return save_bert(skeleton(vocabulary, lower), lower, out)


def _lower(vocabulary: dict[str, int]) -> bool:
    """Whether capitals are missing (a stray Q or X in a vocabulary of Chinese says nothing)."""
    return sum(chr(code) in vocabulary for code in range(ord("A"), ord("Z") + 1)) < 13


def _linglong(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    """LingLong's characters: BERT's rules, every digit alone, a newline is the separator.

    Ids 8, 9 and 10 close a document, stand for a newline and open a document, whatever their names are.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    from hanmo.tokenizer.forms.wordpiece import skeleton

    tokens = _lines(path)
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
    return _fast(
        tokenizer, out, unk_token="[UNK]", pad_token="[PAD]", eos_token=end, sep_token=separator, bos_token=begin
    )


def _word(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
    from hanmo.tokenizer import save
    from hanmo.tokenizer.forms.word import make

    tokens = _lines(path)
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


def _json(path: Path, out: Path, _: bool | None) -> PreTrainedTokenizerFast:
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
        return _fast(tokenizer, out, **roles)
    for file in (path, *beside):
        if file.is_file():
            shutil.copyfile(file, out / ("tokenizer.json" if file == path else file.name))
    loaded = load(out)
    save(loaded, out)
    return loaded


KINDS: dict[str, Callable[[Path, Path, bool | None], Any]] = {
    "sentencepiece": _sentencepiece,
    "llama2c": _llama2c,
    "tiktoken": _tiktoken,
    "bert": _bert,
    "linglong": _linglong,
    "word": _word,
    "json": _json,
}
