"""Shards at a URL: fetched as the order comes to them, checked, within the room given, and read like local ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.tokens import order as order_module
from hanmo.tokens import remote as remote_module
from hanmo.tokens.order import Order
from hanmo.tokens.remote import RemoteTokens
from hanmo.tokens.shards import TRAINING, ShardWriter, beside, open_split

pytest.importorskip("fsspec")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tokens folder of 9 shards, windows of 2."""
    for module in (order_module, remote_module):
        monkeypatch.setattr(module, "WINDOW", 2)
    monkeypatch.setattr(remote_module, "WAITS", (0.01, 0.01))
    found = tmp_path / "tokens"
    chooser = np.random.default_rng(1)
    for split, shards in (("train", 9), ("heldout", 1)):
        for number in range(shards):
            with ShardWriter(found / split, number, 300, "abc") as shard:
                lengths = chooser.integers(2, 40, 30)
                ids = chooser.integers(1, 300, lengths.sum())
                shard.write(ids, np.cumsum(lengths), 3 * lengths, chooser.integers(0, 2, 30))
    shards = {
        split: [{"name": path.stem} | read_json(beside(path, ".json")) for path in sorted((found / split).glob("*.ds"))]
        for split in ("train", "heldout")
    }
    (found / "tokenizer").mkdir()
    (found / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    write_json(found / "tokens.json", {"dtype": "<u2", "sources": ["a", "b"], "eos_id": 0, "shards": shards})
    return found


def room_for(folder: Path, shards: int) -> int:
    sizes = [sum(beside(path, s).stat().st_size for s in TRAINING) for path in (folder / "train").glob("*.ds")]
    return max(sizes) * shards


@pytest.mark.parametrize("shards", [2, 3, 5, 20])
def test_rows_are_those_of_the_local_folder_within_the_room(folder: Path, tmp_path: Path, shards: int) -> None:
    local = Order(open_split(folder, "train"), 16, 4, shuffle="shards")
    room = room_for(folder, shards)
    with RemoteTokens(folder.as_uri(), tmp_path / "here", room) as remote:
        remote.check_room(1)
        order = Order(remote.train, 16, 4, shuffle="shards", announce=remote.announce)
        count = 2 * local.total // 16 + 3
        for first in range(0, count, 10):
            mine, theirs = order.rows(first, 10), local.rows(first, 10)
            assert all(np.array_equal(getattr(mine, n), getattr(theirs, n)) for n in ("inputs", "targets", "segment"))
            used = sum(p.stat().st_size for p in (tmp_path / "here" / "train").iterdir() if not p.name.startswith("."))
            assert used <= room
        assert np.array_equal(order.rows(2, 1).targets, local.rows(2, 1).targets)  # back to shards that are gone
    assert (tmp_path / "here" / "tokenizer" / "tokenizer.json").exists()
    assert len(open_split(tmp_path / "here", "heldout").doc_bytes) == 30


def test_what_an_earlier_run_left_is_used_if_it_is_whole(folder: Path, tmp_path: Path) -> None:
    def rows() -> np.ndarray:
        with RemoteTokens(url, tmp_path / "here", room_for(folder, 20)) as remote:
            order = Order(remote.train, 16, 4, shuffle="shards", announce=remote.announce)
            return order.rows(0, order.total // 16).targets

    url = folder.as_uri()
    found = rows()
    here = tmp_path / "here" / "train"
    stamps = {path.name: path.stat().st_mtime_ns for path in here.iterdir()}
    torn = here / "00003.ds"
    torn.write_bytes(torn.read_bytes()[:-2])
    (here / ".00004.ds.tmp").write_bytes(b"half")
    assert np.array_equal(rows(), found)
    again = {path.name: path.stat().st_mtime_ns for path in here.iterdir()}
    assert {name for name in stamps if again[name] != stamps[name]} == {"00003.ds"}


def test_faults_are_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    url = folder.as_uri()
    with pytest.raises(HanmoError, match=r"nowhere: no such file there"):
        RemoteTokens(f"{url}/nowhere", tmp_path / "a", 10**9)
    with pytest.raises(HanmoError, match=r"^xyz://b/c: "):
        RemoteTokens("xyz://b/c", tmp_path / "b", 10**9)
    with RemoteTokens(url, tmp_path / "c", 1000) as remote, pytest.raises(HanmoError, match=r"shard_cache_gb: 1e-06"):
        remote.check_room(1)
    changed = folder / "train" / "00005.ds"
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1] + b"\7")
    with RemoteTokens(url, tmp_path / "d", 10**9) as remote:
        order = Order(remote.train, 16, 4, shuffle="shards", announce=remote.announce)
        with pytest.raises(HanmoError, match=r"00005\.ds: not what tokens\.json says.*copy the folder"):
            order.rows(0, order.total // 16)
    changed.write_bytes(whole)
    fails = []
    with RemoteTokens(url, tmp_path / "e", 10**9) as remote:
        get = remote._fs.get_file

        def failing(source: str, target: str) -> None:
            fails.append(source)
            if len(fails) != 2 and fails.count(source) < times:
                raise ConnectionError("the line is dead")
            get(source, target)

        monkeypatch.setattr(remote._fs, "get_file", failing)
        order = Order(remote.train, 16, 4, shuffle="shards", announce=remote.announce)
        times = 3
        local = Order(open_split(folder, "train"), 16, 4, shuffle="shards")
        assert np.array_equal(order.rows(0, 4).targets, local.rows(0, 4).targets)
        assert "the line is dead; trying again" in capfd.readouterr().err.replace("\n", " ")
        times = 99
        with pytest.raises(HanmoError, match=r"cannot be read, 3 tries failed \(ConnectionError: the line is dead\)"):
            order.rows(order.total // 16 - 1, 1)
