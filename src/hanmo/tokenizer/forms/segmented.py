"""What tokenizers have in common whose cuts no stock file can describe: a fast class with a Python step in front.

`tokenizers` lets a Python object cut the text, but cannot write it into a tokenizer.json. The classes made of this one
therefore keep their own files and build the backend when they are loaded. All that works on the fast class and its
backend (chat, decoding as a stream, batches, added tokens, offsets) works on them.

`from_pretrained` and `AutoTokenizer` know the classes after `import hanmo` (see `hanmo.registration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import NormalizedString, PreTokenizedString, Tokenizer
from transformers import AddedToken, PreTrainedTokenizerFast


class Cutter:
    """The step in front: cuts a text into tokens of the vocabulary, some of them spelled otherwise than in the text."""

    def __init__(self, owner: SegmentedTokenizer) -> None:
        self._owner = owner

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Called by `tokenizers` for every text."""
        text.split(self._cut)

    def _cut(self, _: int, text: NormalizedString) -> list[NormalizedString]:
        parts: list[NormalizedString] = []
        start = 0
        for length, tokens in self._owner.cut(str(text)):
            part = text[start : start + length] if length else None
            start += length
            spelled = "".join(tokens)
            if part is None:  # a token that stands for no character (a space put in front)
                parts += [NormalizedString(token) for token in tokens]
                continue
            if len(tokens) == 1 and str(part) == spelled:
                parts.append(part)
                continue
            part.replace(str(part), spelled)
            at = 0
            for token in tokens:
                piece = part[at : at + len(token)]
                parts.append(piece if piece is not None else NormalizedString(token))
                at += len(token)
        return parts


class SegmentedTokenizer(PreTrainedTokenizerFast):
    """Base of our own classes; see the module.

    A subclass reads its files before it calls this `__init__`, makes the backend in `_make`, and says in `_files` what
    is saved.

    Args:
        added: special tokens behind the vocabulary.
    """

    #: Attributes that `_make` sets.
    _made: tuple[str, ...] = ()

    def __init__(self, added: Sequence[str] = (), **kwargs: Any) -> None:
        self._tokenizer = self._make()
        super().__init__(added=list(added), **kwargs)
        self.add_tokens([AddedToken(token, special=True, normalized=False) for token in added], special_tokens=True)

    @property
    def added(self) -> list[str]:
        """Special tokens behind the vocabulary, in the order of their ids."""
        tokens = sorted(self._tokenizer.get_added_tokens_decoder().items())
        return [token.content for index, token in tokens if index >= len(self._ids)]

    def cut(self, text: str) -> list[tuple[int, Sequence[str]]]:
        """(characters taken from the text, the tokens they become), one after the other to the end."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts in which special tokens are only characters: what the backend gives, without its detours."""
        ids, unknown = self._ids, self._ids.get(str(self.unk_token), 0)
        return [[ids.get(token, unknown) for _, tokens in self.cut(text) for token in tokens] for text in texts]

    def _make(self) -> Tokenizer:
        raise NotImplementedError

    def _files(self) -> dict[str, bytes]:
        """What `save_pretrained` writes, by file name."""
        raise NotImplementedError

    @property
    def _ids(self) -> dict[str, int]:
        raise NotImplementedError

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Nothing to convert: the files are read by `__init__`."""
        return kwargs

    def _save_pretrained(
        self,
        save_directory: Any,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        from hanmo.files import atomic_write

        for name, content in self._files().items():
            path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
            with atomic_write(path, "wb") as file:
                file.write(content)
            file_names = (*file_names, str(path))
        return file_names

    # A backend with a Python step cannot be copied or sent to another process: it is built anew there.

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_tokenizer", *self._made)}
        state["_added"] = [token for _, token in sorted(self._tokenizer.get_added_tokens_decoder().items())]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        added = state.pop("_added")
        self.__dict__.update(state)
        self._tokenizer = self._make()
        self._tokenizer.add_tokens(added)
