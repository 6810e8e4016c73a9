"""Folders with a dataset_info.json: columns, tags, the choice of sets, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanmo.errors import HanmoError
from hanmo.posttrain.records import pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import DpoSettings, SftSettings

Q, A = "问题", "回答"
TURNS = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
OPENAI = {"role": "speaker", "content": "words"}
SETS: dict[str, tuple[dict[str, Any], Any]] = {
    "renamed": ({"columns": {"prompt": "q", "response": "a", "system": "s"}}, {"q": Q, "a": A, "s": "好", "z": 1}),
    "plain": ({}, {"instruction": Q, "input": "", "output": A}),
    "talk": (
        {"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": {"role_tag": "who", "user_tag": "me"}},
        {"talk": [{"who": "me", "value": Q}, {"who": "gpt", "value": A}]},
    ),
    "open": ({"formatting": "openai"}, {"messages": TURNS}),
    "openai": (
        {"formatting": "openai", "tags": {"role_tag": "speaker", "content_tag": "words", "assistant_tag": "bot"}},
        {"messages": [{"speaker": "user", "words": Q}, {"speaker": "bot", "words": A}]},
    ),
    "better": (
        {"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
        {"q": Q, "good": A, "bad": "不"},
    ),
    "better_talk": (
        {"ranking": True, "formatting": "sharegpt"},
        {
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": A},
            "rejected": {"from": "gpt", "value": "不"},
        },
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = {}
    for name, (entry, record) in SETS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps([record], ensure_ascii=False), encoding="utf-8")
        info[name] = {"file_name": f"{name}.json", **entry}
    info["far"] = {"hf_hub_url": "owner/name"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return tmp_path


def dialogues(path: Path, *names: str) -> list[Any]:
    options = SftSettings(sets=list(names))
    return [item.value for item in read_items([path], options, sft_kind(options))[0]]


@pytest.mark.parametrize("name", ["renamed", "plain", "talk", "open", "openai"])
def test_a_set_is_read_by_its_columns_and_tags(folder: Path, name: str) -> None:
    opening = [{"role": "system", "content": "好"}] if name == "renamed" else []
    assert dialogues(folder, name) == [[*opening, *TURNS]]
    assert dialogues(folder / "dataset_info.json", name) == [[*opening, *TURNS]]


@pytest.mark.parametrize("name", ["better", "better_talk"])
def test_sets_of_preferences(folder: Path, name: str) -> None:
    options = DpoSettings(sets=[name])
    items, _ = read_items([folder], options, pair_kind(options))
    assert [tuple(item.value) for item in items] == [(TURNS[:1], A, "不")]


def test_without_names_all_sets_of_the_kind_are_read(folder: Path) -> None:
    options = SftSettings()
    _, account = read_items([folder], options, sft_kind(options))
    assert [Path(file["file"]).stem for file in account.files] == ["renamed", "plain", "talk", "open", "openai"]
    assert account.duplicates == 3


def test_a_sample_of_a_set(folder: Path) -> None:
    records = [{"instruction": f"问{index}", "output": A} for index in range(9)]
    (folder / "plain.json").write_text(json.dumps(records), encoding="utf-8")
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    info["plain"]["num_samples"] = 4
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    assert len(dialogues(folder, "plain")) == 4


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"file_name": "none.json"}, "none.json: no such file"),
        ({"file_name": "plain.json", "formating": "alpaca"}, "unknown key 'formating'; did you mean 'formatting'"),
        ({"file_name": "plain.json", "formatting": "chatml"}, "formatting is 'chatml'; known are"),
        ({"file_name": "plain.json", "columns": {"promt": "q"}}, "unknown 'promt'; did you mean 'prompt'"),
        ({"file_name": "plain.json", "tags": {"role": "q"}}, "unknown 'role'"),
        (
            {"file_name": "plain.json", "columns": {"prompt": "q"}},
            r"json:1: field 'q': is missing \(the set 'bad'",
        ),
        ({"file_name": "plain.json", "ranking": True}, "the set 'bad' has preferences; dialogues are needed"),
        ({"ms_hub_url": "owner/name"}, "it lies elsewhere"),
    ],
)
def test_faults_of_the_file_are_named(folder: Path, entry: dict[str, Any], words: str) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({"bad": entry}), encoding="utf-8")
    with pytest.raises(HanmoError, match=words):
        dialogues(folder, "bad")


def test_sets_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="there is no set 'plane'; did you mean 'plain'"):
        dialogues(folder, "plane")
    with pytest.raises(HanmoError, match=r"sets: plain asked for, but no dataset_info.json"):
        dialogues(folder / "plain.json", "plain")
