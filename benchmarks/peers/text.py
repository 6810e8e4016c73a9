"""The text of a benchmark in the forms its runners read, all made from one corpus folder.

MiniMind and nanochat take whatever begins a row as the beginning of a text and drop what does not fit, so long
documents would lose most of their text there. They get the documents cut at ends of lines into pieces that fit a row,
so that little is lost or padded. Pieces are shuffled, so that any number of the first are an even sample. Our
engine, the lab script and the Trainer read the token shards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanmo.evaluate.heldout import draw
from hanmo.files import read_jsonl, write_json

#: Rows of a parquet group; nanochat reads a group at a time.
GROUP = 1024


def pieces(text: str, most: int) -> Iterator[str]:
    """Stretches of whole lines of at most `most` UTF-8 bytes; a longer line is cut between characters."""
    held, size = [], 0
    for line in text.splitlines(keepends=True):
        length = len(line.encode())
        if held and size + length > most:
            yield "".join(held)
            held, size = [], 0
        while length > most:
            part = line.encode()[:most].decode(errors="ignore")
            yield part
            line = line[len(part) :]
            length = len(line.encode())
        held.append(line)
        size += length
    if held:
        yield "".join(held)


def training(corpus: Path) -> Iterator[str]:
    """The texts of a corpus's train part."""
    for file in sorted((corpus / "train").glob("*.jsonl.zst")):
        for _, record in read_jsonl(file):
            yield record["text"]


def prepare(data: Path, context: int, heldout_kb: int) -> dict[str, Any]:
    """Write pieces.jsonl (MiniMind), base_data_climbmix/*.parquet (nanochat's name for it) and heldout.json.

    Args:
        data: with a folder `corpus`; the files go beside it. Files of the same settings are left as they are.
        context: tokens of a row; a piece has 2.7 bytes for each, which MiniMind's 6,400 tokens need for Chinese.
        heldout_kb: text to score.
    """
    facts: dict[str, Any] = {"context": context, "heldout_kb": heldout_kb, "form": 1}
    note = data / "prepared.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("settings") == facts:
        return json.loads(note.read_text(encoding="utf-8"))
    folder = data / "nanochat" / "base_data_climbmix"
    folder.mkdir(parents=True, exist_ok=True)
    found = [piece for text in training(data / "corpus") for piece in pieces(text, int(context * 2.7)) if piece.strip()]
    random.Random(0).shuffle(found)
    schema = pa.schema([("text", pa.string())])
    with (data / "pieces.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
        for piece in found:
            lines.write(json.dumps({"text": piece}, ensure_ascii=False) + "\n")
    pq.write_table(pa.table({"text": found}, schema), folder / "shard_00000.parquet", row_group_size=GROUP)
    # A document that alone would fill the text says little: whole documents of moderate size, many of them.
    texts, _ = draw(data / "corpus", 10_000, 1e9)
    chosen, total = [], 0
    for item in texts:
        size = len(item.text.encode())
        if 300 <= size <= 12_000 and total + size <= heldout_kb * 1000:
            chosen.append({"text": item.text, "source": item.source})
            total += size
    # nanochat takes the last file for validation; ours is scored by the benchmark, this one is only there.
    held = pa.table({"text": [item["text"] for item in chosen]}, schema)
    pq.write_table(held, folder / "shard_99999.parquet")
    write_json(data / "heldout.json", chosen)
    result = {"settings": facts, "pieces": len(found), "heldout_documents": len(chosen), "heldout_bytes": total}
    write_json(note, result)
    return result


def heldout(data: Path) -> list[str]:
    """The texts to score."""
    return [item["text"] for item in json.loads((data / "heldout.json").read_text(encoding="utf-8"))]
