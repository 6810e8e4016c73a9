"""Cleaning: what a document becomes, rule by rule, each counted. `Cleaner` puts the rules of `cleaning/` together.

Rules on single characters (a table over all code points, `cleaning.characters`); counted in characters:

========== =============================================================================================================
nfc        composed as Unicode's NFC says; compatibility ideographs become the unified ones
half_width full-width letters and digits become ASCII; full-width and Chinese punctuation is never touched
newlines   CRLF, CR, U+0085, U+2028, U+2029, VT and FF become one line feed
spaces     no-break and typographic spaces become a space. The ideographic space (U+3000) is paragraph indentation at
           the start of a line and goes; elsewhere it divides words (第一条　总则) and a run of it becomes one space
controls   other control characters, object replacement, interlinear marks and noncharacters go
invisible  zero-width spaces, byte order marks, soft hyphens, direction marks and language tags go; joiners (U+200C,
           U+200D) stay where they join something: not beside Han characters, ASCII or nothing
private    private-use characters that GB18030 once used for a character become that character; the others become □, as
           they look to any reader without the font they were made for
radicals   Kangxi radicals, and those of the supplement that look like a character, become it (PDFs: ⼀ ⻓ for 一 长)
forms      vertical and small forms of punctuation and Japanese half-width marks become full width (︵ ﹐ ｡ to （ ， 。)
ligatures  ﬁ ﬂ ﬀ of PDFs become letters
kana       half-width katakana become katakana
selectors  variation selectors behind Han and punctuation go; emoji keep theirs
unpadded   white space at line ends goes, more than one empty line becomes one, empty lines around the text go
========== =============================================================================================================

Rules on stretches of text; counted in characters, too:

========== =============================================================================================================
mojibake   text that was read in a wrong encoding is read again (`cleaning.mojibake`); where that is no use (锟斤拷) it
           counts as damage
entities   &nbsp; &ldquo; &#x4f60; become the character, outside of code
rejoined   paragraphs wrapped to a fixed width are one line again
converted  traditional, simplified and regional Chinese, by OpenCC (`cleaning.convert`)
repeats    ！！！！ becomes ！, 。。。 becomes ……, not in code and rulers
han_spaces spaces beside Chinese punctuation, in 你 好 世 界 and in texts cut into words go
punctuation
           half-width , ; : ? ! between Han become full width
========== =============================================================================================================

Lines that are no text (`cleaning.lines`), counted in lines, by rule: line_navigation, line_credits, line_copyright,
line_sharing, line_more, line_follow, line_counters, line_icp, line_cookies, line_captions, line_menus, line_contacts,
line_spam. Personal data (`cleaning.mask`), counted in places: mask_phone, mask_id_card and so on.

Every rule finds nothing to do in what it has cleaned, so that cleaning twice gives the same as cleaning once
(conversions to traditional characters as far as OpenCC's own do).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import chain

import numpy as np

from hanmo.corpus.cleaning import characters as ch
from hanmo.corpus.cleaning import layout, lines, mojibake
from hanmo.corpus.cleaning.changes import Changes
from hanmo.corpus.cleaning.characters import HAN_RANGES, Counts
from hanmo.corpus.cleaning.code import Code
from hanmo.corpus.cleaning.convert import convert
from hanmo.corpus.cleaning.hints import Hints
from hanmo.corpus.cleaning.mask import mask
from hanmo.corpus.settings import CleanSettings

__all__ = ["HAN_RANGES", "Cleaner", "Counts", "measure"]

_EMPTY_LINES = re.compile(r"\n\n\n\n*")
#: What one rule takes away may bring together what another one looks for, so they are applied again, so often at most.
_ROUNDS = 8
#: Surroundings of a changed character that are shown.
_SHOWN = 30


class Cleaner:
    """Applies the rules above.

    Args:
        settings: which of the rules apply that can be turned off; the others always do.
    """

    def __init__(self, settings: CleanSettings) -> None:
        self.settings = settings
        wanted = {name: lines.KEYS[name] for name in lines.KEYS if getattr(settings.lines, name)}
        self._rules_of = {
            key: tuple(name for name, keys in wanted.items() if key in keys)
            for key in chain.from_iterable(wanted.values())
        }
        self._hints = Hints((*self._rules_of, *(mojibake.LOST if settings.mojibake else ())))
        off = frozenset(name for name in ch.SWITCHED if not getattr(settings, name))
        self._kind, self._become = ch.tables(off, self._hints.pivots)

    def __call__(self, text: str, changed: Counter[str], changes: Changes | None = None) -> tuple[str, Counts, Counts]:
        """Clean `text` (which holds no surrogates).

        Args:
            changed: gets how much each rule changed, in the units above.
            changes: gets excerpts of what changed, where it wants them.

        Returns:
            the clean text, the counts before and the counts after. The damage before is what could not be repaired.
        """
        given = text
        first = scan = ch.Scan(text, self._kind)
        before = first.counts()
        for turn in range(_ROUNDS):
            known = scan
            text = self._read_again(scan, changed, changes)
            if text is not scan.text:
                scan = ch.Scan(text, self._kind)
                before = before._replace(damaged=scan.counts().damaged)
            if turn == 0 and self.settings.rejoin and "\n" in text:
                # Before the indentation goes, which tells where paragraphs begin.
                text = self._note("rejoined", text, layout.rejoin(text), changed, changes)
            text = self._characters(self._scan(text, scan), changed, changes)
            scan = self._scan(_unpad(text, changed, changes), scan)
            if scan is known:
                break
        text = scan.text
        if self.settings.convert != "none":
            converted = convert(text, self.settings.convert)
            text = self._note("converted", text, converted, changed, changes, ch.difference)
        if self.settings.mask:
            text = self._masked(text, changed, changes)
        if text is not scan.text:
            text = _unpad(text, changed, changes)
        scan, lost = self._rounds(self._scan(text, scan), changed, changes)
        if lost:
            before = before._replace(damaged=before.damaged + lost)
        after = before if scan is first else scan.counts()
        return scan.text if scan.text != given else given, before, after

    def _read_again(self, scan: ch.Scan, changed: Counter[str], changes: Changes | None) -> str:
        text = scan.text
        if scan.highest > ch.SPACE and self.settings.mojibake and mojibake.suspicious(scan):
            text = self._note("mojibake", text, mojibake.repair(text), changed, changes)
        if self.settings.entities and "&" in text and ";" in text:
            text = self._note("entities", text, layout.entities(text, Code(text)), changed, changes)
        return text

    def _scan(self, text: str, known: ch.Scan) -> ch.Scan:
        """What the table says of a text, looked up only if it is another than the one that is known."""
        return known if text is known.text else ch.Scan(text, self._kind)

    def _note(
        self,
        rule: str,
        before: str,
        after: str,
        changed: Counter[str],
        changes: Changes | None,
        amount: Callable[[str, str], int] = lambda before, after: abs(len(before) - len(after)) or 1,
    ) -> str:
        """Count what a rule made of the text: by default by how many characters it is shorter."""
        if after == before:
            return before
        changed[rule] += amount(before, after)
        if changes is not None:
            changes.compare(rule, before, after)
        return after

    def _characters(self, scan: ch.Scan, changed: Counter[str], changes: Changes | None) -> str:
        text = scan.text
        if self.settings.nfc and not unicodedata.is_normalized("NFC", text):
            composed = unicodedata.normalize("NFC", text)
            text = self._note("nfc", text, composed, changed, changes, ch.difference)
        scan = self._scan(text, scan)
        if scan.highest > ch.REPLACED:
            found: Counter[str] = Counter()
            text = ch.by_character(scan, self._become, found)
            changed.update(found)
            if changes is not None:
                for rule in filter(changes.wants, found):
                    self._show(rule, scan, changes)
        return text

    def _show(self, rule: str, scan: ch.Scan, changes: Changes) -> None:
        """Keep the surroundings of the first character that a rule changes."""
        place = int(np.argmax(np.isin(scan.kinds, ch.KINDS_OF[rule])))
        excerpt = scan.text[max(place - _SHOWN, 0) : place + _SHOWN]
        changes.add(rule, excerpt, ch.by_character(ch.Scan(excerpt, self._kind), self._become, Counter()))

    def _rounds(self, scan: ch.Scan, changed: Counter[str], changes: Changes | None) -> tuple[ch.Scan, int]:
        """The rules on stretches and lines; and how many characters stand where text was lost."""
        text, lost = scan.text, 0
        if self.settings.han_spaces:
            text = self._note("han_spaces", text, layout.han_spaces(scan), changed, changes)
            scan = self._scan(text, scan)
        if self.settings.repeats and layout.repeated(scan):
            text = self._note("repeats", text, layout.repeats(text, Code(text)), changed, changes)
        if self.settings.punctuation:
            full = layout.punctuation(text, Code(text))
            text = self._note("punctuation", text, full, changed, changes, ch.difference)
        for turn in range(_ROUNDS):
            scan = self._scan(text, scan)
            hits = self._hints.find(scan)
            if not hits:
                break
            if turn == 0 and any(word in mojibake.LOST for _, word in hits):
                lost = mojibake.lost(text)
            text = self._lines(text, hits, changed, changes)
            if text is scan.text:
                break
            text = _unpad(text, changed, changes)
            if not any("menus" in self._rules_of.get(word, ()) for _, word in hits):
                break
        return self._scan(text, scan), lost

    def _lines(self, text: str, hits: list[tuple[int, str]], changed: Counter[str], changes: Changes | None) -> str:
        found: Counter[str] = Counter()
        hinted = [(place, self._rules_of[key]) for place, key in hits if key in self._rules_of]
        after, first = lines.drop(text, hinted, Code(text), found)
        for rule, count in found.items():
            changed[f"line_{rule}"] += count
            if changes is not None and changes.wants(f"line_{rule}"):
                changes.add(f"line_{rule}", *_without_line(text, first[rule]))
        return after

    def _masked(self, text: str, changed: Counter[str], changes: Changes | None) -> str:
        found: Counter[str] = Counter()
        after = mask(text, self.settings.mask, self.settings.mask_style, found)
        changed.update(found)
        if changes is not None:
            for rule in found:
                alone = mask(text, [rule.removeprefix("mask_")], self.settings.mask_style, Counter())  # type: ignore[list-item]
                changes.compare(rule, text, alone)
        return after


def measure(text: str) -> Counts:
    """The counts of a text as it is."""
    return ch.Scan(text, ch.tables()[0]).counts()


def _without_line(text: str, start: int) -> tuple[str, str]:
    """The line that begins at `start` with what stands around it, and the same without it."""
    end = text.find("\n", start)
    end = len(text) if end < 0 else end + 1
    before, behind = text[max(start - _SHOWN, 0) : start], text[end : end + _SHOWN]
    return before + text[start:end] + behind, before + behind


def _unpad(text: str, changed: Counter[str], changes: Changes | None) -> str:
    given = text
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    text = text.strip("\n").rstrip()
    if len(text) != len(given):
        changed["unpadded"] += len(given) - len(text)
        if changes is not None:
            changes.compare("unpadded", given, text)
        return text
    return given
