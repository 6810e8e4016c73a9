"""Models of several results, compared on what both were measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.evaluate.side_by_side import load, side_by_side


def lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def results(folder: Path, name: str, bits: float, right: int, first: int = 0) -> Path:
    """An eval and an exam stage's files: 30 documents from number `first` on, 40 items each of which `right` are."""
    folder.mkdir()
    for file, exam in (("eval.json", "world"), ("exams.json", "ceval")):
        (folder / file).write_text(json.dumps({"exams": {exam: {"chance": 0.25}}}), encoding="utf-8")
    documents = [
        {"document": str(n), "source": "", "bytes": 100, "tokens": 9, "bits": 100 * (bits + n % 3)}
        for n in range(first, first + 30)
    ]
    lines(folder / f"heldout-{name}.jsonl", documents)
    lines(folder / f"exam-{name}.jsonl", [{"exam": "world", "id": str(n), "right": n < right} for n in range(40)])
    items = [{"item": f"ceval/law/{n}", "options": ["a", "b"], "right": n >= right} for n in range(40)]
    lines(folder / f"items-{name}.jsonl", items)
    return folder


def test_pairs_share_what_both_were_asked(tmp_path: Path) -> None:
    folders = [results(tmp_path / "one", "small", 2.0, 20), results(tmp_path / "two", "large", 1.5, 35, first=10)]
    found = side_by_side(*load(folders))
    small, large = found["models"]
    assert small["heldout"]["bits_per_byte"] == pytest.approx(3.0) and small["heldout"]["documents"] == 30
    assert (small["exams"]["world"]["k"], large["exams"]["world"]["k"]) == (20, 35)
    assert small["exams"]["ceval"]["chance"] == 0.25
    (pair,) = found["pairs"]
    assert pair["heldout"]["documents"] == 20 and pair["heldout"]["difference"] == pytest.approx(-0.5)
    # Every document differs by as much: the paired interval has no width, however unlike the documents are.
    assert pair["heldout"]["high"] - pair["heldout"]["low"] < 1e-9 < small["heldout"]["high"] - small["heldout"]["low"]
    assert (pair["exams"]["world"]["gained"], pair["exams"]["world"]["lost"]) == (15, 0)
    assert (pair["exams"]["ceval"]["gained"], pair["exams"]["ceval"]["lost"]) == (0, 15)


def test_by_command(tmp_path: Path) -> None:
    folders = [str(results(tmp_path / "one", "small", 2.0, 20)), str(results(tmp_path / "two", "large", 1.5, 35))]
    shown = CliRunner().invoke(cli, ["eval", "compare", *folders, "--out", str(tmp_path / "out.json")])
    assert shown.exit_code == 0, shown.output
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["pairs"][0]["exams"]["world"]["gained"] == 15
    assert "-0.5000" in shown.output and "+37.5%" in shown.output
    printed = CliRunner().invoke(cli, ["eval", "compare", *folders, "--json"])
    assert [model["name"] for model in json.loads(printed.output)["models"]] == ["small", "large"]


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    one = results(tmp_path / "one", "small", 2.0, 20)
    with pytest.raises(HanmoError, match="neither an eval"):
        load([tmp_path])
    with pytest.raises(HanmoError, match="measured before with another result"):
        load([one, results(tmp_path / "two", "small", 1.0, 20)])
    assert isinstance(CliRunner().invoke(cli, ["eval", "compare", str(one)]).exception, HanmoError)
