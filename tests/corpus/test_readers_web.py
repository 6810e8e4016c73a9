"""Web pages and archives: the main text, whatever a page says of its encoding, and what is no page by its reason."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path

import pytest
from test_corpus_stage import article, documents, make

from hanmo.corpus.formats import read
from hanmo.corpus.readers import guard, web
from hanmo.corpus.readers.guard import GuardFault, guarded
from hanmo.corpus.readers.web import decode_page
from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError

warcio = pytest.importorskip("warcio")
pytest.importorskip("trafilatura")


def html(number: int, charset: str = "utf-8") -> str:
    text = "".join(f"<p>{article(10 * number + part)}。</p>" for part in range(4))
    return (
        f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={charset}">'
        f"<title>第{number}页</title><script>var a = '不要';</script></head><body>"
        f'<div class="nav"><a href="/">首页</a> <a href="/b">登录</a></div><div id="article">{text}</div>'
        f'<div class="footer">版权所有 <a href="/c">联系我们</a></div></body></html>'
    )


def texts(number: int) -> list[str]:
    return [f"{article(10 * number + part)}。" for part in range(4)]


@pytest.mark.parametrize("charset", ["utf-8", "gb2312", "gbk", "gb18030", "big5"])
def test_a_page_in_any_encoding(tmp_path: Path, charset: str) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(html(1, charset).encode("gb18030" if charset == "gb2312" else charset, "xmlcharrefreplace"))
    (record,) = read(Opened(path, "html"))
    assert isinstance(record, Record)
    assert record.fields["text"].split("\n") == texts(1)
    assert record.fields["title"] == "第1页" == record.fields["meta"]["title"]


def test_a_page_of_few_lines_falls_back_to_all_that_is_seen(tmp_path: Path) -> None:
    page = (
        "<html><head><title>x</title><style>p{}</style></head><body><script>1</script><center>静夜思<br>李白</center>"
        "<ruby>床<rt>chuáng</rt></ruby>前<b>明月</b>光\n疑是地上霜</body></html>"
    )
    (tmp_path / "a.htm").write_text(page, encoding="utf-8")
    (record,) = read(Opened(tmp_path / "a.htm", "html"))
    assert isinstance(record, Record)
    assert record.fields["text"] == "静夜思\n李白\n床前明月光疑是地上霜"


@pytest.mark.parametrize(
    ("data", "said", "codec"),
    [
        ("<p>汉字</p>".encode(), "gbk", "utf-8"),  # said to be GBK, and is not
        ("<p>今天天气很好</p>".encode("gbk"), "utf-8", "gb18030"),
        ('<meta charset="utf-8"><p>今天天气很好</p>'.encode("gbk"), None, "gb18030"),
        ('<meta charset="gb2312"><p>朱镕基</p>'.encode("gbk"), None, "gb18030"),
        ("<p>今天天气很好</p>".encode("gbk"), "iso-8859-1", "gb18030"),
        ("<p>電子郵件與網際網路</p>".encode("big5"), "big5", "big5hkscs"),
        (b'<?xml version="1.0" encoding="gbk"?><p>' + "汉".encode("gbk"), None, "gb18030"),
        ("<p>汉字</p>".encode("utf-8-sig"), "gbk", "utf-8"),
        ("<p>汉字</p>".encode("utf-16"), None, "utf-16"),
        ("<p>café</p>".encode("cp1252"), "iso-8859-1", "cp1252"),
        (b"<p>plain</p>", "no-such-charset", "utf-8"),
    ],
)
def test_which_encoding_a_page_is_in(data: bytes, said: str | None, codec: str) -> None:
    text, found = decode_page(data, said)
    assert found == codec
    assert "\ufffd" not in text


def test_a_damaged_page_keeps_its_encoding_and_shows_the_damage() -> None:
    half = "今天天气很好。" * 100
    text, codec = decode_page(half.encode("gbk") + b"\xff\n" + half.encode("gbk"), "gb2312")
    assert codec == "gb18030"
    assert text == half + "\ufffd\n" + half


def archive(path: Path, compressed: bool = True) -> Path:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    def answer(url: str, data: bytes, kind: str, status: str = "200 OK", record: str = "response") -> None:
        headers = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
        http = headers if record in ("response", "revisit") else None
        writer.write_record(
            writer.create_warc_record(
                url,
                record,
                payload=io.BytesIO(data),
                http_headers=http,
                warc_content_type=kind if http is None else "application/http; msgtype=response",
                warc_headers_dict={"WARC-Date": "2024-03-05T00:00:00Z"},
            )
        )

    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=compressed)
        writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
        answer("http://a.cn/1", html(1).encode(), "text/html; charset=utf-8")
        answer("http://a.cn/2", html(2, "gb2312").encode("gb18030"), "text/html")
        answer("http://a.cn/3", html(3).encode("gbk"), "text/html; charset=GBK")
        answer("http://a.cn/4.png", b"\x89PNG" + bytes(100), "image/png")
        answer("http://a.cn/5", html(5).encode(), "text/html", status="404 Not Found")
        answer("http://a.cn/6", b"<html><body></body></html>", "text/html")
        answer("http://a.cn/7.txt", article(70).encode("gb18030"), "text/plain")
        answer("http://a.cn/8", b"", "application/http", record="metadata")
        answer("http://a.cn/9", article(90).encode(), "text/plain", record="conversion")
    return path


GOOD = {2: "http://a.cn/1", 3: "http://a.cn/2", 4: "http://a.cn/3", 8: "http://a.cn/7.txt", 10: "http://a.cn/9"}


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_of_an_archive_and_what_is_none(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, name.endswith(".gz"))
    items = list(read(Opened(path, "warc")))
    records = {item.line: item for item in items if isinstance(item, Record)}
    assert {line: item.fields["meta"]["url"] for line, item in records.items()} == GOOD
    for line, number in ((2, 1), (3, 2), (4, 3)):
        assert records[line].fields["text"].split("\n") == texts(number)
    assert records[8].fields["text"] == article(70)
    assert records[10].fields["text"] == article(90)
    assert records[2].fields["meta"]["date"].startswith("2024")
    bad = {item.line: (item.reason, item.unwanted) for item in items if isinstance(item, Bad)}
    assert bad == {5: ("not_html", True), 6: ("http_status", True), 7: ("no_main_text", True)}
    striped = [item for stripe in range(3) for item in read(Opened(path, "warc", stripe=stripe, stripes=3))]
    assert sorted(item.line for item in striped) == sorted(item.line for item in items)


def test_a_torn_archive_gives_what_stands_before_the_tear(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.warc", compressed=False).read_bytes()
    (tmp_path / "a.warc").write_bytes(whole[: whole.index(b"a.cn/3") + 600])
    found = []
    with pytest.raises(FileFault) as caught:
        found.extend(read(Opened(tmp_path / "a.warc", "warc")))
    assert caught.value.reason == "torn_warc"
    assert [item.line for item in found][:2] == [2, 3]
    packed = archive(tmp_path / "b.warc.gz").read_bytes()
    (tmp_path / "b.warc.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FileFault) as caught:
        list(read(Opened(tmp_path / "b.warc.gz", "warc")))
    assert caught.value.reason in ("torn_archive", "torn_warc")
    (tmp_path / "c.warc").write_bytes("这不是网页存档\n".encode() * 20)
    with pytest.raises(FileFault, match="no web archive"):
        list(read(Opened(tmp_path / "c.warc", "warc")))


def test_a_web_archive_becomes_a_corpus(tmp_path: Path) -> None:
    archive(tmp_path / "raw.warc.gz")
    chosen = CorpusSettings(
        sources=[Source(path=str(tmp_path / "raw.warc.gz"), name="web")], workers=1, heldout_fraction=0
    )
    stats = make(chosen, tmp_path / "out")
    assert stats["rejected"] == {"not_html": 1, "http_status": 1, "no_main_text": 1}
    train = {record["meta"]["url"]: record for record in documents(tmp_path / "out" / "train")}
    assert sorted(train) == sorted(GOOD.values())
    assert train["http://a.cn/2"]["text"].split("\n") == texts(2)
    assert train["http://a.cn/2"]["meta"]["at"] == "raw.warc.gz:3"


def test_a_parser_that_takes_too_long_or_dies_costs_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.html").write_text(html(1), encoding="utf-8")
    monkeypatch.setattr(web, "SECONDS", 0.001)
    guard._child = None
    (item,) = read(Opened(tmp_path / "a.html", "html"))
    assert isinstance(item, Bad)
    assert (item.reason, item.unwanted) == ("timeout", True)
    monkeypatch.undo()
    (item,) = read(Opened(tmp_path / "a.html", "html"))
    assert isinstance(item, Record)

    child = guard._child
    assert child is not None
    child.send_signal(signal.SIGSTOP)  # as if it hung
    threading.Timer(0.2, child.kill).start()
    with pytest.raises(GuardFault) as caught:
        guarded("page", html(1), None, seconds=60)
    assert caught.value.reason == "crashed"
    with pytest.raises(GuardFault) as caught:
        guarded("page", 5, None, seconds=60)
    assert caught.value.reason == "unparsable"


def test_a_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.html").write_text(html(1), encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(HanmoError, match=r'pip install "hanmo\[corpus\]"'):
        make(CorpusSettings(sources=[Source(path=str(tmp_path / "a.html"))]), tmp_path / "out")
