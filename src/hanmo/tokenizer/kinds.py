"""What kind of text a line is: poetry, law, classical or modern prose, code, English, digits; by a few plain rules.

Good enough to say where a tokenizer does well or badly; no classifier of documents. A line of mixed kinds is what most
of it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

KINDS = ("modern", "classical", "poetry", "law", "technical", "english", "digits", "traditional", "other")
_HAN = re.compile(r"[〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
#: Two clauses or more, all of four, five or seven characters.
_VERSE = re.compile("|".join(rf"\s*(?:{_HAN.pattern}{{{length}}}[，。！？；、]\s*){{2,}}" for length in (4, 5, 7)))
_ARTICLE = re.compile(r"[\s　#*]*第[一二三四五六七八九十百千零〇\d]+[编章节条款]")
_CODE = re.compile(r"[{}()\[\];=<>/\\_`|#$*@&+\"':.~^%-]")
_OLD = re.compile("[之其也者曰矣焉乎而以于於為为所吾汝乃遂耳哉兮]")
_NEW = re.compile("[的了是们們这這那在和个個着着么吗呢把被]")


def kinds_of(text: str) -> list[tuple[int, str]]:
    """The kinds of a text's stretches of lines, as [(where the stretch ends, kind)].

    An empty line is of the kind before it; in a document most of whose headed lines are articles, prose is law.
    """
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    law = len(filled) > 3 and sum(bool(_ARTICLE.match(line)) for line in filled) >= max(3, len(filled) // 6)
    found: list[tuple[int, str]] = []
    end = 0
    for number, line in enumerate(lines):
        end += len(line) + (number < len(lines) - 1)
        if line.strip():
            kind = kind_of(line)
            if law and kind == "modern":
                kind = "law"
        else:
            kind = found[-1][1] if found else "other"
        if found and found[-1][1] == kind:
            found[-1] = (end, kind)
        else:
            found.append((end, kind))
    return found


def kind_of(line: str) -> str:
    """The kind of one line that is not empty."""
    visible = sum(not letter.isspace() for letter in line)
    han = _HAN.findall(line)
    if len(han) >= 0.3 * visible:
        if _VERSE.fullmatch(line):
            return "poetry"
        if sum(map(_only_traditional, han)) >= 0.08 * len(han):
            return "traditional"
        if _ARTICLE.match(line):
            return "law"
        if len(han) < 0.6 * visible and len(_CODE.findall(line)) >= 0.06 * visible:
            return "technical"
        old, new = len(_OLD.findall(line)), len(_NEW.findall(line))
        return "classical" if old >= 0.08 * len(han) and 4 * new <= old else "modern"
    digits = sum(letter.isdigit() for letter in line)
    letters = sum(letter.isascii() and letter.isalpha() for letter in line)
    signs = len(_CODE.findall(line))
    if digits >= 0.5 * visible:
        return "digits"
    if signs >= 0.12 * visible or line.startswith(("    ", "\t")):
        return "technical"
    if letters >= 0.6 * visible and not han:
        return "english"
    return "technical" if letters + signs >= 0.4 * visible else "other"


@lru_cache(maxsize=1 << 16)
def _only_traditional(character: str) -> bool:
    return _converter().convert(character) != character


@lru_cache(maxsize=1)
def _converter():
    from opencc import OpenCC

    return OpenCC("t2s")
