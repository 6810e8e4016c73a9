"""Text for a masked model: documents opened by [CLS], from tokens folders as from task files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from hanmo.corpus.readers.tasks import read_records
from hanmo.corpus.records import Bad, Opened
from hanmo.corpus.stream import FileFault
from hanmo.corpus.tasks import texts_of
from hanmo.errors import HanmoError
from hanmo.tokens.shards import Shard, Split, dtype_for, split_of

#: Of task files, one document in so many is held out, by its text.
_HELD_OUT = 50
_ENDINGS = (".json", ".jsonl")


class _Opened:
    """The tokens of a shard with an opening id before every document (a `Part`)."""

    def __init__(self, shard: Shard, opening: int) -> None:
        self._shard, self._opening, self.dtype = shard, opening, shard.dtype

    def __len__(self) -> int:
        return len(self._shard) + self._shard.documents

    @cached_property
    def ends(self) -> NDArray[np.uint64]:
        own = self._shard.ends
        return own + np.arange(1, len(own) + 1, dtype=np.uint64)

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            index = range(len(self))[place]
            return self[index : index + 1][0]
        start, stop, _ = place.indices(len(self))
        stop = max(start, stop)
        # Openings stand where documents begin: at 0 and at every end.
        first, last = (self._openings_before(at) for at in (start, stop))
        found = np.empty(stop - start, self.dtype)
        begins = self.ends[max(first, 1) - 1 : max(last, 1) - 1].astype(np.int64) - start
        if first == 0 < last:
            begins = np.concatenate([np.zeros(1, np.int64), begins])
        text = np.ones(len(found), bool)
        text[begins] = False
        found[begins] = self._opening
        found[text] = self._shard.tokens[start - first : stop - last]
        return found

    def _openings_before(self, place: int) -> int:
        """Openings at places below `place`."""
        return int(np.searchsorted(self.ends, place, side="left")) + 1 if place > 0 else 0


class OpenedShard(Shard):
    """A shard of documents that are opened by an id ([CLS]) which the shard on the disk does not have."""

    def __init__(self, shard: Shard, opening: int) -> None:
        tokens = _Opened(shard, opening)
        super().__init__(shard.path, shard.dtype, {"tokens": len(tokens), "documents": shard.documents})
        self._own, self._opened = shard, tokens

    @property
    def tokens(self) -> Any:  # type: ignore[override]
        """All ids [tokens], by slices."""
        return self._opened

    @property
    def ends(self) -> NDArray[np.uint64]:  # type: ignore[override]
        """Exclusive ends of the documents [documents]."""
        return self._opened.ends

    @property
    def source(self) -> NDArray[np.uint16]:  # type: ignore[override]
        """Index into the sources [documents]."""
        return self._own.source

    @property
    def amounts(self) -> dict[int, tuple[int, int]]:  # type: ignore[override]
        """Index of each source that it has documents of -> (documents, tokens)."""
        return {index: (documents, tokens + documents) for index, (documents, tokens) in self._own.amounts.items()}


def with_openings(split: Split, opening: int) -> Split:
    """A split whose documents begin with the id `opening`."""
    return Split([OpenedShard(shard, opening) for shard in split.shards], split.sources)


def is_task(path: Path) -> bool:
    """Whether that is a task file, or a folder of them, and not a tokens folder."""
    return path.is_file() or (path.is_dir() and not (path / "tokens.json").exists() and bool(_files(path)))


def task_splits(paths: Sequence[Path], tokenizer: PreTrainedTokenizerFast) -> tuple[Split, Split]:
    """(training, held-out) documents of task files: `[CLS] text [SEP]`, of pairs `[CLS] one [SEP] other [SEP]`.

    What repeats is taken once. The source of a document is its file's name.

    Raises:
        HanmoError: a file that cannot be read, or holds no records of a known form.
    """
    opening, closing = tokenizer.cls_token_id, tokenizer.sep_token_id
    if opening is None or closing is None:
        raise HanmoError("objective: masked needs a tokenizer with [CLS] and [SEP]")
    sources: list[str] = []
    documents: list[tuple[list[int], int, bool]] = []
    seen: set[int] = set()
    for path in paths:
        for file in [path] if path.is_file() else _files(path):
            name = file.stem if path.is_file() else file.relative_to(path).with_suffix("").as_posix()
            sources.append(name)
            for texts in _texts(file):
                key = xxhash.xxh3_64_intdigest("\n".join(texts).encode())
                if key in seen:
                    continue
                seen.add(key)
                encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                ids: list[int] = [opening, *(index for part in encoded for index in (*part, closing))]  # type: ignore[misc]
                documents.append((ids, len(sources) - 1, key % _HELD_OUT == 0))
    if not documents:
        raise HanmoError(f"{paths[0]}: no records of a task there; give CLUE's .json files or a tokens folder")
    return tuple(_split([d for d in documents if d[2] == held], sources, len(tokenizer)) for held in (False, True))  # type: ignore[return-value]


def _split(documents: list[tuple[list[int], int, bool]], sources: list[str], vocab_size: int) -> Split:
    lengths = np.array([len(ids) for ids, _, _ in documents], np.int64)
    flat = np.array([index for ids, _, _ in documents for index in ids], dtype_for(vocab_size))
    return split_of(flat, np.cumsum(lengths), np.array([source for _, source, _ in documents], np.uint16), sources)


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _texts(file: Path) -> Iterator[list[str]]:
    """The texts of each record of a task's file."""
    try:
        for line, record in read_records(Opened(file, "task")):
            if isinstance(record, Bad):
                raise HanmoError(f"{file}:{line}: {record.detail}; mend the file")
            texts = texts_of(record)
            if texts is None:
                there = ", ".join(list(record)[:8])
                raise HanmoError(
                    f"{file}:{line}: a record of no known task (fields: {there}); make a corpus of it "
                    "(`hanmo corpus`, `text: [...]`) and give its tokens folder"
                )
            if texts:
                yield texts
    except FileFault as fault:
        raise HanmoError(f"{file}: {fault.detail}; mend the file") from None
    except OSError as error:
        raise HanmoError(f"{file}: cannot be read ({error.strerror})") from None
