"""hanmo.files: whole or absent, under exceptions and kills; the line formats; fingerprints."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hanmo import files
from hanmo.errors import HanmoError

SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
ROWS = [{"id": index, "text": f"第{index}行：春天到了。{index * 7919 % 10007}"} for index in range(3000)]
LINES = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic_write -----------------------------------------------------------------------------------------------------


def test_text_is_utf8_with_plain_newlines(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with files.atomic_write(target) as file:
        file.write("翰墨\n二行\n")
        assert not target.exists()
    assert target.read_bytes() == "翰墨\n二行\n".encode()
    assert names(target.parent) == ["a.txt"]


def test_bytes(tmp_path: Path) -> None:
    with files.atomic_write(tmp_path / "a.bin", "wb") as file:
        file.write(b"\x00\r\n\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_exception_leaves_what_was_there(tmp_path: Path, error: BaseException, before: str | None) -> None:
    target = tmp_path / "a.txt"
    if before:
        target.write_text(before, encoding="utf-8")
    with pytest.raises(type(error)), files.atomic_write(target) as file:
        file.write("half")
        raise error
    assert names(tmp_path) == (["a.txt"] if before else [])
    if before:
        assert target.read_text(encoding="utf-8") == before


def test_a_failing_flush_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), files.atomic_write(tmp_path / "a.txt") as file:
        file.write("new")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_the_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    with files.atomic_write(tmp_path / "a.txt") as file:
        file.write("x")
    assert order[:2] == ["sync", "rename"]


WRITE_FOREVER = """
import sys
from hanmo.files import atomic_write, write_json
number = 0
while True:
    number += 1
    write_json(sys.argv[1], {"number": number, "filling": "字" * 50_000, "again": number})
    if number == 3:
        print("started", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_sigkill_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    for wait in (0.0, 0.003, 0.011):
        child = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(target)], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"started\n"
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        value = files.read_json(target)
        assert value["number"] == value["again"] >= 3


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_goes_round(tmp_path: Path) -> None:
    value = {"名": ["春", 1, 2.5, None, True], "b": {}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "春" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"a": 1, "b": object()})
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_read_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(HanmoError, match=r"a\.json: no such file"):
        files.read_json(path)
    path.write_text('{"a": 1,\n "b": }', encoding="utf-8")
    with pytest.raises(HanmoError, match=r"a\.json:2: not JSON"):
        files.read_json(path)
    path.write_bytes(b"")
    with pytest.raises(HanmoError, match=r"a\.json:1: not JSON"):
        files.read_json(path)


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_lines_end_at_newline_alone(tmp_path: Path) -> None:
    texts = ["一\u2028二\u2029三", "四\x85五\x0b六\x0c七", "八\x1c九\x1e十"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(json.dumps({"t": text}, ensure_ascii=False).encode() for text in texts))
    assert list(files.read_jsonl(path)) == [(i, {"t": text}) for i, text in enumerate(texts, 1)]


def test_empty_lines_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a":1}\r\n   \r\n\n{"a":2}')
    assert list(files.read_jsonl(path)) == [(2, {"a": 1}), (5, {"a": 2})]


def test_an_empty_plain_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert list(files.read_jsonl(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize("bad", [b"not json", b'{"a":1', b'"\xb4\xba\xcc\xec"', b"{'a': 1}", b"nan"])
@pytest.mark.parametrize("suffix", ["", *SQUEEZE])
def test_a_bad_line_is_named(tmp_path: Path, suffix: str, bad: bytes) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    data = b'{"a":1}\n\n' + bad + b'\n{"a":2}\n'
    path.write_bytes(SQUEEZE[suffix](data) if suffix else data)
    rows = files.read_jsonl(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(HanmoError, match=rf"a\.jsonl{suffix}:3: not JSON"):
        next(rows)


@pytest.mark.parametrize("suffix", SQUEEZE)
def test_compressed_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix.upper() if suffix == '.gz' else suffix}"
    path.write_bytes(SQUEEZE[suffix](LINES))
    assert [row for _, row in files.read_jsonl(path)] == ROWS


@pytest.mark.parametrize("suffix", SQUEEZE)
def test_several_frames(tmp_path: Path, suffix: str) -> None:
    """`cat a.gz b.gz > c.gz` is a common way to join corpora; a frame's end may fall inside a line."""
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(SQUEEZE[suffix](LINES[:777]) + SQUEEZE[suffix](b"") + SQUEEZE[suffix](LINES[777:]))
    assert [row for _, row in files.read_jsonl(path)] == ROWS


@pytest.mark.parametrize("suffix", SQUEEZE)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9, -9, -1])
def test_a_torn_file_is_said_to_be_torn(tmp_path: Path, suffix: str, keep: float) -> None:
    whole = SQUEEZE[suffix](LINES)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(whole[: int(keep) if keep < 0 else int(len(whole) * keep)])
    with pytest.raises(HanmoError, match=r"a\.jsonl\S+ the compressed file is torn after line \d+ .*fetch it again"):
        list(files.read_jsonl(path))


@pytest.mark.parametrize("suffix", SQUEEZE)
def test_a_tear_at_a_line_end_is_seen(tmp_path: Path, suffix: str) -> None:
    """Every line before the tear is whole JSON, so only the missing end of the stream tells."""
    row = b'{"a":1}\n'
    frame = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    cut = {
        ".zst": frame.compress(row * 100) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
        ".gz": gzip.compress(row * 100)[:-8],
        ".xz": lzma.compress(row * 100)[:-12],
    }
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(cut[suffix])
    with pytest.raises(HanmoError, match="torn after line 100"):
        list(files.read_jsonl(path))


@pytest.mark.parametrize("suffix", SQUEEZE)
def test_a_file_of_another_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(LINES)
    with pytest.raises(HanmoError, match="torn after line 0"):
        list(files.read_jsonl(path))


@pytest.mark.parametrize("suffix", ["", *SQUEEZE])
def test_a_missing_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(HanmoError, match="no such file"):
        list(files.read_jsonl(tmp_path / f"a.jsonl{suffix}"))


def test_a_very_long_line(tmp_path: Path) -> None:
    text = "长" * 3_000_000
    with files.JsonlZstWriter(tmp_path / "a.jsonl.zst") as writer:
        writer.write({"text": text})
        writer.write({"text": "短"})
    assert [row["text"] for _, row in files.read_jsonl(tmp_path / "a.jsonl.zst")] == [text, "短"]


def test_writer_leaves_nothing_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ValueError), files.JsonlZstWriter(tmp_path / "a.jsonl.zst") as writer:
        writer.write({"a": 1})
        raise ValueError
    with pytest.raises(TypeError), files.JsonlZstWriter(tmp_path / "b.jsonl.zst") as writer:
        writer.write({"a": object()})
    assert names(tmp_path) == []


def test_writer_makes_one_frame_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with files.JsonlZstWriter(path) as writer:
        for row in ROWS:
            writer.write(row)
    data = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True).read()
    assert [json.loads(line) for line in data.split(b"\n")[:-1]] == ROWS
    assert names(tmp_path) == ["a.jsonl.zst"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is not text that any file could hold.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(rows=st.lists(JSON, max_size=8))
def test_any_json_goes_round(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    path = tmp_path_factory.mktemp("round") / "a.jsonl.zst"
    with files.JsonlZstWriter(path) as writer:
        for row in rows:
            writer.write(row)
    assert list(files.read_jsonl(path)) == list(enumerate(rows, 1))


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_fingerprint_of_json_ignores_the_order_of_keys() -> None:
    assert files.fingerprint_json({"a": 1, "b": [1, 2]}) == files.fingerprint_json({"b": [1, 2], "a": 1})
    assert files.fingerprint_json([1, 2]) != files.fingerprint_json([2, 1])
    assert files.fingerprint_json({"a": 1}) != files.fingerprint_json({"a": "1"})
    # Stays the same from release to release, since manifests hold it.
    assert files.fingerprint_json({"学": 1}) == "6d82a49d90826fa6"


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_bytes(b"abc")
    (folder / "b.txt").write_bytes(b"def")
    first = files.fingerprint_path(folder)
    assert files.fingerprint_path(folder) == first
    assert files.fingerprint_path(folder.rename(tmp_path / "y")) == first, "the folder's own name is not content"
    folder = tmp_path / "y"
    (folder / ".b.txt.123.tmp").write_bytes(b"leftover")
    assert files.fingerprint_path(folder) == first, "hidden files are not content"
    (folder / "b.txt").write_bytes(b"dee")
    changed = files.fingerprint_path(folder)
    assert changed != first
    (folder / "b.txt").rename(folder / "c.txt")
    assert files.fingerprint_path(folder) not in (first, changed), "the names inside are content"


def test_a_file_that_goes_while_it_is_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    real = files._fingerprint

    def too_late(file: Path, *more) -> None:
        file.unlink()
        real(file, *more)

    monkeypatch.setattr(files, "_fingerprint", too_late)
    with pytest.raises(HanmoError, match="a: gone while it was read; name a folder that nothing else works in"):
        files.fingerprint_path(tmp_path)


def test_fingerprint_does_not_confuse_borders(tmp_path: Path) -> None:
    for name, parts in {"x": (b"ab", b"c"), "y": (b"a", b"bc")}.items():
        (tmp_path / name).mkdir()
        for index, part in enumerate(parts):
            (tmp_path / name / str(index)).write_bytes(part)
    assert files.fingerprint_path(tmp_path / "x") != files.fingerprint_path(tmp_path / "y")


def test_fingerprint_of_a_file_is_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    (tmp_path / "c").write_bytes(b"sane")
    assert files.fingerprint_path(tmp_path / "a") == files.fingerprint_path(tmp_path / "b")
    assert files.fingerprint_path(tmp_path / "a") != files.fingerprint_path(tmp_path / "c")


def test_fingerprint_of_a_large_file_looks_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WHOLE", 1000)
    monkeypatch.setattr(files, "_SAMPLE", 100)
    path = tmp_path / "big"
    content = bytearray(os.urandom(20_000))
    path.write_bytes(content)
    first = files.fingerprint_path(path)
    for where in (0, 99, 19_999, 10_000):
        changed = content.copy()
        changed[where] ^= 1
        path.write_bytes(changed)
        if where != 10_000:  # may fall between two samples
            assert files.fingerprint_path(path) != first
    path.write_bytes(content + b"x")
    assert files.fingerprint_path(path) != first


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no such file or folder"):
        files.fingerprint_path(tmp_path / "absent")


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="a folder stands where a file is wanted"), files.atomic_write(tmp_path):
        pass
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))
