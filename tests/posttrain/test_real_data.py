"""Published record files, as they are: each is read in its form, or refused with a line that says why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hanmo.errors import HanmoError
from hanmo.posttrain.records import pair_kind, read_items, sft_kind
from hanmo.posttrain.settings import DpoSettings, FileRule, SftSettings

#: file -> (form, records, usable, skipped, duplicates)
SFT = {
    "alpaca_zh_v3_52k.jsonl.zst": ("alpaca", 51952, 51951, 0, 1),
    "belle_zh_seed_tasks.jsonl": ("instances", 175, 175, 0, 0),
    "chatlm_my_valid_dataset_1k.parquet": ("qa", 1000, 1000, 0, 0),
    "crosswoz_val_dialogues.jsonl.zst": ("messages", 500, 500, 0, 0),
    "esp_faq_qa.jsonl.zst": ("alpaca", 1247, 1247, 0, 0),
    "hikariming_zh_supplement.jsonl.zst": ("alpaca", 10104, 8947, 0, 1157),
    "howtocook_recipes.jsonl.zst": ("alpaca", 342, 342, 0, 0),
    "huatuo_llama_med.jsonl": ("alpaca", 8658, 8658, 0, 0),
    "kdconv_dev_dialogues.jsonl.zst": ("messages", 450, 450, 0, 0),
    "llamafactory_alpaca_zh_demo.json": ("alpaca", 1000, 992, 0, 8),
    "llamafactory_glaive_toolcall_zh_demo.json": ("sharegpt", 300, 257, 0, 43),
    "llamafactory_identity.json": ("alpaca", 91, 91, 0, 0),
    "oaast_sft_zh.json": ("alpaca", 689, 684, 0, 5),
    "smilechat_multiturn_12k.jsonl.zst": ("messages", 12000, 11919, 81, 0),
    "tigerbot_medical_qa_6k.jsonl.zst": ("alpaca", 6000, 5971, 0, 29),
    "toyhom_internal_medicine_qa.jsonl.zst": ("alpaca", 4048, 3847, 0, 201),
}
PREFERENCES = {
    "llamafactory_dpo_zh_demo.json": ("sharegpt", 300, 289),
    "medicalgpt_dpo_zh_500.jsonl": ("sharegpt", 500, 500),
    "oaast_rm_zh.json": ("ranked", 775, 1212),
}


def read(path: Path, **options: Any) -> tuple[list[Any], Mapping[str, Any]]:
    settings = SftSettings(**options)
    items, account = read_items([path], settings, sft_kind(settings))
    return items, account.as_json()


def test_sft_files(shared_data: Path) -> None:
    found = {}
    for name in SFT:
        _, account = read(shared_data / "sft" / name, on_bad_record="skip")
        (file,) = account["files"]
        found[name] = (file["form"], file["records"], file["used"], file["skipped"], file["duplicates"])
    assert found == SFT


def test_flat_pairs_need_a_template_and_get_one(shared_data: Path) -> None:
    for name, count, rule in (
        (
            "classical_modern_pairs",
            108383,
            FileRule(user="译成白话文：{classical}", assistant="{modern}", max_records=500),
        ),
        ("python_docs_en_zh_pairs", 39265, FileRule(user="译成中文：{en}", assistant="{zh}", max_records=500)),
    ):
        path = shared_data / "sft" / f"{name}.jsonl.zst"
        with pytest.raises(HanmoError, match=r":1: fits no known form of a dialogue: its fields are .*templates"):
            read(path)
        items, account = read(path, files={f"{name}*": rule}, on_bad_record="skip")
        assert len(items) == 500
        assert account["read"] == count


def test_a_mixed_file_is_refused_and_read_on_request(shared_data: Path) -> None:
    path = shared_data / "sft" / "lawyer_llama_zh.jsonl.zst"
    with pytest.raises(HanmoError, match=r"the file mixes forms: this record is of form 'qa'.*'turns'.*form: each"):
        read(path)
    _, account = read(path, form="each", on_bad_record="skip")
    assert account["files"][0]["form"] == {"turns": 7000, "qa": 3000}
    assert account["skipped"] == {"fits no known form of a dialogue": 476}


def test_preference_files(shared_data: Path) -> None:
    found = {}
    for name in PREFERENCES:
        settings = DpoSettings()
        items, account = read_items([shared_data / "pref" / name], settings, pair_kind(settings))
        found[name] = (account.files[0]["form"], account.read, len(items))
    assert found == PREFERENCES
    settings = DpoSettings(ranked_pairs="all")
    items, account = read_items([shared_data / "pref" / "oaast_rm_zh.json"], settings, pair_kind(settings))
    assert len(items) + account.duplicates + account.notes["pairs of two equal answers left out"] == 1809
