"""Which Chinese pieces an existing tokenizer should get: its merges are continued on Chinese text.

The text is tokenised by the tokenizer as it is, and training goes on from there: the symbols that are merged are its
own tokens (`中` and `国` to `中国`), never the letters below them. A character that the tokenizer knows only as bytes
is one symbol as well, and becomes a token as soon as it is among the most frequent. Only pieces of Chinese are learnt,
Han characters with Han characters and punctuation with punctuation; text without them keeps its tokens exactly.

`tokenizers` does the training, on text in which every symbol is written as one character. Between symbols that stand
side by side too rarely to be merged the text is cut (see `train`), which keeps training short.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanmo.tokenizer.opening import OpenTokenizer

#: Code points that are Chinese: Han (with extensions and compatibility forms), then punctuation and full-width forms.
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_SIGNS = ((0x3000, 0x303F), (0xFF00, 0xFF60), (0xFFE0, 0xFFE6))
#: Text is encoded in pieces of about so many characters, cut at line ends.
_STRETCH = 4000
_TABLE_BITS = 22
#: Symbols are written as the characters from here on; the surrogates are passed over.
_FIRST_LETTER, _SURROGATES = 0x3400, (0xD800, 0xE000)
_LEAST_COUNT = 2


class Grown(NamedTuple):
    """A new piece: its text, how often it is there, and the bytes of the older pieces it is made of.

    Two parts for a merge; two to four for a single character, the tokens that it was before.
    """

    text: str
    count: int
    parts: tuple[bytes, ...]


def surely_chinese(piece: bytes) -> bool:
    """Whether every text in which these bytes occur is Chinese: they hold a Chinese character, or begin one for sure.

    Bytes such as `b8 ad`, the end of 中, may end a letter of any script; `e4 b8` can only begin a Han character.
    """
    start = 0
    while start < len(piece):
        lead = piece[start]
        width = (
            1 if lead < 0x80 else 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if lead < 0xF5 else 1
        )
        if 0x80 <= lead < 0xC2:  # the end of a character that began before
            start += 1
            continue
        part = piece[start : start + width]
        missing = width - len(part)
        low = [byte & mask for byte, mask in zip(part, (0x7F, 0x3F, 0x3F, 0x3F), strict=False)]
        if width > 1:
            low[0] = lead & (0xFF >> (width + 1))
        code = 0
        for value in low:
            code = code << 6 | value
        first, last = code << 6 * missing, ((code + 1) << 6 * missing) - 1
        if any(a <= first and last <= b for a, b in (*_HAN, *_SIGNS)):
            return True
        start += width
    return False


def learn(base: OpenTokenizer, texts: Iterable[str], most: int) -> list[Grown]:
    """New pieces by falling count, each behind the pieces it is made of; at most about `most` merges.

    Args:
        texts: strings of a million characters or so.
    """
    sizes = np.array([len(piece.bytes) for piece in base.pieces], np.int64)
    whole = np.array([piece.kind == "normal" and _decodes(piece.bytes) for piece in base.pieces], bool)
    keys = np.concatenate([_symbols(base, part, sizes, whole) for text in texts for part in _stretches(text)] or [[-1]])
    alphabet, written = np.unique(keys, return_inverse=True)
    if alphabet[-1] < 0:
        return []
    letters = np.arange(len(alphabet), dtype=np.uint32) + _FIRST_LETTER
    letters[letters >= _SURROGATES[0]] += _SURROGATES[1] - _SURROGATES[0]
    if alphabet[0] < 0:
        letters[0] = ord("\n")
    codes = _cut(letters[written], most)
    merges, counts = _train(codes, len(alphabet) + most)

    content = {chr(letter): _bytes(base, int(key)) for letter, key in zip(letters, alphabet, strict=True) if key >= 0}
    single = {chr(letter): int(key) for letter, key in zip(letters, alphabet, strict=True) if key >= len(base.pieces)}
    grown: list[Grown] = []
    waiting = sorted((letter for letter in single if counts.get(letter, 0) >= _LEAST_COUNT), key=lambda x: -counts[x])
    there: set[str] = set()

    def character(letter: str) -> None:
        there.add(letter)
        parts = tuple(base.pieces[index].bytes for index in base.spell(content[letter]))
        if len(parts) > 1 and b"".join(parts) == content[letter]:
            grown.append(Grown(content[letter].decode(), counts[letter], parts))

    place = 0
    for left, right in merges:
        count = counts.get(left + right, 0)
        if count < _LEAST_COUNT:
            continue
        while place < len(waiting) and counts[waiting[place]] >= count:
            if waiting[place] not in there:
                character(waiting[place])
            place += 1
        for letter in left + right:  # none is missing but in a tie
            if letter in single and letter not in there:
                character(letter)
        parts = tuple(b"".join(content[letter] for letter in side) for side in (left, right))
        grown.append(Grown(b"".join(parts).decode(), count, parts))
    for letter in waiting[place:]:
        if letter not in there:
            character(letter)
    return grown


def _decodes(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def _bytes(base: OpenTokenizer, key: int) -> bytes:
    return base.pieces[key].bytes if key < len(base.pieces) else chr(key - len(base.pieces)).encode()


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _inside(codes: NDArray[np.uint32], ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    found = np.zeros(len(codes), bool)
    for low, high in ranges:
        found |= (codes >= low) & (codes <= high)
    return found


def _stretches(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + _STRETCH) + 1 or len(text)
        yield text[start : min(end, start + 4 * _STRETCH)]
        start = min(end, start + 4 * _STRETCH)


def _symbols(base: OpenTokenizer, text: str, sizes: NDArray[np.int64], whole: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The symbols of a text, -1 between those that cannot be merged.

    A symbol is the id of a token of whole Chinese characters, or (number of tokens + code point) for a character that
    is several tokens.
    """
    codes = _codes(text)
    signs = _inside(codes, _SIGNS)
    kind = _inside(codes, _HAN).astype(np.int64) + 2 * signs  # 0 for what is not Chinese
    found = base.encode(text)
    if not kind.any() or not len(found.ids):
        return np.full(1, -1, np.int64)
    place = np.concatenate([[0], np.cumsum(1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF))])
    changes = np.concatenate([[0], np.cumsum(kind[1:] != kind[:-1]), [0]])  # equal where one kind reaches all the way
    starts, ends = found.starts, found.ends
    first, last = np.minimum(starts, len(codes) - 1), np.maximum(ends - 1, 0)
    sound = (ends > starts) & whole[found.ids] & (sizes[found.ids] == place[ends] - place[starts])
    sound &= (kind[first] > 0) & (changes[first] == changes[last])

    # Tokens that lie inside one character make it up together when their bytes are as many as its own.
    inside = (ends - starts <= 1) & ~sound
    filled = np.bincount(first[inside], sizes[found.ids[inside]], len(codes))
    composed = np.flatnonzero((filled == np.diff(place)) & (kind > 0))
    word = np.zeros(len(codes), np.int64)
    word[first] = found.words

    at = np.concatenate([starts[sound], composed])
    end = np.concatenate([ends[sound], composed + 1])
    key = np.concatenate([found.ids[sound], codes[composed].astype(np.int64) + len(base.pieces)])
    order = np.argsort(at, kind="stable")
    at, end, key = at[order], end[order], key[order]
    apart = (at[1:] != end[:-1]) | (kind[at[1:]] != kind[at[:-1]]) | (word[at[1:]] != word[at[:-1]])
    return np.concatenate([np.insert(key, np.flatnonzero(apart) + 1, -1), [-1]])


def _cut(codes: NDArray[np.uint32], most: int) -> NDArray[np.uint32]:
    """The text with line ends between symbols that stand side by side more rarely than the `most`-th frequent pair."""
    end = ord("\n")
    both = (codes[:-1] != end) & (codes[1:] != end)
    mixed = (codes[:-1] * np.uint32(0x9E3779B1)) ^ (codes[1:] * np.uint32(0x85EBCA6B))
    pairs = mixed >> np.uint32(32 - _TABLE_BITS)
    counts = np.bincount(pairs[both], minlength=1 << _TABLE_BITS)
    there = counts[counts > 0]
    threshold = max(_LEAST_COUNT, int(np.partition(there, -most)[-most]) if 0 < most <= len(there) else 0)
    return np.insert(codes, np.flatnonzero(both & (counts[pairs] < threshold)) + 1, end)


def _train(codes: NDArray[np.uint32], size: int) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Merges in the order learnt, and how often every symbol and every merge was there."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    step = 1 << 16

    def parts() -> Iterator[str]:
        for start in range(0, len(codes), step):
            yield codes[start : start + step].astype("<u4").tobytes().decode("utf-32-le")

    tokenizer.train_from_iterator(
        parts(), trainers.BpeTrainer(vocab_size=size, min_frequency=_LEAST_COUNT, show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    names = {index: name for name, index in model["vocab"].items()}
    final = np.zeros(len(names), np.int64)
    for part in parts():
        ids = tokenizer.encode_batch_fast([part], add_special_tokens=False)[0].ids
        final += np.bincount(np.array(ids, np.int64), minlength=len(names))
    counts = {names[index]: int(count) for index, count in enumerate(final)}
    # A merge was made as often as its piece is there now, alone or as a part of longer ones.
    for left, right in reversed(merges):
        counts[left] += counts[left + right]
        counts[right] += counts[left + right]
    return merges, counts
