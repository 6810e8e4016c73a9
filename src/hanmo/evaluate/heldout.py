"""Which held-out documents are scored: an even draw that does not change when the corpus is written in other shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import Text
from hanmo.files import read_jsonl


def records(corpus: Path) -> Iterator[dict[str, Any]]:
    """All held-out records of a corpus folder, in the order of its files.

    Raises:
        HanmoError: the folder holds no held-out part.
    """
    folder = corpus / "heldout"
    files = sorted(folder.glob("*.jsonl.zst")) if folder.is_dir() else []
    if not files:
        raise HanmoError(f"{corpus}: no held-out text (no heldout/*.jsonl.zst); give the folder of a corpus stage")
    for file in files:
        for line, record in read_jsonl(file):
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise HanmoError(f"{file}:{line}: no field 'text'; give the folder of a corpus stage")
            yield record


def draw(corpus: Path, most_documents: int, most_bytes: float) -> tuple[list[Text], dict[str, int]]:
    """Held-out documents in the order of a hash of their ids, until a limit is reached.

    The order is that of chance, so every source has its share. A document larger than the bytes that are left is passed
    over (and counted), but the first one is always taken. Only ids and sizes are held while the choice is made.

    Returns:
        The documents, and the counts {documents, bytes, of_documents, of_bytes, passed_over}.
    """
    sizes: list[tuple[int, int, int]] = []
    for number, record in enumerate(records(corpus)):
        key = xxhash.xxh64_intdigest(str(record.get("id", number)).encode())
        sizes.append((key, number, len(record["text"].encode())))
    wanted: set[int] = set()
    taken = passed_over = 0
    for _, number, size in sorted(sizes):
        if len(wanted) == most_documents or (wanted and taken >= most_bytes):
            break
        if wanted and taken + size > most_bytes:
            passed_over += 1
            continue
        wanted.add(number)
        taken += size
    texts = [
        Text(record["text"], str(record.get("source") or ""))
        for number, record in enumerate(records(corpus))
        if number in wanted
    ]
    return texts, {
        "documents": len(texts),
        "bytes": taken,
        "of_documents": len(sizes),
        "of_bytes": sum(size for _, _, size in sizes),
        "passed_over": passed_over,
    }
