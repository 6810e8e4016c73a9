"""The tokens stage: a corpus and a tokenizer in, token shards out, one for every file of the corpus.

Shards are written by worker processes, whole or not at all, so that a killed stage goes on with those that are missing.
Only a few megabytes of text are in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.console import console, human_bytes, human_count
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, fingerprint_json, fingerprint_path, read_json, read_jsonl, write_json
from hanmo.pool import run_phase
from hanmo.remote import brought, files_below, is_remote, remove_tree, work_of
from hanmo.tokenizer import end_of_document, load
from hanmo.tokenizer.encode import BulkEncoder
from hanmo.tokenizer.forms.pinyin import VOCABULARY as PINYIN
from hanmo.tokenizer.forms.pinyin import Reader, has_pinyin, read_classes
from hanmo.tokens.settings import TokensSettings
from hanmo.tokens.shards import ShardWriter, beside, dtype_for

#: Characters encoded in one go.
BATCH = 1 << 20
SPLITS = ("train", "heldout")
#: Changes when the same corpus and tokenizer give other files.
_VERSION = 2


@dataclass(frozen=True)
class EncodeTask:
    """One file of the corpus; travels to a worker."""

    path: Path
    folder: Path
    number: int
    tokenizer: Path
    fingerprint: str
    vocab_size: int
    eos: int
    sources: tuple[str, ...]

    @property
    def done(self) -> Path:
        return self.folder / f"{self.number:05d}.ds.metadata"


def run(settings: TokensSettings, inputs: dict[str, list[Path]], out: Path) -> dict[str, Any]:
    """Encode a corpus into `out`: train/ and heldout/ (see `shards`) and tokens.json.

    Args:
        inputs: roles "corpus" and "tokenizer", one folder each.

    Returns:
        counts of tokens, documents and bytes of each split.

    Raises:
        HanmoError: a folder is not what its role says.
    """
    corpus, tokenizer = inputs["corpus"][0], brought(inputs["tokenizer"][0])
    files = {
        split: [path for path, name in files_below(corpus / split) if name.endswith(".jsonl.zst")] for split in SPLITS
    }
    if not files["train"]:
        raise HanmoError(f"{corpus}: no train/*.jsonl.zst there; give a folder made by `hanmo corpus`")
    vocab_size, eos, fingerprint = _describe(tokenizer)
    sources = _sources(corpus, [path for split in SPLITS for path in files[split]])
    plan = fingerprint_json(
        [_VERSION, fingerprint, list(sources), {s: [[p.name, fingerprint_path(p)] for p in files[s]] for s in SPLITS}]
    )
    _prepare(out, plan)

    tasks = [
        EncodeTask(path, out / split, number, tokenizer, fingerprint, vocab_size, eos, sources)
        for split in SPLITS
        for number, path in enumerate(files[split])
    ]
    run_phase("encoding", encode, tasks, settings, out)

    # What reads the shards needs the tokenizer as well: the folder is complete in itself.
    for path, name in files_below(tokenizer):
        if not name.endswith(".json.lock") and not name.startswith("."):
            with path.open("rb") as source, atomic_write(out / "tokenizer" / name, "wb") as copy:
                shutil.copyfileobj(source, copy)
    info: dict[str, Any] = {
        "vocab_size": vocab_size,
        "dtype": dtype_for(vocab_size).str,
        "eos_id": eos,
        "tokenizer": fingerprint,
        "sources": list(sources),
        "plan": plan,
        **({"pinyin": len(read_classes(tokenizer / PINYIN))} if has_pinyin(tokenizer) else {}),
        **{split: _amount(out / split, len(sources)) for split in SPLITS},
        "shards": {
            split: [
                {"name": path.stem} | read_json(beside(path, ".json"))
                for path, name in files_below(out / split)
                if name.endswith(".ds")
            ]
            for split in SPLITS
        },
    }
    write_json(out / "tokens.json", info)
    remove_tree(work_of(out))
    train = info["train"]
    console.print(
        f"{human_count(train['tokens'])} tokens to train on, {train['bytes'] / max(1, train['tokens']):.2f} bytes each "
        f"({human_bytes(train['bytes'])}); {human_count(info['heldout']['tokens'])} held out",
        soft_wrap=True,
    )
    return {split: {name: info[split][name] for name in ("tokens", "documents", "bytes")} for split in SPLITS}


def _describe(tokenizer: Path) -> tuple[int, int, str]:
    """(vocabulary size, id that closes documents, fingerprint) of a tokenizer folder."""
    loaded = load(tokenizer)
    backend = loaded.backend_tokenizer
    # Ids may have gaps, and padding a vocabulary costs nothing.
    size = max(backend.get_vocab_size(), max(backend.get_vocab().values()) + 1)
    files = [tokenizer / name for name in ("tokenizer.json", "vocab.txt", "tokenizer.model", PINYIN)]
    if files[0].is_file() and not files[-1].is_file():
        return size, end_of_document(tokenizer), fingerprint_path(files[0])
    parts = [fingerprint_path(path) for path in files if path.is_file()]
    return size, end_of_document(tokenizer), fingerprint_json(parts)


def _sources(corpus: Path, files: list[Path]) -> tuple[str, ...]:
    """The names of a corpus's sources, from its statistics; from its documents where it has none."""
    stats = corpus / "stats.json"
    if stats.is_file():
        return tuple(read_json(stats)["sources"])
    return tuple(sorted({str(record.get("source", "")) for path in files for _, record in read_jsonl(path)}))


def _prepare(out: Path, plan: str) -> None:
    """Keep finished shards of the same plan; clear away anything else that is ours."""
    record = out / "plan.json"
    same = record.is_file() and read_json(record) == {"plan": plan}
    for split in SPLITS:
        folder = out / split
        if not same:
            remove_tree(folder)
        if not is_remote(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for torn in [*folder.glob(".*.tmp"), *out.glob(".*.tmp")]:
                torn.unlink()
    (out / "tokens.json").unlink(missing_ok=True)
    write_json(record, {"plan": plan})


@lru_cache(maxsize=1)
def _encoder(tokenizer: Path, fingerprint: str) -> BulkEncoder:
    return BulkEncoder(tokenizer)


@lru_cache(maxsize=1)
def _reader(tokenizer: Path, fingerprint: str) -> Reader | None:
    return Reader(tokenizer) if has_pinyin(tokenizer) else None


def encode(task: EncodeTask) -> None:
    """Encode one file of the corpus into one shard."""
    encoder = _encoder(task.tokenizer, task.fingerprint)
    reader = _reader(task.tokenizer, task.fingerprint)
    index = {name: number for number, name in enumerate(task.sources)}
    with ShardWriter(task.folder, task.number, task.vocab_size, task.fingerprint) as shard:
        for texts, names in _batches(task.path):
            ids, ends = encoder.encode_flat(texts)
            # Every document moves right by the ends of those before it, and its own end follows it.
            closed = np.insert(ids, ends.astype(np.int64), task.eos)
            ends = ends + np.arange(1, len(ends) + 1, dtype=np.uint64)
            try:
                source = [index[name] for name in names]
            except KeyError as error:
                raise HanmoError(f"{task.path}: source {error} is not in the corpus's stats.json") from None
            pinyin = None
            if reader is not None:
                pinyin = reader.documents(closed, ends)
            shard.write(closed, ends, [len(text.encode()) for text in texts], source, pinyin)


def _batches(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    texts: list[str] = []
    names: list[str] = []
    size = 0
    for number, record in read_jsonl(path):
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise HanmoError(f"{path}:{number}: no field 'text' with the document's text")
        texts.append(text)
        names.append(str(record.get("source", "")))
        size += len(text)
        if size >= BATCH:
            yield texts, names
            texts, names, size = [], [], 0
    if texts:
        yield texts, names


def _amount(folder: Path, sources: int) -> dict[str, Any]:
    """Tokens, documents and bytes of a split, and the same by source, from what stands beside its shards."""
    totals = np.zeros((3, sources), np.int64)
    for path, _ in (item for item in files_below(folder) if item[1].endswith(".ds")):
        for index, amounts in read_json(beside(path, ".json"))["by_source"].items():
            totals[:, int(index)] += amounts
    names = ("documents", "tokens", "bytes")
    shown = ("tokens", "documents", "bytes")
    total = dict(zip(names, totals.sum(1).tolist(), strict=True))
    by_source = [dict(zip(names, column, strict=True)) for column in totals.T.tolist()]
    return {name: total[name] for name in shown} | {"by_source": [{n: part[n] for n in shown} for part in by_source]}
