"""Before and after: the sample, its form in stats.json, and the command that shows it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.corpus.clean import Cleaner
from hanmo.corpus.cleaning.changes import Changes, excerpts
from hanmo.corpus.settings import CleanSettings, CorpusSettings, Source
from hanmo.corpus.stage import run
from hanmo.errors import HanmoError

CLEAN = Cleaner(CleanSettings())


def sample(texts: dict[str, str], size: int = 5) -> Changes:
    changes = Changes(size)
    for where, text in texts.items():
        changes.begin(where)
        CLEAN(text, Counter(), changes)
    return changes


def test_an_excerpt_shows_the_change_and_ends_at_the_same_place() -> None:
    before = "甲" * 100 + "太好了！！！！" + "乙" * 100
    old, new = excerpts(before, before.replace("！！！！", "！"))
    assert old.replace("！！！！", "！") == new
    assert old.endswith("乙" * 30) and len(old) < 120


@pytest.mark.parametrize(
    ("rule", "text", "before", "after"),
    [
        ("half_width", "第Ａ章", "第Ａ章", "第A章"),
        ("repeats", "好！！！！", "好！！！！", "好！"),
        ("line_credits", "正文。\n责任编辑：张三\n后文。", "正文。\n责任编辑：张三\n后文。", "正文。\n后文。"),
        ("mojibake", "浣犲ソ", "浣犲ソ", "你好"),
        ("unpadded", "\n\n正文", "\n\n正文", "正文"),
    ],
)
def test_every_kind_of_rule_is_sampled(rule: str, text: str, before: str, after: str) -> None:
    assert sample({"a.txt:1": text}).as_list() == [{"rule": rule, "where": "a.txt:1", "before": before, "after": after}]


def test_the_sample_is_bounded_and_does_not_depend_on_the_order_or_the_parts() -> None:
    texts = {f"a.txt:{n}": f"第{n}条很好！！！！" for n in range(50)}
    whole = sample(texts, 4)
    assert len(whole.as_list()) == 4
    assert sample(dict(reversed(texts.items())), 4).as_list() == whole.as_list()
    parts = Changes(4)
    for half in (dict(list(texts.items())[30:]), dict(list(texts.items())[:30])):
        parts.merge(sample(half, 4).as_list())
    assert parts.as_list() == whole.as_list()


def test_the_stage_keeps_the_sample_and_the_counts(tmp_path: Path) -> None:
    lines = ["第一篇文章写得真好！！！！\n责任编辑：张三", "第二篇文章没有什么要改的地方。"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    settings = CorpusSettings(sources=[Source(path=str(tmp_path / "a.jsonl"))], heldout_fraction=0, workers=1)
    run(settings, {}, tmp_path / "out")
    stats = json.loads((tmp_path / "out" / "stats.json").read_text(encoding="utf-8"))
    assert stats["changed"] == {"line_credits": 1, "repeats": 3}
    assert stats["changed_documents"] == {"line_credits": 1, "repeats": 1}
    assert [(item["rule"], item["where"]) for item in stats["sources"]["a"]["changes"]] == [
        ("line_credits", "a.jsonl:1"),
        ("repeats", "a.jsonl:1"),
    ]


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("真好！！！！\n责任编辑：张三\n你好,世界\n", encoding="utf-8")
    runner = CliRunner()
    result = runner.invoke(cli, ["corpus", "clean", str(path), "--set", "punctuation=true", "--json"])
    found = json.loads(result.stdout)
    assert found["changed"] == {"line_credits": 1, "punctuation": 1, "repeats": 3, "unpadded": 1}
    assert found["documents"] == 1
    shown = runner.invoke(cli, ["corpus", "clean", str(path), "--set", "lines.credits=false"])
    assert shown.exit_code == 0
    assert "repeats" in shown.stdout and "line_credits" not in shown.stdout
    for wrong, named in (("lines.credit=false", "credits"), ("punctuation", "KEY=VALUE")):
        with pytest.raises(HanmoError, match=named):
            runner.invoke(cli, ["corpus", "clean", str(path), "--set", wrong], catch_exceptions=False)


def test_a_source_may_switch_one_rule_of_a_group(tmp_path: Path) -> None:
    settings = CorpusSettings(
        clean=CleanSettings.model_validate({"lines": {"icp": False}}),
        sources=[Source(path="a", clean={"lines": {"spam": False}, "convert": "auto"})],
    )
    clean = settings.clean_of(settings.sources[0])
    assert (clean.lines.icp, clean.lines.spam, clean.lines.menus, clean.convert) == (False, False, True, "auto")
