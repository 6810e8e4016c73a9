"""The pages as a site: it builds without a warning, in both languages, and asks nothing of other servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_both_languages(site: Path) -> None:
    assert "Your first model" in (site / "tutorials/first-model/index.html").read_text(encoding="utf-8")
    assert "十分钟训练出第一个模型" in (site / "zh/tutorials/first-model/index.html").read_text(encoding="utf-8")
    # What is not translated is there in English, and every page of the folder is somewhere in the menu.
    assert (site / "zh/LOG/index.html").is_file()
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        if not page.name.startswith("index") and not page.name.endswith(".zh.md"):
            assert f'href="{page.stem}/"' in menu, page.name


def test_links_into_a_page_hold_in_both_languages(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").as_posix()[: -len(".zh.md")] for path in ROOT.glob("docs/**/*.zh.md")]
    for page in pages:
        if page in ("index", "commands"):  # no headings of their own but the first; made by the program
            continue
        texts = [(site / part / page / "index.html").read_text(encoding="utf-8") for part in (".", "zh")]
        english, chinese = (re.findall(r'<h[1-6] id="([^"]+)"', text) for text in texts)
        assert english == chinese and len(english) > 0 and "{#" not in texts[1], page


def test_pages_in_english_alone_are_introduced_in_chinese(site: Path) -> None:
    introductions = json.loads((ROOT / "docs/.site/introductions.json").read_text(encoding="utf-8"))
    english = {page.name for page in ROOT.glob("docs/*.md") if not page.name.endswith(".zh.md")}
    assert introductions.keys() == {name for name in english if not (ROOT / f"docs/{name[:-3]}.zh.md").is_file()}
    ids = set(re.findall(r' id="([^"]+)"', (site / "zh/commands/index.html").read_text(encoding="utf-8")))
    for name, said in introductions.items():
        page = (site / "zh" / name[:-3] / "index.html").read_text(encoding="utf-8")
        assert f">{said['title']}</h1>" in page.replace('<a class="headerlink"', "</h1>") and said["text"] in page, name
        assert said["text"] not in (site / name[:-3] / "index.html").read_text(encoding="utf-8")
        links = set(re.findall(r'href="\.\./commands/#([^"]+)"', page))
        assert links == {f"hanmo-{command.replace(' ', '-')}" for command in said["commands"]} and links <= ids, name


def test_every_option_is_told_in_both_languages(site: Path) -> None:
    told = [(site / part / "commands/index.html").read_text(encoding="utf-8") for part in (".", "zh")]
    for page in told:
        assert page.count("<code>--documents PATH</code>") == 2 and "&lt;!-- commands" not in page
    assert "folders or files of raw text" in told[0] and "原始文本的目录或文件" in told[1]


def test_nothing_is_asked_of_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        assert not [url for url in loaded if "canonical" not in url], page
