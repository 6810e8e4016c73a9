"""Text that was read in the wrong encoding, read again in the right one where that is proved to be better.

Each stretch of suspicious characters is written back into bytes as it was wrongly read, and these read as they should
have been. Bytes of one encoding are almost never valid in another, so a stretch that passes, whose result is made of
common Chinese characters, is what it seems:

* UTF-8 read as GBK: 浣犲ソ is 你好. Where bytes were lost on the way (锛? for ，) the place becomes U+FFFD.
* GBK read as Latin-1 or Windows-1252: ÄãºÃ is 你好.
* UTF-8 read as Latin-1 or Windows-1252: ä½\xa0å¥½ is 你好, cafÃ© is café.
* any of them twice over.

锟斤拷 (replacement marks read as GBK) and 烫烫烫烫 or 屯屯屯屯 (memory that was never written) hold no text any more.
They stay as they are, since texts about encodings quote them too, and count as damage.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

from hanmo.corpus.cleaning.characters import GARBLED, LATIN, Scan, garbled

#: What hints at it, for one search over all hints of a text.
LOST = ("锟斤拷", "烫烫烫烫", "屯屯屯屯", "葺葺葺葺")
_LOST = re.compile("(?:锟斤拷)+|烫{4,}|屯{4,}|葺{4,}")
#: Bytes 80 to 9F as Windows-1252 reads them; the five that it leaves out are read as Latin-1 does (WHATWG).
_WINDOWS = {byte: bytes((byte,)).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}
_TO_BYTE = {ord(char): byte for byte, char in _WINDOWS.items()} | {byte: byte for byte in range(0x80, 0x100)}
_HIGH = "".join(re.escape(char) for char in _WINDOWS.values()) + "\x80-\xff"
_HIGH_SET = frozenset((*_WINDOWS.values(), *map(chr, range(0xA0, 0x100))))
_LATIN, _GARBLED = re.compile(re.escape(bytes((LATIN,)))), re.compile(re.escape(bytes((GARBLED,))))
_LATIN_RUN = re.compile(f"[\xc0-\xff][{_HIGH}]+|[{_HIGH}]{{2,}}")
#: A wrong pair, then what the third byte made of the next one.
_GBK_RUN = re.compile(r"[^\x00-\x7f]+(?:[?\ufffd]+[^\x00-\x7f]+)*[?\ufffd]*")
#: Most of what may be lost of a stretch that is repaired, as a share of its characters. It is much, because what is
#: left unrepaired looks like Chinese, and what is lost is seen by the filter of damaged documents.
_MOST_LOST = 0.5
_TIMES = 4
_EURO = "€".encode("gb18030")


@cache
def _behind() -> frozenset[str]:
    """What the third byte of UTF-8 and the first of the next character become when they are read as GBK."""
    firsts = (0xE2, 0xE3, *range(0xE4, 0xEA), 0xEF)
    pairs = (bytes((last, first)).decode("gbk", "ignore") for last in range(0x81, 0xC0) for first in firsts)
    return frozenset("".join(pairs))


@cache
def _first() -> re.Pattern[str]:
    """Three bytes of UTF-8 and the first of the next character, as two of GBK; or a mark that lost a byte."""
    return re.compile(f"[{garbled()}](?:[{''.join(sorted(_behind()))}]|(?<=[锛銆])[?\ufffd])")


def suspicious(scan: Scan) -> bool:
    """Whether a text may hold what `repair` looks for; costs next to nothing where it does not."""
    text, high = scan.text, _HIGH_SET
    if scan.holds(LATIN):
        for hit in _LATIN.finditer(scan.classes):
            place = hit.start()
            if text[place + 1 : place + 2] in high or text[max(place - 1, 0) : place] in high:
                return True
    if scan.holds(GARBLED):
        behind = _behind()
        for hit in _GARBLED.finditer(scan.classes):
            place = hit.start()
            if (next := text[place + 1 : place + 2]) in behind or (next in "?\ufffd" and text[place] in "锛銆"):
                return True
    return False


@cache
def _common() -> frozenset[str]:
    """The 3,755 characters of GB 2312's first level, and its punctuation."""
    pairs = [(row, cell) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)]
    pairs += [(row, cell) for row in (0xA1, 0xA3) for cell in range(0xA1, 0xFF)]
    return frozenset("".join(bytes(pair).decode("gb2312", "ignore") for pair in pairs))


def lost(text: str) -> int:
    """How many characters of `text` stand where text was lost for good."""
    return sum(len(run.group()) for run in _LOST.finditer(text))


def repair(text: str) -> str:
    """The text with what was wrongly read put right."""
    for _ in range(_TIMES):
        before = text
        text = _LATIN_RUN.sub(lambda run: _from_latin(run.group()), text)
        if _LATIN_RUN.search(text):
            text = "\n".join(map(_gbk_from_latin, text.split("\n")))
        text = _gbk(text)
        if text == before:
            break
    return text


def _from_latin(run: str) -> str:
    """UTF-8 that was read as Latin-1 or Windows-1252."""
    try:
        better = bytes(_TO_BYTE[ord(char)] for char in run).decode("utf-8")
    except UnicodeDecodeError:
        return run
    if not _legible(better):
        deeper = _LATIN_RUN.sub(lambda part: _from_latin(part.group()), better)
        return deeper if deeper != better and _legible(deeper) else run
    if len(better) * 2 == len(run) and run[0] not in "ÂÃ" and len(run) < 8:
        return run  # pairs of letters that are legal UTF-8 by chance; those that begin with Ã and Â never are words
    return better


#: Scripts and signs that a Chinese text may hold: Latin, Greek, Cyrillic, punctuation, symbols, kana, Han, Hangul,
#: full-width forms, emoji.
_LEGIBLE = re.compile(
    "[\n\t\x20-\x7e\xa0-\u052f\u1e00-\u205e\u20a0-\u20cf\u2100-\u2bff\u2e80-\ud7a3\uf900-\ufaff\ufe10-\ufe6b\uff00-\uffef"
    "\U0001f000-\U0001faff\U00020000-\U0003347f]*"
)


def _legible(text: str) -> bool:
    return _LEGIBLE.fullmatch(text) is not None


def _gbk_from_latin(line: str) -> str:
    """A line of GBK that was read as Latin-1 or Windows-1252; all its stretches together are the proof."""
    runs = _LATIN_RUN.findall(line)
    together = "".join(runs)
    letters = sum("\xc0" <= char <= "\xff" for char in together)
    steps = sum(ord(after) - ord(before) == 1 for before, after in pairwise(together))
    if len(together) < 4 or len(set(together)) < 3 or 2 * letters < len(together) or 2 * steps >= len(together) - 1:
        return line  # words of other languages, signs, or an alphabet that is listed
    try:
        read = [bytes(_TO_BYTE[ord(char)] for char in run).decode("gbk") for run in runs]
    except UnicodeDecodeError:
        return line
    better = "".join(read)
    good = sum(char in _common() for char in better)
    if _han(better) < 2 or good < (len(better) if len(better) < 8 else 0.6 * len(better)):
        return line
    parts = iter(read)
    return _LATIN_RUN.sub(lambda _: next(parts), line)


def _gbk(text: str) -> str:
    """Repair what of a text is UTF-8 that was read as GBK."""
    first = _first().search(text)
    if first is None:
        return text
    pieces, at = [], 0
    while first is not None:
        start = max(text.rfind("\n", 0, first.start()) + 1, at)
        end = text.find("\n", first.start())
        end = len(text) if end < 0 else end
        pieces += [text[at:start], _GBK_RUN.sub(lambda run: _from_gbk(run.group()), text[start:end])]
        at = end
        first = _first().search(text, end)
    return "".join([*pieces, text[at:]])


def _from_gbk(run: str) -> str:
    if len(run) < 2 or _first().search(run) is None:
        return run
    try:
        data = run.replace("\ufffd", "?").encode("gb18030")
    except UnicodeEncodeError:
        return run
    better, lossy = run, 0
    for attempt in (data, data.replace(_EURO, b"\x80")):  # what browsers read a lone byte 80 as
        try:
            better = attempt.decode("utf-8")
            break
        except UnicodeDecodeError:
            # A lost byte leaves one or two bytes of a character, and the question mark itself.
            better = re.sub("\ufffd+\\??", "\ufffd", attempt.decode("utf-8", "replace"))
            lossy = better.count("\ufffd")
    else:
        if lossy > max(_MOST_LOST * len(better), 1) or len(better) - lossy < 2:
            return run
    common = _common()
    good = sum(char in common for char in better)
    was = sum(char in common for char in run) / len(run)
    han = _han(better)
    lossy = better.count("\ufffd")
    if not lossy and han >= 4 and _legible(better):
        return better  # twelve bytes that are legal UTF-8 by chance do not occur
    if not han and not (len(better) == 1 and better in common):
        return run
    if good < 0.8 * (len(better) - lossy) or good / len(better) <= was or (lossy and was > 0.7):
        return run
    return better


def _han(text: str) -> int:
    return sum("\u4e00" <= char <= "\u9fff" for char in text)
