"""Messages in Chinese: every template of the source has its own, and lines are translated by their templates."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table

from hanmo import messages
from hanmo.console import Console
from hanmo.messages import catalogue, choose_language, language, translated
from hanmo.messages.help import _UNIT, wrap
from hanmo.messages.reference import reference
from hanmo.messages.templates import templates

PLACE = re.compile(r"\{(\d*)\}")
ROOMS = templates()
#: What libraries say, and single words.
OTHERS = json.loads(resources.files("hanmo.messages").joinpath("zh", "others.json").read_text(encoding="utf-8"))


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANMO_LANG", "zh")


def test_every_template_has_its_chinese() -> None:
    missing = {room: [text for text in texts if text not in catalogue()] for room, texts in ROOMS.items()}
    assert not {room: texts for room, texts in missing.items() if texts}, "see python -m hanmo.messages.templates"
    assert sum(map(len, ROOMS.values())) > 1000


def test_no_translation_is_of_nothing() -> None:
    known = {text for texts in ROOMS.values() for text in texts} | OTHERS.keys()
    assert not [template for template in catalogue() if template not in known]


def fault_of(template: str, chinese: str) -> str:
    count, numbers = len(re.findall(r"\{\}", template)), PLACE.findall(chinese)
    numbered = [str(number) for number in range(1, count + 1)]
    if numbers != [""] * count and sorted(numbers, key=lambda number: int(number or 0)) != numbered:
        return f"{count} values, but {chinese}"
    # Some are names and marks alone.
    worded = re.search(r"[㐀-鿿：，、]", chinese) or template == "  min_score {} {}"
    return "" if worded else f"not Chinese: {chinese}"


def test_the_values_are_all_there() -> None:
    assert fault_of("{} of {}", "{2} 里的 {1}") == "" and fault_of("{} of {}", "{}，{}") == ""
    assert fault_of("{} of {}", "{1} 和 {1}") and fault_of("{} of {}", "{} 和") and fault_of("a word", "word")
    faults = {template: fault_of(template, chinese) for template, chinese in catalogue().items()}
    assert not {template: fault for template, fault in faults.items() if fault}


@pytest.mark.usefixtures("chinese")
def test_a_line_is_translated_by_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "all is done": "都做完了",
        "{}: no such thing": "{}：没有这个东西",
        "{}: {} of {} lines": "{1}：{3} 行里的 {2} 行",
        "error: {}": "错误：{}",
        "long enough": "够长",
    }
    monkeypatch.setattr(messages, "catalogue", lambda: entries)
    messages._patterns.cache_clear()
    messages._translated.cache_clear()
    try:
        assert translated("all is done") == "都做完了"
        assert translated("a/b.txt: no such thing") == "a/b.txt：没有这个东西"
        assert translated("error: a: b: no such thing") == "错误：a: b：没有这个东西"
        assert translated("x: 3 of 10 lines") == "x：10 行里的 3 行"
        assert translated("said elsewhere: long enough") == "said elsewhere: 够长"
        assert translated("nobody knows this") == "nobody knows this" and translated("") == ""
        monkeypatch.setenv("HANMO_LANG", "en")
        assert translated("all is done") == "all is done"
    finally:
        monkeypatch.undo()
        messages._patterns.cache_clear()
        messages._translated.cache_clear()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HANMO_LANG": "zh", "LANG": "en_US.UTF-8"}, "zh"),
        ({"HANMO_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh"),
        ({"HANMO_LANG": "klingon", "LANG": "de_DE"}, "en"),
    ],
)
def test_whose_language(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("HANMO_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lang", "zh", "run", "x"], "zh"),
        (["--lang=zh", "--help"], "zh"),
        (["--help", "--lang", "zh"], "zh"),
        (["run", "--lang", "zh"], "en"),
        (["--lang", "de"], "en"),
        (["--lang"], "en"),
        ([], "en"),
    ],
)
def test_the_language_of_a_command_line(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    monkeypatch.setenv("HANMO_LANG", "en")
    choose_language(words)
    assert language() == expected


@pytest.mark.usefixtures("chinese")
def test_tables_are_translated() -> None:
    table = Table("run", title="Options")
    table.add_row("skip")
    table.add_row("a name")
    out = io.StringIO()
    Console(file=out, width=40).print(table)
    shown = out.getvalue()
    assert all(word in shown for word in ("运行", "选项", "跳过", "a name")) and "skip" not in shown


@given(st.text(st.sampled_from("中文，。（）：abc12 --x"), max_size=80), st.integers(10, 40))
def test_lines_are_broken_by_their_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    # What may not be parted can be longer than a line.
    assert all(cell_len(line) <= width or len(_UNIT.findall(line)) == 1 for line in lines)


def test_marks_stay_with_their_words() -> None:
    assert wrap("一二三四五，六七（八九）十", 10) == ["一二三四", "五，六七", "（八九）十"]


def test_the_reference_has_every_command_and_is_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANMO_LANG", "en")
    english = reference()
    monkeypatch.setenv("HANMO_LANG", "zh")
    chinese = reference()
    heads = re.findall(r"^#+ (hanmo .*)$", english, re.M)
    assert heads == re.findall(r"^#+ (hanmo .*)$", chinese, re.M)
    assert {"hanmo run", "hanmo corpus quality train", "hanmo convert gguf"} <= set(heads) and len(set(heads)) == len(
        heads
    )
    assert "[default: " in english and "默认" not in english and "Read raw text, clean it" in english
    rows = [re.findall(r"^\| `(.*)` \| (.+) \|$", text, re.M) for text in (english, chinese)]
    assert [name for name, _ in rows[0]] == [name for name, _ in rows[1]] and len(rows[0]) > 500
    untold = [row for row in rows[1] if not re.search("[㐀-鿿]", row[1])]
    # A range alone, or names of files.
    assert {name for name, _ in untold} <= {"--workers INTEGER RANGE", "--format TEXT"}


def test_the_program_speaks_chinese() -> None:
    """A fault, in the environment of a Chinese system, and the pages of help."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "HANMO"))}

    def hanmo(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hanmo", *words]
        return subprocess.run(
            command, env=environment | more | {"PYTHONUTF8": "1"}, capture_output=True, text=True, encoding="utf-8"
        )

    done = hanmo("run", "none.yaml", LANG="zh_CN.UTF-8")
    assert done.returncode == 2 and done.stderr.startswith("错误：none.yaml") and "no such" not in done.stderr
    assert "no such recipe" in hanmo("run", "none.yaml", LANG="en_US.UTF-8").stderr
    page = hanmo("--lang", "zh", "--help").stdout
    assert page.startswith("用法：") and "选项" in page and "命令" in page
    stage = hanmo("--lang", "zh", "pretrain", "--help").stdout
    options = re.findall(r"^  --[\w.-]+ (?:VALUE|PATH)? *(.*)$", stage, re.M)
    assert len(options) > 40 and not [text for text in options if text and not re.search("[㐀-鿿]", text)]
