"""Tokenizers of every form: ids of the reference library, where tokens come from, bytes, bare spelling."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanmo.errors import HanmoError
from hanmo.tokenizer.opening import OpenTokenizer, is_han, open_tokenizer
from hanmo.tokenizer.texts import documents, sample

sentencepiece = pytest.importorskip("sentencepiece")
tiktoken = pytest.importorskip("tiktoken")

WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "春", "天", "##天", "ab", "##c", "，", "a"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> dict[str, OpenTokenizer]:
    """A tokenizer of each form."""
    import io

    folder = tmp_path_factory.mktemp("forms")
    (folder / "vocab.txt").write_text("\n".join(WORDPIECE) + "\n", encoding="utf-8")
    tokens = [bytes([byte]) for byte in range(256)] + ["春".encode(), "春天".encode(), b"ab", "天".encode()[:2]]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (folder / "small.tiktoken").write_bytes(b"".join(lines))
    for kind in ("bpe", "unigram"):
        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["春天 ab abc 春天到了"] * 30),
            model_writer=made,
            vocab_size=275 if kind == "bpe" else 15,
            model_type=kind,
            byte_fallback=kind == "bpe",
            normalization_rule_name="identity" if kind == "bpe" else "nmt_nfkc",
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{kind}.model").write_bytes(made.getvalue())
    return {
        "folder": open_tokenizer(tiny_tokenizer_dir),
        "wordpiece": open_tokenizer(folder / "vocab.txt"),
        "tiktoken": open_tokenizer(folder / "small.tiktoken"),
        "bpe": open_tokenizer(folder / "bpe.model"),
        "unigram": open_tokenizer(folder / "unigram.model"),
    }


def test_forms_and_roles(opened: dict[str, OpenTokenizer]) -> None:
    assert {name: one.form for name, one in opened.items()} == {
        "folder": "byte-level BPE",
        "wordpiece": "WordPiece",
        "tiktoken": "tiktoken BPE",
        "bpe": "SentencePiece BPE",
        "unigram": "SentencePiece Unigram",
    }
    assert opened["folder"].roles == {"eos": 0, "pad": 0}
    assert opened["wordpiece"].roles == {"unk": 1, "pad": 0, "cls": 2, "sep": 3, "mask": 4}
    assert opened["bpe"].roles == {"unk": 0, "bos": 1, "eos": 2}
    assert opened["bpe"].pieces[3 + 0xE6].kind == "byte"
    assert opened["bpe"].pieces[3 + 0xE6].bytes == b"\xe6"
    assert [piece.kind for piece in opened["wordpiece"].pieces[:6]] == [
        "special",
        "unknown",
        *["special"] * 3,
        "normal",
    ]
    assert opened["wordpiece"].pieces[7].bytes == "天".encode()


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("春天到了 abc\n👍"))))
def test_ids_are_those_of_the_library(opened: dict[str, OpenTokenizer], text: str) -> None:
    reference = Tokenizer.from_file(str(opened["folder"].path))
    reference.encode_special_tokens = True
    assert opened["folder"].encode(text).ids.tolist() == reference.encode(text, add_special_tokens=False).ids
    library = sentencepiece.SentencePieceProcessor(model_file=str(opened["bpe"].path))
    assert opened["bpe"].encode(text).ids.tolist() == library.encode(text)
    for name in ("folder", "tiktoken"):
        one = opened[name]
        found = one.encode(text)
        assert b"".join(one.pieces[index].bytes for index in found.ids) == text.encode()
        assert one.decode(found.ids.tolist()) == text
        # Every token lies over the characters that its bytes belong to.
        at = 0
        for index, start, end, _ in zip(*found, strict=True):
            size = len(one.pieces[index].bytes)
            assert len(text[:start].encode()) <= at
            assert at + size <= len(text[:end].encode())
            at += size


def test_where_tokens_come_from(opened: dict[str, OpenTokenizer]) -> None:
    one = opened["wordpiece"]
    found = one.encode("春天 ABc，犇")
    assert [one.pieces[index].name for index in found.ids] == ["春", "天", "ab", "##c", "，", "[UNK]"]
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == [
        (0, 1),
        (1, 2),
        (3, 5),
        (5, 6),
        (6, 7),
        (7, 8),
    ]
    one = opened["bpe"]
    found = one.encode("春犇")
    assert [one.pieces[index].bytes for index in found.ids[-3:]] == [b"\xe7", b"\x8a", b"\x87"]
    assert found.starts[-3:].tolist() == [1, 1, 1]
    assert found.ends.tolist()[-1] == 2


def test_special_tokens_in_a_text_are_characters(opened: dict[str, OpenTokenizer]) -> None:
    for one in opened.values():
        special = {index for index, piece in enumerate(one.pieces) if piece.kind == "special"}
        assert not special & set(one.encode("<|endoftext|> <s> [CLS]").ids.tolist())


def test_bare_spelling(opened: dict[str, OpenTokenizer]) -> None:
    def names(name: str, text: bytes) -> list[bytes]:
        return [opened[name].pieces[index].bytes for index in opened[name].spell(text)]

    for name in ("folder", "tiktoken", "bpe"):
        for text in ("春天".encode(), b" ab", b"\xe6\x98", b"\xff", "犇".encode()):
            assert b"".join(names(name, text)) == text  # no space before it
    assert names("wordpiece", "春犇".encode()) == ["春".encode()]
    assert names("unigram", b"\xe6\x98") == []


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    for name, content, line in (
        ("a.model", b"nonsense", "not a SentencePiece model"),
        ("a.tiktoken", b"AAA= 1\nno rank\n", "a.tiktoken:2: not a line"),
        ("a.txt", "一\n二\n".encode(), r"no \[UNK\] in it"),
        ("a.json", b"{}", "not a tokenizer of the form"),
        ("a.pdf", b"", "not a tokenizer that is known here"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HanmoError, match=line):
            open_tokenizer(tmp_path / name)
    with pytest.raises(HanmoError, match="no such file"):
        open_tokenizer(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(HanmoError, match="no tokenizer there"):
        open_tokenizer(tmp_path / "folder")
    for name in ("one.model", "two.model"):
        (tmp_path / "folder" / name).touch()
    with pytest.raises(HanmoError, match="2 tokenizers there"):
        open_tokenizer(tmp_path / "folder")


def test_han() -> None:
    assert all(map(is_han, "中〇𠮷㐀豈"))
    assert not any(map(is_han, "aー、。１①⺀か"))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("一行\n二行\n", encoding="utf-8")
    (tmp_path / "records.jsonl").write_text('{"text": "甲", "source": "x"}\n{"text": "乙"}\n', encoding="utf-8")
    assert list(documents(tmp_path / "plain.txt")) == [("plain", "一行\n二行\n")]
    assert [one.source for one in documents(tmp_path)] == ["plain", "records", "records"]
    assert list(sample([tmp_path / "plain.txt", tmp_path / "records.jsonl"], 1000)) == ["一行\n二行\n\n甲\n乙"]
    assert sum(len(part.encode()) for part in sample([tmp_path / "plain.txt"], 8)) <= 16
    (tmp_path / "old.txt").write_bytes("一行\n二行\n".encode("gb18030"))
    with pytest.raises(HanmoError, match=r"old\.txt:1: not UTF-8"):
        list(documents(tmp_path / "old.txt"))
    (tmp_path / "bad.jsonl").write_text('{"body": "甲"}\n')
    with pytest.raises(HanmoError, match=r"bad\.jsonl:1: no field 'text'"):
        list(documents(tmp_path / "bad.jsonl"))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(HanmoError, match="no text there"):
        list(sample([tmp_path / "empty.txt"], 9))


def test_words_of_our_own_class(tmp_path: Path) -> None:
    from tests.conftest import TEXT

    from hanmo.tokenizer import encode_text, load
    from hanmo.tokenizer.forms import word

    pytest.importorskip("rjieba")
    word.build([TEXT * 4], 300, "rjieba", tmp_path / "words")
    opened, tokenizer = open_tokenizer(tmp_path / "words"), load(tmp_path / "words")
    assert opened.form == "words" and len(opened.pieces) == len(tokenizer)
    for text in (TEXT, "小猫 <|im_end|> 𠮷\n"):
        found = opened.encode(text)
        assert found.ids.tolist() == encode_text(tokenizer, text)
        assert b"".join(opened.pieces[index].bytes for index in found.ids).decode() == text
        assert opened.decode(found.ids.tolist()) == text
    assert open_tokenizer(opened.path).form == "words"
    assert opened.pieces[opened.roles["eos"]].kind == "special"
