"""Records that several tests of this room use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

NAMES = ("小明", "小红", "小猫", "小鱼", "春天", "公园", "花园", "天气", "今天", "大树")
PLACES = ("公园", "花园", "学校", "家里", "树下", "河边")


def dialogue(index: int) -> dict[str, Any]:
    """A short dialogue; no two numbers make the same."""
    name, place = NAMES[index % 10], PLACES[index % 6]
    return {
        "messages": [
            {"role": "user", "content": f"{name}在哪里？第{index}次"},
            {"role": "assistant", "content": f"{name}在{place}。" * (1 + index % 3)},
        ]
    }


def pair(index: int) -> dict[str, Any]:
    """A preference whose better answer always ends politely."""
    name, place = NAMES[index % 10], PLACES[index % 6]
    return {
        "prompt": [{"role": "user", "content": f"{name}在哪里？第{index}次"}],
        "chosen": [{"role": "assistant", "content": f"{name}在{place}。很高兴。"}],
        "rejected": [{"role": "assistant", "content": f"我不看。{place}"}],
    }


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records (or raw lines) as a JSON-lines file."""

    def write(records: Iterable[Any], name: str = "records.jsonl") -> Path:
        lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        return path

    return write
