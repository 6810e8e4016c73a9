"""What the guarded process does: the text of a web page, of a chapter, of a PDF. See `guard`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Any


class Unreadable(Exception):
    """A document that was understood and cannot give text; the arguments are reason and sentence."""


# HTML ---------------------------------------------------------------------------------------------------------------


def page(html: str, url: str | None) -> dict[str, str]:
    """Main text, title and date of a web page; the text is empty where there is none.

    trafilatura (Apache 2.0; Barbaresi, ACL 2021) leaves navigation, advertisements and footers out. Where it finds
    nothing, all that a reader of the page would see is taken; and where it finds little, and the page holds little more
    (a poem, a list of lines), too: of such a page it breaks every inline element into a line.
    """
    import trafilatura

    tree = trafilatura.load_html(html)
    if tree is None:
        return {"text": "", "title": "", "date": ""}
    found = trafilatura.bare_extraction(
        tree,
        url=url,
        with_metadata=True,
        include_comments=False,
        date_extraction_params={"original_date": True, "extensive_search": False},
    )
    # A Document, or None where there is nothing.
    text, title, date = (getattr(found, name, None) or "" for name in ("text", "title", "date"))
    title = title or "".join(tree.xpath("//title/text()")[:1]).strip()
    if len(text) < _LITTLE:
        visible = _visible(tree)
        text = visible if len(visible) < 2 * len(text) + _LITTLE / 5 or not text else text
    return {"text": text, "title": title, "date": date}


#: Characters below which trafilatura takes any text there is.
_LITTLE = 250
#: What a reader of a page does not read as its text.
_NO_TEXT = (
    "script", "style", "noscript", "template", "head", "nav", "header", "footer", "aside", "form", "button", "select",
    "textarea", "svg", "iframe",
)  # fmt: skip
_BLOCKS = frozenset((
    "p", "div", "section", "article", "main", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ul", "ol", "dl", "dt", "dd",
    "table", "tr", "blockquote", "pre", "figure", "figcaption", "hr", "body", "center", "address", "details", "summary",
    "caption",
))  # fmt: skip


def _visible(tree: Any) -> str:
    for node in list(tree.iter(*_NO_TEXT)):
        _remove(node)
    return blocks_of_text(tree)


def _remove(node: Any) -> None:
    parent = node.getparent()
    if parent is None:
        return
    before = node.getprevious()
    tail = node.tail or ""
    if before is not None:
        before.tail = (before.tail or "") + tail
    else:
        parent.text = (parent.text or "") + tail
    parent.remove(node)


def blocks_of_text(tree: Any) -> str:
    """The text below a node, a line for each block; white space inside a block is as a browser shows it."""
    parts: list[str] = []
    # Not recursive: a page may be nested deeper than Python's stack.
    stack: list[tuple[Any, bool]] = [(tree, False)]
    while stack:
        node, left = stack.pop()
        tag = node.tag if isinstance(node.tag, str) else ""
        if left:
            if tag in _BLOCKS:
                parts.append("\n")
            elif tag in ("td", "th"):
                parts.append("\t")
            parts.append(_inline(node.tail))
            continue
        if not tag:  # a comment or an instruction
            parts.append(_inline(node.tail))
            continue
        if tag in _BLOCKS or tag == "br":
            parts.append("\n")
        # Readings above characters would stand between them.
        inner = tag not in ("rt", "rp", "script", "style")
        if inner:
            parts.append(node.text or "" if tag == "pre" else _inline(node.text))
        stack.append((node, True))
        if inner:
            stack.extend((child, False) for child in reversed(node))
    lines = (re.sub(r"[ \t]+", " ", line).strip(" ") for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _inline(text: str | None) -> str:
    """White space as HTML means it; a line break between Han characters is no space."""
    if not text:
        return ""
    text = re.sub(r"(?<=[\u2e80-\u9fff\uff00-\uffef\u3000-\u303f])\s*\n\s*(?=[\u2e80-\u9fff\uff00-\uffef])", "", text)
    return re.sub(r"[ \t\r\n\f]+", " ", text)


def chapter(data: bytes) -> dict[str, str]:
    """All text of one XHTML document of a book (UTF-8), and its first heading."""
    from lxml import html

    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    tree = html.document_fromstring(data, parser=parser) if data.strip() else None
    if tree is None:
        return {"text": "", "title": ""}
    heading = next((node for tag in ("h1", "h2", "h3", "title") for node in tree.iter(tag)), None)
    title = blocks_of_text(heading).replace("\n", " ") if heading is not None else ""
    for node in list(tree.iter("head")):
        _remove(node)
    return {"text": blocks_of_text(tree), "title": title}


# PDF ----------------------------------------------------------------------------------------------------------------


def pdf(path: str, most: int) -> dict[str, Any]:
    """The text of a PDF: {"text", "title", "pages", "empty": pages without text}.

    PDFium (BSD; pypdfium2's own code Apache 2.0 or BSD) has the character maps of Chinese fonts (GBK-EUC-H and the
    like) that pypdf lacks, and is many times as fast; PyMuPDF is AGPL.

    Args:
        most: characters of text at most.

    Raises:
        Unreadable: it is encrypted, no PDF, or larger than `most`.
    """
    import pypdfium2
    import pypdfium2.raw as raw

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD or "assword" in str(error):
            raise Unreadable("encrypted", "it is encrypted and needs a password") from None
        raise Unreadable("not_pdf", f"not a whole PDF ({error})") from None
    pages: list[str] = []
    size = empty = 0
    try:
        for number in range(len(document)):
            held = document[number]
            textpage = held.get_textpage()
            text = paragraphs(textpage.get_text_range().replace("\r\n", "\n").split("\n"))
            textpage.close()
            held.close()
            empty += not text
            size += len(text)
            if size > most:
                raise Unreadable("too_big", f"more than {most / 1e6:.0f} million characters of text")
            pages.append(text)
        title = str(document.get_metadata_dict().get("Title") or "")
    finally:
        document.close()
    return {"text": joined(page for page in pages if page), "title": title, "pages": len(pages), "empty": empty}


_ENDS = "。！？…：；”’」』）!?:;)"
_PAGE_NUMBER = re.compile(r"[\W_]*(第\s*)?\d{1,4}(\s*页)?[\W_]*")


def paragraphs(lines: list[str]) -> str:
    """A page's lines as paragraphs: a full line that ends no sentence goes on in the next one.

    A line is full when it is nearly as wide as the page's wide lines. A page number alone in the first or last line
    is no text.
    """
    lines = [line.strip() for line in lines]
    lines = [line for line in lines if line]
    for place in (0, -1):
        if lines and _PAGE_NUMBER.fullmatch(lines[place]):
            lines.pop(place)
    if not lines:
        return ""
    widths = sorted(map(_width, lines))
    full = 0.85 * widths[int(0.9 * (len(widths) - 1))]
    out = [lines[0]]
    for before, line in pairwise(lines):
        if len(lines) > 2 and _width(before) >= full and before[-1] not in _ENDS:
            out[-1] = _join(out[-1], line)
        else:
            out.append(line)
    return "\n".join(out)


def joined(pages: Iterable[str]) -> str:
    """Pages as one text: a sentence that a page breaks goes on on the next one."""
    text = ""
    for page in pages:
        if text and text[-1] not in _ENDS and "\n" in page and len(page.partition("\n")[0]) > 1:
            text = _join(text, page)
        else:
            text = f"{text}\n{page}" if text else page
    return text


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


def _join(left: str, right: str) -> str:
    if left[-1] in "-\u00ad\ufffe" and left[-2:-1].isalpha() and right[:1].islower():
        return left[:-1] + right  # a word that a line broke
    return left + (" " if left[-1].isascii() and right[:1].isascii() else "") + right
