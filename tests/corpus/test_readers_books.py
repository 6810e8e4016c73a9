"""EPUB and PDF: chapters in the order of the spine, paragraphs out of lines, and what cannot be read by its reason."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from test_corpus_stage import article, documents, make

from hanmo.corpus.formats import read
from hanmo.corpus.readers.extract import joined, paragraphs
from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault

pytest.importorskip("pypdfium2")
pytest.importorskip("lxml")

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:title>山水 集</dc:title><dc:creator>甲</dc:creator><dc:creator>乙</dc:creator></metadata><manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="two" href="text/%E4%BA%8C.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
<item id="pic" href="pic.svg" media-type="image/svg+xml"/>
<item id="cover" href="cover.xhtml" media-type="application/xhtml+xml"/></manifest><spine>
<itemref idref="cover"/><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/><itemref idref="pic"/>
</spine></package>"""


def chapter(number: int) -> str:
    return (
        f'<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">'
        f"<head><title>x</title></head><body><h1>第{number}章&nbsp;山水</h1><p>　　{article(number)}<b>重</b>点。</p>"
        f"<p>{article(number + 50)}\n  换行<br/>新行</p></body></html>"
    )


def text_of(number: int) -> str:
    return f"第{number}章\xa0山水\n　　{article(number)}重点。\n{article(number + 50)}换行\n新行"


def epub(path: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OEBPS/content.opf", PACKAGE)
        book.writestr("OEBPS/text/one.xhtml", chapter(1))
        book.writestr("OEBPS/text/二.xhtml", chapter(2).replace("utf-8", "gbk").encode("gbk"))
        book.writestr("OEBPS/nav.xhtml", "<html><body><ol><li>目录</li></ol></body></html>")
        book.writestr("OEBPS/cover.xhtml", '<html><body><img src="a.jpg"/></body></html>')
        for name, data in more.items():
            book.writestr(name, data)
    return path


def test_chapters_in_the_order_of_the_spine(tmp_path: Path) -> None:
    items = list(read(Opened(epub(tmp_path / "a.epub"), "epub")))
    assert [(item.line, getattr(item, "reason", "")) for item in items] == [
        (1, "no_main_text"),
        (2, "contents"),
        (3, ""),
        (4, ""),
        (5, "not_html"),
    ]
    one, two = (item for item in items if isinstance(item, Record))
    assert one.fields["text"] == text_of(1)
    assert two.fields["text"] == text_of(2)
    assert one.fields["meta"] == {"book": "山水 集", "author": "甲；乙", "chapter": "第1章\xa0山水"}
    assert one.fields["title"] == "第1章\xa0山水"


def test_books_that_cannot_be_read(tmp_path: Path) -> None:
    way = '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
    way += '<e:EncryptedData><e:EncryptionMethod Algorithm="{}"/></e:EncryptedData></encryption>'
    locked = way.format("http://www.w3.org/2001/04/xmlenc#aes256-cbc").encode()
    (item,) = read(Opened(epub(tmp_path / "a.epub", **{"META-INF/encryption.xml": locked}), "epub"))
    assert isinstance(item, Bad)
    assert (item.reason, item.unwanted) == ("encrypted", True)
    fonts = way.format("http://www.idpf.org/2008/embedding").encode()
    assert len(list(read(Opened(epub(tmp_path / "b.epub", **{"META-INF/encryption.xml": fonts}), "epub")))) == 5
    whole = (tmp_path / "b.epub").read_bytes()
    for data in (b"PK", whole[: len(whole) // 2], b""):
        (tmp_path / "c.epub").write_bytes(data)
        with pytest.raises(FileFault, match="not a whole EPUB"):
            list(read(Opened(tmp_path / "c.epub", "epub")))
    with zipfile.ZipFile(tmp_path / "d.epub", "w") as book:
        book.writestr("a.txt", "no book")
    with pytest.raises(FileFault, match=r"no META-INF/container\.xml"):
        list(read(Opened(tmp_path / "d.epub", "epub")))


def test_a_chapter_that_unpacks_to_far_more_is_one_rejected_document(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OEBPS/content.opf", PACKAGE.replace('<itemref idref="cover"/><itemref idref="nav"/>', ""))
        book.writestr("OEBPS/text/one.xhtml", b"<p>" + b"x" * 5_000_000)
        book.writestr("OEBPS/text/二.xhtml", chapter(2))
    items = list(read(Opened(path, "epub", limit=1_000_000)))
    assert [getattr(item, "reason", "") for item in items] == ["too_big", "", "not_html"]


def pdf(pages: list[list[str]], encrypted: bool = False) -> bytes:
    """A PDF whose Chinese font is not in it and whose text is in the predefined map UniGB-UCS2-H."""
    kids = " ".join(f"{8 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [4 0 R] >>",
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /FontDescriptor 5 0 R /DW 1000"
        b" /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> >>",
        b"<< /Type /FontDescriptor /FontName /STSong-Light /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0"
        b" /Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >>",
        b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -44 /O <%s> /U <%s> >>" % (b"11" * 32, b"22" * 32),
        b"<< /Title <FEFF%s> >>" % "文集".encode("utf-16-be").hex().encode(),
    ]
    for index, lines in enumerate(pages):
        shown = " ".join(f"<{line.encode('utf-16-be').hex()}> Tj T*" for line in lines)
        operators = f"BT /F1 12 Tf 72 770 Td 16 TL {shown} ET".encode() if lines else b""
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (9 + 2 * index)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(operators), operators))
    data = b"%PDF-1.4\n"
    offsets = []
    for number, value in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    more = b" /Encrypt 6 0 R /ID [<%s> <%s>]" % (b"33" * 16, b"33" * 16) if encrypted else b""
    size = len(objects) + 1
    trailer = b"trailer << /Size %d /Root 1 0 R /Info 7 0 R%s >>\nstartxref\n%d\n" % (size, more, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer + b"%%EOF\n"


LINES = [
    "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少春眠不觉",
    "晓处处闻啼鸟夜来风雨。",
    "白日依山尽黄河入海流。",
    "— 12 —",
]


def test_chinese_text_of_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([LINES, [], ["欲穷千里目更上一层楼。"]]))
    (record,) = read(Opened(tmp_path / "a.pdf", "pdf"))
    assert isinstance(record, Record)
    assert record.fields["text"] == f"{LINES[0]}{LINES[1]}\n{LINES[2]}\n欲穷千里目更上一层楼。"
    assert record.fields["meta"] == {"title": "文集", "pages": 3, "pages_without_text": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [(pdf([LINES], encrypted=True), "encrypted"), (pdf([[], []]), "no_text_layer"), (pdf([LINES] * 40), "too_big")],
)
def test_pdfs_without_text(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.pdf").write_bytes(data)
    (item,) = read(Opened(tmp_path / "a.pdf", "pdf", limit=1000))
    assert isinstance(item, Bad)
    assert (item.reason, item.unwanted) == (reason, True)


def test_a_file_that_is_no_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\nnothing")
    with pytest.raises(FileFault, match="not a whole PDF"):
        list(read(Opened(tmp_path / "a.pdf", "pdf")))


def test_lines_become_paragraphs() -> None:
    lines = ["甲" * 20, "乙" * 20, "丙" * 5 + "。", "丁" * 19 + "。", "戊" * 20, "己。"]
    assert paragraphs(lines) == "\n".join(
        ["甲" * 20 + "乙" * 20 + "丙" * 5 + "。", "丁" * 19 + "。", "戊" * 20 + "己。"]
    )
    words = ["the first line of a para-", "graph that goes on in the", "third line."]
    assert paragraphs(words) == "the first line of a paragraph that goes on in the third line."
    assert paragraphs(["床前明月光", "疑是地上霜"]) == "床前明月光\n疑是地上霜"  # too few lines to tell
    assert paragraphs(["第 3 页", "正文", "- 4 -"]) == "正文"
    assert joined(["第一页没有说完", "就到了第二页。\n完了。"]) == "第一页没有说完就到了第二页。\n完了。"


def test_books_become_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    epub(tmp_path / "raw" / "a.epub")
    (tmp_path / "raw" / "b.pdf").write_bytes(pdf([LINES]))
    (tmp_path / "raw" / "c.pdf").write_bytes(pdf([[]]))
    stats = make(
        CorpusSettings(sources=[Source(path=str(tmp_path / "raw"))], workers=1, heldout_fraction=0), tmp_path / "out"
    )
    assert stats["rejected"] == {"no_main_text": 1, "contents": 1, "not_html": 1, "no_text_layer": 1}
    ids = sorted(record["id"] for record in documents(tmp_path / "out" / "train"))
    assert ids == ["raw:a.epub:3", "raw:a.epub:4", "raw:b.pdf:1"]
