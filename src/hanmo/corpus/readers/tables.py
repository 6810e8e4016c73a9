"""Tables: CSV, TSV, Parquet, and the Arrow files in which Hugging Face `datasets` keeps a data set."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, on_disk, open_bytes, oversize
from hanmo.corpus.stream import FileFault, Oversize, describe_bytes, lines
from hanmo.remote import open_read

#: Bytes of Parquet rows that are unpacked at once, about.
_BATCH = 4 << 20


#: Stands behind the last line, so that it is seen whether that line was within a quoted cell.
_END = "\0end of the file\0"


def read_csv(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = open_bytes(file)
    csv.field_size_limit(file.limit)
    text = chain(_text_lines(source, encoding, file.limit), [_END])
    rows = csv.reader(text, delimiter="\t" if file.format == "tsv" else ",")
    header: list[str] = []
    before = 0
    try:
        for row in rows:
            number, before = before + 1, rows.line_num
            if row == [_END]:
                break
            if row and row[-1].endswith(_END):  # the parser would take all that is left for one cell
                raise FileFault("not_csv", "a quote is opened here and never closed", number)
            if not any(row):
                continue
            if not header:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                detail = f"{len(row)} cells under a header of {len(header)}"
                yield Bad(number, "bad_row", detail, " ".join(row)[:EXCERPT])
            else:
                yield Record(number, dict(zip(header, row, strict=True)), sum(map(len, row)))
    except csv.Error as error:
        raise FileFault("not_csv", f"{error}: perhaps a quote that is never closed", before + 1) from None


def _text_lines(source: Iterable[bytes], encoding: str, limit: int) -> Iterator[str]:
    for number, line in lines(source, limit):
        if isinstance(line, Oversize):
            raise FileFault("too_big", f"a line of {line.length / 1e6:.0f} MB is above max_document_mb", number)
        try:
            yield line.decode(encoding) + "\n"
        except UnicodeDecodeError as error:
            raise FileFault("bad_encoding", describe_bytes(line, error.start, encoding), number) from None


def read_parquet(file: Opened) -> Iterator[Record | Bad]:
    """Rows as records, numbered from 1; stripes are shares of the row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Reading through a buffer, not ahead: a row group may be larger than the memory of a worker.
        with ExitStack() as stack:
            there = not isinstance(file.path, Path)  # elsewhere, where parts of a file can be asked for
            source = stack.enter_context(open_read(file.path) if there else on_disk(file))
            table = stack.enter_context(pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False))
            columns = list(file.columns) or None
            row = 0
            for index in range(table.num_row_groups):
                group = table.metadata.row_group(index)
                if not file.mine(index):
                    row += group.num_rows
                    continue
                rows = max(1, min(1024, _BATCH * group.num_rows // max(1, group.total_byte_size)))
                for batch in table.iter_batches(
                    batch_size=rows, row_groups=[index], columns=columns, use_threads=False
                ):
                    yield from _rows(batch, row, file)
                    row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileFault("not_parquet", f"not a whole Parquet file ({str(error).splitlines()[0]})") from None


def read_arrow(file: Opened) -> Iterator[Record | Bad]:
    """Rows of an Arrow file (the stream form that `datasets` writes, or the file form), as `read_parquet` gives them.

    Stripes are shares of the record batches; the file is mapped, so that those of others are not read.
    """
    import pyarrow as pa

    try:
        with on_disk(file) as path, pa.memory_map(str(path)) as source:
            whole = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
            row = 0
            for index, batch in enumerate(batches):
                if file.mine(index):
                    yield from _sliced(batch.select(list(file.columns)) if file.columns else batch, row, file)
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileFault("not_arrow", f"not a whole Arrow file ({str(error).splitlines()[0]})") from None


def _sliced(batch: Any, row: int, file: Opened) -> Iterator[Record | Bad]:
    step = max(1, min(1024, _BATCH * batch.num_rows // max(1, batch.nbytes)))
    for start in range(0, batch.num_rows, step):
        yield from _rows(batch.slice(start, step), row + start, file)


def _rows(batch: Any, before: int, file: Opened) -> Iterator[Record | Bad]:
    for row, fields in enumerate(batch.to_pylist(), before + 1):
        size = sum(len(value) for value in fields.values() if isinstance(value, str))
        yield Record(row, fields, size) if size <= file.limit else _too_big(row, size, fields, file)


def _too_big(row: int, size: int, fields: dict[str, object], file: Opened) -> Bad:
    head = next(value for value in fields.values() if isinstance(value, str))[:EXCERPT]
    return oversize(row, size, head.encode(), file, "utf-8")
