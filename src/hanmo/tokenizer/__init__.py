"""Tokenizers: training them on Chinese, saving them so that every engine splits alike, and the one chat format.

The saved form is the plain fast class of transformers with a byte-level BPE, Qwen2's split expression and no
normaliser: llama.cpp knows exactly that under the name `qwen2`, so ids agree there to the last byte.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json

# The Rust tokenizers warn on every fork once they have used threads; the stages fork on purpose.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: How Qwen2 (and llama.cpp's pre-tokenizer "qwen2") cuts text before the merges: every digit alone, letters in runs.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def skeleton() -> Tokenizer:
    """An untrained byte-level BPE with the house's splitter: give it to a trainer, or merges to it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build(tokenizer: Tokenizer, out: Path) -> PreTrainedTokenizerFast:
    """Save a trained tokenizer as a Hugging Face folder with the chat template; returns the loaded object.

    Args:
        tokenizer: holds the special tokens `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` under the ids 0, 1, 2.
        out: the folder, made if missing.
    """
    from transformers import PreTrainedTokenizerFast

    from hanmo.tokenizer.chat import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS

    for index, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer.token_to_id(token) == index, f"{token} must have id {index}"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )
    fast.chat_template = CHAT_TEMPLATE
    save(fast, out)
    return fast


#: Files that belong to a tokenizer beside what transformers writes: the SentencePiece model that llama.cpp's converter
#: reads, and the pinyin classes.
COMPANIONS = ("tokenizer.model", "pinyin.txt", "pinyin.json")


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer's files into `folder` under the class name that every transformers knows.

    transformers 5 would call the class `TokenizersBackend`, which version 4 and what builds on it cannot find; nor can
    that read the list of further special tokens under its new name, while version 5 reads the old one. Only our own
    classes (words, merged SentencePiece models) keep their names. `COMPANIONS` come along from where it was loaded.
    A model's configuration must lie there before, if any will (`pin`).
    """
    from hanmo.tokenizer.forms.segmented import SegmentedTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    if not isinstance(tokenizer, SegmentedTokenizer):
        path = folder / "tokenizer_config.json"
        written = {**read_json(path), "tokenizer_class": "PreTrainedTokenizerFast"}
        if isinstance(further := written.get("extra_special_tokens"), list):
            del written["extra_special_tokens"]
            written["additional_special_tokens"] = further
        write_json(path, written)
    pin(folder)
    source = Path(tokenizer.name_or_path or folder)
    for name in COMPANIONS:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)


#: Model types for which AutoTokenizer of transformers 5 takes a class of its own, whatever the folder names, and what
#: that class calls tokens that the folder does not name.
_OVERRULED = {"qwen2": ("bos_token", "eos_token", "pad_token", "unk_token")}


def pin(folder: Path) -> None:
    """Make a model folder's tokenizer.json count as it is wherever AutoTokenizer opens the folder.

    For Qwen2's model type transformers 5 (until 5.23 at least) builds its own class of the vocabulary alone: it adds
    NFC and its own splitter, and breaks what is no byte-level BPE. That class takes the file whole where the
    tokenizer's settings say `trust_remote_code`, which runs nothing: no code is in the folder, no `auto_map` names any.
    Nothing happens where the model's type needs none of it.
    """
    config, settings = folder / "config.json", folder / "tokenizer_config.json"
    if not (config.is_file() and settings.is_file() and (folder / "tokenizer.json").is_file()):
        return
    roles = _OVERRULED.get(read_json(config).get("model_type"))
    if roles:
        # What is left out would be "<|endoftext|>" to it, and be added to the vocabulary.
        write_json(settings, {**dict.fromkeys(roles), **read_json(settings), "trust_remote_code": True})


def load(path: Path | str) -> PreTrainedTokenizerFast:
    """Load a tokenizer folder (or a model folder that holds one) as the plain fast class, or as our own it was saved
    as.

    Raises:
        HanmoError: there is no tokenizer in it.
    """
    path = Path(path)
    if (path / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(path))
    cls = _own_class(path)
    if cls is None:
        raise HanmoError(f"{path}: no tokenizer.json there; give a folder made by `hanmo tokenizer` or a model folder")
    return cls.from_pretrained(str(path))


def is_tokenizer(path: Path | str) -> bool:
    """Whether a folder holds a tokenizer that `load` can read."""
    return (Path(path) / "tokenizer.json").is_file() or _own_class(Path(path)) is not None


def _own_class(folder: Path) -> type[PreTrainedTokenizerFast] | None:
    config = folder / "tokenizer_config.json"
    match read_json(config).get("tokenizer_class") if config.is_file() else None:
        case "HanmoWordTokenizer":
            from hanmo.tokenizer.forms.word import HanmoWordTokenizer

            return HanmoWordTokenizer
        case "HanmoSentencePieceTokenizer":
            from hanmo.tokenizer.forms.spm_class import HanmoSentencePieceTokenizer

            return HanmoSentencePieceTokenizer
        case _:
            return None


def end_of_document(folder: Path | str) -> int:
    """The id that closes documents: a tokenizer's eos, `<|endoftext|>` where eos only ends a turn, else its separator.

    Raises:
        HanmoError: it has none of them.
    """
    from tokenizers import Tokenizer

    from hanmo.tokenizer.chat import END_OF_TEXT, TURN_END

    tokenizer = load(folder)
    path = Path(folder) / "tokenizer.json"
    # The file, since the class adds what its configuration names and the file has not.
    backend = Tokenizer.from_file(str(path)) if path.is_file() else tokenizer.backend_tokenizer
    eos = tokenizer.eos_token if tokenizer.eos_token != TURN_END else None
    for token in (eos, END_OF_TEXT, tokenizer.sep_token):
        index = backend.token_to_id(str(token)) if token else None
        if index is not None:
            return index
    raise HanmoError(
        f"{folder}: neither {END_OF_TEXT} nor an eos token, which closes documents; name one as eos_token in "
        "tokenizer_config.json, or train a tokenizer with `hanmo tokenizer`"
    )


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode text in which special tokens are only characters. See `hanmo.tokenizer.chat.encode_text`."""
    from hanmo.tokenizer.chat import encode_text

    return encode_text(tokenizer, text)
