"""Inputs and results in object storage and on web servers, against a real local S3 server (moto's)."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanmo import remote
from hanmo.corpus.inputs import source_files
from hanmo.corpus.settings import Source
from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, atomic_write, fingerprint_path, read_json, read_jsonl, write_json
from nest import behind
from scaling import digests, environment, hanmo, must, project

pytestmark = pytest.mark.usefixtures("warm_stages")

for module in ("s3fs", "upath", "moto", "flask"):
    pytest.importorskip(module, reason='needs object storage and a test server: pip install "hanmo[s3,dev]"')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An S3 server with the bucket `bucket`; gives what the environment must say to reach it."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    said = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HANMO_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in said.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield said
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def upload(folder: Path, url: str) -> None:
    for path, name in remote.files_below(folder):
        with atomic_write(remote.as_path(f"{url}/{name}"), "wb") as file:
            file.write(path.read_bytes())


def download(url: str, folder: Path) -> Path:
    for path, name in remote.files_below(remote.as_path(url)):
        with atomic_write(folder / name, "wb") as file:
            file.write(path.read_bytes())
    return folder


def test_writes_are_whole_or_absent(server: dict[str, str]) -> None:
    path = remote.as_path("s3://bucket/files/a.json")
    write_json(path, {"字": 1})
    assert read_json("s3://bucket/files/a.json") == {"字": 1}
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("half of it")
        raise ZeroDivisionError
    assert read_json(path) == {"字": 1}
    with pytest.raises(ZeroDivisionError), atomic_write("s3://bucket/files/b.bin", "wb") as file:
        file.write(b"x" * 30_000_000)
        raise ZeroDivisionError
    assert [name for _, name in remote.files_below(remote.as_path("s3://bucket/files"))] == ["a.json"]


def test_lines_arrays_and_files_of_several_parts(server: dict[str, str]) -> None:
    with JsonlZstWriter("s3://bucket/lines/x.jsonl.zst") as file:
        for number in range(1000):
            file.write({"n": number})
    assert [record["n"] for _, record in read_jsonl("s3://bucket/lines/x.jsonl.zst")] == list(range(1000))
    noise = np.random.default_rng(1).integers(0, 256, 40_000_000, np.uint8)
    path = remote.as_path("s3://bucket/lines/noise.npy")
    with atomic_write(path, "wb") as file:
        np.save(file, noise)
    with remote.open_read(path) as file:
        assert np.array_equal(np.load(file), noise)


def test_a_fingerprint_is_that_of_the_version(server: dict[str, str]) -> None:
    write_json("s3://bucket/prints/a.json", 1)
    first = fingerprint_path("s3://bucket/prints")
    assert fingerprint_path("s3://bucket/prints") == first
    write_json("s3://bucket/prints/a.json", 2)
    assert fingerprint_path("s3://bucket/prints") != first


def test_sources_elsewhere(server: dict[str, str]) -> None:
    for name in ("a.txt", "sub/b.jsonl", "sub/c.jsonl.zst", "sub/.hidden.txt"):
        with atomic_write(f"s3://bucket/raw/{name}") as file:
            file.write("x")

    def names(path: str) -> list[str]:
        return [name for _, name in source_files(Source(path=path, name="s"))]

    assert names("s3://bucket/raw") == ["a.txt", "sub/b.jsonl", "sub/c.jsonl.zst"]
    assert names("s3://bucket/raw/sub/*.jsonl*") == ["b.jsonl", "c.jsonl.zst"]
    assert names("s3://bucket/raw/*/b.jsonl") == ["sub/b.jsonl"]
    assert names("s3://bucket/raw/a.txt") == ["a.txt"]
    for path in ("s3://bucket/nothing", "s3://nobody-s-bucket/x", "s3://bucket/raw/*.pdf"):
        with pytest.raises(HanmoError, match=r"nothing of that name there|not there"):
            names(path)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("remote"), documents=300)


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The recipe's results, made on this machine."""
    out = recipe.parent / "whole"
    must(hanmo(recipe, "run", recipe, "--out", out))
    return out


def without_settings(found: dict[str, str]) -> dict[str, str]:
    """Digests but for what names where the sources were."""
    return {name: value for name, value in found.items() if name not in ("text/stats.json", "tokens/tokens.json")}


def test_a_recipe_from_a_bucket_to_a_bucket(server: dict[str, str], recipe: Path, whole: Path, tmp_path: Path) -> None:
    upload(recipe.parent / "raw", "s3://bucket/project/raw")
    words = ["run", recipe, "--out", "s3://bucket/project/run", "text.sources=[{path: 's3://bucket/project/raw'}]"]
    words += ["text.workers=1", "tokens.workers=1"]
    must(hanmo(recipe, *words, **server))
    made = download("s3://bucket/project/run", tmp_path / "made")
    assert without_settings(digests(made)) == without_settings(digests(whole))
    assert read_json(made / "text" / "manifest.json")["counts"] == read_json(whole / "text" / "manifest.json")["counts"]
    assert must(hanmo(recipe, *words, **server)).count("done before") == 3
    assert "3" in must(hanmo(recipe, "status", "s3://bucket/project/run", "--json", **server))
    # What reads a changed source is made anew, and nothing of the old result is left.
    remote.as_path("s3://bucket/project/raw/7.jsonl").unlink()
    again = must(hanmo(recipe, *words, "--until", "text", **server))
    assert "rerun" in again and "done before" not in again
    after = download("s3://bucket/project/run/text", tmp_path / "after")
    assert read_json(after / "manifest.json")["counts"]["read"] != read_json(made / "text" / "manifest.json")["counts"]


def test_a_stage_alone_reads_and_writes_buckets(server: dict[str, str], recipe: Path, whole: Path) -> None:
    upload(whole / "text", "s3://bucket/alone/text")
    must(hanmo(recipe, "tokenizer", "--corpus", "s3://bucket/alone/text", "--vocab-size", "300", "--out",
               "s3://bucket/alone/tokenizer", **server))  # fmt: skip
    assert remote.as_path("s3://bucket/alone/tokenizer/manifest.json").exists()
    got = remote.as_path("s3://bucket/alone/tokenizer/tokenizer.json").read_bytes()
    assert got == (whole / "tokenizer" / "tokenizer.json").read_bytes()


def test_stages_behind_the_tokens_read_and_write_buckets(
    server: dict[str, str], recipe: Path, whole: Path, tmp_path: Path
) -> None:
    upload(whole / "tokens", "s3://bucket/behind/tokens")
    words = ["--preset", "1m", "--tokens", "640", "--context", "32", "--batch-tokens", "64", "--compile", "false"]
    words += [
        "--precision",
        "fp32",
        "--warmup-tokens",
        "128",
        "--sample-prompts",
        "[]",
        "--threads",
        "1",
        "--shuffle",
        "shards",
    ]
    must(hanmo(recipe, "pretrain", "--data", "s3://bucket/behind/tokens", "--out", "s3://bucket/behind/base", *words,
               **server))  # fmt: skip
    must(hanmo(recipe, "pretrain", "--data", whole / "tokens", "--out", tmp_path / "base", *words, **server))
    made = remote.as_path("s3://bucket/behind/base/model/model.safetensors").read_bytes()
    assert made == (tmp_path / "base" / "model" / "model.safetensors").read_bytes()
    must(hanmo(recipe, "convert", "gguf", "--model", "s3://bucket/behind/base", "--formats", "f16", "--out",
               "s3://bucket/behind/gguf", **server))  # fmt: skip
    found = {name for _, name in remote.files_below(remote.as_path("s3://bucket/behind/gguf"))}
    assert {"manifest.json", "model-f16.gguf"} <= found


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL as POSIX has it")
def test_killed_it_goes_on_with_the_shards_that_are_there(server: dict[str, str], recipe: Path, whole: Path) -> None:
    words = ["tokens", "--corpus", str(whole / "text"), "--tokenizer", str(whole / "tokenizer"), "--workers", "1"]
    words += ["--out", "s3://bucket/killed/tokens"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hanmo", *words], env=environment(recipe, **server), start_new_session=True
    )
    out = remote.as_path("s3://bucket/killed/tokens")

    def done() -> dict[str, str]:
        return {name: str(remote.version_of(path)) for path, name in remote.files_below(out) if "metadata" in name}

    group = behind(process).pid
    while len(done()) < 2:
        assert process.poll() is None
    os.killpg(group, signal.SIGKILL)
    process.wait()
    time.sleep(1.1)  # the server's clock ticks in seconds
    before = done()
    assert not (out / "manifest.json").exists()
    must(hanmo(recipe, *words, **server))
    after = done()
    assert before.items() <= after.items() and len(after) > len(before) >= 2
    assert (out / "manifest.json").exists()
    for path, name in remote.files_below(whole / "tokens"):
        if name.endswith((".ds", ".npy", ".index")):
            assert (out / name).read_bytes() == path.read_bytes()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_faults_are_one_line(server: dict[str, str], recipe: Path, tmp_path: Path) -> None:
    raw = str(recipe.parent / "raw")
    line = one_line(hanmo(recipe, "corpus", "--documents", raw, "--out", "s3://nobody/corpus", **server))
    assert "s3://nobody/corpus" in line and "bucket" in line
    line = one_line(hanmo(recipe, "corpus", "--documents", "s3://nobody/raw", "--out", tmp_path / "a", **server))
    assert "s3://nobody/raw" in line
    keyless = {**server, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    line = one_line(hanmo(recipe, "corpus", "--documents", raw, "--out", "s3://bucket/none", **keyless))
    assert "set AWS_ACCESS_KEY_ID" in line
    away = {**server, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}
    line = one_line(hanmo(recipe, "corpus", "--documents", raw, "--out", "s3://bucket/away", **away))
    assert "does not answer" in line and "s3://bucket/away" in line
    line = one_line(hanmo(recipe, "corpus", "--documents", "foo://bar/x", "--out", tmp_path / "b", **server))
    assert "foo://bar/x" in line


def test_no_permission_is_one_line(server: dict[str, str]) -> None:
    line = remote.describe(PermissionError("Access Denied"), "s3://bucket/x")
    assert line is not None and line.startswith("s3://bucket/x: the server refuses it (Access Denied)")


class _Torn(http.server.SimpleHTTPRequestHandler):
    """Sends half of a file called torn, then hangs up."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if "torn" in self.path else data)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_web_server_and_one_that_breaks_off(recipe: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    lines = [
        json.dumps({"text": f"第{number}天，小明在树下看书，天气很好。"}, ensure_ascii=False) for number in range(3000)
    ]
    (folder / "good.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "torn.jsonl").write_text("\n".join(lines), encoding="utf-8")
    handler = functools.partial(_Torn, directory=str(folder))
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{site.server_port}"
    try:
        must(hanmo(recipe, "corpus", "--documents", f"{url}/good.jsonl", "--out", tmp_path / "good"))
        assert read_json(tmp_path / "good" / "stats.json")["read"]["documents"] == 3000
        line = one_line(hanmo(recipe, "corpus", "--documents", f"{url}/torn.jsonl", "--out", tmp_path / "torn"))
        assert f"{url}/torn.jsonl" in line
    finally:
        site.shutdown()
