"""`hanmo data check`: counts against ones made by hand, every kind of faulty line by its number, the exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.posttrain.check import check
from hanmo.posttrain.encode import encode_dialogue
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

from .conftest import dialogue, pair
from .faulty import FORM_FAULTS, GOOD, LABELLED_FAULTS, PAIR_FAULTS, SFT_FAULTS, TURNS, A, Q


def test_every_kind_of_faulty_line_is_told_by_its_number(tmp_path: Path) -> None:
    assert len(SFT_FAULTS) + len(FORM_FAULTS) + len(PAIR_FAULTS) >= 40
    tables: dict[str, tuple[Any, list[Any]]] = {
        "dialogues": (GOOD, [line for line, _ in SFT_FAULTS] + [record for _, record, _ in FORM_FAULTS]),
        "preferences": (
            {"prompt": Q, "chosen": A, "rejected": "不"},
            [record for record, _ in PAIR_FAULTS + LABELLED_FAULTS],
        ),
    }
    for kind, (good, lines) in tables.items():
        raw = [line if isinstance(line, str | bytes) else json.dumps(line, ensure_ascii=False) for line in lines]
        path = tmp_path / f"{kind}.jsonl"
        between = (json.dumps(good, ensure_ascii=False) + "\n").encode()
        path.write_bytes(b"".join(between + (r if isinstance(r, bytes) else r.encode()) + b"\n" for r in raw))
        (found,) = check([path], kind=kind)["files"]
        assert [fault["line"] for fault in found["faulty"]] == list(range(2, 2 * len(lines) + 1, 2))
        assert all(fault["why"] and "\n" not in fault["why"] for fault in found["faulty"])
        assert (found["records"], found["faults"], found["usable"]) == (2 * len(lines), len(lines), 1)
        assert found["duplicates"] == len(lines) - 1
        assert sum(found["reasons"].values()) == len(lines)


def test_counts_are_those_made_by_hand(jsonl: Callable[..., Path], tiny_model_dir: Path) -> None:
    other = {"messages": [TURNS[0], {"role": "assistant", "content": "别的回答，很长" * 20}]}
    records = [GOOD, GOOD, other, {"messages": [{"role": "system", "content": "好"}, *TURNS, *TURNS]}]
    chat = ChatFormat(load(tiny_model_dir))
    (found,) = check([jsonl(records)], tiny_model_dir, 40)["files"]
    assert (found["records"], found["usable"], found["duplicates"], found["same_prompt"]) == (4, 3, 1, 1)
    assert found["roles"] == {"user": 4, "assistant": 4, "system": 1} and found["turns"] == {"1": 2, "2": 1}
    assert found["characters"] == {"min": 4, "p50": 9, "p90": 142, "p99": 142, "max": 142, "total": 155}
    used = [records[0], records[2], records[3]]
    examples = [encode_dialogue(chat, record["messages"], 10**6, "drop", Counter()) for record in used]
    lengths = sorted(len(example.input_ids) for example in examples if example)
    assert (found["tokens"]["min"], found["tokens"]["max"], found["tokens"]["total"]) == (
        lengths[0],
        lengths[2],
        sum(lengths),
    )
    notes: Counter[str] = Counter()
    cut = [encode_dialogue(chat, record["messages"], 40, "truncate", notes) for record in used]
    assert found["too_long"] == notes and notes
    assert found["learnt_tokens"] == sum(label != -100 for example in cut if example for label in example.labels)
    assert check([jsonl(records)], tiny_model_dir)["context"] == 256


def test_preferences_are_recognised_and_long_ones_counted(jsonl: Callable[..., Path], tiny_model_dir: Path) -> None:
    long = {"prompt": Q, "chosen": "甲" * 100, "rejected": A}
    (found,) = check([jsonl([pair(0), long])], tiny_model_dir, 100)["files"]
    assert (found["kind"], found["usable"], found["faults"]) == ("preferences", 2, 0)
    assert found["too_long"] == {"longer than max_length, dropped": 1}
    (ranked,) = check([jsonl([{"instruction": Q, "output": [A, "不", "没"]}], "ranked.jsonl")])["files"]
    assert (ranked["kind"], ranked["usable"], ranked["same_prompt"]) == ("preferences", 2, 1)


def test_labels_of_single_answers_are_counted(jsonl: Callable[..., Path], tiny_model_dir: Path) -> None:
    records = [{"prompt": Q, "completion": f"{index}号", "label": index > 0} for index in range(3)]
    path = jsonl([*records, {"messages": TURNS, "label": False}])
    (found,) = check([path], tiny_model_dir)["files"]
    assert (found["kind"], found["form"], found["usable"], found["faults"]) == ("preferences", "labelled", 4, 0)
    assert found["labels"] == {"true": 2, "false": 2} and found["same_prompt"] == 3
    chat = ChatFormat(load(tiny_model_dir))
    answers = [
        sum(chat.encode([*TURNS[:1], {"role": "assistant", "content": text}])[1]) for text in ("0号", "1号", "2号", A)
    ]
    assert found["learnt_tokens"] == sum(answers)
    assert "labels: true 2, false 2" in CliRunner().invoke(cli, ["data", "check", str(path)]).output


def test_the_command_ends_with_2_where_a_line_is_faulty(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    good = jsonl([dialogue(0), dialogue(1)], "good.jsonl")
    result = run(cli, ["data", "check", str(good)])
    assert result.exit_code == 0 and "messages" in result.output
    bad = jsonl([dialogue(0), "{", {"messages": []}], "bad.jsonl")
    result = run(cli, ["data", "check", str(good), str(bad)])
    assert result.exit_code == 2
    assert f"{bad}:2: not JSON" in result.output and f"{bad}:3: field 'messages': is an empty list" in result.output
    result = run(cli, ["data", "check", "--json", str(bad)])
    assert result.exit_code == 2 and [f["line"] for f in json.loads(result.output)["files"][0]["faulty"]] == [2, 3]
    (tmp_path / "torn.json").write_text("[{}", encoding="utf-8")
    result = run(cli, ["data", "check", str(tmp_path / "torn.json")])
    assert result.exit_code == 2 and "no end" in result.output


@pytest.mark.parametrize("name", ["llamafactory_glaive_toolcall_zh_demo.json", "llamafactory_identity.json"])
def test_published_files(shared_data: Path, name: str) -> None:
    (found,) = check([shared_data / "sft" / name])["files"]
    assert found["faults"] == 0 and found["usable"] + found["duplicates"] == found["records"]
    assert ("system" in found["roles"]) == ("toolcall" in name)
