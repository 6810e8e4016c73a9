"""Documents, dialogues and pairs: the same bytes every time, no two alike, every one well formed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from hanmo.corpus.microworld import generate, pages_school
from hanmo.corpus.microworld.bank import Bank
from hanmo.corpus.microworld.dice import Dice
from hanmo.corpus.microworld.exam import make_exam
from hanmo.corpus.microworld.overlap import Guard
from hanmo.corpus.microworld.settings import MicroworldSettings
from hanmo.corpus.microworld.stage import run
from hanmo.corpus.microworld.teller import Teller
from hanmo.corpus.microworld.world import build_world
from hanmo.errors import HanmoError
from hanmo.files import read_jsonl

SMALL = {"megabytes": 0.05, "dialogues": 30, "preferences": 20, "retrieval": False, "exam_per_category": 10}

#: What Dice(1, "test").below(100) gives, on every machine and Python version.
FIXED = [75, 53, 16, 70, 21, 56]


def digest(folder: Path) -> str:
    """Of every file's content, the documents' uncompressed (a newer zstd may compress otherwise)."""
    state = hashlib.sha256()
    for name in ("sft.jsonl", "pref.jsonl", "exam.jsonl", "world.json", "stats.json"):
        state.update((folder / name).read_bytes())
    for _, record in read_jsonl(folder / "documents.jsonl.zst"):
        state.update(json.dumps(record, ensure_ascii=False).encode())
    return state.hexdigest()


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    generate(tmp_path / "a", seed=3, **SMALL)
    code = f"from hanmo.corpus.microworld import generate; generate({str(tmp_path / 'b')!r}, seed=3, **{SMALL!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    generate(tmp_path / "c", seed=4, **SMALL)
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_dice_sequence_is_fixed() -> None:
    dice = Dice(1, "test")
    assert [dice.below(100) for _ in range(6)] == FIXED
    assert sorted(Dice(2, "x").shuffled("abcdef")) == list("abcdef")
    assert len(set(Dice(2, "y").sample(range(50), 20))) == 20


def test_more_documents_keep_the_exam_and_the_world(tmp_path: Path) -> None:
    generate(tmp_path / "a", **SMALL)
    generate(tmp_path / "b", **{**SMALL, "megabytes": 0.1})
    for name in ("exam.jsonl", "world.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_documents_are_whole_and_different(made: Path) -> None:
    records = [record for _, record in read_jsonl(made / "documents.jsonl.zst")]
    texts = [record["text"] for record in records]
    assert len(set(texts)) == len(texts)
    assert len({record["id"] for record in records}) == len(records)
    assert {key for record in records for key in record} == {"id", "text", "source", "meta"}
    for text in texts:
        assert "{" not in text and "}" not in text and "None" not in text, text
        assert "，，" not in text and "。。" not in text and "。，" not in text, text
        assert text == text.strip() and len(text) >= 10, text
    size = sum(len(text.encode("utf-8")) for text in texts)
    assert 0.8e6 <= size < 0.81e6


def test_near_duplicates_are_rare(made: Path) -> None:
    """Of 400 documents, hardly any shares four fifths of its 5-character runs with another one."""
    texts = [record["text"] for _, record in read_jsonl(made / "documents.jsonl.zst")][:400]
    runs = [{text[i : i + 5] for i in range(len(text) - 4)} for text in texts]
    alike = 0
    for n, one in enumerate(runs):
        alike += any(len(one & other) > 0.8 * len(one | other) for other in runs[:n])
    assert alike <= 8


def test_dialogues_are_well_formed(made: Path) -> None:
    records = [record for _, record in read_jsonl(made / "sft.jsonl")]
    assert len(records) == 500
    turns = [len(record["messages"]) // 2 for record in records]
    assert sum(n > 1 for n in turns) >= 0.25 * len(turns)
    for record in records:
        assert list(record) == ["messages"]
        assert [m["role"] for m in record["messages"]] == ["user", "assistant"] * (len(record["messages"]) // 2)
        assert all(m["content"].strip() == m["content"] != "" for m in record["messages"])
    assert len({json.dumps(record, ensure_ascii=False) for record in records}) == len(records)


def test_pairs_are_well_formed(made: Path) -> None:
    records = [record for _, record in read_jsonl(made / "pref.jsonl")]
    assert len(records) == 250
    for record in records:
        assert list(record) == ["prompt", "chosen", "rejected"]
        assert [m["role"] for part in ("prompt", "chosen", "rejected") for m in record[part]] == [
            "user",
            "assistant",
            "assistant",
        ]
        assert record["chosen"] != record["rejected"]


def test_world_is_consistent() -> None:
    world = build_world(1, 60, 20)
    assert len(world.people) == 60 and len(world.places) == 20
    opposite = {"东": "西", "西": "东", "南": "北", "北": "南"}
    for place in world.places.values():
        for direction, name in place.neighbours.items():
            assert world.places[name].neighbours[opposite[direction]] == place.name
    for person in world.people.values():
        for relation, name in person.kin.items():
            assert name in world.people and name != person.name
            if relation in ("爸爸", "妈妈"):
                assert world.people[name].age >= person.age + 16
        if person.kin:
            assert {world.people[name].home for name in person.kin.values()} == {person.home}


def test_sizes_out_of_reach() -> None:
    with pytest.raises(HanmoError, match="places"):
        build_world(1, 60, 100)


def test_stage_leaves_stdout_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts = run(MicroworldSettings(**SMALL), {}, tmp_path)  # type: ignore[arg-type]
    assert capfd.readouterr().out == ""
    assert counts["dialogues"] == 30 and counts["exam"]["items"] == 110
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_no_form_of_question_is_lost_to_the_exam() -> None:
    """The guard throws single accidents away; a form that lost most of its questions would never be learnt."""
    bank = Bank(build_world(1, 36, 16))
    exam = make_exam(bank, 1, 50)
    guard, teller = Guard(exam), Teller(bank.world, bank, exam.held_out)
    asked: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for number in range(4000):
        problem = teller.problem(dice := Dice(1, "guarded", number))
        asked[problem.form] += 1
        lost[problem.form] += not guard.allows("\n".join(problem.worked(dice)))
    assert max(lost[form] / n for form, n in asked.items() if n >= 30) < 0.35
    assert sum(lost.values()) < 0.08 * sum(asked.values())


@pytest.mark.parametrize("seed", range(1, 7))
def test_every_form_leaves_questions_to_train_on(seed: int) -> None:
    bank = Bank(build_world(seed, 36, 16))
    held_out = make_exam(bank, seed, 50).held_out
    keys: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for category in bank.categories:
        for number in range(3000):
            problem = bank.draw(category, Dice(seed, "keys", category, number))
            keys[problem.form].add(problem.key)
    shares = {form: len(held_out & some) / len(some) for form, some in keys.items()}
    assert max(shares.values()) <= 0.75, shares


def test_pages_of_sums_are_chinese_text() -> None:
    """A corpus asks for a least share of Han characters; the single facts of arithmetic must pass it."""
    bank = Bank(build_world(1, 36, 16))
    teller = Teller(bank.world, bank, frozenset())
    for number in range(300):
        text = "".join(pages_school.sums(teller, Dice(1, "sums", number)).split())
        assert sum("\u4e00" <= c <= "\u9fff" for c in text) > 0.12 * len(text)
