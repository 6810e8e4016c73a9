"""The runner: skip, resume, extend, rerun with its reason; a stage's crash leaves no result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanmo import api
from hanmo.errors import HanmoError
from hanmo.recipe import load_recipe
from hanmo.run import run_recipe, source_result, status
from nest import behind

pytestmark = pytest.mark.usefixtures("warm_stages")

RECIPE = """
name: small
stages:
  - {name: text, do: corpus, from: {documents: ./raw}, heldout_fraction: 0.2, quality: {min_chars: 5}, workers: 1}
  - {do: tokenizer, from: text, vocab_size: 300}
  - {name: tokens, do: tokens, from: {corpus: text, tokenizer: tokenizer}, workers: 1}
  - {name: base, do: pretrain, from: {data: tokens}, preset: hanmo-1m, tokens: 1280, context: 32, batch_tokens: 64,
     warmup_tokens: 128, compile: false, precision: fp32, sample_prompts: [], threads: 1}
"""
SENTENCE = "第{0}天的早上，小明在第{1}棵树下看见了{2}只小鸟，它们一起唱歌。\n"


#: Pretraining for so long that signals find it at work, with checkpoints all the time.
LONG = ("base.tokens=8000", "base.checkpoint_seconds=0.3", "base.log_every=1")


def write_recipe(folder: Path) -> Path:
    raw = folder / "raw"
    raw.mkdir()
    for index in range(40):
        text = SENTENCE.format(index, index * 7, index * index)
        (raw / f"{index:02d}.txt").write_text(text, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over forty little files."""
    return write_recipe(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, warm_stages: None) -> tuple[Path, Path]:
    """(A recipe over forty little files, a run of it with `LONG` settings that nothing disturbed.)"""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_recipe(folder)
    actions(path, folder / "run", *LONG)
    return path, folder / "run"


def actions(recipe: Path, out: Path, *settings: str, **more) -> dict[str, str]:
    """Run and return {stage: action}."""
    return {name: what.action for name, what in run_recipe(load_recipe(recipe, list(settings)), out, **more)}


def weights(out: Path) -> bytes:
    return (out / "base" / "model" / "model.safetensors").read_bytes()


def test_the_life_of_a_run(recipe: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "run"
    assert set(actions(recipe, out, dry=True).values()) == {"run"} and not out.exists()
    assert actions(recipe, out, until="tokenizer") == {"text": "run", "tokenizer": "run"}
    first = actions(recipe, out)
    assert first == {"text": "skip", "tokenizer": "skip", "tokens": "run", "base": "run"}
    before = weights(out)
    assert set(actions(recipe, out).values()) == {"skip"}

    # What only changes the speed changes nothing; what changes the result reruns what depends on it.
    assert set(actions(recipe, out, "base.micro_tokens=32", "tokens.workers=2").values()) == {"skip"}
    changed = actions(recipe, out, "tokenizer.vocab_size=310", dry=True)
    assert changed == {"text": "skip", "tokenizer": "rerun", "tokens": "rerun", "base": "rerun"}
    assert "vocab_size: 300 -> 310" in capfd.readouterr().err

    # A larger budget goes on, and ends where a run of that budget ends.
    assert actions(recipe, out, "base.tokens=2560")["base"] == "extend"
    other = tmp_path / "other"
    actions(recipe, other, "base.tokens=2560")
    assert weights(out) == weights(other) != before

    # A smaller one is another run.
    assert actions(recipe, out, "base.tokens=1280")["base"] == "rerun"
    assert weights(out) == before

    # Another input makes everything anew.
    (tmp_path / "raw" / "99.txt").write_text(SENTENCE.format("九十九", 5, 6), encoding="utf-8")
    capfd.readouterr()
    assert set(actions(recipe, out, dry=True).values()) == {"rerun"}
    assert "its documents changed" in capfd.readouterr().err

    found = {item["stage"]: item for item in status(out)}
    assert {item["state"] for item in found.values()} == {"done"}
    manifest = found["base"]
    assert manifest["counts"]["steps"] == 20 and manifest["peak_memory_mb"] > 50 and manifest["versions"]["torch"]


def test_forced_from_a_stage(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    actions(recipe, out, until="tokens")
    again = actions(recipe, out, start="tokenizer", until="tokens")
    assert again == {"text": "skip", "tokenizer": "rerun", "tokens": "rerun"}
    with pytest.raises(HanmoError, match="no stage 'tokenzer' in recipe"):
        actions(recipe, out, start="tokenzer")


def test_a_foreign_folder_is_not_touched(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "text"
    folder.mkdir(parents=True)
    (folder / "thesis.docx").write_text("years of work")
    with pytest.raises(HanmoError, match="not empty, and not made by hanmo"):
        actions(recipe, tmp_path / "run")
    assert (folder / "thesis.docx").read_text() == "years of work"


def test_a_failed_stage_says_why_and_leaves_no_result(recipe: Path, tmp_path: Path) -> None:
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "text.quality.min_chars=5000"]
    command = [sys.executable, "-m", "hanmo", *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "text" / "manifest.json").exists()


def test_a_stage_that_is_refused_at_once_leaves_no_folder(recipe: Path, tmp_path: Path, capfd) -> None:
    recipe.write_text("stages:\n  - {do: tokenizer, from: ./raw, vocab_size: 300}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as failed:
        run_recipe(load_recipe(recipe), tmp_path / "run")
    assert failed.value.code == 2 and "error: " in capfd.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / "tokenizer").mkdir()  # a folder that was there before stays
    with pytest.raises(SystemExit):
        run_recipe(load_recipe(recipe), tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer").is_dir()


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "points"), [(signal.SIGKILL, (15, 50, 85)), (signal.SIGTERM, (30,))])
def test_killed_runs_end_like_undisturbed_ones(
    undisturbed: tuple[Path, Path], tmp_path: Path, number: int, points: tuple[int, ...]
) -> None:
    recipe, whole = undisturbed
    torn = tmp_path / "torn"
    for stage in ("text", "tokenizer", "tokens"):
        shutil.copytree(whole / stage, torn / stage)
    for at_step in points:
        command = [sys.executable, "-m", "hanmo", "run", str(recipe), "--out", str(torn), *LONG]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        log, deadline = torn / "base" / "log.jsonl", time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_bytes().splitlines()) >= at_step:
                behind(process).send_signal(number)
                break
            time.sleep(0.01)
        assert process.wait(timeout=60) != 0
    assert actions(recipe, torn, *LONG) == {"text": "skip", "tokenizer": "skip", "tokens": "skip", "base": "resume"}
    assert weights(torn) == weights(whole)
    steps = [json.loads(line)["step"] for line in (torn / "base" / "log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(126))  # 0 is the line that names the yardstick


def test_a_manifest_that_does_not_say_its_result_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"key": "elsewhere"}', encoding="utf-8")
    first = source_result(tmp_path)
    (tmp_path / "more.txt").write_text("more", encoding="utf-8")
    assert first and source_result(tmp_path) != first
    (tmp_path / "manifest.json").write_text('{"key": "ours", "result": "known"}', encoding="utf-8")
    assert source_result(tmp_path) == "known"


def test_api_runs_one_stage(tmp_path: Path) -> None:
    raw = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": SENTENCE.format(i, i * 3, i + 8)}, ensure_ascii=False) for i in range(30)]
    raw.write_text("\n".join(lines), encoding="utf-8")
    manifest = api.corpus(out=tmp_path / "corpus", documents=raw, heldout_fraction=0.1, workers=1)
    assert manifest["do"] == "corpus" and (tmp_path / "corpus" / "manifest.json").exists()
    again = api.corpus(out=tmp_path / "corpus", documents=raw, heldout_fraction=0.1, workers=1)
    assert again == manifest
    with pytest.raises(HanmoError, match=r"corpus: unknown key .quality.min_char.; did you mean .min_chars"):
        api.corpus(out=tmp_path / "other", documents=raw, quality={"min_char": 3})
