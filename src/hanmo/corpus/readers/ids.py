"""Token ids of other projects back to text: LingLong's TFRecords, tinyllama-zh's npz, tiny-llm-zh's flat bin.

The framing of TFRecords and the wire format of `tf.train.Example` are read here, without TensorFlow; ids become text by
the tokenizer that the source names (see `decoders`).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from hanmo.corpus.readers.decoders import Decoder, decoder_of
from hanmo.corpus.records import Bad, Opened, Record, on_disk, oversize, pieces_of
from hanmo.corpus.stream import PIECE, FileFault, as_file, unpack
from hanmo.errors import HanmoError
from hanmo.extras import need

#: Where nothing says how documents end, they come in windows of so many ids: the context of tinyllama-zh.
WINDOW = 2048
#: A character of up to this many byte tokens more is made whole at a window's end.
_WHOLE = 8


def read_tfrecords(file: Opened) -> Iterator[Record | Bad]:
    """Examples of a TFRecord file, plain or gzip whatever its name, numbered from 1: the int64 list `data` as text.

    Ids where `attention_mask` is 0 are padding. With `end_id`, an example is as many documents as it says.
    """
    decoder = decoder_of(file.tokenizer)
    crc = need("google_crc32c", "corpus").value
    with as_file(_gunzipped(file)) as source:
        for number, data in _framed(source, crc, file):
            if not file.mine(number):
                continue
            try:
                features = example(data)
            except (ValueError, IndexError) as error:
                yield Bad(number, "not_example", f"no tf.train.Example ({error})", "")
                continue
            if "data" not in features:
                there = ", ".join(features) or "none"
                yield Bad(number, "no_text", f"no int64 list 'data' (lists: {there})", "")
                continue
            ids, mask = features["data"], features.get("attention_mask")
            if mask is not None and len(mask) == len(ids):
                ids = ids[mask != 0]
            ends = np.flatnonzero(ids == file.end_id) if file.end_id is not None else np.empty(0, int)
            parts = [part for part in np.split(ids, ends + 1) if len(part)]
            for nth, part in enumerate(parts):
                yield _document(decoder, part, file.end_id, number, nth)


def _gunzipped(file: Opened) -> Iterator[bytes]:
    source = pieces_of(file)
    first = next(source, b"")
    source = chain([first], source)
    return unpack(source, ".gz") if first[:3] == b"\x1f\x8b\x08" else source


def _framed(source: Any, crc: Any, file: Opened) -> Iterator[tuple[int, bytes]]:
    """(number, payload) of the records: length, its masked CRC-32C, payload, its masked CRC-32C (little-endian)."""
    number = 0
    while head := source.read(12):
        number += 1
        length, check = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
        if len(head) < 12 or masked(crc(head[:8])) != check:
            raise FileFault("torn_record", "torn, or no TFRecord file (the checksum of a length is wrong)", number)
        if length > 8 * file.limit:
            raise FileFault("too_big", f"a record of {length / 1e6:.0f} MB is above max_document_mb", number)
        data = source.read(length + 4)
        if len(data) < length + 4:
            raise FileFault("torn_record", "it ends in the middle of a record: fetch it again", number)
        if masked(crc(data[:-4])) != struct.unpack("<I", data[-4:])[0]:
            raise FileFault("torn_record", "the checksum of a record is wrong: fetch it again", number)
        yield number, data[:-4]


def masked(crc: int) -> int:
    """The checksum as TFRecords store it, so that a checksum of checksums stays one (TensorFlow, `lib/hash/crc32c`)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example(data: bytes) -> dict[str, np.ndarray]:
    """The int64 lists of a serialised `tf.train.Example`, by name; lists of other types are left out.

    Example { Features features = 1; }  Features { map<string, Feature> feature = 1; }  Feature { Int64List = 3; }
    Int64List { repeated int64 value = 1; } packed or not.

    Raises:
        ValueError, IndexError: it is none.
    """
    found: dict[str, np.ndarray] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            key = b"".join(_messages(entry, 1)).decode()
            for feature in _messages(entry, 2):
                for values in _messages(feature, 3):
                    found[key] = _int64s(values)
    return found


def _messages(data: bytes, field: int) -> Iterator[bytes]:
    """The length-delimited values of one field."""
    for number, wire, value in _fields(data):
        if number == field and wire == 2:
            yield value


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(data, position)
        elif wire in (1, 2, 5):
            length = 8 if wire == 1 else 4
            if wire == 2:
                length, position = _varint(data, position)
            value, position = data[position : position + length], position + length
            if position > len(data):
                raise ValueError("a field is cut off")
        else:
            raise ValueError(f"wire type {wire}")
        yield tag >> 3, wire, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _int64s(data: bytes) -> np.ndarray:
    """[values] int64 of an Int64List."""
    parts = [_packed(value) if wire == 2 else np.array([value], np.uint64) for number, wire, value in _fields(data)]
    return np.concatenate([np.empty(0, np.uint64), *parts]).view(np.int64)


def _packed(data: bytes) -> np.ndarray:
    """[values] uint64: varints, many times as fast as one by one."""
    bytes_ = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(bytes_ < 0x80)
    if len(ends) == 0:
        if len(bytes_):
            raise ValueError("a number is cut off")
        return np.empty(0, np.uint64)
    if ends[-1] != len(bytes_) - 1:
        raise ValueError("a number is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ValueError("a number of more than ten bytes")
    shift = (np.arange(len(bytes_)) - np.repeat(starts, lengths)) * 7
    return np.add.reduceat((bytes_ & 0x7F).astype(np.uint64) << shift.astype(np.uint64), starts)


# One long row of ids ------------------------------------------------------------------------------------------------


def read_npz(file: Opened) -> Iterator[Record | Bad]:
    """The one-dimensional array `input_ids` of an npz: documents up to `end_id`, else windows of `WINDOW` ids."""
    decoder = decoder_of(file.tokenizer)
    try:
        with on_disk(file) as path, zipfile.ZipFile(path) as archive:
            if "input_ids.npy" not in archive.namelist():
                there = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
                raise FileFault("no_ids", f"no array 'input_ids' in it (there is: {there})")
            with archive.open("input_ids.npy") as member:
                dtype = _npy_dtype(member)
                yield from _row(_arrays(iter(lambda: member.read(PIECE), b""), dtype), decoder, file.end_id, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise FileFault("not_npz", f"not a whole npz file ({error})") from None


def _npy_dtype(member: Any) -> np.dtype:
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(member)
    if len(shape) != 1 or dtype.kind not in "ui":
        raise FileFault("no_ids", f"'input_ids' is not a row of integers (shape {shape}, {dtype})")
    return dtype


def read_bin(file: Opened) -> Iterator[Record | Bad]:
    """A flat file of 16-bit ids (unsigned, little-endian), a document up to each `end_id`.

    Raises:
        HanmoError: neither the source nor its tokenizer says which id ends a document.
    """
    decoder = decoder_of(file.tokenizer)
    end = file.end_id if file.end_id is not None else decoder.end_id
    if end is None:
        raise HanmoError(
            f"{file.where}: the tokenizer {file.tokenizer} does not say which id ends a document: give `end_id`"
        )
    yield from _row(_arrays(pieces_of(file), np.dtype("<u2")), decoder, end, file)


def _arrays(blocks: Iterator[bytes], dtype: np.dtype) -> Iterator[np.ndarray]:
    rest = b""
    for block in blocks:
        block = rest + block
        whole = len(block) // dtype.itemsize * dtype.itemsize
        yield np.frombuffer(block[:whole], dtype)
        rest = block[whole:]
    if rest:
        raise FileFault("torn_ids", f"its length is no multiple of {dtype.itemsize} bytes: it is cut off")


def _row(arrays: Iterator[np.ndarray], decoder: Decoder, end: int | None, file: Opened) -> Iterator[Record | Bad]:
    for number, ids in enumerate(_windows(arrays, decoder) if end is None else _ended(arrays, end, file.limit), 1):
        if not file.mine(number):
            continue
        if isinstance(ids, int):
            yield oversize(number, 2 * ids, b"", file, "utf-8")
        else:
            yield _document(decoder, ids, end, number, 0)


def _ended(arrays: Iterator[np.ndarray], end: int, limit: int) -> Iterator[np.ndarray | int]:
    """Documents with their end id; of one whose text would be far above `limit`, how many ids it has."""
    held: list[np.ndarray] = []
    size = 0
    for array in arrays:
        start = 0
        for stop in np.flatnonzero(array == end) + 1:
            held.append(array[start:stop])
            size += stop - start
            yield np.concatenate(held) if size <= limit else int(size)
            held, size, start = [], 0, stop
        size += len(array) - start
        held = [*held, array[start:].copy()] if size <= limit else []
    if size:
        yield np.concatenate(held) if size <= limit else int(size)


def _windows(arrays: Iterator[np.ndarray], decoder: Decoder) -> Iterator[np.ndarray]:
    """Windows of `WINDOW` ids; one that would end inside a character takes the ids that make it whole."""
    held = np.empty(0, np.int64)
    for array in chain(arrays, [None]):
        if array is not None:
            held = np.concatenate([held, array.astype(np.int64)])
        start = 0
        while len(held) - start >= WINDOW + _WHOLE or (array is None and start < len(held)):
            stop = min(start + WINDOW, len(held))
            for later in range(stop, min(stop + _WHOLE, len(held))):
                if not decoder.text(held[max(start, later - _WHOLE) : later]).endswith("\ufffd"):
                    stop = later
                    break
            yield held[start:stop]
            start = stop
        held = held[start:]


def _document(decoder: Decoder, ids: np.ndarray, end: int | None, number: int, nth: int) -> Record | Bad:
    if end is not None:
        ids = ids[ids != end]
    unknown = ids[(ids < 0) | (ids >= decoder.size)]
    if len(unknown):
        detail = f"id {unknown[0]} is beyond the tokenizer's {decoder.size}: it is another one's"
        return Bad(number, "unknown_id", detail, "", nth=nth)
    return Record(number, {"text": decoder.text(ids)}, 2 * len(ids), nth=nth)
