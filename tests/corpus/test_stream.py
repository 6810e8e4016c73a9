"""Bytes in pieces: torn archives, encodings, lines of any length, stripes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.corpus import stream
from hanmo.corpus.stream import FileFault, Oversize, detect_encoding, lines, pieces, transcode

PACKERS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".txt": bytes,
}
TEXT = ("天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。" * 3000).encode()


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_compression_is_read_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACKERS[suffix](TEXT))
    assert b"".join(pieces(path)) == TEXT


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
def test_several_members_are_read_as_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACKERS[suffix](b"one\n") + PACKERS[suffix](b"") + PACKERS[suffix](TEXT))
    assert b"".join(pieces(path)) == b"one\n" + TEXT


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_torn_archive_gives_what_stood_before_the_tear_and_then_says_so(
    tmp_path: Path, suffix: str, share: float
) -> None:
    packed = PACKERS[suffix](TEXT)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(packed[: int(len(packed) * share)])
    found = []
    with pytest.raises(FileFault) as caught:
        found.extend(pieces(path))
    assert caught.value.reason == "torn_archive"
    assert TEXT.startswith(b"".join(found))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
def test_what_is_no_archive_is_a_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"plain text under a wrong name")
    with pytest.raises(FileFault):
        list(pieces(path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
def test_an_archive_of_100_mb_of_the_same_byte_is_unpacked_in_small_pieces(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pack = {".gz": gzip.compress, ".xz": lambda data: lzma.compress(data, preset=0)}.get(suffix, PACKERS[suffix])
    path.write_bytes(pack(bytes(100_000_000)))
    tracemalloc.start()
    total = 0
    for piece in pieces(path):
        total += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 100_000_000
    assert peak < 80e6


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"", "utf-8"),
        (b"plain", "utf-8"),
        ("\ufeff有标记".encode(), "utf-8"),
        ("床前明月光，疑是地上霜。\n".encode(), "utf-8"),
        ("床前明月光，疑是地上霜。\n举头望明月".encode("gb18030"), "gb18030"),
        ("𠮷野家的牛肉饭味道很好，大家都喜欢吃。".encode("gb18030"), "gb18030"),
        ("床前明月光".encode("utf-16"), "utf-16"),
        ("床前明月光".encode()[:-1], "utf-8"),  # cut within a character
        ("好的。\n".encode() * 20 + "坏的。\n".encode("gb18030"), "utf-8"),
        ("好的。\n".encode("gb18030") * 20 + "坏的。\n".encode(), "gb18030"),
    ],
)
def test_encodings_are_told_apart(data: bytes, encoding: str) -> None:
    assert detect_encoding(data) == encoding


@pytest.mark.parametrize(
    "data",
    [
        "電子郵件與網際網路的發展，使得資訊傳播的速度大為提高。".encode("big5"),
        "これは日本語の文章です。漢字も少し入っています。".encode("shift_jis"),
        "Größe und Übergröße, für Äpfel".encode("latin-1"),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(128, 256)) * 20,
    ],
)
def test_other_encodings_and_binary_files_are_refused_and_not_guessed(data: bytes) -> None:
    with pytest.raises(FileFault):
        detect_encoding(data)


def test_a_character_at_the_end_of_the_sample_does_not_mislead() -> None:
    data = "中".encode() * (stream.SAMPLE // 3 + 1)
    assert len(data) > stream.SAMPLE
    assert detect_encoding(data[: stream.SAMPLE]) == "utf-8"


def test_transcoding_names_the_line_of_a_wrong_byte() -> None:
    data = "第一行\n第二行\n".encode("gb18030") + b"\xff\xff\n"
    with pytest.raises(FileFault) as caught:
        list(transcode([data[:5], data[5:]], "gb18030"))
    assert caught.value.line == 3


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=40),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=30),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(2, 14),
)
@settings(max_examples=300, deadline=None)
def test_stripes_share_out_all_lines_with_their_numbers(
    content: list[bytes], final: bool, at: list[int], stripes: int, span: int, limit: int
) -> None:
    data = b"\n".join(content) + (b"\n" if final else b"")
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    before = stream.SPAN
    stream.SPAN = span
    try:
        found = [item for stripe in range(stripes) for item in lines(cut(data, at), limit, stripe, stripes)]
    finally:
        stream.SPAN = before
    found.sort(key=lambda item: item[0])
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))
    for (_, line), want in zip(found, expected, strict=True):
        if len(want) > limit:
            assert isinstance(line, Oversize)
            assert line.length == len(want)
            assert want.startswith(line.head)
        else:
            assert line == want


def test_a_line_beyond_the_limit_is_passed_over_without_being_kept() -> None:
    def endless():
        yield b"short\n"
        for _ in range(200):
            yield b"x" * (1 << 20)
        yield b"\nlast"

    tracemalloc.start()
    found = list(lines(endless(), 4 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [number for number, _ in found] == [1, 2, 3]
    assert found[1][1] == Oversize(200 << 20, b"x" * 256)
    assert peak < 20e6
