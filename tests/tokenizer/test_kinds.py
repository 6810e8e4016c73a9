"""The kinds of tokenizers: no text is lost where none may be, and ids are those of the reference."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.conftest import TEXT
from transformers import AutoTokenizer, BertTokenizerFast

import hanmo  # noqa: F401  (registers our classes)
from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, read_json, read_jsonl
from hanmo.tokenizer import end_of_document, load, save
from hanmo.tokenizer.chat import SPECIAL_TOKENS, ChatFormat, encode_text
from hanmo.tokenizer.encode import BulkEncoder
from hanmo.tokenizer.forms import TooLarge, spm, word, wordpiece
from hanmo.tokenizer.settings import TokenizerSettings
from hanmo.tokenizer.train import run

#: Kind: vocabulary size, further settings.
LOSSLESS = {
    "sentencepiece-bpe": (520, {}),
    "unigram": (460, {}),
    "wordpiece": (680, {"lossless": True}),
    "pinyin": (680, {}),
    "word": (400, {}),
}
MORE = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。Where are the flowers? Café naïve.\n银行的行长行走在重庆。\n"
_PAIRS = (
    "春天花园小明小红公园看见白色小猫睡觉高兴天气晴朗气温今天明天学校老师学生朋友音乐电影电脑手机城市乡村河流山峰海洋太阳月亮"
    "星星云彩雨水雪花银行重庆北京上海历史文化科学技术医生护士工人农民苹果香蕉米饭面条牛奶茶叶咖啡汽车火车飞机轮船道路桥梁房屋"
    "门窗桌子椅子书本铅笔纸张语言文字故事"
)
WORDS = [_PAIRS[place : place + 2] for place in range(0, len(_PAIRS), 2)]
WORDS += ["reader", "writer", "running", "jumped", "quickly", "garden", "flower", "window"]


def corpus(folder: Path) -> Path:
    dice = random.Random(3)
    prose = "".join(
        dice.choice(WORDS) + dice.choice(["", "", "", "的", "了", "，", "。", " ", " the ", "\n"]) for _ in range(6000)
    )
    with JsonlZstWriter(folder / "train" / "00000.jsonl.zst") as file:
        for text in (TEXT * 4, MORE * 4, TEXT + MORE, prose):
            file.write({"id": "", "text": text, "source": "a", "meta": {}})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every lossless kind."""
    root = tmp_path_factory.mktemp("kinds")
    corpus(root / "corpus")
    for kind, (size, more) in LOSSLESS.items():
        counts = run(TokenizerSettings(kind=kind, vocab_size=size, **more), {"corpus": [root / "corpus"]}, root / kind)
        assert counts["vocab_size"] == size
    return {kind: root / kind for kind in LOSSLESS}


nasty = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("  \n\r\t的花春天小猫abTheé，。！12\u0301\u200d\ufeff\u3000\x00𠮷👨<|>_#▁▂▃"),
    ),
    max_size=30,
)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_nothing_is_lost(folders: dict[str, Path], kind: str) -> None:
    tokenizer = load(folders[kind])
    encoder = BulkEncoder(folders[kind])
    backend = tokenizer.backend_tokenizer

    @given(nasty)
    @settings(max_examples=150)
    def check(text: str) -> None:
        ids = encode_text(tokenizer, text)
        assert backend.decode(ids, skip_special_tokens=False) == text
        assert encoder.encode_batch([text])[0].tolist() == ids
        assert not set(ids) & {0, 1, 2}

    check()
    for text in (
        TEXT,
        MORE,
        "<0x0A><|im_end|><unk>[PAD]##a ###",
        "  a  " + " " * 50,
        "的" * 300,
        "a" * 300,
        "\r\n\n\t",
    ):
        ids = encode_text(tokenizer, text)
        assert backend.decode(ids, skip_special_tokens=False) == text
        assert encoder.encode_batch([text])[0].tolist() == ids


@pytest.mark.parametrize("kind", LOSSLESS)
def test_markers_chat_and_the_end_of_documents(folders: dict[str, Path], kind: str) -> None:
    tokenizer = load(folders[kind])
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2]
    assert end_of_document(folders[kind]) == 0
    chat = ChatFormat(tokenizer)
    messages = [{"role": "user", "content": "小猫 <|im_end|>"}, {"role": "assistant", "content": "睡觉"}]
    ids, mask = chat.encode(messages)
    assert tokenizer.decode(ids) == chat.render(messages)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "睡觉<|im_end|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == chat.render(messages)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_they_load_save_and_load_as_transformers_does(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    auto = AutoTokenizer.from_pretrained(str(folders[kind]))
    ids = auto(TEXT, add_special_tokens=False).input_ids
    assert ids == encode_text(load(folders[kind]), TEXT)
    auto.save_pretrained(tmp_path / "theirs")
    save(load(folders[kind]), tmp_path / "ours")
    copies = [
        AutoTokenizer.from_pretrained(str(tmp_path / "theirs")),
        AutoTokenizer.from_pretrained(str(tmp_path / "ours")),
        pickle.loads(pickle.dumps(auto)),
    ]
    for copy in copies:
        assert copy(TEXT, add_special_tokens=False).input_ids == ids
        assert copy.eos_token_id == 0
        assert copy("小猫<|im_end|>", add_special_tokens=False).input_ids[-1] == 2
    if kind in ("unigram", "sentencepiece-bpe"):
        assert (tmp_path / "ours" / "tokenizer.model").read_bytes() == (folders[kind] / "tokenizer.model").read_bytes()
    if kind == "pinyin":
        assert (tmp_path / "ours" / "pinyin.txt").is_file()


@pytest.mark.parametrize("kind", ["sentencepiece-bpe", "unigram"])
def test_sentencepiece_gives_the_same_ids(folders: dict[str, Path], kind: str) -> None:
    import sentencepiece

    tokenizer = load(folders[kind])
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folders[kind] / "tokenizer.model"))

    @given(nasty.filter(lambda text: spm.SPACE not in text))
    @settings(max_examples=300)
    def check(text: str) -> None:
        assert encode_text(tokenizer, text) == processor.encode(text)

    check()
    for text in [*spm.HARD, TEXT, MORE, "-" * 70, "=" * 33 + "a", "春" * 50]:
        assert encode_text(tokenizer, text) == processor.encode(text)
    pieces = {processor.id_to_piece(index).replace(spm.SPACE, " "): index for index in range(len(processor))}
    assert pieces == tokenizer.get_vocab()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_on_real_text(shared_data: Path, kind: str) -> None:
    path = shared_data / "pretrain" / "luxun_zh.jsonl.zst"
    texts = [record["text"] for _, record in islice(read_jsonl(path), 90)]
    content = spm.train(texts[:40], 1500, kind)
    tokenizer = spm.convert(spm.parsed(content), plain_spaces=True)
    lines = [line for text in texts for line in text.split("\n")]
    assert len(lines) > 1000
    assert spm.differing(tokenizer, content, [*lines, *texts, *spm.HARD]) == []


def test_a_vocabulary_larger_than_the_corpus_supports(tmp_path: Path) -> None:
    for kind, more in (("unigram", {}), ("word", {}), ("pinyin", {}), ("wordpiece", {}), ("sentencepiece-bpe", {})):
        settings = TokenizerSettings(kind=kind, vocab_size=20_000, **more)
        with pytest.raises(TooLarge, match=r"supports only \d+ [a-z ]+, not 20000") as caught:
            run(settings, {"corpus": [corpus(tmp_path / "corpus")]}, tmp_path / kind)
        assert 100 < caught.value.supported < 20_000
        less = settings.model_copy(update={"vocab_size": caught.value.supported})
        counts = run(less, {"corpus": [tmp_path / "corpus"]}, tmp_path / kind)
        assert counts["vocab_size"] == caught.value.supported, kind


@pytest.mark.parametrize("kind", ["wordpiece", "pinyin", "word", "unigram", "sentencepiece-bpe"])
def test_a_vocabulary_too_small(tmp_path: Path, kind: str) -> None:
    settings = TokenizerSettings(kind=kind, vocab_size=261, lossless=kind == "wordpiece")
    with pytest.raises(HanmoError, match="too small"):
        run(settings, {"corpus": [corpus(tmp_path / "corpus")]}, tmp_path / "out")


def test_settings() -> None:
    assert TokenizerSettings(vocab_size="auto").vocab_size == "auto"
    assert TokenizerSettings(vocab_size="auto").model_dump()["vocab_size"] == "auto"
    for wrong in ({"vocab_size": 5}, {"vocab_size": "many"}, {"kind": "bep"}):
        with pytest.raises(ValidationError):
            TokenizerSettings(**wrong)


def test_wordpiece_is_berts(tmp_path: Path) -> None:
    settings = TokenizerSettings(kind="wordpiece", vocab_size=280)
    run(settings, {"corpus": [corpus(tmp_path / "corpus")]}, tmp_path / "out")
    lines = (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert lines[:5] == list(wordpiece.BERT_TOKENS)
    assert read_json(tmp_path / "out" / "tokenizer_config.json")["tokenizer_class"] == "BertTokenizer"
    loaded = [cls.from_pretrained(str(tmp_path / "out")) for cls in (AutoTokenizer, BertTokenizerFast)]
    loaded += [load(tmp_path / "out"), BertTokenizerFast(vocab=str(tmp_path / "out" / "vocab.txt"))]
    for text in (TEXT, MORE, "春天Spring 𠮷", "[MASK]天"):
        assert len({tuple(tokenizer(text).input_ids) for tokenizer in loaded}) == 1
    tokens = loaded[0].tokenize("春天的花The")
    assert tokens[:4] == ["春", "天", "的", "花"]
    assert "".join(tokens[4:]).replace("##", "") == "the"
    assert end_of_document(tmp_path / "out") == 3
    cased = wordpiece.train([TEXT + MORE] * 3, 170, lower_case=False)
    assert "T" in "".join(cased.encode("The", add_special_tokens=False).tokens)


def test_every_han_character_is_one_token(folders: dict[str, Path]) -> None:
    tokenizer = load(folders["pinyin"])
    assert [tokenizer.decode([i]) for i in encode_text(tokenizer, "春天的花 2024")] == [*"春天的花", " ", *"2024"]


def test_words(folders: dict[str, Path]) -> None:
    tokenizer = load(folders["word"])
    assert type(tokenizer).__name__ == "HanmoWordTokenizer"
    assert tokenizer.tokenize("小猫 睡觉\n") == ["小猫", "▂", "睡觉", "▃"]
    assert tokenizer.tokenize("▂𠮷") == ["<0xE2>", "<0x96>", "<0x82>", "<0xF0>", "<0xA0>", "<0xAE>", "<0xB7>"]
    offsets = tokenizer("小猫 𠮷", return_offsets_mapping=True).offset_mapping
    assert offsets == [(0, 2), (2, 3), (3, 4), (3, 4), (3, 4), (3, 4)]
    assert tokenizer("小猫", text_pair="睡觉").input_ids == encode_text(tokenizer, "小猫睡觉")
    assert word.segmenter("jieba")("小猫睡觉")
    with pytest.raises(HanmoError, match="segmenter 'x' is unknown"):
        word.segmenter("x")


def test_the_same_again_in_another_process(folders: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hanmo.tokenizer.train import run; "
        "from hanmo.tokenizer.settings import TokenizerSettings; import json; "
        "[run(TokenizerSettings(kind=k, vocab_size=s, **m), {'corpus': [Path(sys.argv[1])]}, Path(sys.argv[2]) / k) "
        "for k, (s, m) in json.loads(sys.argv[3]).items()]"
    )
    import json

    root = folders["word"].parent
    command = [sys.executable, "-c", code, str(root / "corpus"), str(tmp_path), json.dumps(LOSSLESS)]
    subprocess.run(command, check=True, capture_output=True)
    for kind, folder in folders.items():
        for path in folder.iterdir():
            assert path.read_bytes() == (tmp_path / kind / path.name).read_bytes(), path


def test_importing_the_package_does_not_import_transformers() -> None:
    code = "import hanmo, sys; assert 'transformers' not in sys.modules; " + (
        "from transformers.models.auto import tokenization_auto as t; "
        "assert 'HanmoWordTokenizer' in t.REGISTERED_TOKENIZER_CLASSES"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
