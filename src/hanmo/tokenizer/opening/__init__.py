"""Opening any tokenizer: one small interface over the reference library of each form.

`open_tokenizer` takes a Hugging Face folder or its tokenizer.json, a SentencePiece model, a WordPiece vocab.txt or a
.tiktoken file. Text is encoded by the library that the form comes from (tokenizers, sentencepiece, tiktoken), with
special tokens that stand in a text as characters taken for those characters, and without tokens added around it.
"""

from __future__ import annotations

from pathlib import Path

from hanmo.errors import HanmoError
from hanmo.tokenizer.opening.base import SPACE, Encoded, OpenTokenizer, Piece, is_han
from hanmo.tokenizer.opening.huggingface import HuggingFace, WordPiece
from hanmo.tokenizer.opening.sentencepiece import SentencePiece, class_of, read_added, read_proto
from hanmo.tokenizer.opening.tiktoken import Tiktoken

__all__ = ["SPACE", "Encoded", "OpenTokenizer", "Piece", "is_han", "open_tokenizer", "read_added", "read_proto"]

_FORMS = "a folder with tokenizer.json, tokenizer.model or vocab.txt, or one such file, or a .model or .tiktoken file"


def open_tokenizer(path: Path | str) -> OpenTokenizer:
    """Open a tokenizer of any form.

    Raises:
        HanmoError: there is none, it is of a form not known here, or its library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise HanmoError(f"{path}: no such file or folder; give {_FORMS}")
    if path.is_dir():
        path = _in_folder(path)
    try:
        if path.name == "tokenizer.json":
            return HuggingFace(path)
        match path.suffix:
            case ".model":
                return SentencePiece(path)
            case ".tiktoken":
                return Tiktoken(path)
            case ".txt":
                if class_of(path.parent) == "HanmoWordTokenizer":
                    from hanmo.tokenizer.opening.words import Words

                    return Words(path)
                return WordPiece(path)
            case ".json":
                return HuggingFace(path)
    except (OSError, HanmoError):
        raise
    except Exception as error:  # each library has errors of its own for a file that is not what its name says
        raise HanmoError(f"{path}: not a tokenizer of the form that its name says ({error})") from None
    raise HanmoError(f"{path}: not a tokenizer that is known here; give {_FORMS}")


def _in_folder(folder: Path) -> Path:
    for pattern in ("tokenizer.json", "model/tokenizer.json", "tokenizer.model", "*.model", "*.tiktoken", "vocab.txt"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise HanmoError(f"{folder}: {len(found)} tokenizers there ({found[0].name}, ...); name one of the files")
        if found:
            return found[0]
    raise HanmoError(f"{folder}: no tokenizer there; give {_FORMS}")
