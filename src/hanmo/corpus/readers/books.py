"""Books: EPUB by its chapters, PDF as a whole."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from hanmo.corpus.readers.guard import GuardFault, guarded
from hanmo.corpus.readers.web import decode_page
from hanmo.corpus.records import Bad, Opened, Record, on_disk, oversize
from hanmo.corpus.stream import FileFault
from hanmo.extras import need

#: Time for a chapter and for a PDF (seconds).
SECONDS = 30.0
PDF_SECONDS = 300.0
#: Less text than this a page (characters), and the pages of a PDF are pictures.
_PAGE = 5
_CONTAINER = "META-INF/container.xml"
_NS = {
    "c": "urn:oasis:names:tc:opendocument:xmlns:container",
    "opf": "http://www.idpf.org/2007/opf",
    "dc": "http://purl.org/dc/elements/1.1/",
    "enc": "http://www.w3.org/2001/04/xmlenc#",
}
#: Fonts are encrypted by these without the book being so (EPUB 3.3, 4.4; Adobe's font mangling).
_FONTS_ONLY = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")


def read_epub(file: Opened) -> Iterator[Record | Bad]:
    """The chapters of an EPUB 2 or 3 in the order of its spine, numbered from 1; book, author and heading as meta.

    The container is small enough to be read here (EPUB 3.3, sections 4 and 5): the libraries for it are under the AGPL
    (ebooklib) or build a tree of the whole book.
    """
    try:
        with on_disk(file) as path, zipfile.ZipFile(path) as book:
            if _encrypted(book, file.limit):
                yield Bad(1, "encrypted", "it is encrypted (DRM)", "", unwanted=True)
                return
            container = _xml(_inside(book, _CONTAINER, file.limit), _CONTAINER)
            package = next(iter(container.xpath("//c:rootfile/@full-path", namespaces=_NS)), None)
            if package is None:
                raise FileFault("not_epub", f"{_CONTAINER} names no package")
            yield from _chapters(book, package, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise FileFault("not_epub", f"not a whole EPUB ({error})") from None


def _chapters(book: zipfile.ZipFile, package: str, file: Opened) -> Iterator[Record | Bad]:
    opf = _xml(_inside(book, package, file.limit), package)
    about = {
        name: "；".join(text.strip() for text in opf.xpath(f"//dc:{tag}/text()", namespaces=_NS) if text.strip())
        for name, tag in (("book", "title"), ("author", "creator"))
    }
    about = {name: value for name, value in about.items() if value}
    items = {item.get("id"): item for item in opf.xpath("//opf:manifest/opf:item", namespaces=_NS)}
    for number, reference in enumerate(opf.xpath("//opf:spine/opf:itemref", namespaces=_NS), 1):
        item = items.get(reference.get("idref"))
        if item is None:
            yield Bad(number, "no_chapter", f"the spine names '{reference.get('idref')}', which is not there", "")
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href") or "")))
        kind = item.get("media-type") or ""
        if "html" not in kind and "dtbook" not in kind:
            yield Bad(number, "not_html", f"{name} is {kind}", "", unwanted=True)
        elif "nav" in (item.get("properties") or "").split():
            yield Bad(number, "contents", f"{name} is the table of contents", "", unwanted=True)
        else:
            yield _chapter(book, name, number, about, file)


def _chapter(book: zipfile.ZipFile, name: str, number: int, about: dict[str, str], file: Opened) -> Record | Bad:
    try:
        data = _inside(book, name, file.limit)
    except FileFault as fault:
        if fault.reason == "too_big":
            return oversize(number, None, b"", file, "utf-8")
        return Bad(number, "no_chapter", fault.detail, "")
    try:
        found = guarded("chapter", decode_page(data, None)[0].encode(), seconds=SECONDS)
    except GuardFault as fault:
        return Bad(number, fault.reason, f"{name}: {fault.detail}", "", unwanted=True)
    if not found["text"].strip():
        return Bad(number, "no_main_text", f"{name} has no text", "", unwanted=True)
    meta = about | ({"chapter": found["title"]} if found["title"] else {})
    return Record(number, {"text": found["text"], "title": found["title"], "meta": meta}, len(data))


def _inside(book: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A file of the book; only so many bytes of it are unpacked, whatever its header says."""
    try:
        with book.open(name) as member:
            data = member.read(limit + 1)
    except KeyError:
        raise FileFault("not_epub", f"there is no {name} in it") from None
    except RuntimeError as error:  # zipfile's word for a member with a password
        raise FileFault("encrypted", " ".join(str(error).split())) from None
    if len(data) > limit:
        raise FileFault("too_big", f"{name} is above max_document_mb")
    return data


def _encrypted(book: zipfile.ZipFile, limit: int) -> bool:
    name = "META-INF/encryption.xml"
    if name not in book.namelist():
        return False
    ways = _xml(_inside(book, name, limit), name).xpath("//enc:EncryptionMethod/@Algorithm", namespaces=_NS)
    return any(way not in _FONTS_ONLY for way in ways)


def _xml(data: bytes, name: str) -> Any:
    etree = need("lxml.etree", "corpus")
    # No entities, no network, no document types: a book is someone else's file.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=True)
    tree = etree.fromstring(data, parser) if data.strip() else None
    if tree is None:
        raise FileFault("not_epub", f"{name} is no XML")
    return tree


def read_pdf(file: Opened) -> Iterator[Record | Bad]:
    """A PDF as one document; one that is encrypted, or whose pages are pictures, is counted with its reason."""
    with on_disk(file) as path:
        try:
            found = guarded("pdf", str(path.absolute()), file.limit, seconds=PDF_SECONDS)
        except GuardFault as fault:
            yield Bad(1, fault.reason, fault.detail, "", unwanted=True)
            return
    if isinstance(found, Exception):
        reason, detail = found.args
        if reason == "not_pdf":
            raise FileFault(reason, detail)
        yield Bad(1, reason, detail, "", unwanted=True)
    elif len(found["text"]) < _PAGE * found["pages"] or not found["text"].strip():
        pages = f"{found['pages']} page{'s' if found['pages'] != 1 else ''}"
        detail = f"{pages}, {found['empty']} of them without text, as scanned ones are: read them by OCR first"
        yield Bad(1, "no_text_layer", detail, found["text"][:400], unwanted=True)
    else:
        meta = {"title": found["title"]} if found["title"] else {}
        meta |= {"pages": found["pages"]} | ({"pages_without_text": found["empty"]} if found["empty"] else {})
        fields = {"text": found["text"], "title": found["title"], "meta": meta}
        yield Record(1, fields, len(found["text"].encode("utf-8", "replace")))
