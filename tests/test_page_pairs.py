"""A page and its Chinese form stay together: where one is changed, the other has to be.

What is compared is what does not depend on the language: the levels of the headings, the code (its comments aside), the
tables' rows and figures, and in each section the links and the `code` within the text.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

from shown import ROOT, blocks

PAIRS = [*sorted(ROOT.glob("docs/**/*.zh.md")), ROOT / "README.zh.md"]
FENCED = re.compile(r"^```.*?^```[ \t]*$", re.M | re.S)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n)+")
HEADING = re.compile(r"^#{1,6} .*$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMENT = re.compile(r"(^|[ \t])[ \t]*# .*$", re.M)
FIGURE = re.compile(r"(?<![A-Za-z\d])\d+(?:[.,]\d+)*")
WIDE = r"[\u3000-\u303f\u3400-\u9fff\uff01-\uff60]"


def english_of(chinese: Path) -> Path:
    return chinese.with_name(chinese.name.replace(".zh.md", ".md"))


def code(text: str) -> list[str]:
    """The fenced blocks, then the indented ones, without what comments say."""
    fenced = [f"{block.language}\n{block.code}" for block in blocks(text)]
    return [COMMENT.sub("", block).rstrip() for block in fenced + INDENTED.findall(FENCED.sub("", text))]


def tables(text: str) -> list[list[str]]:
    """Each table as its rows."""
    return [found.splitlines() for found in re.findall(r"(?:^\|.*\n?)+", FENCED.sub("", text), re.M)]


def figures(row: str) -> tuple[int, Counter[str]]:
    """The cells of a row, and the numbers in it."""
    return re.sub(r"`[^`]*`", "", row).count("|"), Counter(FIGURE.findall(row))


def sections(text: str) -> list[str]:
    """The text in front of the first heading, and that of each heading with it, without code blocks."""
    bare = INDENTED.sub("", FENCED.sub("", text))
    return re.split(r"^(?=#{1,6} )", bare, flags=re.M)


def marked(section: str) -> Counter[str]:
    """Targets of links, whichever language's page they lead to, and code within the text."""
    inside = re.findall(r"`[^`]+`", section.replace("\n", " "))
    # A place within a Chinese page is called by its Chinese heading: see the test of anchors.
    targets = [re.sub(r"(\.zh)?\.md(#.*)?$", ".md", target) for target in LINK.findall(section)]
    return Counter(targets + inside)


def differences(english: str, chinese: str) -> list[str]:
    """What one page has and the other has not, a line each."""
    found = []
    heads = [HEADING.findall(FENCED.sub("", text)) for text in (english, chinese)]
    for number, (ours, theirs) in enumerate(zip_longest(*heads, fillvalue=""), 1):
        if ours.split(" ")[0] != theirs.split(" ")[0]:
            return [f"heading {number}: '{ours}' in English, '{theirs}' in Chinese"]
    for number, (ours, theirs) in enumerate(zip_longest(code(english), code(chinese), fillvalue="nothing"), 1):
        if ours != theirs:
            found.append(f"code block {number}:\n{ours}\nin English, in Chinese\n{theirs}")
    for number, (ours, theirs) in enumerate(zip_longest(tables(english), tables(chinese), fillvalue=[]), 1):
        for line, (row, other) in enumerate(zip_longest(ours, theirs, fillvalue="no row"), 1):
            if figures(row) != figures(other):
                found.append(f"table {number}, line {line}:\n{row}\nin English, in Chinese\n{other}")
    for ours, theirs in zip(sections(english), sections(chinese), strict=True):
        missing, more = marked(ours) - marked(theirs), marked(theirs) - marked(ours)
        if missing or more:
            where = theirs.strip().split("\n")[0]
            found.append(f"section '{where}': only in English {sorted(missing)}, only in Chinese {sorted(more)}")
    return found


@pytest.mark.parametrize("page", PAIRS, ids=lambda path: path.name)
def test_both_languages_show_the_same(page: Path) -> None:
    english = english_of(page)
    found = differences(english.read_text(encoding="utf-8"), page.read_text(encoding="utf-8"))
    assert not found, f"{english.name} and {page.name} differ; change both\n" + "\n".join(found)


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them, and the site of an English page."""
    heads = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return [re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads]


@pytest.mark.parametrize("page", [*PAIRS, *map(english_of, PAIRS)], ids=lambda path: path.name)
def test_links_stay_in_the_language_and_lead_to_headings(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        path = (page.parent / (name or page.name)).resolve()
        if "://" in name or not path.is_file() or path.stem.removesuffix(".zh") == page.stem.removesuffix(".zh"):
            continue  # elsewhere, or the way to the other language
        chinese = path if path in PAIRS else path.with_suffix(".zh.md")
        if chinese in PAIRS:
            meant = chinese if page in PAIRS else english_of(chinese)
            assert path == meant, f"{page.name}: ({target}) leads to the other language; link to {meant.name}"
        if anchor:  # on the site a Chinese page has those of the English one
            known = headings(path) + (headings(english_of(path)) if path in PAIRS and page.parent != ROOT else [])
            assert anchor in known, f"{page.name}: ({target}) names no heading there; there are {known}"


@pytest.mark.parametrize("page", PAIRS, ids=lambda path: path.name)
def test_chinese_lines_end_where_paragraphs_do(page: Path) -> None:
    # Browsers show a line end between two Chinese characters as a gap.
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    assert not re.findall(rf"[^\n]*{WIDE}\n{WIDE}[^\n]*", text)


ENGLISH = """\
# Title

A `word` and a [page](other.md).

```bash
hanmo one   # a comment
```

    hanmo two

| a | b |
|---|---|
| 1 | 2.5 GB |
"""
CHINESE = """\
# 标题

一个 `word` 和[一页](other.md)。

```bash
hanmo one   # 注释
```

    hanmo two

| 甲 | 乙 |
|---|---|
| 1 | 2.5 GB |
"""


def test_a_translation_differs_in_nothing() -> None:
    assert differences(ENGLISH, CHINESE) == []
    assert differences(ENGLISH, CHINESE.replace("other.md", "other.zh.md")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# 标题", "## 标题", "heading 1: '# Title' in English, '## 标题' in Chinese"),
        ("| 1 | 2.5 GB |\n", "| 1 | 2.5 GB |\n\n## 多\n", "heading 2: '' in English, '## 多' in Chinese"),
        ("hanmo one ", "hanmo three ", "code block 1:"),
        ("    hanmo two\n", "    hanmo three\n", "code block 2:"),
        ("```bash\nhanmo one   # 注释\n```\n", "", "code block 1:"),
        ("| 1 | 2.5 GB |", "| 1 | 2.6 GB |", "table 1, line 3:"),
        ("| 1 | 2.5 GB |", "| 1 | 2.5 GB |\n| 1 | 2 |", "table 1, line 4:"),
        ("| 1 | 2.5 GB |", "| 1 2.5 GB |", "table 1, line 3:"),
        ("`word`", "`wort`", "section '# 标题': only in English ['`word`'], only in Chinese ['`wort`']"),
        ("other.md", "another.md", "section '# 标题': only in English ['other.md'], only in Chinese ['another.md']"),
    ],
)
def test_what_differs_is_named(old: str, new: str, said: str) -> None:
    changed = CHINESE.replace(old, new)
    assert changed != CHINESE
    assert any(line.startswith(said) for line in differences(ENGLISH, changed))
