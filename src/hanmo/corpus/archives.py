"""Archives as folders: their members are listed, and each is read as a stream, without unpacking anything to the disk.

zip and plain tar are read at any place, with Python's own modules. A compressed tar, a rar and a 7z can only be read
from the beginning on; a process keeps the one that it reads open, so that tasks which take its members one after the
other unpack it once. rar and 7z are read by libarchive (BSD), which streams both in bounded memory and goes through a
solid archive once; `rarfile` starts an outside program for every member, again from the beginning where the archive is
solid, and `py7zr` unpacks members whole.

What must not be read is listed with its fault: encrypted members, archives in archives, names that lead out of the
archive, and what would unpack to far more than text can.
"""

from __future__ import annotations

import bz2
import ctypes
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hanmo.corpus.stream import COMPRESSIONS, PIECE, FileFault, as_file, blocks_of, decompress, unpack
from hanmo.errors import HanmoError
from hanmo.extras import need

#: Endings of archives, and the compression around a tar.
_KINDS = {
    ".zip": ("zip", ""),
    ".rar": ("other", ""),
    ".7z": ("other", ""),
    ".tar": ("tar", ""),
    ".tgz": ("tar", ".gz"),
    ".tbz2": ("tar", ".bz2"),
    ".txz": ("tar", ".xz"),
    ".tzst": ("tar", ".zst"),
    **{f".tar{suffix}": ("tar", suffix) for suffix in COMPRESSIONS},
}
#: No text is packed so tightly: a zip member of more than this many bytes and times its packed size is a bomb, and so
#: is what an archive that is read from its beginning unpacks to, at ten times the ratio (xz packs repeats tighter).
BOMB_BYTES = 256 << 20
BOMB_RATIO = 200


@dataclass(frozen=True, slots=True)
class Member:
    """Where one file of an archive stands, and what forbids to read it."""

    name: str  # its path inside, with slashes
    index: int  # among all entries of the archive
    size: int  # unpacked, in bytes
    offset: int = -1  # of its header (zip) or data (tar) in the archive; -1: read in order
    packed: int = 0
    method: int = 0  # of zip
    crc: int = 0
    fault: tuple[str, str] | None = None  # reason and sentence


def ending_of(name: str) -> str:
    """The ending by which a file is an archive (".tar.gz"), or an empty string."""
    lower = name.lower()
    return max((ending for ending in _KINDS if lower.endswith(ending)), key=len, default="")


def in_order(name: str) -> bool:
    """Whether an archive of this name can only be read from its beginning on."""
    return _KINDS[ending_of(name)] not in (("zip", ""), ("tar", ""))


def packing_of(name: str, member: Member) -> str:
    """The compression around a member's bytes, as a suffix of `COMPRESSIONS` or the nearest one, or an empty string."""
    kind, suffix = _KINDS[ending_of(name)]
    return suffix if kind == "tar" else ".xz" if kind == "other" else ".gz" if member.method else ""


def members(path: Path) -> Iterator[Member]:
    """The files in an archive, in its own order; hidden ones and those that macOS adds are left out.

    An archive that is torn ends with a nameless member whose fault says so.

    Raises:
        OSError: the archive cannot be opened.
        HanmoError: libarchive, which this archive needs, is not there.
    """
    kind, suffix = _KINDS[ending_of(path.name)]
    listed = (
        _zip_members(path) if kind == "zip" else _ordered(path) if suffix or kind == "other" else _tar_members(path)
    )
    try:
        for member in listed:
            parts = PurePosixPath(member.name).parts
            if not any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts):
                yield _judged(member, parts)
    except FileFault as fault:
        yield Member("", -1, 0, fault=(fault.reason, fault.detail))


def _judged(member: Member, parts: tuple[str, ...]) -> Member:
    if member.fault:
        return member
    if ".." in parts or member.name.startswith(("/", "\\")) or member.name[1:2] == ":":
        return replace(member, fault=("unsafe_name", "its name leads out of the archive"))
    if ending_of(member.name):
        return replace(member, fault=("nested_archive", "an archive inside an archive: unpack the outer one first"))
    if member.packed and member.size > max(BOMB_BYTES, BOMB_RATIO * member.packed):
        return replace(member, fault=("bomb", _bomb(member.size, member.packed)))
    return member


def _bomb(size: int, packed: int) -> str:
    return f"{packed / 1e6:.3g} MB unpack to {size / 1e6:.0f} MB or more: this is no text, but an archive bomb"


def blocks(path: Path, member: Member) -> Iterator[bytes]:
    """The bytes of a member in bounded blocks.

    Raises:
        FileFault: the member must not be read, or the archive is torn or damaged.
    """
    if member.fault:
        raise FileFault(*member.fault)
    if member.offset < 0:
        return _read_in_order(path, member)
    return _zip_blocks(path, member) if _KINDS[ending_of(path.name)][0] == "zip" else _tar_blocks(path, member)


def _torn(path: Path, cause: object) -> FileFault:
    shown = " ".join(str(cause).split()) or "it ends in the middle"
    return FileFault("torn_archive", f"the {ending_of(path.name)} archive is torn or is none ({shown}): fetch it again")


def _decoded(name: bytes) -> str:
    """A name whose encoding is not said: UTF-8 where it is, else GB18030, as Chinese Windows writes names."""
    for codec in ("utf-8", "gb18030"):
        try:
            return name.decode(codec)
        except UnicodeDecodeError:
            continue
    return name.decode("cp437")


# zip ----------------------------------------------------------------------------------------------------------------

#: Stored, deflated and bzip2: the others are rarer than one archive in a thousand.
_ZIP_METHODS = (0, 8, 12)


def _zip_members(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
        raise _torn(path, error) from None
    end = 0
    covered = set()  # a bomb of David Fifield's kind unpacks the same bytes for many members
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            covered.add(entry.header_offset)
        end = max(end, entry.header_offset + entry.compress_size)
    for index, entry in enumerate(entries):
        fault = None
        if entry.flag_bits & 0x41:
            fault = ("encrypted", "it is encrypted: unpack the archive with its password")
        elif entry.compress_type not in _ZIP_METHODS:
            method = f"packed by method {entry.compress_type}, which is not read: unpack the archive first"
            fault = ("unknown_method", method)
        elif entry.header_offset in covered:
            fault = ("bomb", "it shares its bytes with another member: this is an archive bomb")
        yield Member(
            _zip_name(entry),
            index,
            entry.file_size,
            entry.header_offset,
            entry.compress_size,
            entry.compress_type,
            entry.CRC,
            fault,
        )


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name, which Python takes for CP437 where no flag says UTF-8; Windows in Chinese writes GBK there."""
    if entry.flag_bits & 0x800:
        return entry.filename
    name = entry.orig_filename.encode("cp437", "replace")
    extra = entry.extra
    while len(extra) >= 4:
        tag, length = struct.unpack("<HH", extra[:4])
        # Info-ZIP's Unicode path, valid where its checksum is the stored name's (APPNOTE 4.6.9).
        if tag == 0x7075 and length > 5 and struct.unpack("<I", extra[5:9])[0] == zlib.crc32(name):
            return extra[9 : 4 + length].decode("utf-8", "replace")
        extra = extra[4 + length :]
    return _decoded(name).replace("\\", "/")


def _zip_blocks(path: Path, member: Member) -> Iterator[bytes]:
    """One member, found by its header alone: a task need not read the directory of a million others."""
    with path.open("rb") as file:
        file.seek(member.offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise _torn(path, f"no header at byte {member.offset}")
        name, extra = struct.unpack("<HH", header[26:30])
        file.seek(member.offset + 30 + name + extra)
        crc = size = 0
        try:
            for block in _inflated(_limited(file, member.packed), member.method):
                size += len(block)
                if size > member.size:
                    raise _torn(path, "a member unpacks to more than it says")
                crc = zlib.crc32(block, crc)
                yield block
        except (zlib.error, EOFError) as error:
            raise _torn(path, error) from None
    if size != member.size or crc != member.crc:
        raise _torn(path, f"the checksum of a member does not agree ({member.name})")


def _limited(file: Any, left: int) -> Iterator[bytes]:
    while left and (block := file.read(min(PIECE, left))):
        left -= len(block)
        yield block


def _inflated(packed: Iterator[bytes], method: int) -> Iterator[bytes]:
    match method:
        case 8:
            return decompress(packed, lambda: zlib.decompressobj(-15), padded=False)
        case 12:
            return decompress(packed, bz2.BZ2Decompressor, padded=False)
        case _:
            return packed


# tar ----------------------------------------------------------------------------------------------------------------


def _tar_members(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for index, info in enumerate(_infos(archive)):
                if info.isfile():
                    yield Member(_tar_name(info), index, info.size, info.offset_data, fault=_tar_fault(info))
    except (tarfile.TarError, EOFError) as error:
        raise _torn(path, error) from None


def _infos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members = []  # else it would keep every one  # pyright: ignore[reportAttributeAccessIssue]
        yield info


def _tar_name(info: tarfile.TarInfo) -> str:
    return _decoded(info.name.encode("utf-8", "surrogateescape"))


def _tar_fault(info: tarfile.TarInfo) -> tuple[str, str] | None:
    return ("unknown_method", "a sparse file in a tar: unpack the archive first") if info.issparse() else None


def _tar_blocks(path: Path, member: Member) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(member.offset)
        left = member.size
        for block in _limited(file, left):
            left -= len(block)
            yield block
    if left:
        raise _torn(path, "it ends in the middle")


# Archives that are read from their beginning on -----------------------------------------------------------------------

#: What walks through an archive: of every file in it, what is known and its bytes.
_Walk = Generator[tuple[Member, Iterator[bytes]], None, None]


def _ordered(path: Path) -> Iterator[Member]:
    for member, _ in _walk(path):
        yield member


def _walk(path: Path) -> _Walk:
    kind, suffix = _KINDS[ending_of(path.name)]
    return _walk_tar(path, suffix) if kind == "tar" else _walk_other(path)


def _walk_tar(path: Path, suffix: str) -> _Walk:
    most = max(BOMB_BYTES, 10 * BOMB_RATIO * path.stat().st_size)
    try:
        with (
            as_file(_bounded(unpack(blocks_of(path), suffix), most, path)) as stream,
            tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive,
        ):
            for index, info in enumerate(_infos(archive)):
                if info.isfile():
                    member = Member(_tar_name(info), index, info.size, fault=_tar_fault(info))
                    yield member, _extracted(archive, info, path)
    except (tarfile.TarError, EOFError) as error:
        raise _torn(path, error) from None


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> Iterator[bytes]:
    file = archive.extractfile(info)
    assert file is not None
    try:
        while block := file.read(PIECE):
            yield block
    except (tarfile.TarError, EOFError) as error:
        raise _torn(path, error) from None


def _bounded(unpacked: Iterator[bytes], most: int, path: Path) -> Iterator[bytes]:
    size = 0
    for piece in unpacked:
        size += len(piece)
        if size > most:
            raise FileFault("bomb", _bomb(size, path.stat().st_size))
        yield piece


def _walk_other(path: Path) -> _Walk:
    libarchive = libarchive_module()
    is_encrypted = libarchive.ffi.libarchive.archive_entry_is_encrypted
    most = max(BOMB_BYTES, 10 * BOMB_RATIO * path.stat().st_size)
    total = 0
    try:
        with libarchive.file_reader(str(path), block_size=PIECE) as archive:
            for index, entry in enumerate(archive):
                if not entry.isfile:
                    continue
                name = entry.pathname
                size = entry.size or 0
                total += size
                if total > most:
                    raise FileFault("bomb", _bomb(total, path.stat().st_size))
                fault = None
                if is_encrypted(ctypes.c_void_p(entry._entry_p)):
                    fault = ("encrypted", "it is encrypted: unpack the archive with its password")
                name = name if isinstance(name, str) else _decoded(name or b"")
                yield Member(name, index, size, fault=fault), _entry_blocks(entry, path)
    except libarchive.ArchiveError as error:
        raise _libarchive_fault(error, path) from None


def _entry_blocks(entry: Any, path: Path) -> Iterator[bytes]:
    libarchive = libarchive_module()
    try:
        yield from entry.get_blocks(PIECE)
    except libarchive.ArchiveError as error:
        raise _libarchive_fault(error, path) from None


def _libarchive_fault(error: Any, path: Path) -> FileFault:
    cause = str(error.msg)
    if "ncrypt" in cause or "assphrase" in cause:
        return FileFault("encrypted", "it is encrypted: unpack the archive with its password")
    return _torn(path, cause)


def libarchive_module() -> Any:
    """The bindings of libarchive.

    Raises:
        HanmoError: they, or the library itself, are not installed.
    """
    try:
        return need("libarchive", "corpus")
    except (TypeError, OSError, AttributeError):  # what its loader raises where there is no library to load
        raise HanmoError(
            "rar and 7z archives need the library libarchive: install it (`apt install libarchive13`, "
            "`brew install libarchive`), or unpack them"
        ) from None


_open: tuple[Path, int, _Walk] | None = None  # the archive that this process reads: its path, the next entry


def _read_in_order(path: Path, member: Member) -> Iterator[bytes]:
    global _open
    if _open is None or _open[0] != path or _open[1] > member.index:
        if _open is not None:
            _open[2].close()
        _open = (path, 0, _walk(path))
    walk = _open[2]
    try:
        for found, content in walk:
            _open = (path, found.index + 1, walk)
            if found.index == member.index:
                yield from content
                return
    except FileFault:
        _open = None
        raise
    _open = None
    raise _torn(path, f"{member.name} is not in it any more")
