"""What the site says beyond its pages: the commands of both languages, and in Chinese what each English page is about.

The commands' options come from the program itself, in Chinese by the translations of `hanmo --lang zh`. The headings of
a Chinese page have the anchors of the English one, so that links into a page lead there in both. A page that has no
Chinese form gets its Chinese title and introduction from introductions.json, with links to its commands' options.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from markdown import Markdown

INTRODUCTIONS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("introductions.json").read_text(encoding="utf-8")
)
#: Where a page wants all commands.
COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs for every page of every language."""
    chinese = config.plugins["i18n"].current_language == "zh"
    path = Path(page.file.abs_src_path)
    if path.name.endswith(".zh.md"):
        english = path.with_name(path.name.replace(".zh.md", ".md")).read_text(encoding="utf-8")
        markdown = anchored(markdown, anchors(english, config))
    if COMMANDS in markdown:
        from hanmo.messages.reference import reference

        with patch.dict(os.environ, {"HANMO_LANG": "zh" if chinese else "en"}):
            markdown = markdown.replace(COMMANDS, reference())
    if chinese and page.file.src_uri in INTRODUCTIONS:
        return introduced(markdown, INTRODUCTIONS[page.file.src_uri])
    return markdown


def anchors(markdown: str, config: Any) -> list[str]:
    """Those that the site makes of a page's headings, in their order."""
    made: Any = Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
    made.convert(markdown)

    def names(tokens: list[dict[str, Any]]) -> list[str]:
        return [name for token in tokens for name in (token["id"], *names(token["children"]))]

    return names(made.toc_tokens)


def anchored(markdown: str, names: list[str]) -> str:
    """A page whose headings have these anchors."""
    left = iter(names)
    parts = re.split(r"(^```.*?^```[ \t]*$)", markdown, flags=re.M | re.S)
    for at in range(0, len(parts), 2):  # between fenced blocks
        parts[at] = re.sub(r"^#{1,6} .*$", lambda head: f"{head[0]} {{#{next(left)}}}", parts[at], flags=re.M)
    return "".join(parts)


def introduced(markdown: str, said: dict[str, Any]) -> str:
    """An English page with its Chinese title, and its introduction below that."""
    links = "、".join(f"[`hanmo {name}`](commands.md#hanmo-{name.replace(' ', '-')})" for name in said["commands"])
    options = f" 各选项的中文说明：{links}。" if links else ""
    head = f"# {said['title']}\n\n> {said['text']}\n>\n> 以下正文为英文。{options}\n"
    return re.sub(r"\A# .*\n", lambda _: head, markdown)
