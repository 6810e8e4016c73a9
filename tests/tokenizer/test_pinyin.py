"""Pinyin ids: the phrase's reading, and the same id in training as in generation, whatever comes behind."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pypinyin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import TEXT
from transformers import PreTrainedTokenizerFast

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, read_json, read_jsonl, write_json
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import encode_text
from hanmo.tokenizer.forms import pinyin
from hanmo.tokens import stage
from hanmo.tokens.settings import TokensSettings
from hanmo.tokens.shards import open_split, read_info

PHRASES = "银行行长重庆的重量长大会计会议音乐快乐便宜方便朝阳朝代还是归还得到觉得睡觉觉得差不多出差参差"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pinyin")
    pinyin.build([(TEXT + PHRASES) * 3], 633, out)
    return out


@pytest.fixture(scope="module")
def reader(folder: Path) -> pinyin.Reader:
    return pinyin.Reader(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return load(folder)


def syllables(reader: pinyin.Reader, folder: Path, text: str) -> list[str]:
    classes = pinyin.read_classes(folder / "pinyin.txt")
    reader.reset()
    return [classes[index][0] for index in reader.ids(encode_text(load(folder), text))]


def test_phrases_decide(reader: pinyin.Reader, folder: Path) -> None:
    assert syllables(reader, folder, "银行") == ["yín", "háng"]
    assert syllables(reader, folder, "行长") == ["xíng", "zhǎng"]
    assert syllables(reader, folder, "音乐，快乐") == ["yīn", "yuè", "“", "kuài", "lè"]
    # Nothing behind a character is looked at: 便 is read before 宜 is there.
    assert syllables(reader, folder, "便宜a1 ") == ["biàn", "yi", "!", "!", "[OTHER]"]


def test_classes(reader: pinyin.Reader, folder: Path) -> None:
    tokenizer = load(folder)
    assert reader.push(0) == pinyin.SPECIAL
    ids = reader.ids(encode_text(tokenizer, "，a龘"))
    # 龘 is no token: two bytes that end nowhere, and the third completes it.
    classes = pinyin.read_classes(folder / "pinyin.txt")
    assert ids.tolist()[:4] == [pinyin.PUNCTUATION, pinyin.LETTER, pinyin.OTHER, pinyin.OTHER]
    assert classes[ids[4]] == ["dá"]
    assert ids.dtype == np.uint16
    assert len(classes) == reader.size > 1300


han = st.text(st.sampled_from(PHRASES + "春天到了花园里的，。a1 \n"), max_size=30)


@given(han, han)
@settings(max_examples=300)
def test_ids_never_change_when_text_is_added(
    reader: pinyin.Reader, tokenizer: PreTrainedTokenizerFast, first: str, second: str
) -> None:
    one, two = encode_text(tokenizer, first), encode_text(tokenizer, second)
    reader.reset()
    training = reader.ids(one + two).tolist()
    # Generation: the prompt at once, then one token after the other, in a reader of its own.
    generation = pinyin.Reader.__new__(pinyin.Reader)
    generation.__dict__.update(reader.__dict__)
    generation.reset()
    found = generation.ids(one).tolist()
    for token in two:
        found.append(generation.push(token))
    assert found == training
    reader.reset()
    assert reader.ids(one).tolist() == training[: len(one)]


@given(st.text(st.sampled_from(PHRASES), min_size=1, max_size=25))
@settings(max_examples=300)
def test_the_rule_is_pypinyins_on_what_stands_before(text: str) -> None:
    run = ""
    for end, character in enumerate(text, 1):
        run = pinyin.still_open(run + character)
        assert pinyin.reading(run) == pypinyin.pinyin(text[:end])[-1][0]


def test_real_text_by_the_rule_and_by_whole_sentences(shared_data: Path) -> None:
    path = shared_data / "pretrain" / "luxun_zh.jsonl.zst"
    same = total = 0
    for _, record in islice(read_jsonl(path), 8):
        for stretch in re.findall("[一-龥]+", record["text"])[:60]:
            whole = [found[0] for found in pypinyin.pinyin(stretch)]
            run = ""
            for end, character in enumerate(stretch, 1):
                run = pinyin.still_open(run + character)
                found = pinyin.reading(run)
                assert found == pypinyin.pinyin(stretch[:end])[-1][0]
                same += found == whole[end - 1]
                total += 1
    assert total > 1000
    assert same / total > 0.97


def test_the_stream_beside_the_tokens(folder: Path, tmp_path: Path) -> None:
    texts = ["银行行长说：便宜。", "𠮷野家 abc", "", "重庆" * 200]
    for split, documents in (("train", texts), ("heldout", ["长大"])):
        with JsonlZstWriter(tmp_path / "corpus" / split / "00000.jsonl.zst") as file:
            for text in documents:
                file.write({"id": "", "text": text, "source": "a", "meta": {}})
        with JsonlZstWriter(tmp_path / "corpus" / split / "00001.jsonl.zst") as file:
            if split == "train":
                file.write({"id": "", "text": "再见", "source": "a", "meta": {}})
    write_json(tmp_path / "corpus" / "stats.json", {"sources": {"a": {}}})
    inputs = {"corpus": [tmp_path / "corpus"], "tokenizer": [folder]}
    stage.run(TokensSettings(workers=2), inputs, tmp_path / "out")
    split = open_split(tmp_path / "out", "train")
    assert split.pinyin is not None
    assert len(split.pinyin) == len(split.tokens)
    assert read_info(tmp_path / "out")["pinyin"] == len(pinyin.read_classes(folder / "pinyin.txt"))
    assert read_info(tmp_path / "out")["eos_id"] == 0
    reader = pinyin.Reader(tmp_path / "out" / "tokenizer")
    start = 0
    for end in split.doc_ends.tolist():
        reader.reset()
        assert split.pinyin[start:end].tolist() == reader.ids(split.tokens[start:end].tolist()).tolist()
        assert split.pinyin[end - 1] == pinyin.SPECIAL
        start = end
    column = np.load(tmp_path / "out" / "train" / "00000.pinyin.npy")
    assert column.dtype == np.uint16
    np.save(tmp_path / "out" / "train" / "00000.pinyin.npy", column[:-1])
    found = open_split(tmp_path / "out", "train").pinyin
    assert found is not None
    with pytest.raises(HanmoError, match="pinyin and its tokens differ"):
        found[0]


def test_another_pypinyin_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "old")
    about = read_json(tmp_path / "old" / "pinyin.json")
    write_json(tmp_path / "old" / "pinyin.json", {**about, "pypinyin": "0.1"})
    pinyin.Reader(tmp_path / "old")
    assert "made with pypinyin 0.1" in capsys.readouterr().err
    (tmp_path / "old" / "pinyin.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(HanmoError, match="2 lines"):
        pinyin.Reader(tmp_path / "old")
