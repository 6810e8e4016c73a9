"""Token shards: what is written is what is read, by us and by datatrove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.files import write_json
from hanmo.tokens.shards import ShardWriter, Tokens, dtype_for, open_split, read_info

DOCUMENTS = [[[5, 6, 7, 0], [8, 0]], [], [[0], [9, 10, 0], [65_535, 0]]]


def write(folder: Path, vocab_size: int) -> None:
    for number, documents in enumerate(DOCUMENTS):
        with ShardWriter(folder / "train", number, vocab_size, "abc") as shard:
            for at in range(0, len(documents), 2):  # in batches of two
                batch = documents[at : at + 2]
                ids = np.array([token for document in batch for token in document], np.uint32)
                ends = np.cumsum([len(document) for document in batch])
                shard.write(ids, ends, [10 * len(document) for document in batch], [number] * len(batch))
    info = {"vocab_size": vocab_size, "dtype": dtype_for(vocab_size).str, "eos_id": 0, "sources": ["x", "y", "z"]}
    write_json(folder / "tokens.json", info)


@pytest.mark.parametrize("vocab_size", [1 << 16, (1 << 16) + 1])
def test_a_split_comes_back(tmp_path: Path, vocab_size: int) -> None:
    write(tmp_path, vocab_size)
    split = open_split(tmp_path, "train")
    flat = [document for documents in DOCUMENTS for document in documents]
    assert len(split) == len(flat)
    assert [split.document(index).tolist() for index in range(len(split))] == flat
    assert split.document(-1).tolist() == flat[-1]
    assert split.doc_ends.tolist() == np.cumsum([len(document) for document in flat]).tolist()
    assert split.doc_bytes.tolist() == [10 * len(document) for document in flat]
    assert split.doc_source.tolist() == [0, 0, 2, 2, 2]
    assert split.sources == ["x", "y", "z"]
    assert split.tokens.dtype == dtype_for(vocab_size)
    assert (tmp_path / "train" / "00000.ds").stat().st_size == 6 * split.tokens.dtype.itemsize
    with pytest.raises(IndexError):
        split.document(5)


def test_an_absent_split_has_no_documents(tmp_path: Path) -> None:
    write(tmp_path, 300)
    assert len(open_split(tmp_path, "heldout")) == 0
    assert len(open_split(tmp_path, "heldout").tokens) == 0


def test_unfinished_or_torn_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no tokens\.json"):
        read_info(tmp_path)
    write(tmp_path, 300)
    path = tmp_path / "train" / "00002.ds"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(HanmoError, match=r"00002\.ds: its index does not end where its tokens do"):
        open_split(tmp_path, "train")


def test_a_failing_writer_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path, 0, 300, "abc") as shard:
        shard.write(np.array([1, 0]), np.array([2]), [1], [0])
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@given(
    st.lists(st.lists(st.integers(0, 65_535), max_size=5), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), max_size=10),
)
@settings(max_examples=200, deadline=None)
def test_shards_read_as_one_sequence(parts: list[list[int]], places: list[tuple[int, int]]) -> None:
    flat = [token for part in parts for token in part]
    tokens = Tokens([np.array(part, "<u2") for part in parts])
    assert len(tokens) == len(flat)
    assert tokens[:].tolist() == flat
    for start, stop in places:
        assert tokens[start:stop].tolist() == flat[start:stop]
        assert tokens[start:stop].dtype == np.dtype("<u2")
    assert [int(tokens[index]) for index in range(-len(flat), len(flat))] == flat + flat
    with pytest.raises(IndexError):
        tokens[len(flat)]
    with pytest.raises(ValueError, match="step"):
        tokens[::2]


@pytest.mark.parametrize("vocab_size", [1000, 100_000])
def test_datatrove_reads_our_shards(tmp_path: Path, vocab_size: int) -> None:
    dataset = pytest.importorskip("datatrove.utils.dataset")
    chooser = np.random.default_rng(1)
    documents = [[*chooser.integers(1, 1000, chooser.integers(1, 9)).tolist(), 0] for _ in range(40)]
    for number in range(2):
        part = documents[20 * number : 20 * number + 20]
        with ShardWriter(tmp_path, number, vocab_size, "abc") as shard:
            ends = np.cumsum([len(document) for document in part])
            shard.write(np.concatenate([np.array(d) for d in part]), ends, [1] * 20, [0] * 20)
    size = dtype_for(vocab_size).itemsize
    for number in range(2):
        flat = np.concatenate([np.array(d) for d in documents[20 * number : 20 * number + 20]])
        found = dataset.DatatroveFileDataset(
            str(tmp_path / f"{number:05d}.ds"), seq_len=9, token_size=size, return_positions=False
        )
        read = np.concatenate([found[index]["input_ids"].numpy() for index in range(len(found))])
        assert read.tolist() == flat[: len(flat) // 10 * 10].tolist()
    folder = dataset.DatatroveFolderDataset(str(tmp_path), seq_len=9, token_size=size, filename_pattern="*.ds")
    assert len(folder) == sum(len(part) for part in folder.files)
    assert folder[0]["input_ids"].tolist() == [token for document in documents for token in document][:10]


def test_the_metadata_is_what_datatrove_writes(tmp_path: Path) -> None:
    tokens = pytest.importorskip("datatrove.pipeline.tokens.tokenizer")
    theirs = tokens.TokenizedFile(
        str(tmp_path / "theirs"), "00000.ds", tokenizer_name_or_path="abc", save_final_metadata=True
    )
    theirs.write([5, 6, 0], None)
    theirs.write([7, 0], None)
    theirs.close()
    with ShardWriter(tmp_path / "ours", 0, 300, "abc") as shard:
        shard.write(np.array([5, 6, 0, 7, 0]), np.array([3, 5]), [1, 1], [0, 0])
    for name in ("00000.ds", "00000.ds.index", "00000.ds.metadata"):
        ours, other = (tmp_path / side / name for side in ("ours", "theirs"))
        first, second = (path.read_bytes().splitlines()[:2] for path in (ours, other))
        assert first == second
