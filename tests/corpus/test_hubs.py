"""Corpora by name, against a real server on this machine: the same files, whatever the network does, or one line."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hubserver import OLDER, SHA, Hub, serving
from pydantic import ValidationError
from test_corpus_stage import article, content, documents, make

from hanmo.corpus import hubapi, hubfile, hubs
from hanmo.corpus.inputs import known_format
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.stage import by_effect


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HANMO_HUB", "HF_ENDPOINT", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(hubfile, "WAIT", 0.001)
    hubapi._listed.cache_clear()
    yield


def rows(first: int, count: int) -> bytes:
    return b"".join(orjson.dumps({"text": article(number)}) + b"\n" for number in range(first, first + count))


def parquet(first: int, count: int, group: int = 8) -> bytes:
    table = pa.table({"id": [str(i) for i in range(count)], "text": [article(first + i) for i in range(count)]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    return file.getvalue()


def several() -> dict[str, bytes]:
    return {
        "README.md": b"# a card",
        "LICENSE.txt": b"MIT",
        ".gitattributes": b"*.parquet filter=lfs",
        "dataset_infos.json": b"{}",
        "data/train-00000-of-00002.jsonl.zst": zstandard.ZstdCompressor().compress(rows(0, 40)),
        "data/train-00001-of-00002.jsonl.gz": gzip.compress(rows(40, 40)),
        "data/test-00000-of-00001.jsonl": rows(500, 10),
        "books/one.parquet": parquet(80, 30),
    }


def source(hub: Hub, path: str = "hf:owner/name", **more: Any) -> Source:
    return Source(path=path, hub=hub.url, **more)


def names(hub: Hub, path: str) -> list[str]:
    return [name for _, name in hubs.files(path, hub.url, False, known_format)]


def settings(*sources: Source, **more: Any) -> CorpusSettings:
    return CorpusSettings(sources=list(sources), **{"workers": 1, "heldout_fraction": 0, **more})


def texts(out: Path) -> set[str]:
    return {record["text"] for record in documents(out / "train")}


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_are_taken_apart() -> None:
    name = hubs.parse("hf:wikimedia/wikipedia@b04c8d1:20231101.zh:train")
    assert (name.repo, name.revision, name.config, name.split) == (
        "wikimedia/wikipedia",
        "b04c8d1",
        "20231101.zh",
        "train",
    )
    assert name.short == "wikipedia-20231101.zh"
    assert str(name) == "hf:wikimedia/wikipedia@b04c8d1:20231101.zh:train"
    long = hubs.parse("hf://datasets/a/b.c@refs/convert/parquet/zh/**/*.parquet")
    assert (long.repo, long.revision, long.glob) == ("a/b.c", "refs/convert/parquet", "zh/**/*.parquet")
    assert hubs.parse(str(long)) == long
    assert hubs.parse("ms:a/b").kind == "ms"
    for wrong in (
        "hf:name",
        "hf:a/b/c",
        "hf://a/b/x.parquet",
        "hf:a/b:c:d:e",
        "ms:",
        "hf:../etc",
        "hf:a/b..c",
        "hf:-a/b",
        "ms:a/b.",
    ):
        with pytest.raises(HanmoError, match=r"no name of a dataset; write (hf|ms):OWNER/NAME"):
            Source(path=wrong)
    with pytest.raises(ValidationError, match="`hub` and `cache` are for names on a hub"):
        Source(path="data/", cache=True)


def test_the_files_of_a_name() -> None:
    with serving(Hub(several(), page=3)) as hub:
        # What speaks of no split is training text; the card, the licence and the like are none at all.
        train = ["books/one.parquet", "data/train-00000-of-00002.jsonl.zst", "data/train-00001-of-00002.jsonl.gz"]
        assert names(hub, "hf:owner/name") == train
        assert len(hub.paths("/tree/")) == 3  # pages, asked of this server although its links name another
        assert names(hub, "hf:owner/name::test") == ["data/test-00000-of-00001.jsonl"]
        assert names(hub, "hf:owner/name:books") == ["books/one.parquet"]
        assert names(hub, "hf://datasets/owner/name/data/*.jsonl*") == [
            "data/test-00000-of-00001.jsonl",
            "data/train-00000-of-00002.jsonl.zst",
            "data/train-00001-of-00002.jsonl.gz",
        ]
        assert names(hub, f"hf://datasets/owner/name@{OLDER}/books") == ["books/one.parquet"]
        assert names(hub, "hf://datasets/owner/name/books/one.parquet") == ["books/one.parquet"]


def test_a_card_that_declares_configurations() -> None:
    card = {
        "configs": [
            {
                "config_name": "zh",
                "data_files": [{"split": "train", "path": "zh/*.jsonl"}, {"split": "dev", "path": ["x/*"]}],
            },
            {"config_name": "en", "data_files": "en/**"},
        ]
    }
    data = {"zh/1.jsonl": b"1", "zh/2.jsonl": b"1", "x/1.jsonl": b"1", "en/a/1.jsonl": b"1", "other.jsonl": b"1"}
    with serving(Hub(data, card=card)) as hub:
        assert names(hub, "hf:owner/name:zh") == ["zh/1.jsonl", "zh/2.jsonl"]
        assert names(hub, "hf:owner/name:zh:dev") == ["x/1.jsonl"]
        assert names(hub, "hf:owner/name:en") == ["en/a/1.jsonl"]
        for wrong, line in {
            "hf:owner/name": "it has 2 configurations; say which: hf:owner/name:zh (there is: zh, en)",
            "hf:owner/name:zhh": "no configuration 'zhh'; did you mean 'zh'?; there is: zh, en",
            "hf:owner/name:zh:trian": "no split 'trian'; did you mean 'train'?; there is: train, dev",
        }.items():
            with pytest.raises(HanmoError) as caught:
                names(hub, wrong)
            assert str(caught.value) == f"{wrong}: {line}"
        hub.card = {
            "configs": [{"config_name": "a", "data_dir": "en"}, {"config_name": "default", "data_files": "zh/1*"}]
        }
        assert names(hub, "hf:owner/name") == ["zh/1.jsonl"]
        assert names(hub, "hf:owner/name:a") == ["en/a/1.jsonl"]


# The bytes ------------------------------------------------------------------------------------------------------------


def opened(hub: Hub, name: str, **more: Any) -> hubfile.HubFile:
    files = hubs.files(f"hf://datasets/owner/name/{name}", hub.url, False, known_format)
    return files[0][0]


def test_a_file_is_streamed_and_taken_up_where_it_broke() -> None:
    data = bytes(range(256)) * 4000
    with serving(Hub({"a.bin": data}, tear=100_000)) as hub:
        with opened(hub, "a.bin").open() as file:
            assert file.read() == data
        asked = [headers.get("range") for path, headers in hub.asked if "resolve" in path]
        assert asked[0] is None and asked[1] == "bytes=100000-" and len(asked) == 11
        hub.tear, hub.ranges = 0, False  # a mirror that always gives the whole file
        hub.tear, hub.tears = 300_000, 1
        with opened(hub, "a.bin").open() as file:
            assert file.read() == data


def test_a_connection_that_never_holds_is_a_fault_after_what_came() -> None:
    data = bytes(1_000_000)
    with serving(Hub({"a.bin": data}, tear=500_000)) as hub:
        file = pickle.loads(pickle.dumps(opened(hub, "a.bin")))  # it travels to workers
        assert (file.name, file.stem, file.suffix, file.stat().st_size) == ("a.bin", "a", ".bin", 1_000_000)
        with file.open() as stream:
            assert len(stream.read(400_000)) == 400_000
            hub.files.clear()  # gone while it is read
            assert len(stream.read(200_000)) == 100_000
            with pytest.raises(FileFault, match="the hub answers 404 for this file"):
                stream.read(1)
        hub.files["a.bin"], hub.busy = data, 10**6
        with file.open() as stream, pytest.raises(FileFault) as caught:
            stream.read(1)
        assert caught.value.reason == "torn_download"
        assert str(caught.value).startswith("the connection broke at byte 0 of 1,000,000 and 6 tries brought nothing")


def test_parts_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubfile, "BLOCK", 5000)
    data = parquet(0, 2000, 20)
    with serving(Hub({"a.parquet": data}, tear=2000, tears=3)) as hub:
        with opened(hub, "a.parquet").open() as file:
            table = pq.ParquetFile(file)
            group = table.read_row_group(50, columns=["text"]).to_pylist()
        assert group == [{"text": article(number)} for number in range(1000, 1020)]
        fetched = [headers["range"] for path, headers in hub.asked if "resolve" in path]
        assert all(part.startswith("bytes=") for part in fetched) and len(set(fetched)) < len(data) / 5000 / 4
        hub.ranges = False
        with opened(hub, "a.parquet").open() as file, pytest.raises(FileFault, match="set cache: true"):
            pq.ParquetFile(file)


def test_a_token_stays_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub({"a.jsonl": rows(0, 3)}, needs_token="secret", elsewhere=True)) as hub:
        with opened(hub, "a.jsonl").open() as file, pytest.raises(FileFault, match=r"refuses access .403.: agree to"):
            file.read()
        monkeypatch.setenv("HF_TOKEN", "secret")
        with opened(hub, "a.jsonl").open() as file:
            assert file.read() == rows(0, 3)
        told = [headers.get("authorization") for path, headers in hub.asked if path.startswith("/cdn/")]
        assert told == [None]  # that is another host


# The stage ------------------------------------------------------------------------------------------------------------


def test_a_corpus_by_name(tmp_path: Path) -> None:
    with serving(Hub(several())) as hub:
        stats = make(settings(source(hub, licence="CC0")), tmp_path / "out")
        assert stats["read"]["documents"] == 110 == stats["train"]["documents"]
        assert texts(tmp_path / "out") == {article(number) for number in range(110)}
        assert stats["sources"]["name"]["hub"] == f"hf:owner/name@{SHA}"
        assert {record["meta"]["at"].rpartition(":")[0] for record in documents(tmp_path / "out" / "train")} == {
            "books/one.parquet",
            "data/train-00000-of-00002.jsonl.zst",
            "data/train-00001-of-00002.jsonl.gz",
        }
        workers = make(settings(source(hub, licence="CC0"), workers=2), tmp_path / "two")
        workers["plan"] = stats["plan"]
        assert workers == stats
        assert list(tmp_path.rglob("*.parquet")) == []  # nothing is kept


def test_a_name_stays_at_its_first_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub({"a.jsonl": rows(0, 20)}, head=OLDER)) as hub:
        first = make(settings(source(hub)), tmp_path / "out")
        assert read_json(tmp_path / "out" / "hub.json") == {"hf:owner/name": f"hf:owner/name@{OLDER}"}
        before = content(tmp_path / "out" / "train")
        hub.head = SHA  # someone pushed
        (tmp_path / "out" / "stats.json").unlink()
        assert make(settings(source(hub)), tmp_path / "out") == first
        assert content(tmp_path / "out" / "train") == before
        assert make(settings(source(hub)), tmp_path / "later")["sources"]["name"]["hub"].endswith(SHA)


def test_a_mirror_and_a_cache_change_no_result() -> None:
    plain = CorpusSettings(sources=[Source(path="hf:a/b")])
    other = CorpusSettings(sources=[Source(path="hf:a/b", hub="https://hf-mirror.com", cache=True)])
    assert by_effect(plain, "result") == by_effect(other, "result")
    assert by_effect(plain, "result") != by_effect(CorpusSettings(sources=[Source(path="hf:a/c")]), "result")


def test_the_hub_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hubs.endpoint_of("hf", "") == "https://huggingface.co"
    assert hubs.endpoint_of("ms", "") == "https://www.modelscope.cn"
    monkeypatch.setenv("HF_ENDPOINT", "https://one/")
    assert hubs.endpoint_of("hf", "") == "https://one"
    monkeypatch.setenv("HANMO_HUB", "hf-mirror.com")
    assert hubs.endpoint_of("hf", "") == "https://hf-mirror.com"
    assert hubs.endpoint_of("hf", "http://here") == "http://here"


def test_bytes_are_kept_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANMO_CACHE", str(tmp_path / "cache"))
    with serving(Hub({"data/a.jsonl": rows(0, 20), "b.parquet": parquet(20, 20)}, ranges=False)) as hub:
        make(settings(source(hub, cache=True)), tmp_path / "out")
        assert texts(tmp_path / "out") == {article(number) for number in range(40)}
        kept = tmp_path / "cache" / "hub" / "hf" / "owner" / "name" / SHA
        assert sorted(path.name for path in kept.rglob("*") if path.is_file()) == ["a.jsonl", "b.parquet"]
        fetched = len(hub.paths("resolve"))
        assert fetched == 2
        make(settings(source(hub, cache=True)), tmp_path / "again")
        assert len(hub.paths("resolve")) == fetched


def test_a_torn_file_is_counted(tmp_path: Path) -> None:
    with serving(Hub({"a.jsonl": rows(0, 20), "b.jsonl": rows(20, 4000)})) as hub:
        whole = len(hub.files["b.jsonl"])
        read = hubfile._Reader._ask

        def broken(self: Any, part: str | None) -> Any:
            if part is not None and self._file.name == "b.jsonl":
                raise hubfile.httpx.ReadError("the line is dead")
            return read(self, part)

        hub.tear = whole // 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hubfile._Reader, "_ask", broken)
            with pytest.raises(HanmoError) as caught:
                make(settings(source(hub)), tmp_path / "out")
            line = str(caught.value)
            assert line.startswith(f"hf://datasets/owner/name@{SHA[:12]}/b.jsonl: the connection broke at byte ")
            assert "6 tries brought nothing more (the line is dead)" in line and "\n" not in line
            hub.tear = whole // 2
            stats = make(settings(source(hub), on_bad_file="skip"), tmp_path / "skip")
        assert stats["bad_files"] == 1
        assert 20 + 1000 < stats["read"]["documents"] < 20 + 3000  # and what came before it broke
        assert documents(tmp_path / "skip" / "rejects")[0]["reason"] == "torn_download"


def refused(path: str, hub: str, tmp_path: Path) -> str:
    with pytest.raises(HanmoError) as caught:
        make(settings(Source(path=path, hub=hub)), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    return str(caught.value)


def test_refusals_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Hub(several())) as hub:
        assert refused("hf:owner/nothing", hub.url, tmp_path) == (
            f"hf:owner/nothing: no such dataset on {hub.url} (401): check the spelling; if it is private, "
            "set HF_TOKEN to your token"
        )
        assert refused("hf:owner/name@v9", hub.url, tmp_path) == f"hf:owner/name: no revision 'v9' on {hub.url}"
        path = "hf://datasets/owner/name/data/*.csv"
        assert refused(path, hub.url, tmp_path) == f"{path}: no file of that name in the repository"
        hub.gated = "manual"
        assert refused("hf:owner/name", hub.url, tmp_path) == (
            f"hf:owner/name: it is gated on {hub.url}: agree to its terms on its page, then set HF_TOKEN to your "
            "token (or run `hf auth login`)"
        )
        hub.gated, hub.busy = False, 10**6
        assert refused("hf:owner/name", hub.url, tmp_path) == f"hf:owner/name: {hub.url} answers 503: busy"
        hub.busy = 2
        assert names(hub, "hf:owner/name")  # it was only busy
    assert refused("hf:owner/name", hub.url, tmp_path).startswith(f"hf:owner/name: {hub.url} cannot be reached (")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused("hf:owner/name", hub.url, tmp_path).startswith("HF_HUB_OFFLINE is set")
    with serving(Hub({"a.zip": b"", "b.bin": b""})) as hub:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert "no data file that can be read (there is 1 .zip, 1 .bin)" in refused("hf:owner/name", hub.url, tmp_path)


def test_modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = b"---\nconfigs:\n- config_name: zh\n  data_files:\n  - split: train\n    path: part/*.jsonl\n---\n# Card\n"
    files = {"README.md": card, **{f"part/{number:03}.jsonl": rows(number, 1) for number in range(150)}}
    with serving(Hub({**files, "other.jsonl": rows(900, 5)}, needs_token="key")) as hub:
        path = "ms:owner/name"
        assert "refuses access (403): set MODELSCOPE_API_TOKEN" in refused("ms:owner/name", hub.url, tmp_path)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "key")
        stats = make(settings(source(hub, path)), tmp_path / "made")
        assert stats["sources"]["name"]["hub"] == "ms:owner/name@master"
        assert texts(tmp_path / "made") == {article(number) for number in range(150)}
        assert names(hub, "ms://datasets/owner/name/other.jsonl") == ["other.jsonl"]
        assert "no such dataset" in refused("ms:owner/nothing", hub.url, tmp_path)


def test_huggingface_hub_finds_the_same_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """That our server is a hub and our reading of its answers the usual one, the hub's own client says."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving(Hub(several())) as hub:
        api = huggingface_hub.HfApi(endpoint=hub.url)
        assert api.dataset_info("owner/name").sha == SHA
        listed = api.list_repo_tree("owner/name", "data", recursive=True, revision=SHA, repo_type="dataset")
        theirs = {(item.path, item.size) for item in listed if isinstance(item, huggingface_hub.RepoFile)}
        ours = hubs.files("hf://datasets/owner/name/data/*", hub.url, False, known_format)
        assert {(name, file.size) for file, name in ours} == theirs and len(theirs) == 3
        url = huggingface_hub.hf_hub_url(
            "owner/name", "data/a b.jsonl", repo_type="dataset", revision=SHA, endpoint=hub.url
        )
        hub.files["data/a b.jsonl"] = b""
        hubapi._listed.cache_clear()
        assert hubs.files("hf://datasets/owner/name/data/a*", hub.url, False, known_format)[0][0].url == url
