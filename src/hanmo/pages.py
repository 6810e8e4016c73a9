"""What the pages we write have in common: one file each that asks nothing of any network, in two languages.

Whatever a model or a corpus wrote is escaped, and characters that would act instead of being seen are shown by a sign.
A page's words stand in a dictionary, key to (English, Chinese); its template is Jinja2, with the filters and functions
of `environment`; style and script are those in `page/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hanmo.console import human_bytes, human_count, human_seconds

#: Control characters as a programmer writes them; marks that turn the writing direction or have no width by number.
_SIGNS: dict[int, str] = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)
_UNSEEN = (0xAD, 0x200B, 0x2060, 0xFEFF)
_SIGNS |= {code: f"[U+{code:04X}]" for code in (*_TURNING, *_UNSEEN)}


class Words:
    """The texts of a page in English and in Chinese, by key; {name} in a text marks a value."""

    def __init__(self, words: Mapping[str, tuple[str, str]]) -> None:
        self.words = words

    def word(self, key: str, **values: object) -> tuple[str, str]:
        """Both texts of a key; an unknown key (a name that somebody else gave) is shown as it is."""
        english, chinese = self.words.get(key, (key.replace("_", " "),) * 2)
        return english.format(**values), chinese.format(**values)

    def both(self, key: str, **values: Any) -> Markup:
        """A text in both languages, of which the page shows one."""
        english, chinese = self.word(key, **{name: visible(value) for name, value in values.items()})
        return Markup('<span class="en">{}</span><span class="zh" lang="zh-Hans">{}</span>').format(english, chinese)

    def tip(self, key: str, **values: Any) -> Markup:
        """Attributes that make the script show a text under the pointer, in the language of the page."""
        english, chinese = self.word(key, **{name: visible(value) for name, value in values.items()})
        return Markup('data-en="{}" data-zh="{}"').format(escape(english), escape(chinese))


def environment(templates: Path, words: Words) -> Environment:
    """Where a page is rendered: `t`, `tip`, `word` for its words, filters for numbers, `style`, `script`, `version`."""
    found = Environment(
        loader=FileSystemLoader(templates, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    found.filters |= {
        "percent": percent,
        "bytes": human_bytes,
        "count": human_count,
        "seconds": human_seconds,
        "grouped": lambda value: f"{value:,}",
        "number": lambda value: f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}",
        "fixed": lambda value, digits=3: f"{value:.{digits}f}",
        "percent_of": lambda value, whole: f"{100 * value / whole:.3f}%" if whole else "0%",
        "pretty": lambda value: yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100),
    }
    folder = Path(__file__).parent / "page"
    found.globals |= {
        "t": words.both,
        "tip": words.tip,
        "word": words.word,
        "style": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "script": Markup((folder / "page.js").read_text(encoding="utf-8")),
        "version": version("hanmo"),
    }
    return found


def visible(value: Any) -> Any:
    """Text with a sign in place of every character that acts instead of being seen; other values as they are."""
    return value.translate(_SIGNS) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(value: float, digits: int = 1) -> str:
    """0.8612 -> '86.1%'."""
    return f"{100 * value:.{digits}f}%"
