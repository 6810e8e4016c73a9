"""The plan: a measured sample, multiplied; and what it cannot plan is one line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter
from hanmo.plan.text import JOINED_DOCUMENT, Rates, describe, plan, project, size_of
from hanmo.recipe import load_recipe

RATES = Rates(
    sample_mb=16,
    documents=300,
    seconds={"corpus": 0.1, "tokenizer": 0.2, "tokens": 0.05},
    disk={"read": 0.4, "between": 0.5, "corpus": 0.35, "tokens": 0.6},
)


@pytest.mark.parametrize(
    ("text", "size"), [("200GB", 2e11), ("10 tb", 1e13), ("800m", 8e8), ("1.5K", 1500), ("12", 12)]
)
def test_sizes(text: str, size: float) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "1.2.3GB", "GB", "-5MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(HanmoError, match=r"--text .*: not a size such as"):
        size_of(text)


def test_a_projection_multiplies_what_was_measured() -> None:
    one, ten = (project(RATES, size, 4, 100) for size in (1e9, 1e10))
    corpus, tokenizer, tokens = one
    assert tokens.hours == pytest.approx(1000 * 0.05 / 4 / 3600) and tokens.disk == pytest.approx(0.6e9)
    assert corpus.alone == pytest.approx(300_000 * 0.2 * JOINED_DOCUMENT) and corpus.worker < 1.5e9
    assert tokenizer.hours == pytest.approx(100 * 0.2 / 3600) == ten[1].hours, "its sample is bounded"
    assert 10 < ten[0].hours / corpus.hours < 13, "sorting costs a little more than in proportion"
    assert project(RATES, 1e9, 8, 100)[0].hours == pytest.approx(corpus.hours / 2)
    told = describe(RATES, 1e9, 4, 100)
    assert told["disk_bytes"] == pytest.approx(1.35e9) == told["disk_at_most_bytes"]
    assert told["hours"] == pytest.approx(sum(row.hours for row in one))


def write_recipe(folder: Path, documents: int) -> Path:
    dice = random.Random(1)
    words = ["".join(chr(dice.randrange(0x4E00, 0x5200)) for _ in range(2)) for _ in range(3000)]
    with JsonlZstWriter(folder / "text.jsonl.zst") as file:
        for _ in range(documents):
            file.write({"content": "，".join("".join(dice.choices(words, k=7)) for _ in range(60)) + "。"})
    recipe = folder / "small.yaml"
    recipe.write_text(
        "stages:\n"
        "  - {name: text, do: corpus, sources: [{path: text.jsonl.zst}], near_similarity: 0}\n"
        "  - {do: tokenizer, from: text, vocab_size: 4096}\n"
        "  - {do: tokens, from: {corpus: text, tokenizer: tokenizer}}\n",
        encoding="utf-8",
    )
    return recipe


@pytest.mark.usefixtures("warm_stages")
def test_a_recipe_is_measured_on_its_own_sources(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, 700)
    command = [sys.executable, "-m", "hanmo", "plan", str(recipe), "--sample", "2", "--json", "--text", "1TB"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rates = found["rates"]
    assert rates["documents"] == pytest.approx(1e6 / (60 * 45), rel=0.05)
    assert rates["sample_mb"] == pytest.approx(2, rel=0.1)
    assert all(cost > 0 for cost in rates["seconds"].values()) and 0 < rates["disk"]["tokens"] < 2
    [projected] = found["plans"]
    assert projected["text_bytes"] == 1e12 and projected["hours"] > 0.1
    assert [row["stage"] for row in projected["stages"]] == ["corpus", "tokenizer", "tokens"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml", "text.jsonl.zst"], "nothing is left"


def test_what_cannot_be_planned_is_one_line(tmp_path: Path) -> None:
    small = load_recipe(write_recipe(tmp_path, 1))
    with pytest.raises(HanmoError, match=r"its sources hold only 0.0 MB of text: just run it"):
        plan(small)
    other = tmp_path / "other.yaml"
    other.write_text("stages:\n  - do: microworld\n  - {do: corpus, from: microworld}\n", encoding="utf-8")
    with pytest.raises(HanmoError, match="stage 'corpus' reads what stage 'microworld' makes"):
        plan(load_recipe(other))
    other.write_text("stages:\n  - do: microworld\n", encoding="utf-8")
    with pytest.raises(HanmoError, match="no corpus stage in it"):
        plan(load_recipe(other))
