"""A generator of broken files: about a hundred kinds of damage that real collections of text hold.

`make(folder)` writes them, each with good text beside the damage where its form allows; `KINDS` says of each file what
must be heard of it: a set of reasons, one of which has to stand against the file's name, or `FINE` for a file that only
looks broken and must lose nothing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import zstandard

FINE: frozenset[str] = frozenset()
_numbers = iter(range(10_000))


def good(name: str) -> str:
    """A readable document that says which file it is from."""
    number = next(_numbers)
    return f"这是文件{name}里的第{number}篇好文章：春天到了，花园里的花都开了，小明和外婆去河边散步，看见许多小鱼。"


def line(name: str) -> bytes:
    return json.dumps({"text": good(name)}, ensure_ascii=False).encode() + b"\n"


def lines(name: str, bad: bytes, behind: int = 2) -> bytes:
    """Good JSON lines around a bad one."""
    return line(name) + line(name) + bad + b"\n" + b"".join(line(name) for _ in range(behind))


def table(name: str, rows: list[str]) -> bytes:
    return "\n".join(["id,text", f"1,{good(name)}", *rows, f"9,{good(name)}"]).encode() + b"\n"


def parquet(column: list | None = None, kind: str = "string") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    values = [good("parquet") for _ in range(3)] if column is None else column
    pq.write_table(pa.table({"text": pa.array(values, kind)}), out)
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def encrypted_zip() -> bytes:
    """A zip whose member says that it is encrypted (the flag in both headers)."""
    data = bytearray(zipped({"a.txt": good("zip").encode()}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def web(body: bytes, kind: bytes = b"text/html; charset=utf-8") -> bytes:
    """A WARC with one response."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n" + body
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.com/\r\n"
        b"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n" % len(http)
    )
    return head + http + b"\r\n\r\n"


def page(text: str, charset: str = "utf-8") -> bytes:
    more = (
        "夏天大家去海边游泳，晚上看星星。",
        "秋天田里的稻子黄了，农民忙着收割。",
        "冬天下了一场大雪，孩子们堆雪人。",
    )
    paragraphs = "".join(f"<p>{part}</p>" for part in (text, *more))
    html = f'<html><head><meta charset="{charset}"><title>题</title></head><body><article>{paragraphs}</article></body>'
    return html.encode(charset, "replace")


def pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, with a right table of where they are."""
    out = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)


def empty_pdf(trailer: bytes = b"") -> bytes:
    pages = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", pages, b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>"], trailer)


def npz(**arrays) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def arrow() -> bytes:
    import pyarrow as pa

    out = io.BytesIO()
    whole = pa.table({"text": [good("arrow") for _ in range(3)]})
    with pa.ipc.new_stream(out, whole.schema) as writer:
        writer.write_table(whole)
    return out.getvalue()


def _kinds() -> dict[str, tuple[Callable[[], bytes], frozenset[str]]]:
    text = good
    zst = zstandard.ZstdCompressor(write_checksum=True).compress
    many = b"".join(line("packed") for _ in range(400))
    packed = {"gz": gzip.compress(many), "zst": zst(many), "xz": lzma.compress(many), "bz2": bz2.compress(many)}
    encoding = frozenset(("bad_encoding", "unknown_encoding", "binary"))
    torn = frozenset(("torn_archive",))
    found: dict[str, tuple[Callable[[], bytes], frozenset[str]]] = {}

    def add(name: str, make: Callable[[], bytes], *reasons: str | frozenset[str]) -> None:
        heard: set[str] = set()
        for reason in reasons:
            heard |= {reason} if isinstance(reason, str) else reason
        found[name] = (make, frozenset(heard))

    # Plain text.
    add("bad-bytes.txt", lambda: text("a").encode() + b"\n\xff\xfe\xfd\n" + text("a").encode(), encoding)
    add("cut-in-a-character.txt", lambda: text("b").encode()[:-1], encoding)
    add("gb-with-a-bad-byte.txt", lambda: (text("c") * 9).encode("gb18030") + b"\xff\xff" + b"\n", encoding)
    add("utf16-without-mark.txt", lambda: text("d").encode("utf-16-le"), encoding)
    add("utf16-odd.txt", lambda: text("e").encode("utf-16")[:-1], encoding)
    add("utf32-without-mark.txt", lambda: text("f").encode("utf-32-be"), encoding)
    add("big5.txt", lambda: ("這是一篇繁體的文章，說的是春天的花園與河邊的小魚。" * 9).encode("big5"), encoding)
    add("shift-jis.txt", lambda: ("これは日本語の文章です。春の庭に花が咲きました。" * 9).encode("shift_jis"), encoding)
    add("koi8.txt", lambda: ("Это русский текст, а не китайский." * 9).encode("koi8-r"), encoding)
    add("zero-bytes.txt", lambda: text("g").encode() + b"\0" * 100 + text("g").encode(), encoding)
    add("png.txt", lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, encoding)
    add("elf.txt", lambda: b"\x7fELF\x02\x01\x01" + bytes(300), encoding)
    add("surrogates.txt", lambda: text("h").encode() + b"\xed\xa0\xbd\xed\xb8\x80", encoding)
    add("overlong.txt", lambda: text("i").encode() + b"\xc0\xaf\xe0\x80\xaf", encoding)
    add("nothing.txt", lambda: b"", "empty")
    add("white.txt", lambda: " \n\t\u3000\n".encode() * 20, "empty")
    add("short.txt", lambda: "好。".encode(), "too_short")
    add("replaced.txt", lambda: ("锟" + "\ufffd" * 30 + text("j")[:40]).encode(), "damaged")
    add("private.txt", lambda: ("".join(map(chr, range(0xE000, 0xE060))) + text("k")).encode(), "damaged")
    add("code.txt", lambda: b"for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }\n" * 9, "low_han", "language")
    add("huge.txt", lambda: (text("l") * 20_000).encode(), "too_big")
    add("mark.txt", lambda: b"\xef\xbb\xbf" + text("m").encode(), FINE)
    add("old-mac.txt", lambda: "\r".join(text("n") for _ in range(3)).encode(), FINE)
    add("separators.txt", lambda: "\u2028".join(text("o") for _ in range(3)).encode(), FINE)
    # Records, one a line.
    add("torn-end.jsonl", lambda: lines("p", b"", 0) + line("p")[:-9], "not_json")
    add("no-quote.jsonl", lambda: lines("q", b'{"text: 1}'), "not_json")
    add("list.jsonl", lambda: lines("r", b'["text", "a"]'), "not_json")
    add("number.jsonl", lambda: lines("s", b"42"), "not_json")
    add("null.jsonl", lambda: lines("t", b"null"), "not_json")
    add("single-quotes.jsonl", lambda: lines("u", b"{'text': 'a'}"), "not_json")
    add("trailing-comma.jsonl", lambda: lines("v", b'{"text": "a",}'), "not_json")
    add("two-on-a-line.jsonl", lambda: lines("w", b'{"text": "a"} {"text": "b"}'), "not_json")
    add("pretty.jsonl", lambda: lines("x", b'{\n  "text": "a"\n}'), "not_json")
    add("deep.jsonl", lambda: lines("y", b'{"text": ' + b"[" * 50_000), "not_json")
    add("null-text.jsonl", lambda: lines("z", b'{"text": null}'), "no_text")
    add("number-text.jsonl", lambda: lines("aa", b'{"text": 12345678901234}'), "no_text")
    add("other-field.jsonl", lambda: lines("ab", '{"正文本": "去河边散步，看见许多小鱼，真好。"}'.encode()), "no_text")
    add("empty-text.jsonl", lambda: lines("ac", b'{"text": ""}'), "empty")
    add("half-pair.jsonl", lambda: lines("ad", b'{"text": "\\ud83d ' + "去河边散步看小鱼".encode() + b'"}'), "not_json")
    add("bad-bytes.jsonl", lambda: lines("ae", b'{"text": "\xff\xfe"}'), "bad_encoding", "not_json")
    add("gb-line.jsonl", lambda: lines("af", '{"text": "去河边散步"}'.encode("gb18030")), "bad_encoding", "not_json")
    add("control.jsonl", lambda: lines("ag", b'{"text": "a\x01b"}'), "not_json")
    add("long-line.jsonl", lambda: lines("ah", b'{"text": "' + b"a" * 2_000_000 + b'"}'), "too_big")
    add("packed.jsonl", lambda: packed["gz"], encoding | {"not_json"})
    add("nothing.jsonl", lambda: b"", "empty_file")
    add("blank-lines.jsonl", lambda: b"\n" + line("ai") + b"\n  \n" + line("ai") + b"\r\n", FINE)
    add("not-a-number.jsonl", lambda: lines("aj", b'{"x": NaN, ' + line("aj")[1:-1]), FINE)
    add("inner-separator.jsonl", lambda: line("ak").replace("，".encode(), "，\u2028\x85".encode()), FINE)
    # Arrays.
    add("torn.json", lambda: b"[" + line("al")[:-1] + b",\n" + line("al")[:-9], "torn_json")
    add("behind.json", lambda: b"[" + line("am")[:-1] + b"] [1]", "not_json")
    add("object.json", lambda: json.dumps({"a": {"text": text("an")}}, indent=1).encode(), "unknown_format")
    add("no-comma.json", lambda: b"[" + line("ao") + line("ao") + b"]", "not_json")
    add("open-string.json", lambda: b'[{"text": "' + text("ap").encode() + b"}]", "torn_json")
    add("scalar.json", lambda: b'"a text and nothing else"', "unknown_format")
    add("bad-element.json", lambda: b"[" + line("aq") + b", {text: 1}, " + line("aq") + b"]", "not_json")
    add("closed-twice.json", lambda: b"[" + line("ar") + b"}]", "not_json")
    add("empty.json", lambda: b"[]", "empty_file")
    add("nothing.json", lambda: b"", "empty_file", "unknown_format")
    # Tables.
    add("open-quote.csv", lambda: table("as", [f'2,"{text("as")}']), "bad_row", "not_csv")
    add("more-columns.csv", lambda: table("at", ["2,a,b,c,d"]), "bad_row")
    add("fewer-columns.csv", lambda: table("au", ["2"]), "bad_row", "no_text")
    add("bad-bytes.csv", lambda: table("av", []) + b"7,\xff\xfe\n", encoding | {"bad_row"})
    add("zero-bytes.csv", lambda: table("aw", ["3,a\0b"]), encoding | {"bad_row"})
    add("head-alone.csv", lambda: b"id,text\n", "empty_file")
    add("ragged.tsv", lambda: table("ax", ["2,a,b"]).replace(b",", b"\t"), "bad_row")
    add("cut.parquet", lambda: parquet()[:-200], "not_parquet")
    add("middle-gone.parquet", lambda: parquet()[:40] + bytes(200) + parquet()[240:], "not_parquet")
    add("magic-alone.parquet", lambda: b"PAR1PAR1", "not_parquet")
    add("text.parquet", lambda: text("ay").encode(), "not_parquet")
    add("nulls.parquet", lambda: parquet([text("az"), None, text("az")]), "no_text")
    add("numbers.parquet", lambda: parquet([1, 2, 3], "int64"), "no_text_field", "no_text")
    add("no-rows.parquet", lambda: parquet([]), "empty_file")
    # Compressed.
    for ending, data in packed.items():
        add(f"cut.jsonl.{ending}", lambda data=data: data[: len(data) // 2], torn)
        add(f"none.jsonl.{ending}", lambda: many[:3000], torn)
        add(f"nothing.jsonl.{ending}", lambda: b"", torn, "empty_file")
    add("flipped.jsonl.gz", lambda: packed["gz"][:-6] + b"\xff\xff" + packed["gz"][-4:], torn)
    add("flipped.jsonl.zst", lambda: packed["zst"][:-2] + b"\xff\xff", torn)
    add("garbage-behind.jsonl.gz", lambda: gzip.compress(line("ba")) + b"garbage", torn)
    add("two-members.jsonl.gz", lambda: gzip.compress(line("bb")) + gzip.compress(line("bb")), FINE)
    # Archives.
    add("cut.zip", lambda: zipped({"a.jsonl": many})[:900], torn)
    add("none.zip", lambda: many[:2000], torn)
    add("encrypted.zip", encrypted_zip, "encrypted")
    climbing = {"../../up.txt": text("bc").encode(), "in.txt": text("bc").encode()}
    add("climbing.zip", lambda: zipped(climbing), "unsafe_name")
    add("bomb.zip", lambda: zipped({"a.txt": b"\0" * 40_000_000}), "bomb", "binary", "too_big")
    add("nested.zip", lambda: zipped({"in.zip": zipped({"a.txt": text("bd").encode()})}), "nested_archive")
    add(
        "torn-member.zip",
        lambda: zipped({"a.jsonl": line("be") + b'{"text": "a', "b.txt": text("be").encode()}),
        "not_json",
    )
    add("cut.tar", lambda: tarred({"a.jsonl": many, "b.jsonl": many})[:70_000], torn)
    add("none.tar", lambda: many[:2000], torn)
    add("cut.tar.gz", lambda: gzip.compress(tarred({"a.jsonl": many}))[:400], torn)
    add("none.7z", lambda: many[:2000], torn)
    add("none.rar", lambda: many[:2000], torn)
    # The web and books.
    add("nothing-in-it.html", lambda: b"<html><body><script>var a = 1;</script></body></html>", "no_main_text")
    add("wrong-charset.html", lambda: page(text("bf"), "gb18030").replace(b"gb18030", b"utf-8"), FINE)
    add("cut.html", lambda: page(text("bg"))[:-60], FINE)
    add("none.epub", lambda: many[:2000], "not_epub", "torn_archive")
    add("no-contents.epub", lambda: zipped({"mimetype": b"application/epub+zip"}), "not_epub")
    add("cut.pdf", lambda: empty_pdf()[:90], "not_pdf", "torn_pdf", "no_text_layer")
    add("none.pdf", lambda: many[:2000], "not_pdf", "torn_pdf")
    add("picture.pdf", empty_pdf, "no_text_layer")
    add("cut.warc", lambda: web(page(text("bh"))) + web(page(text("bh")))[:200], "torn_warc", "torn_record")
    add("none.warc", lambda: many[:2000], "torn_warc", "not_warc")
    add("picture.warc", lambda: web(b"\x89PNG\r\n", b"image/png"), "not_html")
    add("none.warc.gz", lambda: many[:2000], "torn_warc", "torn_archive", "not_warc")
    # Numbers of tokens, which nobody named a tokenizer for or that are torn.
    add("cut.tfrecord", lambda: struct.pack("<Q", 400) + bytes(30), "torn_record", "no_tokenizer")
    add("no-ids.npz", lambda: npz(other=[1, 2]), "no_ids", "no_tokenizer")
    add("none.npz", lambda: many[:2000], "not_npz", "no_tokenizer")
    add("odd.bin", lambda: bytes(1001), "left_out")
    add("cut.arrow", lambda: arrow()[:200], "not_arrow")
    add("none.arrow", lambda: many[:2000], "not_arrow")
    return found


KINDS = _kinds()


def make(folder: Path) -> None:
    """Write all of them into `folder`."""
    for name, (data, _) in KINDS.items():
        (folder / name).write_bytes(data())
