"""What a run trains on: mixes told and checked, and shards on S3 that give the same weights as those on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_runs  # type: ignore[import-not-found]
from safetensors.torch import load_file

from hanmo import api
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl, write_json
from hanmo.pretrain import stage
from hanmo.pretrain.data import opened
from hanmo.pretrain.settings import PretrainSettings
from hanmo.recipe import check_settings
from hanmo.remote import as_path
from hanmo.stages import KINDS
from hanmo.tokens.shards import ShardWriter
from hanmo.tokens.stage import _amount

#: Without a budget: each test says its own.
QUICK = {name: value for name, value in tiny_runs.QUICK.items() if name != "tokens"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A tokens folder of 20 shards with three sources, "news", "novels" and a small "law"."""
    import shutil

    folder = tmp_path_factory.mktemp("data") / "tokens"
    chooser = np.random.default_rng(1)
    shards: dict[str, list[dict]] = {}
    for split, count in (("train", 20), ("heldout", 1)):
        for number in range(count):
            with ShardWriter(folder / split, number, 400, "abc") as shard:
                lengths = chooser.integers(10, 60, 12)
                ids = chooser.integers(1, 400, lengths.sum())
                ids[np.cumsum(lengths) - 1] = 0
                shard.write(ids, np.cumsum(lengths), 3 * lengths, [0] * 6 + [1] * 5 + [2])
            shards.setdefault(split, []).append(
                {"name": f"{number:05d}"} | read_json(folder / split / f"{number:05d}.json")
            )
    shutil.copytree(tiny_tokenizer_dir, folder / "tokenizer")
    sources = ["news", "novels", "law"]
    info = {"vocab_size": 400, "dtype": "<u2", "eos_id": 0, "sources": sources, "shards": shards}
    write_json(folder / "tokens.json", info | {split: _amount(folder / split, 3) for split in shards})
    return folder


def weights(out: Path) -> dict:
    return load_file(out / "model" / "model.safetensors")


def trained(data: Path, out: Path, **options) -> dict:
    """Run the stage in this process; its counts."""
    return stage.run(PretrainSettings(**{**QUICK, **options}), {"data": [data]}, out)


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


def test_a_mixed_run_tells_tokens_and_passes_by_source(tokens: Path, tmp_path: Path, capfd) -> None:
    mix = {"weights": {"news": 0.5, "novels": 0.3, "law": 0.2}, "max_epochs": {"law": 1}}
    told = trained(tokens, tmp_path / "run", tokens=5120, mix=mix)["sources"]
    law = read_json(tokens / "tokens.json")["train"]["by_source"][2]["tokens"]
    assert told["law"] == {"tokens": law, "passes": 1.0}
    assert sum(part["tokens"] for part in told.values()) == 5120
    rest = 5120 - law
    assert told["news"]["tokens"] == pytest.approx(rest * 5 / 8, abs=64)
    lines = [line for _, line in read_jsonl(tmp_path / "run" / "log.jsonl") if "sources" in line]
    assert lines[-1]["sources"] == {name: part["tokens"] for name, part in told.items()}
    assert all(sum(line["sources"].values()) == line["tokens"] for line in lines)
    said = " ".join(capfd.readouterr().err.split())
    assert "law: share 20.0%, " in said and "1.00 passes, capped at 1" in said


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mix": {"weights": {"nwes": 1}}}, r"no source 'nwes'; did you mean 'news'\?"),
        ({"mix": {"max_epochs": 0.5}, "tokens": 10**6}, r"tokens: 1000000 are asked for, the mix has \d+ with every"),
        ({"context": 16384, "batch_tokens": 16384}, "do not fill one row"),
    ],
)
def test_what_does_not_fit_is_one_line(tokens: Path, tmp_path: Path, settings: dict, line: str) -> None:
    with (
        pytest.raises(HanmoError, match=line),
        opened(PretrainSettings(**{**QUICK, **settings}), [tokens], tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "mix", [{"weights": {"a": -1}}, {"max_epochs": 0}, {"max_epochs": {"a": 0}}, {"temperature": -1}, {"weight": {}}]
)
def test_settings_of_a_mix_are_checked(mix: dict) -> None:
    with pytest.raises(HanmoError, match=r"^x: .*mix\."):
        check_settings(KINDS["pretrain"], {"mix": mix}, "x")


@pytest.fixture(scope="module")
def bucket(tokens: Path) -> Iterator[str]:
    """The tokens folder on an S3 server of this machine."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    files = s3fs.S3FileSystem()
    files.mkdir("shelf")
    files.put(str(tokens), "shelf/tokens", recursive=True)
    yield "s3://shelf/tokens"
    patch.undo()
    server.stop()


@pytest.mark.usefixtures("warm_stages")
def test_a_killed_run_from_s3_ends_with_the_weights_of_the_local_copy(
    tokens: Path, bucket: str, tmp_path: Path, capfd
) -> None:
    options = {**QUICK, "tokens": 12_800, "shuffle": "shards", "mix": {"temperature": 0.5}}
    local = trained(tokens, tmp_path / "local", **options)
    out = tmp_path / "remote"
    given = [f"--{name.replace('_', '-')}={json.dumps(value)}" for name, value in options.items()]
    command = [sys.executable, "-m", "hanmo", "pretrain", "--data", bucket, "--out", str(out), *given]
    command += ["--checkpoint-seconds=0.1", f"--shard-cache-gb={60e3 / 1e9}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((out / "checkpoints").glob("step-*")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the stage ends itself when its runner is gone
    assert not (out / "manifest.json").exists() and (out / "shards" / "train").exists()
    counts = trained(as_path(bucket), out, **{**options, "shard_cache_gb": 60e3 / 1e9})
    assert "resuming at step" in capfd.readouterr().err
    assert same(tmp_path / "local", out)
    assert counts["heldout_bpb"] == local["heldout_bpb"]
    assert not (out / "shards").exists()


def test_a_url_is_read_by_shards_and_must_be_there(bucket: str, tmp_path: Path) -> None:
    with (
        pytest.raises(HanmoError, match=r"^s3://shelf/tokens: shuffle: global reads all shards at once"),
        opened(PretrainSettings(**QUICK), [as_path(bucket)], tmp_path),
    ):
        pass
    with pytest.raises(HanmoError, match=r"^s3://shelf/none: no such file"):
        api.pretrain("s3://shelf/none", tmp_path / "run", **QUICK)
