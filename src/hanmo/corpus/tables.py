"""Readers of tables: CSV, TSV and Parquet. See `formats`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from hanmo.corpus.records import EXCERPT, Bad, Opened, Record, open_bytes
from hanmo.corpus.stream import FileFault, Oversize, describe_bytes, lines


def read_csv(file: Opened) -> Iterator[Record | Bad]:
    source, encoding = open_bytes(file.path, file.encoding)
    csv.field_size_limit(file.limit)
    rows = csv.reader(_text_lines(source, encoding, file.limit), delimiter="\t" if file.format == "tsv" else ",")
    header: list[str] = []
    before = 0
    try:
        for row in rows:
            number, before = before + 1, rows.line_num
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Reading through a buffer, not ahead: a row group may be larger than the memory of a worker.
        with pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False) as table:
            columns = list(file.columns) or None
            row = 0
            for group in range(table.num_row_groups):
                if group % file.stripes != file.stripe:
                    row += table.metadata.row_group(group).num_rows
                    continue
                for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=columns, use_threads=False):
                    for fields in batch.to_pylist():
                        row += 1
                        yield Record(row, fields, 0)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise FileFault("not_parquet", f"not a whole Parquet file ({str(error).splitlines()[0]})") from None
