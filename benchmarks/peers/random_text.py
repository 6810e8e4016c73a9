"""Random documents where only speed is measured, in the forms that the runners read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hanmo.files import write_json
from hanmo.tokens.shards import ShardWriter


def documents(vocab: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Random documents of 20 to 600 tokens (about 200 on average), ended by id 0: (tokens, exclusive ends)."""
    generator = np.random.Generator(np.random.PCG64(0))
    lengths, size = [], 0
    while size < total:
        lengths.append(int(min(600, 20 + generator.exponential(180))))
        size += lengths[-1]
    tokens = generator.integers(3, vocab, size)
    ends = np.cumsum(lengths)
    tokens[ends - 1] = 0
    return tokens.astype(np.uint16), ends


def write(data: Path, vocab: int, context: int, total: int) -> None:
    """Fill `data` with tokens/ (with a tokenizer that only has to be there), pieces.jsonl and what nanochat reads.

    MiniMind and nanochat tokenize themselves. Their texts have as many characters as the documents have tokens, drawn
    from 3,666 common ones (of level 1 of GB 2312), for most of which they have tokens.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import pre_tokenizers, trainers

    from hanmo.tokenizer import build, skeleton
    from hanmo.tokenizer.chat import SPECIAL_TOKENS

    tokens, ends = documents(vocab, total)
    folder = data / "tokens"
    for split in ("train", "heldout"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        with ShardWriter(folder / split, 0, vocab, "none") as shard:
            shard.write(tokens, ends, np.diff(ends, prepend=0) * 3, np.zeros(len(ends), np.int64))
    amount = {"tokens": len(tokens), "documents": len(ends), "bytes": 3 * len(tokens)}
    amounts = amount | {"by_source": [amount]}
    shards = [{"name": "00000"} | json.loads((folder / "train" / "00000.json").read_text(encoding="utf-8"))]
    write_json(
        folder / "tokens.json",
        {
            "vocab_size": vocab,
            "dtype": "<u2",
            "eos_id": 0,
            "tokenizer": "none",
            "sources": ["random"],
            "train": amounts,
            "heldout": amounts,
            "shards": {"train": shards, "heldout": shards},
        },
    )
    tokenizer = skeleton()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["random"], trainer)
    build(tokenizer, folder / "tokenizer")
    generator = np.random.default_rng(0)
    common = bytes(b for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFF) for b in (row, cell)).decode("gb2312")
    texts = []
    for length in np.diff(ends, prepend=0):
        texts.append("".join(common[n] for n in generator.integers(0, len(common), int(min(length, context - 2)))))
    with (data / "pieces.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
        for text in texts:
            lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    home = data / "nanochat" / "base_data_climbmix"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("shard_00000", "shard_99999"):
        pq.write_table(pa.table({"text": texts}), home / f"{name}.parquet", row_group_size=1024)
