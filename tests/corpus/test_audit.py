"""The audit page: complete, self-contained, and safe with what a corpus may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.corpus import stage
from hanmo.corpus.audit import audit, kept, rejected
from hanmo.corpus.flows import flow_of
from hanmo.corpus.settings import CorpusSettings, QualitySettings, Source
from hanmo.corpus.words import AUDIT
from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json

EVIL = "<script>alert(1)</script>的了"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    good = [f"第{n}天，小明去了{n * 3}里外的外婆家，外婆给他做了{n}个包子，他很高兴。" for n in range(60)]
    rows = [*good, good[0], "短", EVIL * 40, "x" * 40, *["哪里的" * 90 + str(n) for n in range(20)]]
    lines = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    (folder / "news.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "book.txt").write_text("　　这是一本书。\u200b" + good[1], encoding="utf-8")
    sources = [Source(path=str(folder / "news.jsonl")), Source(path=str(folder / "book.txt"))]
    settings = CorpusSettings(sources=sources, workers=1, near_similarity=0, quality=QualitySettings(min_han=0.2))
    stage.run(settings, {}, folder / "corpus")
    return folder / "corpus"


def test_the_page_shows_everything(corpus: Path, tmp_path: Path) -> None:
    stats = read_json(corpus / "stats.json")
    page = audit(corpus, tmp_path / "audit.html", examples=5).read_text(encoding="utf-8")
    assert set(stats["rejected"]) == {"duplicate", "low_han", "too_short", "top_ngram"}
    for reason in stats["rejected"]:
        assert f'id="reason-{reason}"' in page and AUDIT[reason][0] in page and AUDIT[reason][1] in page
    assert "5 of 21" in page or "5 of 20" in page
    assert "above max_top 0.35" in page and "fewer than min_chars 10" in page
    assert "the same text as news:news.jsonl:1" in page
    assert page.count('class="flow"') == 2
    assert "invisible characters" in page


def test_the_page_is_alone_and_nothing_in_it_acts(corpus: Path, tmp_path: Path) -> None:
    page = audit(corpus, tmp_path / "audit.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", page.split("<body>")[0])
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "\u200b" not in page


def test_the_same_page_each_time(corpus: Path, tmp_path: Path) -> None:
    pages = [audit(corpus, tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_samples_of_cleaning_are_shown_where_there_are_any(corpus: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    stats = read_json(copy / "stats.json")
    change = {"rule": "navigation", "where": "book.txt:1", "before": "首页 > 新闻 正文在此", "after": "正文在此"}
    stats["sources"]["book"]["changes"] = [change]
    stats["changed_documents"] = {"spaces": 1}
    write_json(copy / "stats.json", stats)
    page = audit(copy, copy / "audit.html").read_text(encoding="utf-8")
    assert "<del>首页 &gt; 新闻 </del>正文在此" in page and "navigation" in page and "in 1 documents" in page


def test_bytes_flow_to_where_they_went(corpus: Path) -> None:
    stats = read_json(corpus / "stats.json")
    for by in ("documents", "bytes"):
        flow = flow_of(stats, by)
        assert sum(node["value"] for node in flow["left"]) == stats["read"][by]
        assert sum(node["value"] for node in flow["right"]) == stats["read"][by]
    assert "cleaned" in {node["name"] for node in flow_of(stats, "bytes")["right"]}


def test_examples_are_bounded_and_have_their_places(corpus: Path) -> None:
    found = rejected(corpus, 4)
    assert len(found["top_ngram"]["news"]) == 4
    assert found["too_short"]["news"][0]["text"] == "短"
    assert found["too_short"]["news"][0]["where"] == "news.jsonl:62"
    assert found["duplicate"]["news"][0]["where"].startswith("news.jsonl:")
    assert 1 <= len(kept(corpus)) <= 20


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no stats\.json; give the folder of a finished corpus"):
        audit(tmp_path, tmp_path / "a.html")
    write_json(tmp_path / "stats.json", {"read": {}})
    with pytest.raises(HanmoError, match="make the corpus again"):
        audit(tmp_path, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_commands(corpus: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["corpus", "audit", str(corpus), "--out", str(tmp_path / "a.html"), "--language", "zh"]
    )
    assert done.exit_code == 0 and json.loads(done.stdout)["page"] == str(tmp_path / "a.html")
    model = ["--out", str(tmp_path / "lm"), "--bits", "12"]
    done = CliRunner().invoke(cli, ["corpus", "perplexity", "train", str(corpus / "train"), *model])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(
        cli, ["corpus", "quality", "score", str(tmp_path / "lm"), str(corpus / "heldout"), "--text"]
    )
    first = json.loads(done.stdout.splitlines()[0])
    assert set(first) == {"where", "score", "text"} and first["score"] > 1
    good, bad = corpus / "train", corpus / "rejects"
    done = CliRunner().invoke(
        cli, ["corpus", "quality", "train", "--good", str(good), "--bad", str(bad), "--out", str(tmp_path / "q")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["auc"][0] > 0.9
