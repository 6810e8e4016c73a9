"""Every tracker with its real library, offline: what was written is read back, also after a second try."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.pretrain import trackers as module
from hanmo.pretrain.trackers import Place, Trackers, flat

#: Writes the figures of steps FROM..TO as one try of a training would; each is a process of its own, as tries are.
TRY = """
import sys
from pathlib import Path
from hanmo.pretrain.trackers import Place, Trackers
folder, begin, end, *names = sys.argv[1:]
trackers = Trackers(names, lambda: Place("ink", "", Path(folder), {"lr": 0.02}, int(begin)))
for step in range(int(begin) + 1, int(end) + 1):
    trackers.log({"step": step, "loss": 5 - step / 10, "shares": {"data": 0.25}})
trackers.close()
"""
LOSSES = {step: 5 - step / 10 for step in range(1, 7)}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with all trackers: a try of steps 1 to 4, and one that goes on from step 3 to 6."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "small" / "pretrain"
    folder.mkdir(parents=True)
    names = [name for name in module._KINDS if importlib.util.find_spec(name)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SWANLAB", "TRACKIO"))}
    # No key anywhere: wandb and swanlab must take the offline mode by themselves.
    clean |= {"HOME": str(home), "USERPROFILE": str(home), "TRACKIO_DIR": str(home / "trackio")}
    for begin, end in ((0, 4), (3, 6)):
        command = [sys.executable, "-c", TRY, str(folder), str(begin), str(end), *names]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=240)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and "left out" not in said, said
    return folder


def test_tensorboard(tracked: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(LOSSES)
    assert len(events.Scalars("loss")) == 6  # step 4 of the first try is dropped for that of the second
    assert [event.value for event in events.Scalars("shares/data")] == [0.25] * 6


def test_trackio(tracked: Path) -> None:
    pytest.importorskip("trackio")
    (database,) = (tracked.parents[1] / "trackio").glob("ink*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    (name,) = {name for name, _, _ in rows}
    assert name.startswith("small-pretrain-")  # one run for both tries, named after the folder and its parent
    found = {step: json.loads(metrics) for _, step, metrics in rows}
    assert {step: line["loss"] for step, line in found.items()} == pytest.approx(LOSSES)
    assert found[1]["shares/data"] == 0.25


def records(path: Path, head: int) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, a record in pieces with headers of 7 bytes."""
    data, at, record = path.read_bytes(), head, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_wandb(tracked: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    found: dict[int, float] = {}
    runs = set()
    for path in sorted((tracked / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in records(path, head=7):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add((record.run.run_id, record.run.project, record.run.display_name))
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                found[items["step"]] = items["loss"]
                assert items["shares/data"] == 0.25
    own = json.loads((tracked / "trackers.json").read_text(encoding="utf-8"))["id"]
    assert runs == {(own, "ink", "small-pretrain")}
    assert found == pytest.approx(LOSSES)


def test_swanlab(tracked: Path) -> None:
    pytest.importorskip("swanlab")
    from swanlab.proto.swanlab.record.v1 import record_pb2

    found: dict[int, float] = {}
    runs = set()
    for path in sorted((tracked / "swanlog").glob("run-*/run-*.swanlab")):
        for record in map(record_pb2.Record.FromString, records(path, head=7)):
            if record.HasField("start"):
                runs.add((record.start.id, record.start.project, record.start.name))
            if record.HasField("scalar") and record.scalar.key == "loss":
                found[record.scalar.step] = record.scalar.value.number
    own = json.loads((tracked / "trackers.json").read_text(encoding="utf-8"))["id"]
    assert runs == {(own, "ink", "small-pretrain")}
    assert found == pytest.approx(LOSSES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "small" / "pretrain"
    folder.mkdir(parents=True)
    return folder


def test_one_that_fails_is_left_out_with_one_warning(run: Path, monkeypatch, capfd) -> None:
    class Failing:
        def __init__(self, place: Place) -> None:
            self.logged = 0

        def log(self, step: int, figures: dict) -> None:
            raise SystemExit("no account\nand a second line")

        def close(self) -> None:
            raise AssertionError

    kept = []

    class Sound(Failing):
        def log(self, step: int, figures: dict) -> None:
            kept.append((step, figures))

        def close(self) -> None:
            kept.append("closed")

    monkeypatch.setitem(module._KINDS, "wandb", Failing)
    monkeypatch.setitem(module._KINDS, "trackio", Sound)
    trackers = Trackers(["wandb", "trackio"], lambda: Place("p", "n", run, {}, 0))
    trackers.log({"step": 1, "loss": 2.0})
    trackers.log({"step": 2, "loss": 1.0})
    trackers.close()
    assert kept == [(1, {"loss": 2.0}), (2, {"loss": 1.0}), "closed"]
    assert capfd.readouterr().err.splitlines() == ["warning: tracker wandb is left out from here on: no account"]


def test_one_that_is_not_installed_is_one_line(run: Path, monkeypatch) -> None:
    real = importlib.import_module

    def importing(name: str, *args):
        if name == "swanlab":
            raise ModuleNotFoundError("no swanlab", name="swanlab")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", importing)
    with pytest.raises(HanmoError, match=r'swanlab is not installed: pip install "hanmo\[swanlab\]"'):
        Trackers(["swanlab"], lambda: Place("p", "n", run, {}, 0))


def test_a_run_keeps_its_id_and_is_named_after_its_folder(run: Path) -> None:
    first, second = (Place("p", "", run, {}, step) for step in (0, 7))
    assert first.id == second.id and len(first.id) == 21 and not first.resumed and second.resumed
    assert first.name == "small-pretrain" and Place("p", "mine", run, {}, 0).name == "mine"


def test_flat() -> None:
    line = {"step": 3, "loss": 1.5, "shares": {"data": 0.1}, "ok": True, "text": "x", "yardstick": {"device": "cpu"}}
    assert flat(line) == {"step": 3, "loss": 1.5, "shares/data": 0.1}
