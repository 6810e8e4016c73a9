"""Bytes in bounded pieces: decompression that notices a torn archive, encodings told apart, lines of any length.

Nothing here holds more than a few megabytes of a file, whatever the file holds: a line of 100 MB is passed over piece
by piece, and an archive that would unpack to terabytes is unpacked in pieces too.
"""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import zstandard

from hanmo.remote import open_read

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
#: Pieces handed on are about this long (bytes).
PIECE = 512 << 10
#: Lines of one file are shared out among tasks by the span of this many bytes that they begin in.
SPAN = 4 << 20
#: Compressed bytes of zstd that are unpacked at once: a block of 12 bytes may stand for 128 KiB.
_SLICE = 1024
#: What a detector looks at.
SAMPLE = 1 << 20


class FileFault(Exception):
    """A file that cannot be read (further). `line` is the line where that showed, when one is known."""

    def __init__(self, reason: str, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.line = line


def pieces(path: Path) -> Iterator[bytes]:
    """The decompressed content of a file in pieces of about `PIECE` bytes.

    Raises:
        FileFault: the file's compression is torn or is none (after the pieces before the tear were given).
    """
    return unpack(blocks_of(path), path.suffix.lower())


def blocks_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file as they lie on the disk."""
    with open_read(path) as file:
        while block := file.read(PIECE):
            yield block


def unpack(blocks: Iterator[bytes], suffix: str) -> Iterator[bytes]:
    """Decompress blocks as `suffix` (one of `COMPRESSIONS`, or any other for none) says; see `pieces`."""
    held: list[bytes] = []
    size = 0
    try:
        for block in _unpacked(blocks, suffix):
            held.append(block)
            size += len(block)
            if size >= PIECE:
                yield b"".join(held)
                held.clear()
                size = 0
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        if held:
            yield b"".join(held)
        cause = " ".join(str(error).split())
        raise FileFault("torn_archive", f"the {suffix} file is torn or is none ({cause}): fetch it again") from None
    except FileFault:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _unpacked(blocks: Iterator[bytes], suffix: str) -> Iterator[bytes]:
    match suffix:
        case ".zst":
            return _unpack_zstd(blocks)
        case ".gz":
            return decompress(blocks, lambda: zlib.decompressobj(31))
        case ".xz":
            return decompress(blocks, lzma.LZMADecompressor)
        case ".bz2":
            return decompress(blocks, bz2.BZ2Decompressor)
        case _:
            return blocks


def _unpack_zstd(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Frame after frame, fed in slices so small that what they unpack to stays small (a stream_reader would bound that
    better, but it takes a torn frame for the end of the file)."""
    context = zstandard.ZstdDecompressor()
    frame = None
    for block in blocks:
        view = memoryview(block)
        while view:
            data: bytes | memoryview = view[:_SLICE]
            view = view[_SLICE:]
            while data:
                if frame is None:
                    frame = context.decompressobj()
                yield frame.decompress(data)
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("it ends in the middle")


def decompress(blocks: Iterator[bytes], make: Callable[[], Any], padded: bool = True) -> Iterator[bytes]:
    """Blocks of gzip members, xz or bzip2 streams, one after the other.

    Args:
        make: a new decompressor, as the standard library has them.
        padded: zeros before, between and behind the streams mean nothing (a raw deflate stream may begin with one).

    Raises:
        EOFError: the last member is not whole.
        zlib.error, lzma.LZMAError: damaged (what bzip2 says of itself comes as an `EOFError`, too).
    """
    member = None
    data = b""
    while True:
        if not data:
            data = next(blocks, b"")
            if not data:
                break
        if member is None:
            data = data.lstrip(b"\0") if padded else data
            if not data:
                continue
            member = make()
        yield _step(member, data)
        if member.eof:
            data, member = member.unused_data, None
            continue
        # What an output limit held back waits inside (xz, bzip2) or in unconsumed_tail (gzip).
        while not member.eof and (data := getattr(member, "unconsumed_tail", b"")):
            yield _step(member, data)
        while not member.eof and getattr(member, "needs_input", True) is False:
            yield _step(member, b"")
        data, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None and hasattr(member, "flush"):
        yield member.flush()  # zlib may hold back output although it has taken all input
        member = None if member.eof else member
    if member is not None:
        raise EOFError("it ends in the middle")


def _step(member: Any, data: bytes) -> bytes:
    try:
        return member.decompress(data, PIECE)
    except OSError as error:  # bzip2's word for damage; no file is touched here
        raise EOFError(str(error)) from None


class Stream(io.RawIOBase):
    """Blocks as a file that is read from its beginning to its end; wrap it in a `BufferedReader`."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._ready = memoryview(block)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def as_file(blocks: Iterator[bytes]) -> io.BufferedReader:
    """Blocks as a buffered file that is read from its beginning to its end."""
    return io.BufferedReader(Stream(blocks), PIECE)


def detect_encoding(sample: bytes) -> str:
    """Name the codec of a file from its first megabyte: "utf-8", "utf-16" (with a mark) or "gb18030".

    UTF-8 is certain where it decodes. A file with some foreign lines is what most of its lines are, so that the
    others can be rejected one by one. GB18030 accepts nearly any bytes, so it must also look like Chinese: at least
    80 % of its two-byte characters in the area of GB 2312, which holds the characters in common use (Big5 and Shift
    JIS fail this).

    Raises:
        FileFault: binary content, or neither encoding fits.
    """
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in sample[:4096]:
        if _decodes_but_for_its_end(sample):
            return "utf-8"
    else:
        raise FileFault("binary", "this is not text (it holds zero bytes); name its encoding if it is")
    utf8 = gb = neither = 0
    lines = sample.split(b"\n")
    if len(sample) >= SAMPLE and len(lines) > 1:
        lines.pop()  # cut by the sample's end
    for number, line in enumerate(lines):
        if line.isascii():
            continue
        if _decodes(line, "utf-8") or (number == len(lines) - 1 and _decodes_but_for_its_end(line)):
            utf8 += len(line)
        elif looks_like_gb(line):
            gb += len(line)
        else:
            neither += len(line)
    if utf8 and utf8 >= gb:
        return "utf-8"
    if gb > neither:
        return "gb18030"
    raise FileFault("unknown_encoding", "neither UTF-8 nor GB18030: name its encoding (big5, shift_jis, cp1252, …)")


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _decodes_but_for_its_end(line: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)
    except UnicodeDecodeError:
        return False
    return True


def looks_like_gb(line: bytes) -> bool:
    """Whether bytes decode as GB18030 to text most of whose characters are in common use."""
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(line)
    except UnicodeDecodeError:
        return False
    wide = [char for char in text if char > "\x7f"]
    return sum(map(_gb2312().__contains__, wide)) >= 0.8 * len(wide)


@cache
def _gb2312() -> frozenset[str]:
    return frozenset(
        bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xA1, 0xF8) for cell in range(0xA1, 0xFF)
    )


def transcode(source: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Pieces in `encoding` to pieces in UTF-8.

    Raises:
        FileFault: bytes that are not of that encoding, with the line where they stand.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    for piece in source:
        try:
            text = decoder.decode(piece)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise FileFault("bad_encoding", describe_bytes(error.object, error.start, encoding), line) from None
        line += piece.count(b"\n")
        yield text.encode()
    try:
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        raise FileFault("bad_encoding", f"it ends in the middle of a character of {encoding}", line) from None


def describe_bytes(data: bytes, start: int, encoding: str) -> str:
    """Say which bytes are wrong, and whether they look like the other encoding."""
    shown = data[start : start + 4].hex(" ")
    guess = ""
    if encoding == "utf-8":
        end = data.find(b"\n", start)
        if looks_like_gb(data[data.rfind(b"\n", 0, start) + 1 : end if end >= 0 else len(data)]):
            guess = " (they look like GB18030)"
    return f"bytes {shown} are not {encoding.upper()}{guess}"


@dataclass(frozen=True)
class Oversize:
    """A line that was too long to keep: its length in bytes and its first bytes."""

    length: int
    head: bytes


def lines(
    source: Iterable[bytes], limit: int, stripe: int = 0, stripes: int = 1
) -> Iterator[tuple[int, bytes | Oversize]]:
    """Yield (line number from 1, line without its newline); lines end at \\n alone.

    Args:
        source: pieces of one file.
        limit: a line of more bytes comes as `Oversize`.
        stripe, stripes: give only every `stripes`-th span of `SPAN` bytes, counted by where a line begins. The other
            spans are only counted through, which is many times faster than parsing them.
    """
    number = 1  # of the line that is open or begins next
    head: list[bytes] = []  # the open line so far, if it is ours and not too long
    length = 0
    begun = mine = False
    for segment, owned in _segments(source, stripe, stripes):
        cut = segment.find(b"\n")
        if not begun:
            mine = owned
        if cut < 0:
            begun = True
            length += len(segment)
            if mine and (length <= limit or not head):
                head.append(segment if length <= limit else segment[:256])
            continue
        if begun or mine:
            length += cut
            if mine:
                # Two integers decide what was kept: nothing is kept beyond the limit but the first bytes.
                if length > limit:
                    yield number, Oversize(length, b"".join(head)[:256] or segment[: min(cut, 256)])
                else:
                    head.append(segment[:cut])
                    yield number, b"".join(head)
        number += 1
        head, length, begun = [], 0, False
        last = segment.rfind(b"\n")
        if owned:
            for line in segment[cut + 1 : last].split(b"\n") if last > cut else ():
                yield number, line if len(line) <= limit else Oversize(len(line), line[:256])
                number += 1
        else:
            number += segment.count(b"\n", cut + 1)
        if last + 1 < len(segment):
            begun, mine, length = True, owned, len(segment) - last - 1
            if owned:
                head.append(segment[last + 1 :])
    if begun and mine:
        line = b"".join(head)
        yield number, line if length <= limit else Oversize(length, line[:256])


def _segments(source: Iterable[bytes], stripe: int, stripes: int) -> Iterator[tuple[bytes, bool]]:
    """Cut pieces where spans end, and say of each whether its span is ours."""
    if stripes == 1:
        for piece in source:
            yield piece, True
        return
    position = 0
    for piece in source:
        start = 0
        while start < len(piece):
            span = position // SPAN
            end = min(len(piece), start + (span + 1) * SPAN - position)
            yield piece[start:end], span % stripes == stripe
            position += end - start
            start = end
