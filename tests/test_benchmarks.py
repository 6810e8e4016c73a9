"""The parts of the benchmarks against peers that need no peer: text, score, clock, comparison, and our own runner."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hanmo.evaluate.bpb import bits_per_byte
from hanmo.files import read_jsonl
from hanmo.tokenizer import encode_text, load

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import race
from peers.clock import Clock, Scorer, curve, figures, step_seconds
from peers.draw import draw
from peers.job import Job, commit_of
from peers.random_text import documents, write
from peers.runners import RUNNERS, absent
from peers.text import heldout, pieces, prepare


def test_pieces_keep_every_character_and_their_size() -> None:
    text = "一行字\n" * 20 + "长" * 100 + "𠮷尾巴\n短\n"
    found = list(pieces(text, 40))
    assert "".join(found) == text
    assert max(len(piece.encode()) for piece in found) <= 40
    assert found[0] == "一行字\n" * 4


def test_the_score_is_that_of_evaluation(tiny_model_dir: Path) -> None:
    tokenizer = load(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    texts = ["今天天气很好，小猫在树下睡觉。", "小明和小红去公园玩。"]
    scorer = Scorer(texts, lambda text: encode_text(tokenizer, text), 0, 0, 256)
    expected = bits_per_byte(model, tokenizer, texts, 256, autocast=torch.bfloat16)["bits_per_byte"]
    assert scorer.bits(model) == pytest.approx(expected, rel=1e-3)
    assert scorer.bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("anchored", [False, True])
def test_windows_pay_for_every_token_once(anchored: bool) -> None:
    text = "".join(chr(100 + n) for n in range(90))
    scorer = Scorer([text], lambda text: [ord(c) for c in text], 1, 2, 16, anchored)
    paid = [int(i) for row in scorer.rows for i in row.ids[row.start :]]
    assert paid == [*range(100, 190), 2]
    assert all(len(row.ids) <= 17 and row.start >= 1 for row in scorer.rows)
    assert [int(row.ids[0]) == 1 for row in scorer.rows[1:]] == [anchored] * (len(scorer.rows) - 1)


def test_a_curve_without_startup_takes_a_median_step_for_each_of_the_first() -> None:
    record = {"seconds": [9.0, 5.0, 1.0, 2.0, 2.0, 2.0], "points": [[4, 3.0], [6, 2.5]]}
    assert step_seconds(record["seconds"]) == 2.0
    assert [point["seconds"] for point in curve(record)] == [7.0, 11.0]
    assert [point["seconds_with_startup"] for point in curve(record)] == [17.0, 21.0]


def test_figures_tell_real_targets_from_padding() -> None:
    found = figures({"seconds": [9, 9, 9, 2.0], "targets": [1, 1, 1, 60], "flops_per_token": 2e9}, tokens=100)
    assert found == {"tokens_per_second": 50.0, "real_tokens_per_second": 30.0, "model_gflops": 100.0}


def test_the_clock_stands_still_while_text_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, *(x for step in range(6) for x in (10.0 * step + 1, 10.0 * step + 10))])
    monkeypatch.setattr("peers.clock.time.perf_counter", lambda: next(now))
    clock = Clock(every=1.5)
    clock.scorer = type("Fixed", (), {"bits": lambda self, model: 2.0})()  # type: ignore[assignment]
    clock.start()
    for _ in range(6):
        clock.step(torch.nn.Identity())
    assert clock.seconds == [1.0] * 6
    assert clock.points == [(5, 2.0)]


def test_comparison_reads_our_curve_at_what_the_peer_reaches() -> None:
    def points(*values: tuple[float, float]) -> list[dict[str, float]]:
        return [{"seconds": s, "seconds_with_startup": s + 10, "bits_per_byte": b} for s, b in values]

    runners = {
        "hanmo": {"curve": points((20, 3.0), (60, 2.6), (100, 2.4))},
        "minimind": {"curve": points((600, 3.5))},
        "run_clm": {"curve": points((300, 3.0), (600, 2.8))},
        "nanochat": {"curve": points((600, 2.3))},
        "lab": {"curve": points((100, 2.6), (300, 2.42))},
    }
    found = race.compare(runners, race.AIMS["cpu"])
    assert found["minimind"]["seconds"] == {"peer": 600, "ours": 20, "ratio": 0.0333}
    assert found["run_clm"]["seconds"] == {"peer": 600, "ours": 40.0, "ratio": 0.0667}
    assert found["run_clm"]["seconds_with_startup"]["ours"] == 50.0
    assert found["nanochat"]["seconds"]["ours"] is None
    assert found["lab"]["to_2.46"]["ours"] == pytest.approx(88.0)
    assert race.table(found).count("\n") == 5
    picture = ET.fromstring(draw(runners))
    assert len(picture.findall(".//{*}circle")) == 9


def test_text_is_prepared_for_every_runner(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from hanmo import api

    source = tmp_path / "text"
    source.mkdir()
    lines = [f"第{n}篇讲的是第{n * 7}个故事，山上有{n + 3}座庙，庙里住着{n}个和尚。\n" * 8 for n in range(40)]
    for number, line in enumerate(lines):
        (source / f"{number}.txt").write_text(line, encoding="utf-8")
    given = {"sources": [{"path": str(source), "name": "text"}], "heldout_fraction": 0.2, "near_similarity": 0}
    api.corpus(out=tmp_path / "data" / "corpus", workers=1, quality={"rules": False}, **given)
    facts = prepare(tmp_path / "data", context=128, heldout_kb=5)
    texts = [json.loads(line)["text"] for line in (tmp_path / "data" / "pieces.jsonl").open(encoding="utf-8")]
    table = pq.read_table(tmp_path / "data" / "nanochat" / "base_data_climbmix" / "shard_00000.parquet")
    assert table.column("text").to_pylist() == texts
    held = {
        record["text"]
        for file in (tmp_path / "data" / "corpus" / "heldout").glob("*.zst")
        for _, record in read_jsonl(file)
    }
    scored = heldout(tmp_path / "data")
    assert scored and set(scored) <= held
    assert not any(piece.strip() in text for piece in texts for text in scored)
    assert facts["pieces"] == len(texts) > 30
    assert prepare(tmp_path / "data", context=128, heldout_kb=5) == facts


def test_our_runner_trains_and_says_how_long_each_step_took(tmp_path: Path) -> None:
    write(tmp_path, vocab=512, context=32, total=2000)
    tokens, ends = documents(512, 2000)
    assert ends[-1] == len(tokens) and not np.any(tokens[ends - 1])
    settings = {"compile": False, "precision": "fp32", "warmup_tokens": 64}
    job = Job("hanmo", "tiny", 5, 1.0, -1, str(tmp_path), str(tmp_path / "out"), rows=2, context=32, extra=settings)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    record = RUNNERS["hanmo"].train(job)
    assert len(record["seconds"]) == 5 and min(record["seconds"]) >= 0
    assert record["points"] == []
    assert record["settings"]["warmup_tokens"] == 64
    assert record["parameters"] > 500_000 and record["flops_per_token"] > 2 * record["parameters"]


def test_a_peer_that_is_not_there_says_why(tmp_path: Path) -> None:
    assert absent("hanmo", None) is None
    assert absent("minimind", None) == "no --minimind PATH given"
    assert absent("nanochat", str(tmp_path)) == f"--nanochat {tmp_path}: no scripts/base_train.py there"
    (tmp_path / "COMMIT").write_text("abc\n", encoding="utf-8")
    assert commit_of(tmp_path) == "abc"
