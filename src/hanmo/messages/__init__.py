"""What a person reads of the command line, in Chinese where that is their language.

Code says what it says in English, once, where it is said. This room holds the Chinese of it: `zh/*.json` map a template
(the text with `{}` for each value that is put in) to its translation, which may number the values (`{2}` is the second)
where their order differs. A line is translated when it is shown, by the template that it was made from. `templates`
finds those of the source; a test sees that each has its translation.

The language is the word of `hanmo --lang`, of HANMO_LANG, or that of the system; what goes to files, to stdout as JSON
or over the network stays as it is.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from importlib import resources

LANGUAGES = ("en", "zh")
_PLACE = re.compile(r"\{(\d*)\}")
#: How a fault's line begins, whatever stands behind it.
_FAULT = "error: "
#: Where a line may hold a text that was said elsewhere: "FILE: what is wrong".
_JOINT = re.compile(r": |; |\. |, | \(| × ")


def language() -> str:
    """The language of messages: "en" or "zh"."""
    said = os.environ.get("HANMO_LANG", "")
    if said in LANGUAGES:
        return said
    words = next((word for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (word := os.environ.get(name))), "")
    if not words and sys.platform == "win32":
        import ctypes
        import locale

        words = locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "")
    return "zh" if words.lower().startswith("zh") else "en"


def choose_language(words: list[str]) -> None:
    """Take the language of a command line's `--lang`, before any of it is read; for the processes it starts, too."""
    before = next((at for at, word in enumerate(words) if not word.startswith("-") and words[at - 1] != "--lang"), None)
    for option, value in zip(words[:before], [*words[1:], ""], strict=False):
        name, _, inline = option.partition("=")
        if name == "--lang" and (inline or value) in LANGUAGES:
            os.environ["HANMO_LANG"] = inline or value


def translated(text: str) -> str:
    """A text as the reader's language has it; the text itself where there is no translation of it."""
    if language() == "en" or not text.strip():
        return text
    return _translated(text)


@functools.cache
def catalogue() -> dict[str, str]:
    """All translations: template to template."""
    found: dict[str, str] = {}
    for file in sorted(resources.files("hanmo.messages").joinpath("zh").iterdir(), key=lambda file: file.name):
        found.update(json.loads(file.read_text(encoding="utf-8")))
    return found


@functools.cache
def _patterns() -> list[tuple[list[str], re.Pattern[str], str]]:
    """(fixed parts, pattern, translation) of every template that has places, those with most fixed text first."""
    found = []
    for template, chinese in catalogue().items():
        fixed = re.split(r"\{\}", template)
        if len(fixed) > 1:
            pattern = "(.*?)".join(re.escape(part) for part in fixed)
            found.append((fixed, re.compile(pattern, re.DOTALL), chinese))
    return sorted(found, key=lambda item: -sum(map(len, item[0])))


@functools.lru_cache(maxsize=1000)
def _translated(text: str) -> str:
    if exact := catalogue().get(text):
        return exact
    if text.startswith(_FAULT):
        return catalogue().get(f"{_FAULT}{{}}", f"{_FAULT}{{}}").format(_translated(text.removeprefix(_FAULT)))
    for fixed, pattern, chinese in _patterns():
        if all(part in text for part in fixed) and (match := pattern.fullmatch(text)):
            return _filled(chinese, [_value(value) for value in match.groups()])
    # Put together of several: each side of a joint may be known by itself.
    for joint in _JOINT.finditer(text):
        before, behind = text[: joint.start()], text[joint.end() :]
        first, second = catalogue().get(before, before) if " " in before else before, _translated(behind)
        if (first, second) != (before, behind):
            return first + joint[0] + second
    return text


def _filled(template: str, values: list[str]) -> str:
    numbers = iter(range(1, len(values) + 1))
    return _PLACE.sub(lambda place: values[int(place[1] or next(numbers)) - 1], template)


def _value(value: str) -> str:
    """A value that was put into a text: mostly a name or a number, at times a text of its own."""
    return _translated(value) if " " in value.strip() else value
