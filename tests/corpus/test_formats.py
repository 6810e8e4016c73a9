"""Readers: every format, every compression, and what they say of what they cannot read."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.corpus import stream
from hanmo.corpus.formats import read
from hanmo.corpus.readers.jsons import sniff_json
from hanmo.corpus.records import EXCERPT, Bad, Opened, Record
from hanmo.corpus.stream import FileFault

ROWS = [
    {"id": 7, "text": "春眠不觉晓，\n处处闻啼鸟。"},
    {"id": 8, "text": "夜来“风雨声”，\u2028花落\u0085知多少。"},
    {"id": 9, "text": "a,b\t\"c\" 'd' \\ ] } {"},
]


def write(path: Path, data: bytes) -> Path:
    match path.suffix:
        case ".gz":
            data = gzip.compress(data)
        case ".zst":
            data = zstandard.ZstdCompressor().compress(data)
        case ".xz":
            data = lzma.compress(data)
    path.write_bytes(data)
    return path


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def fields(items: list[Record | Bad]) -> list[Any]:
    return [dict(item.fields) if isinstance(item, Record) else (item.line, item.reason) for item in items]


@pytest.mark.parametrize("compression", ["", ".gz", ".zst", ".xz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_json_in_every_encoding_and_compression(tmp_path: Path, kind: str, encoding: str, compression: str) -> None:
    text = jsonl(ROWS).decode() if kind == "jsonl" else json.dumps(ROWS, ensure_ascii=False, indent=1)
    path = write(tmp_path / f"a.{kind}{compression}", text.encode(encoding))
    assert sniff_json(Opened(path, kind)) == kind
    assert fields(list(read(Opened(path, kind)))) == ROWS


def test_separators_of_unicode_inside_a_string_end_no_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"text": "一\u2028二\u2029三\u0085四\x1e五"}\n{"text": "六"}\n'.encode().replace(b"\x1e", b""),
    )
    assert [item.line for item in read(Opened(path, "jsonl"))] == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_csv_with_quotes_and_line_breaks(tmp_path: Path, encoding: str) -> None:
    data = 'id,text\r\n1,"一，""引""，\n两行"\r\n\r\n2,二\r\n3\r\n4,四\r\n'
    path = write(tmp_path / "a.csv.gz", data.encode(encoding))
    items = list(read(Opened(path, "csv", encoding=encoding)))
    assert fields(items) == [
        {"id": "1", "text": '一，"引"，\n两行'},
        {"id": "2", "text": "二"},
        (6, "bad_row"),
        {"id": "4", "text": "四"},
    ]
    assert [item.line for item in items] == [2, 5, 6, 7]


def test_csv_with_a_quote_that_never_closes_is_a_fault_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text\n"open\n' + b"x" * 3000 + b"\n" + b"y" * 3000 + b"\n")
    with pytest.raises(FileFault, match="quote"):
        list(read(Opened(path, "csv", limit=4000)))


def test_parquet_gives_the_columns_asked_for(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"第{number}篇" for number in range(300)], "other": list(range(300))})
    pq.write_table(table, path, row_group_size=100)
    found = [
        item for stripe in (0, 1) for item in read(Opened(path, "parquet", columns=("text",), stripe=stripe, stripes=2))
    ]
    assert sorted(item.line for item in found) == list(range(1, 301))
    assert all(isinstance(item, Record) and item.fields == {"text": f"第{item.line - 1}篇"} for item in found)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFault, match="Parquet"):
        list(read(Opened(path, "parquet")))


def test_parquet_with_a_row_beyond_the_limit(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["a", "x" * 2_000_000, "b"]}), tmp_path / "a.parquet")
    items = list(read(Opened(tmp_path / "a.parquet", "parquet", limit=1_000_000)))
    assert [getattr(item, "reason", "") for item in items] == ["", "too_big", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_text_by_file_line_and_blank_line(tmp_path: Path, encoding: str) -> None:
    text = "第一首\n床前明月光\n\n \n第二首\n白日依山尽\n"
    path = write(tmp_path / "a.txt", text.encode(encoding))

    def texts(split: str) -> list[tuple[int, str]]:
        return [
            (item.line, item.fields["text"])
            for item in read(Opened(path, "txt", split=split))
            if isinstance(item, Record)
        ]

    assert texts("file") == [(1, text)]
    assert texts("line") == [(1, "第一首"), (2, "床前明月光"), (5, "第二首"), (6, "白日依山尽")]
    assert texts("blank_line") == [(1, "第一首\n床前明月光"), (5, "第二首\n白日依山尽")]


def test_a_line_that_is_not_json_is_passed_over_with_its_number_and_cause(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}',
        b'{"text": "torn',
        b"[1]",
        b"",
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "end"}',
    ]
    items = list(read(Opened(write(tmp_path / "a.jsonl", b"\n".join(lines)), "jsonl")))
    assert [(item.line, getattr(item, "reason", "")) for item in items] == [
        (1, ""),
        (2, "not_json"),
        (3, "not_json"),
        (5, ""),  # Python's writer makes NaN of a float that is none
        (6, "not_json"),  # half a surrogate pair is no text
        (7, ""),
    ]
    assert isinstance(items[1], Bad)
    assert "column" in items[1].detail
    assert "line 1" not in items[1].detail


def test_gb18030_bytes_in_a_utf8_file_are_named(tmp_path: Path) -> None:
    data = jsonl([{"text": "好"}] * 3) + '{"text": "今天天气很好"}\n'.encode("gb18030") + jsonl([{"text": "好"}])
    items = list(read(Opened(write(tmp_path / "a.jsonl", data), "jsonl")))
    assert [getattr(item, "reason", "") for item in items] == ["", "", "", "bad_encoding", ""]
    assert isinstance(items[3], Bad)
    assert "look like GB18030" in items[3].detail
    path = write(tmp_path / "a.txt", "好的\n好的\n".encode() + "今天".encode("gb18030"))
    with pytest.raises(FileFault) as caught:
        list(read(Opened(path, "txt", encoding="utf-8")))
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("kind", "split", "make"),
    [
        ("jsonl", "file", lambda big: b'{"text": "a"}\n{"text": "%s"}\n{"text": "b"}\n' % big),
        ("json", "file", lambda big: b'[{"text": "a"},\n{"text": "%s"},\n{"text": "b"}]' % big),
        ("txt", "line", lambda big: b"a\n%s\nb\n" % big),
        ("txt", "blank_line", lambda big: b"a\n\n%s\n%s\n\nb\n" % (big, big)),
    ],
)
def test_a_record_beyond_the_limit_is_passed_over(
    tmp_path: Path, kind: str, split: str, make: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "a", make(b"x" * 3_000_000))
    items = list(read(Opened(path, kind, split=split, limit=1_000_000)))
    assert [getattr(item, "reason", "") for item in items] == ["", "too_big", ""]
    assert isinstance(items[1], Bad)
    assert len(items[1].excerpt) <= EXCERPT


def test_a_text_file_beyond_the_limit_is_one_rejected_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.zst", b"x" * 5_000_000)
    (item,) = read(Opened(path, "txt", limit=1_000_000))
    assert isinstance(item, Bad)
    assert item.reason == "too_big"
    assert "split" in item.detail


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a"}, {"text": "b', "never ends"),
        (b'{"data": []}', "not an array"),
        (b'[{"text": "a"}] {"text": "b"}', "behind the end"),
        (b"[]]", "behind the end"),
    ],
)
def test_a_json_array_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FileFault, match=message):
        list(read(Opened(write(tmp_path / "a.json", data), "json")))


def test_elements_of_an_array_have_the_line_they_begin_in(tmp_path: Path) -> None:
    data = b'\n[\n  {"text":\n "a"},\n\n  oops, {"text": "b"}\n]\n'
    items = list(read(Opened(write(tmp_path / "a.json", data), "json")))
    assert [(item.line, getattr(item, "reason", "")) for item in items] == [(3, ""), (6, "not_json"), (6, "")]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4), max_size=8), st.integers(1, 40), st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_any_array_is_cut_into_its_elements_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], piece: int, indent: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2 if indent else None), encoding="utf-8")
    before = stream.PIECE
    stream.PIECE = piece
    try:
        assert fields(list(read(Opened(path, "json", encoding="utf-8")))) == rows
    finally:
        stream.PIECE = before


@given(st.lists(st.text('\\"[]{},a', max_size=12).map(lambda text: {"t": text}), max_size=4), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_quotes_and_backslashes_of_an_array_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], piece: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "quotes.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "PIECE", piece)
        assert fields(list(read(Opened(path, "json", encoding="utf-8")))) == rows


@given(st.lists(st.dictionaries(st.text(max_size=4), values, min_size=1, max_size=4), max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_json_lines_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(jsonl(rows))
    assert fields(list(read(Opened(path, "jsonl")))) == rows


def test_real_gb18030_files_are_recognised(shared_data: Path) -> None:
    for path in sorted((shared_data / "pretrain" / "raw_gb18030").glob("*.txt")):
        (item,) = read(Opened(path, "txt"))
        assert isinstance(item, Record)
        assert item.fields["text"] == path.read_bytes().decode("gb18030")
