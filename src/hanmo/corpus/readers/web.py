"""The web: HTML pages, and web archives (WARC, and WET with the text already taken out), read with warcio."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

from hanmo.corpus.readers.guard import GuardFault, guarded
from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, excerpt, oversize, pieces_of
from hanmo.corpus.stream import SAMPLE, FileFault, as_file, looks_like_gb
from hanmo.extras import need

#: Time for one page (seconds); the longest of real pages take a few.
SECONDS = 30.0
_HTML = ("text/html", "application/xhtml+xml", "application/xhtml", "application/vnd.wap.xhtml+xml")
#: Records of a web archive that are about crawling, and hold no page.
_BOOKKEEPING = frozenset(("warcinfo", "request", "metadata"))


def read_html(file: Opened) -> Iterator[Record | Bad]:
    """One page: its main text, title and date."""
    data = b""
    for piece in pieces_of(file):
        data += piece
        if len(data) > file.limit:
            yield oversize(1, None, data[:EXCERPT], file, "utf-8")
            return
    named = None if file.encoding == "auto" else file.encoding
    yield _page(1, data, named, None, {})


def _page(number: int, data: bytes, charset: str | None, url: str | None, meta: dict[str, Any]) -> Record | Bad:
    html, _ = decode_page(data, charset)
    try:
        found = guarded("page", html, url, seconds=SECONDS)
    except GuardFault as fault:
        return Bad(number, fault.reason, fault.detail, html[:EXCERPT], unwanted=True)
    if not found["text"].strip():
        return Bad(number, "no_main_text", "a page without text", html[:EXCERPT], unwanted=True)
    meta |= {name: found[name] for name in ("title", "date") if found[name]}
    return Record(number, {"text": found["text"], "title": found["title"], "meta": meta}, len(data))


# Which encoding a page is in --------------------------------------------------------------------------------------

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,30})", re.IGNORECASE)
_XML = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]{2,30})", re.IGNORECASE)
#: Names that mean more than they say, as the WHATWG Encoding Standard has them.
_WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030", "chinese": "gb18030",
    "big5": "big5hkscs", "cp950": "big5hkscs", "iso8859-1": "cp1252", "ascii": "cp1252", "shift_jis": "cp932",
    "euc_kr": "cp949",
}  # fmt: skip
#: Share of a page's characters that may be damaged in an encoding that is yet taken for its own.
_DAMAGE = 0.005


def decode_page(data: bytes, charset: str | None) -> tuple[str, str]:
    """(a page's text, the codec it is in).

    A byte order mark tells for certain, and so does text beyond ASCII that is UTF-8 throughout. Then what the server
    said (`charset`), what the page says itself, UTF-8 and GB18030 are tried in turn, and the first in which the page is
    whole is taken, but for some damaged characters, which become U+FFFD. What is said is often wrong: pages in GBK
    call themselves UTF-8, and the other way round.
    """
    for mark, codec in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.removeprefix(codecs.BOM_UTF8).decode(codec, "replace"), codec
    if not data.isascii():
        try:
            return data.decode(), "utf-8"
        except UnicodeDecodeError:
            pass
    head = data[:8192]
    names = [charset, *(match[1].decode() for match in (_XML.search(head), _META.search(head)) if match)]
    said = [codec for codec in map(_codec, names) if codec]
    for codec in dict.fromkeys([*said, "utf-8", "gb18030"]):
        # Latin encodings take any bytes; GB18030 takes nearly any: where nobody names it, it must look like Chinese.
        if codec == "cp1252" or (codec == "gb18030" and codec not in said and not _is_gb(data)):
            continue
        text = data.decode(codec, "replace")
        if text.count("\ufffd") <= _DAMAGE * len(text):
            return text, codec
    codec = "cp1252" if "cp1252" in said else _detected(data)
    return data.decode(codec, "replace"), codec


def _codec(name: str | None) -> str | None:
    """Python's name of a charset, None for one that is unknown or no text encoding."""
    try:
        found = codecs.lookup(name or "").name
        "".encode(found)
    except (LookupError, ValueError):
        return _WIDER.get((name or "").lower())
    return _WIDER.get(found, "utf-8" if found == "utf-8-sig" else found)


def _is_gb(data: bytes) -> bool:
    return looks_like_gb(b"\n".join(line for line in data[:SAMPLE].split(b"\n") if not line.isascii())[:65536])


def _detected(data: bytes) -> str:
    import charset_normalizer

    best = charset_normalizer.from_bytes(data[: 64 << 10]).best()
    return (_codec(best.encoding) if best else None) or "utf-8"


# Web archives -------------------------------------------------------------------------------------------------------


def read_warc(file: Opened) -> Iterator[Record | Bad]:
    """Pages of a WARC (ISO 28500) and texts of a WET, numbered by their record in the file; URL and date as meta.

    Records about crawling (requests, metadata) are passed over; every other one that gives no text is counted: other
    types of content, other statuses than 200, pages without text. Stripes are shares of the records.
    """
    iterator = need("warcio.archiveiterator", "corpus").ArchiveIterator
    failed = need("warcio.exceptions", "corpus").ArchiveLoadFailed
    number = 0
    end = [b""]
    with as_file(_remembered(pieces_of(file), end)) as source:
        try:
            for record in iterator(source):
                number += 1
                if record.rec_headers.get_header("Content-Length") is None:
                    raise FileFault("torn_warc", "it ends in the head of a record: fetch it again", number)
                if file.mine(number) and record.rec_type not in _BOOKKEEPING:
                    yield _archived(number, record, file)
                while record.raw_stream.read(SAMPLE):
                    pass
                if getattr(record.raw_stream, "limit", 0):
                    raise FileFault("torn_warc", "it ends in the middle of a record: fetch it again", number)
        except failed as error:
            cause = " ".join(str(error).split())[:200]
            raise FileFault("torn_warc", f"torn, or no web archive ({cause})", number + 1) from None
    # warcio takes a head that is cut off between two of its lines for the end of the file.
    if b"\n\r\n" not in (head := end[0][end[0].rfind(b"WARC/1.") :]) and b"\n\n" not in head:
        raise FileFault("torn_warc", "it ends in the head of a record: fetch it again", number + 1)


def _remembered(pieces: Iterator[bytes], end: list[bytes]) -> Iterator[bytes]:
    """The pieces; `end[0]` is the last 64 KiB that were given."""
    for piece in pieces:
        end[0] = (end[0] + piece)[-65536:]
        yield piece


def _archived(number: int, record: Any, file: Opened) -> Record | Bad:
    def unwanted(reason: str, detail: str) -> Bad:
        return Bad(number, reason, detail, url[:EXCERPT], unwanted=True)

    headers, http = record.rec_headers, record.http_headers
    url = headers.get_header("WARC-Target-URI") or ""
    meta = {"url": url, "date": headers.get_header("WARC-Date") or ""}
    meta = {name: value for name, value in meta.items() if value}
    if record.rec_type == "revisit":
        return unwanted("revisit", "the page was archived before")
    if record.rec_type not in ("response", "resource", "conversion"):
        return unwanted("no_page", f"a record of type {record.rec_type}")
    said = (http.get_header("Content-Type") if http else None) or headers.get_header("Content-Type") or ""
    kind = said.partition(";")[0].strip().lower()
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", said, re.IGNORECASE)
    if http and http.get_statuscode() not in ("200", "203", "206"):
        return unwanted("http_status", f"HTTP status {http.get_statuscode() or 'unknown'}")
    if kind not in (*_HTML, "text/plain", ""):
        return unwanted("not_html", kind[:100])
    if http and (http.get_header("Content-Encoding") or "").lower() in ("br", "zstd"):
        return unwanted("content_encoding", f"packed by {http.get_header('Content-Encoding')}")
    data = b""
    while len(data) <= file.limit and (block := record.content_stream().read(SAMPLE)):
        data += block
    if len(data) > file.limit:
        return oversize(number, None, data[:EXCERPT], file, "utf-8")
    if record.rec_type == "conversion" or kind == "text/plain":
        text = decode_page(data, charset[1] if charset else "utf-8")[0]
        if not text.strip():
            return unwanted("no_main_text", "a page without text")
        return Record(number, {"text": text, "title": "", "meta": meta}, len(data))
    if not kind and b"<" not in data[:1024]:
        return Bad(number, "not_html", "of no stated type", excerpt(data, "utf-8"), unwanted=True)
    return _page(number, data, charset[1] if charset else None, url or None, meta)
