"""Imported tokenizers give the ids of each project's own implementation; real vocabularies where the data are there."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import TEXT
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import hanmo  # noqa: F401  (registers our classes)
from hanmo.errors import HanmoError
from hanmo.files import read_json, read_jsonl
from hanmo.tokenizer import QWEN2_SPLIT, load
from hanmo.tokenizer.chat import SPECIAL_TOKENS, ChatFormat, encode_text
from hanmo.tokenizer.encode import BulkEncoder
from hanmo.tokenizer.forms.pinyin import Reader, has_pinyin
from hanmo.tokenizer.imports import import_tokenizer
from hanmo.tokenizer.imports.ranks import QWEN_SPECIAL

HARD = [
    "",
    " ",
    "   ",
    " a",
    "a  b   c ",
    "\n",
    "\n\n x\r\n\ty\r\n",
    "春天到了，花园里的花都开了。 The cat  is 2024 元。",
    "<|endoftext|><|im_end|><s></s><unk><0x0A>[PAD][SEP]",
    "𠮷野家 𪚥 㐀䶵 👨\u200d👩\u200d👧 👍🏽 🇨🇳 é e\u0301 Ⅷ ½ ﬁ ＡＢＣ",
    "的的的的的的的的的的aaaaaaaaaaaaa" + " " * 37 + "x",
    "\ufeff\u200b\u3000\u2028\x7f\xa0!",
    "def f(x):\n\treturn  x ** 2   # 平方\n",
    "银行行长说：“重庆的重量。”《红楼梦》——第3.14回……",
]


@pytest.fixture(scope="session")
def lines(shared_data: Path) -> list[str]:
    """1,200 real lines of all sources."""
    found: list[str] = []
    files = sorted((shared_data / "pretrain").glob("*.jsonl.zst"))
    for path in files:
        mine: list[str] = []
        for _, record in read_jsonl(path):
            mine += [line for line in record["text"].split("\n") if line][:12]
            if len(mine) >= 1200 // len(files) + 1:
                break
        found += mine[: 1200 // len(files) + 1]
    assert len(found) >= 1000
    return found


def compare(folder: Path, reference: Callable[[str], list[int]], texts: list[str]) -> None:
    """The bulk encoder, the plain call and `AutoTokenizer` against a reference."""
    expected = [reference(text) for text in texts]
    found = [ids.tolist() for ids in BulkEncoder(folder).encode_batch(texts)]
    different = [text for text, one, two in zip(texts, found, expected, strict=True) if one != two]
    print(f"{folder.name}: {len(texts) - len(different)} of {len(texts)} lines equal")
    assert not different, different[:3]
    tokenizer = load(folder)
    auto = AutoTokenizer.from_pretrained(str(folder))
    for text, ids in list(zip(texts, found, strict=True))[:: max(1, len(texts) // 60)]:
        assert encode_text(tokenizer, text) == ids
        assert auto(text, add_special_tokens=False, split_special_tokens=True).input_ids == ids


def sentencepiece_of(path: Path) -> Callable[[str], list[int]]:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def real(shared_data: Path, name: str) -> Path:
    path = shared_data / "tokenizers" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("chatglm3", "tokenizer.model"),
        ("llama2/tokenizer.model", ""),
        ("tinyllm-zh/tinyllm_tokenizer_hf", "tokenizer.model"),
        ("tinyllm-zh/sp_output", "chinese_spm_20000.model"),
        ("chinese-llama-sp20k", "chinese_sp.model"),
        ("uer/cluecorpussmall_spm.model", ""),
    ],
)
def test_sentencepiece_models(shared_data: Path, lines: list[str], tmp_path: Path, name: str, model: str) -> None:
    path = real(shared_data, name)
    import_tokenizer(path, tmp_path / "out")
    compare(tmp_path / "out", sentencepiece_of(path / model if model else path), HARD + lines)


def test_llama2c_is_llama2(shared_data: Path, lines: list[str], tmp_path: Path) -> None:
    facts = import_tokenizer(real(shared_data, "llama2/tokenizer.bin"), tmp_path / "out")
    assert facts == {"kind": "llama2c", "class": "PreTrainedTokenizerFast", "vocab_size": 32000, "end_of_document": 2}
    compare(tmp_path / "out", sentencepiece_of(real(shared_data, "llama2/tokenizer.model")), HARD + lines)


def test_qwen(shared_data: Path, lines: list[str], tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    path = real(shared_data, "qwen1-tiktoken")
    facts = import_tokenizer(path, tmp_path / "out")
    assert (facts["vocab_size"], facts["end_of_document"]) == (151851, 151643)
    ranks = dict(line.split() for line in (path / "qwen.tiktoken").read_bytes().splitlines())
    reference = tiktoken.Encoding(
        "qwen",
        pat_str=QWEN2_SPLIT,
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in ranks.items()},
        special_tokens={token: 151643 + index for index, token in enumerate(QWEN_SPECIAL)},
    )
    compare(tmp_path / "out", reference.encode_ordinary, HARD + lines)
    assert load(tmp_path / "out")("<|im_start|>").input_ids == reference.encode("<|im_start|>", allowed_special="all")


class BertReference:
    """BERT's rules, written down again: clean, split at Han, lower-case, split at punctuation, longest match."""

    def __init__(self, tokens: list[str], lower: bool = True) -> None:
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.lower = lower

    def words(self, text: str) -> list[str]:
        clean = []
        for c in text:
            if ord(c) in (0, 0xFFFD) or (unicodedata.category(c).startswith("C") and c not in "\t\n\r"):
                continue
            blank = c in " \t\n\r" or unicodedata.category(c) == "Zs"
            han = any(
                low <= ord(c) <= high
                for low, high in (
                    (0x4E00, 0x9FFF),
                    (0x3400, 0x4DBF),
                    (0x20000, 0x2A6DF),
                    (0x2A700, 0x2B73F),
                    (0x2B740, 0x2B81F),
                    (0x2B820, 0x2CEAF),
                    (0xF900, 0xFAFF),
                    (0x2F800, 0x2FA1F),
                )
            )
            clean.append(" " if blank else f" {c} " if han else c)
        words = []
        for word in "".join(clean).split():
            if self.lower:
                word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
            part = ""
            for c in word:
                ascii_sign = 33 <= ord(c) <= 47 or 58 <= ord(c) <= 64 or 91 <= ord(c) <= 96 or 123 <= ord(c) <= 126
                if ascii_sign or unicodedata.category(c).startswith("P"):
                    words += [part, c]
                    part = ""
                else:
                    part += c
            words.append(part)
        return [word for word in words if word]

    def pieces(self, word: str) -> list[int]:
        found, start = [], 0
        if len(word) > 100:
            return [self.ids["[UNK]"]]
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    found.append(self.ids[piece])
                    start = end
                    break
            else:
                return [self.ids["[UNK]"]]
        return found

    def __call__(self, text: str) -> list[int]:
        return [index for word in self.words(text) for index in self.pieces(word)]


def read_vocabulary(path: Path) -> list[str]:
    return path.read_bytes().decode().removesuffix("\n").split("\n")


@pytest.mark.parametrize(
    "name",
    [
        "bert-base-chinese/vocab.txt",
        "uer/google_zh_vocab.txt",
        "gpt2-chinese/vocab_small.txt",
        "gpt2-chinese/vocab_guwen.txt",
    ],
)
def test_bert(shared_data: Path, lines: list[str], tmp_path: Path, name: str) -> None:
    path = real(shared_data, name)
    facts = import_tokenizer(path, tmp_path / "out")
    assert facts["kind"] == "bert"
    texts = [text for text in HARD + lines if "[PAD]" not in text]
    compare(tmp_path / "out", BertReference(read_vocabulary(path)), texts)
    legacy = pytest.importorskip("transformers.models.bert_japanese.tokenization_bert_japanese")
    basic = legacy.BasicTokenizer(do_lower_case=True)
    mine = BertReference(read_vocabulary(path))
    for text in texts[::10]:
        assert basic.tokenize(text) == mine.words(text), text
    from transformers import BertTokenizerFast

    loaded = BertTokenizerFast.from_pretrained(str(tmp_path / "out"))
    framed = [loaded.cls_token_id, *mine("春天 Spring"), loaded.sep_token_id]
    assert loaded("春天 Spring").input_ids == framed


def linglong_reference(tokens: list[str]) -> Callable[[str], list[int]]:
    """LingLong's rules: BERT's, every digit alone, a newline is token 9."""
    bert = BertReference(tokens)

    def encode(text: str) -> list[int]:
        found: list[int] = []
        for number, line in enumerate(text.split("\n")):
            found += [9] if number else []
            for word in bert.words(line):
                part = ""
                for c in word:
                    if "0" <= c <= "9":
                        found += (bert.pieces(part) if part else []) + bert.pieces(c)
                        part = ""
                    else:
                        part += c
                found += bert.pieces(part) if part else []
        return found

    return encode


def test_linglong_characters_and_pinyin(shared_data: Path, lines: list[str], tmp_path: Path) -> None:
    folder = real(shared_data, "linglong-cpm2")
    path = folder / "char-13312.txt"
    facts = import_tokenizer(path, tmp_path / "out", pinyin=folder / "pinyin-1354.txt")
    assert facts == {
        "kind": "linglong",
        "class": "PreTrainedTokenizerFast",
        "vocab_size": 13312,
        "end_of_document": 8,
    }
    reference = linglong_reference(read_vocabulary(path))
    texts = [text for text in HARD if "[PAD]" not in text] + lines + ["一行\n\n二行 2024年\n"]
    compare(tmp_path / "out", reference, texts)
    assert reference("a\n1")[1] == 9
    assert has_pinyin(tmp_path / "out")
    reader = Reader(tmp_path / "out")
    assert reader.size == 1354
    classes = (folder / "pinyin-1354.txt").read_bytes().decode().split("\n")
    ids = reader.ids(reference("银行，行走A2の"))
    syllables = [classes[index] for index in ids[[0, 1, 3, 4]]]
    assert syllables == ["yín", "háng", "xíng", "zǒu"]
    assert ids[2] == 1
    assert ids[5] == ids[6] == 2
    assert "の" in classes[ids[7]].split(" ")


def word_reference(tokens: list[str]) -> Callable[[str], list[int]]:
    """CPM-2's rules: jieba, marks for space and newline, the longest match from the left."""
    import jieba

    ids = {token: index for index, token in enumerate(tokens)}

    def encode(text: str) -> list[int]:
        found = []
        for word in jieba.cut(text):
            word = word.replace(" ", "▂").replace("\n", "▃")
            while word:
                length = next((n for n in range(len(word), 0, -1) if word[:n] in ids), 0)
                found.append(ids[word[:length]] if length else ids["[UNK]"])
                word = word[max(1, length) :]
        return found

    return encode


def test_cpm2_words(shared_data: Path, lines: list[str], tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    path = real(shared_data, "linglong-cpm2/word-cpm2-26240.txt")
    facts = import_tokenizer(path, tmp_path / "out", chat=True)
    assert (facts["kind"], facts["vocab_size"], facts["end_of_document"]) == ("word", 26243, 2)
    compare(tmp_path / "out", word_reference(read_vocabulary(path)), HARD + lines)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert tokenizer.decode(encode_text(tokenizer, "我们 是\n中国人")) == "我们 是\n中国人"
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [26240, 26241, 26242]
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again("我们<|im_end|>").input_ids == tokenizer("我们<|im_end|>").input_ids
    assert again("<|im_end|>").input_ids == [26242]
    ids, mask = ChatFormat(tokenizer).encode(
        [{"role": "user", "content": "你 好"}, {"role": "assistant", "content": "好"}]
    )
    assert tokenizer.decode(ids) == "<|im_start|>user\n你 好<|im_end|>\n<|im_start|>assistant\n好<|im_end|>\n"
    assert sum(mask) == 2


@pytest.mark.parametrize("name", ["minimind", "chatlm-mini"])
def test_tokenizer_json_as_it_is(shared_data: Path, lines: list[str], tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer

    path = real(shared_data, name)
    import_tokenizer(path, tmp_path / "out")
    reference = Tokenizer.from_file(str(path / "tokenizer.json"))
    reference.encode_special_tokens = True
    compare(tmp_path / "out", lambda text: reference.encode(text, add_special_tokens=False).ids, HARD + lines)


def tiny_model(model_type: str, **options: object) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n") * 4),
        model_writer=model,
        model_type=model_type,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("squeeze", [True, False])
def test_small_sentencepiece_models(tmp_path: Path, model_type: str, prefix: bool, squeeze: bool) -> None:
    content = tiny_model(
        model_type,
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=squeeze,
    )
    (tmp_path / "x.model").write_bytes(content)
    import_tokenizer(tmp_path / "x.model", tmp_path / "out", chat=True)
    compare(tmp_path / "out", sentencepiece_of(tmp_path / "x.model"), [*HARD, *TEXT.split("\n"), TEXT])
    ChatFormat(load(tmp_path / "out"))


def test_scores_that_tie_need_our_class(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(tiny_model("bpe", vocab_size=500, byte_fallback=True, normalization_rule_name="identity"))
    for piece in model.pieces:
        if piece.type == 1 and len(piece.piece) > 1:
            piece.score = 0
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|user|>": len(model.pieces)}), encoding="utf-8")
    facts = import_tokenizer(tmp_path, tmp_path / "out", chat=True)
    assert facts["class"] == "HanmoSentencePieceTokenizer"
    assert facts["vocab_size"] == len(model.pieces) + 4
    compare(tmp_path / "out", sentencepiece_of(tmp_path / "tokenizer.model"), [*HARD, TEXT])
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    tokenizer.save_pretrained(tmp_path / "again")
    assert (
        AutoTokenizer.from_pretrained(str(tmp_path / "again"))("<|user|>小猫").input_ids
        == tokenizer("<|user|>小猫").input_ids
    )


def test_small_tokenizer_bin_and_vocabulary(tmp_path: Path) -> None:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), " ", "a", "b", "ab", " a"]
    content = struct.pack("<i", 8)
    for index, piece in enumerate(pieces):
        content += struct.pack("<fi", -float(index), len(piece.encode())) + piece.encode()
    (tmp_path / "tokenizer.bin").write_bytes(content)
    import_tokenizer(tmp_path / "tokenizer.bin", tmp_path / "out")
    tokenizer = load(tmp_path / "out")
    assert tokenizer.tokenize("aab 的") == ["▁a", "ab", "▁", "<0xE7>", "<0x9A>", "<0x84>"]
    assert tokenizer.decode(tokenizer.encode("aab 的")) == "aab 的"
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n春\n天\nspring\n##s\n", encoding="utf-8")
    import_tokenizer(tmp_path / "vocab.txt", tmp_path / "bert", chat=True)
    bert = load(tmp_path / "bert")
    assert isinstance(bert, PreTrainedTokenizerFast)
    assert encode_text(bert, "春 天Springs<|im_end|>")[:4] == [5, 6, 7, 8]
    assert bert.convert_tokens_to_ids("<|im_end|>") == 11
    assert read_json(tmp_path / "bert" / "tokenizer_config.json")["tokenizer_class"] == "BertTokenizer"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.model", b"\x0a\xff", "no SentencePiece model"),
        ("x.model", b"", "no SentencePiece model"),
        ("x.tiktoken", b"YQ== 0\nzz\n", r"x\.tiktoken:2: not 'base64 rank'"),
        ("x.tiktoken", b"YQ== 0\n", "every byte"),
        ("tokenizer.bin", b"\x01\x00\x00\x00\x00", "torn at byte 4"),
        ("tokenizer.json", b"{", "tokenizers cannot read it"),
        ("vocab.txt", b"\xff\n", "not UTF-8 at byte 0"),
        ("vocab.txt", "春\n天\n".encode(), r"no \[UNK\]"),
        ("x.bla", b"", "of which kind"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HanmoError, match=message):
        import_tokenizer(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_paths_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no such file"):
        import_tokenizer(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(HanmoError, match=r"no tokenizer\.model"):
        import_tokenizer(tmp_path, tmp_path / "out")
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n", encoding="utf-8")
    with pytest.raises(HanmoError, match="did you mean 'bert'"):
        import_tokenizer(tmp_path, tmp_path / "out", kind="berd")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(HanmoError, match="not empty"):
        import_tokenizer(tmp_path, tmp_path / "full")
