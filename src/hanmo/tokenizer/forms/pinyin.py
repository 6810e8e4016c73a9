"""The pinyin of every token: a second stream of ids beside the tokens, by phrase context (银行 is yín háng).

**The rule.** The reading of a Han character is what `pypinyin` gives it when it reads the run of Han characters up to
and including it, and nothing behind it. At the 行 of 银行 the phrase is complete: háng. At the 行 of 行长 nothing
tells it apart yet: xíng. So an id never changes when text is added, which is what a model that writes from left to
right needs:
training sees exactly the ids that generation computes token by token, no reading tells the model a character that it
has yet to predict, and no cached state has to be thrown away. (Reading with the text behind would agree with a
dictionary on more first characters of phrases, 重庆, but could not be had while 庆 is not written.)

`Reader` is the one implementation: `push` takes a token and gives its id; a stream of training is nothing but pushes.
It keeps only the stretch that the next character may still turn into a phrase: pypinyin's segmentation matches
forward, the longest phrase first, so what stands before that stretch cannot change (it is at most as long as the
longest phrase of the dictionary).

**The classes**, a line each in pinyin.txt, as LingLong's file has them: 0 special tokens, 1 Chinese punctuation, 2
letters, digits and signs of ASCII, 3 everything else, from 4 on syllables with their tones. A line lists what shares
the id.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import atomic_write, read_json, write_json

VOCABULARY, ABOUT = "pinyin.txt", "pinyin.json"
SPECIAL, PUNCTUATION, LETTER, OTHER = range(4)
CHINESE_PUNCTUATION = "“”‘’、。〈〉《》「」『』【】〔〕〖〗！，：；？（）～…—·￥．"


def own_classes() -> list[list[str]]:
    """The classes for tokenizers trained here: every toned syllable of pypinyin's dictionaries."""
    singles, phrases, _ = _dictionaries()
    syllables = {syllable for readings in singles.values() for syllable in readings.split(",")}
    syllables.update(readings[0] for phrase in phrases.values() for readings in phrase if readings)
    letters = [chr(code) for code in range(33, 127)]
    ordered = sorted(syllable for syllable in syllables if syllable and " " not in syllable)
    return [["<|endoftext|>"], list(CHINESE_PUNCTUATION), letters, ["[OTHER]"], *([syllable] for syllable in ordered)]


def read_classes(path: Path) -> list[list[str]]:
    """A file of classes: a line each (lines end at \\n alone), what shares the id separated by spaces.

    Raises:
        HanmoError: it has no syllables, or a syllable twice.
    """
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    classes = [line.split(" ") for line in lines]
    if len(classes) <= OTHER + 1:
        raise HanmoError(f"{path}: {len(classes)} lines; a pinyin vocabulary has four classes and then syllables")
    return classes


def save(classes: Sequence[Sequence[str]], folder: Path) -> None:
    """Write the classes into a tokenizer folder; `tokens` then writes a stream of pinyin ids beside the tokens."""
    with atomic_write(folder / VOCABULARY, "wb") as file:
        file.write(("\n".join(" ".join(names) for names in classes) + "\n").encode())
    write_json(folder / ABOUT, {"rule": "left context", "pypinyin": need("pypinyin", "tokenizers").__version__})


def has_pinyin(folder: Path | str) -> bool:
    """Whether a tokenizer says that its tokens have pinyin."""
    return (Path(folder) / VOCABULARY).is_file()


class Reader:
    """Gives tokens, one after the other, their pinyin ids; see the module for the rule.

    Args:
        folder: a tokenizer folder with pinyin.txt.

    Attributes:
        size: number of classes.
    """

    def __init__(self, folder: Path | str) -> None:
        from hanmo.tokenizer import load

        folder = Path(folder)
        classes = read_classes(folder / VOCABULARY)
        about = folder / ABOUT
        made = read_json(about).get("pypinyin") if about.is_file() else None
        there = need("pypinyin", "tokenizers").__version__
        if made not in (None, there):
            line = f"{folder}: its pinyin was made with pypinyin {made}, this is {there}: some readings may differ"
            console.print(line, markup=False, soft_wrap=True)
        self.size = len(classes)
        self._class = {name: index for index, names in reversed([*enumerate(classes)]) for name in names}
        self._syllable = {name: index for index, names in enumerate(classes) if index > OTHER for name in names}
        self._spelled, self._special = spelling(load(folder))
        self.reset()

    def reset(self) -> None:
        """Forget the text so far (special tokens do that too: a document ends there)."""
        self._run = ""
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> int:
        """The pinyin id of the next token.

        A token of several characters has the class of its last one; one that ends in the middle of a character has
        `OTHER`, and the token that completes the character has its reading.
        """
        if token in self._special:
            self.reset()
            return SPECIAL
        if token >= len(self._spelled):  # a model may have more rows than there are tokens
            return OTHER
        spelled = self._spelled[token]
        found = OTHER
        for character in self._bytes.decode(spelled):
            found = self._character(character)
        if found in (OTHER, LETTER):
            # LingLong's file lists whole tokens (2017, app) as well as characters.
            return self._class.get(spelled.decode(errors="replace"), found)
        return found

    def ids(self, tokens: Iterable[int]) -> NDArray[np.uint16]:
        """The pinyin ids of tokens, uint16 of the same length; documents are closed by special tokens."""
        return np.fromiter((self.push(token) for token in tokens), np.uint16)

    def documents(self, tokens: NDArray[np.integer], ends: NDArray[np.integer]) -> NDArray[np.uint16]:
        """The pinyin ids of whole documents, uint16 [tokens].

        Args:
            tokens: all their ids.
            ends: the exclusive end of each in `tokens`.
        """
        found = []
        start = 0
        for end in ends.tolist():
            self.reset()
            found.append(self.ids(tokens[start:end].tolist()))
            start = end
        return np.concatenate(found) if found else np.zeros(0, np.uint16)

    def _character(self, character: str) -> int:
        if not is_han(character):
            self._run = ""
            return self._class.get(character, OTHER)
        self._run = still_open(self._run + character)
        return self._syllable.get(reading(self._run), OTHER)


@lru_cache(maxsize=1)
def _dictionaries() -> tuple[Any, Any, Any]:
    constants = need("pypinyin.constants", "tokenizers")
    segments = need("pypinyin.seg.mmseg", "tokenizers")
    return constants.PINYIN_DICT, constants.PHRASES_DICT, segments.p_set


def is_han(character: str) -> bool:
    """Whether pypinyin has a reading for a character."""
    return ord(character) in _dictionaries()[0]


@lru_cache(maxsize=1 << 18)
def still_open(run: str) -> str:
    """The end of a run of Han characters that a next character may still turn into another phrase.

    Source: forward maximum matching as in pypinyin.seg.mmseg, which cuts off the longest phrase at the front once no
    phrase of the dictionary begins with all of the rest.
    """
    _, phrases, prefixes = _dictionaries()
    while len(run) > 1 and run not in prefixes:
        cut = 1
        for end in range(1, len(run)):
            if run[:end] not in prefixes:
                break
            if run[:end] in phrases:
                cut = end
        run = run[cut:]
    return run


@lru_cache(maxsize=1 << 18)
def reading(run: str) -> str:
    """The syllable, with its tone, that pypinyin gives the last character of a run."""
    return need("pypinyin", "tokenizers").pinyin(run)[-1][0]


def spelling(tokenizer: Any) -> tuple[list[bytes], frozenset[int]]:
    """(the bytes of every token, the ids of special ones); byte-level, BERT-like and byte-fallback vocabularies."""
    import json

    from hanmo.tokenizer.train import byte_letters

    backend = tokenizer.backend_tokenizer
    special = frozenset(index for index, token in backend.get_added_tokens_decoder().items() if token.special)
    decoder = json.dumps(json.loads(backend.decoder.__getstate__())) if backend.decoder is not None else ""
    letters = {letter: byte for byte, letter in enumerate(byte_letters())} if '"ByteLevel"' in decoder else None
    spelled: list[bytes] = []
    for index in range(backend.get_vocab_size()):
        token = (backend.id_to_token(index) or "").removeprefix("##")
        if letters is not None and all(letter in letters for letter in token):
            spelled.append(bytes(letters[letter] for letter in token))
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            spelled.append(bytes([int(token[3:5], 16)]))
        else:
            spelled.append(token.replace("\u2581", " ").encode())
    return spelled, special


def build(texts: Sequence[str], vocab_size: int, out: Path) -> Any:
    """Train and save a lossless character WordPiece with the classes beside it: a Han token is one character."""
    from hanmo.tokenizer.forms.wordpiece import build_lossless

    classes = own_classes()
    tokenizer = build_lossless(texts, vocab_size, out)
    save(classes, out)
    return tokenizer
