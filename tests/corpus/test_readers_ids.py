"""Token ids of other projects come back as the texts they were made of."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_corpus_stage import article, documents, make

from hanmo.corpus.formats import read
from hanmo.corpus.readers import ids as ids_module
from hanmo.corpus.readers.decoders import decoder_of
from hanmo.corpus.readers.ids import example, masked
from hanmo.corpus.records import Bad, Opened, Record
from hanmo.corpus.settings import CorpusSettings, Source
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError

TEXTS = [article(number) + f"\nNo. {number}，“{number}度”。" for number in range(12)]


# What writes such files: the wire format of protocol buffers and the framing, from their specifications ---------------


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def serialised(features: dict[str, list[int]], packed: bool = True) -> bytes:
    entries = b""
    for name, values in features.items():
        numbers = (
            field(1, b"".join(map(varint, values))) if packed else b"".join(varint(1 << 3) + varint(v) for v in values)
        )
        entries += field(1, field(1, name.encode()) + field(2, field(3, numbers)))
    return field(1, entries + field(1, field(1, b"name") + field(2, field(1, field(1, b"bytes")))))


def framed(payloads: list[bytes]) -> bytes:
    out = b""
    for data in payloads:
        head = struct.pack("<Q", len(data))
        out += head + struct.pack("<I", masked(google_crc32c.value(head)))
        out += data + struct.pack("<I", masked(google_crc32c.value(data)))
    return out


def test_the_masked_checksum_is_that_of_the_specification() -> None:
    # crc32c("123456789") is 0xe3069283 (RFC 3720); the mask is rotate right by 15, plus 0xa282ead8.
    crc = google_crc32c.value(b"123456789")
    assert crc == 0xE3069283
    assert masked(crc) == ((((crc >> 15) | (crc << 17)) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)


@given(st.dictionaries(st.text(max_size=8), st.lists(int64, max_size=40), max_size=4), st.booleans())
def test_any_example_comes_back(features: dict[str, list[int]], packed: bool) -> None:
    features.pop("name", None)
    found = example(serialised(features, packed))
    assert {name: values.tolist() for name, values in found.items()} == features


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_example_reader(data: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        example(data)


@given(
    st.lists(st.lists(st.integers(0, 399), min_size=1, max_size=20), max_size=6), st.integers(0, 10**6), st.booleans()
)
def test_any_framing_is_read_whole_or_its_tear_told(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer_dir: Path,
    rows: list[list[int]],
    place: int,
    flip: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tfrecord"
    data = framed([serialised({"data": row}) for row in rows])
    path.write_bytes(data)
    opened = Opened(path, "tfrecord", tokenizer=str(tiny_tokenizer_dir))
    decoder = decoder_of(str(tiny_tokenizer_dir))
    whole = list(read(opened))
    assert [item.fields["text"] for item in whole if isinstance(item, Record)] == [decoder.text(row) for row in rows]
    if not data:
        return
    place %= len(data)
    bent = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :] if flip else data[:place]
    path.write_bytes(bent)
    found = []
    try:
        found.extend(read(opened))
    except FileFault as fault:
        assert fault.reason in ("torn_record", "too_big")
    else:
        assert not flip
    assert found == whole[: len(found)]
    assert len(found) < len(whole)


# Round trips --------------------------------------------------------------------------------------------------------


def encode(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecords.gz", "gzip-under-another-name.tfrecords"])
def test_linglongs_tfrecords(tmp_path: Path, tiny_tokenizer_dir: Path, name: str) -> None:
    rows = [encode(tiny_tokenizer_dir, text) for text in TEXTS]
    payloads = [
        serialised({"data": [*row, 5, 5], "attention_mask": [1] * len(row) + [0, 0]}, packed=bool(number % 2))
        for number, row in enumerate(rows)
    ]
    data = framed([*payloads, serialised({"label": [1]}), b"\xff\xff"])
    (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
    opened = Opened(tmp_path / name, "tfrecord", tokenizer=str(tiny_tokenizer_dir))
    items = list(read(opened))
    assert [item.fields["text"] for item in items if isinstance(item, Record)] == TEXTS
    assert [(item.line, item.reason) for item in items if isinstance(item, Bad)] == [
        (13, "no_text"),
        (14, "not_example"),
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_tinyllamas_npz(
    tmp_path: Path, tiny_tokenizer_dir: Path, compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [encode(tiny_tokenizer_dir, text) for text in TEXTS]
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "a.npz", input_ids=np.array([id_ for row in rows for id_ in (*row, 2)], np.uint16))
    opened = Opened(tmp_path / "a.npz", "npz", tokenizer=str(tiny_tokenizer_dir), end_id=2)
    for piece in (7, 1 << 16):
        monkeypatch.setattr(ids_module, "PIECE", piece)
        assert [item.fields["text"] for item in read(opened) if isinstance(item, Record)] == TEXTS
    halves = [
        item for stripe in (0, 1) for item in read(Opened(**{**fields_of(opened), "stripe": stripe, "stripes": 2}))
    ]
    assert len(halves) == len(TEXTS)

    # Nothing between the documents: windows, none of which ends inside a character.
    save(tmp_path / "b.npz", input_ids=np.array([id_ for row in rows for id_ in row], np.uint16))
    for window in (11, 50, 10_000):
        monkeypatch.setattr(ids_module, "WINDOW", window)
        items = list(read(Opened(tmp_path / "b.npz", "npz", tokenizer=str(tiny_tokenizer_dir))))
        found = [item.fields["text"] for item in items if isinstance(item, Record)]
        assert "".join(found) == "".join(TEXTS)
        assert not any("\ufffd" in text for text in found)


def fields_of(opened: Opened) -> dict:
    return {name: getattr(opened, name) for name in Opened.__dataclass_fields__}


def test_tiny_llms_bin_with_sentencepiece(tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TEXTS for line in text.split("\n")] * 5),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = spm.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    eos = processor.eos_id()
    row = [id_ for text in TEXTS for id_ in (*processor.encode(text), eos)]
    added = processor.get_piece_size() + 1  # a control token behind the model's pieces, as ChatGLM3 has
    path = tmp_path / "a.bin"
    path.write_bytes(np.array([added, *row], "<u2").tobytes())
    opened = Opened(path, "bin", tokenizer=str(tmp_path))
    assert [item.fields["text"] for item in read(opened) if isinstance(item, Record)] == TEXTS
    too_big = list(read(Opened(path, "bin", tokenizer=str(tmp_path), limit=20)))
    assert {getattr(item, "reason", "") for item in too_big} == {"too_big"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFault, match="multiple of 2"):
        list(read(opened))
    path.write_bytes(np.array([60_000, eos, 5, eos], "<u2").tobytes())
    first, second = read(opened)
    assert isinstance(first, Bad)
    assert (first.reason, isinstance(second, Record)) == ("unknown_id", True)


def test_vocabularies_with_a_token_a_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "床", "前", "明", "##s", "the", "moon", "2", "0", "，", "["])
        + "\n",
        encoding="utf-8",
    )
    decoder = decoder_of(str(tmp_path))
    ids = [2, 4, 5, 12, 3, 8, 9, 7, 6, 10, 11, 1, 13, 0]
    assert decoder.text(ids) == "床前，\nthe moons明20\ufffd["
    (tmp_path / "word").mkdir()
    (tmp_path / "word" / "vocab.txt").write_text("[UNK]\n<s>\n</s>\n▃\n▂\n银行\n卡\u2028\n", encoding="utf-8")
    words = decoder_of(str(tmp_path / "word"))
    assert words.text([1, 5, 4, 6, 3, 5, 2]) == "银行 卡\u2028\n银行"
    assert (words.size, words.end_id) == (7, 2)


def test_ids_without_their_tokenizer_are_one_clear_line(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    np.savez(tmp_path / "a.npz", input_ids=np.arange(9, dtype=np.uint16))
    (tmp_path / "a.bin").write_bytes(bytes(8))

    def refused(**source) -> str:
        with pytest.raises(HanmoError) as caught:
            make(CorpusSettings(sources=[Source(**source)]), tmp_path / "out")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "name the `tokenizer:`" in refused(path=str(tmp_path / "a.npz"))
    assert "name the `tokenizer:`" in refused(path=str(tmp_path / "a.bin"))
    assert "no tokenizer there" in refused(path=str(tmp_path / "a.npz"), tokenizer=str(tmp_path))
    (tmp_path / "vocab.txt").write_text("甲\n乙\n", encoding="utf-8")
    assert "give `end_id`" in refused(path=str(tmp_path / "a.bin"), tokenizer=str(tmp_path))
    np.savez(tmp_path / "b.npz", ids=np.arange(9))
    line = refused(path=str(tmp_path / "b.npz"), tokenizer=str(tiny_tokenizer_dir))
    assert "no array 'input_ids'" in line
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:60])
    assert "not a whole npz" in refused(path=str(tmp_path / "c.npz"), tokenizer=str(tiny_tokenizer_dir))


def test_ids_become_a_corpus(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    (tmp_path / "raw").mkdir()
    rows = [encode(tiny_tokenizer_dir, text) for text in TEXTS]
    (tmp_path / "raw" / "a.tfrecords").write_bytes(framed([serialised({"data": row}) for row in rows[:6]]))
    (tmp_path / "raw" / "b.bin").write_bytes(np.array([id_ for row in rows[6:] for id_ in (*row, 2)], "<u2").tobytes())
    source = Source(path=str(tmp_path / "raw"), tokenizer=str(tiny_tokenizer_dir), end_id=2)
    make(CorpusSettings(sources=[source], workers=1, heldout_fraction=0), tmp_path / "out")
    assert sorted(record["text"] for record in documents(tmp_path / "out" / "train")) == sorted(TEXTS)
