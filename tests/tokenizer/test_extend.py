"""Extended tokenizers: old ids and old text as they were, new pieces used, fast tokenizer and SentencePiece agree."""

from __future__ import annotations

import io
import json
import random
import re
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hanmo.errors import HanmoError
from hanmo.files import read_jsonl
from hanmo.tokenizer import load
from hanmo.tokenizer.encode import PROBES
from hanmo.tokenizer.extend import extend, read_pieces
from hanmo.tokenizer.forms.spm import CONTROL
from hanmo.tokenizer.forms.spm_growing import append, fast_tokenizer
from hanmo.tokenizer.grow import surely_chinese
from hanmo.tokenizer.opening import open_tokenizer, read_proto

sentencepiece = pytest.importorskip("sentencepiece")

CHINESE = re.compile(
    r"[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003ffff]"
)
WORDS = [
    "春天",
    "花园里",
    "研究人员",
    "鑫森淼焱垚",
    "的",
    "，",
    "。\n",
    "了",
    "𠮷野家",
    " the cat ",
    "return x",
    "1984",
]
#: Text of any script; most of it not Chinese.
TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\tabcdeé́éкиかなカ한국👨‍👩‍👧…“”①½\u2028")))


def story(seed: int = 0, words: int = 3000) -> str:
    chooser = random.Random(seed)
    return "".join(chooser.choices(WORDS, range(len(WORDS), 0, -1), k=words))


def train_sentencepiece(path: Path, text: str, size: int = 400, **settings) -> Path:
    """A small SentencePiece BPE as LLaMA's: bytes to fall back on, nothing normalised, a space before the text."""
    made = io.BytesIO()
    options = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")), model_writer=made, vocab_size=size, **(options | settings)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.getvalue())
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(story(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = "\n".join(["the cat is in the garden and returns to the other side, 1984 x y z"] * 60 + ["春 天 的"] * 9)
    folder = tmp_path_factory.mktemp("english")
    return train_sentencepiece(folder / "tokenizer.model", text, 310)


@pytest.fixture(scope="module")
def bytes_pair(tiny_tokenizer_dir: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory):
    """A byte-level tokenizer before and after."""
    out = tmp_path_factory.mktemp("extended") / "out"
    record = extend(tiny_tokenizer_dir, out, corpus=[corpus], add=30)
    assert (record["old_tokens"], record["added"], record["added_not_chinese"]) == (400, 30, 0)
    assert record["characters_per_token"]["after"] > 1.2 * record["characters_per_token"]["before"]
    return open_tokenizer(tiny_tokenizer_dir), open_tokenizer(out), out


@pytest.fixture(scope="module")
def pieces_pair(english: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory):
    """A SentencePiece model before and after."""
    out = tmp_path_factory.mktemp("extended") / "out"
    record = extend(english, out, corpus=[corpus], add=40)
    assert (record["added"], record["never_used"], record["added_not_chinese"]) == (40, 0, 0)
    return open_tokenizer(english), open_tokenizer(out), out


def test_new_ids_stand_behind_the_old_ones(bytes_pair, pieces_pair) -> None:
    for old, new, out in (bytes_pair, pieces_pair):
        assert [piece.name for piece in new.pieces[: len(old.pieces)]] == [piece.name for piece in old.pieces]
        assert new.roles == old.roles
        assert all(surely_chinese(piece.bytes) for piece in new.pieces[len(old.pieces) :])
        fast = load(out)
        assert len(fast) == len(new.pieces)
        for word in ("研究人员", "鑫森淼焱垚", "花园里"):
            assert len(new.encode("的" + word).ids) < len(old.encode("的" + word).ids)
    assert load(bytes_pair[2]).chat_template == load(bytes_pair[0].path.parent).chat_template
    assert (pieces_pair[2] / "tokenizer.model").is_file()


@given(TEXTS)
@example("naïve café — déjà vu, 한국어 かな кириллица \ue4b8 ¸­ ㄅ")
def test_text_without_chinese_keeps_its_ids(bytes_pair, pieces_pair, text: str) -> None:
    text = CHINESE.sub("x", text)
    for old, new, _ in (bytes_pair, pieces_pair):
        assert new.encode(text).ids.tolist() == old.encode(text).ids.tolist()


@given(st.lists(st.sampled_from([*WORDS, "春", "员", "\ue000", "é", "龘", "丰", "  "])).map("".join))
def test_the_old_cuts_come_first(bytes_pair, text: str) -> None:
    """Every new token is a run of old ones: where the new tokenizer cuts, the old one did."""
    old, new, _ = bytes_pair
    before, after = ([0] for _ in range(2))
    for ends, one in ((before, old), (after, new)):
        for index in one.encode(text).ids.tolist():
            ends.append(ends[-1] + len(one.pieces[index].bytes))
    assert set(after) <= set(before)
    assert new.decode(new.encode(text).ids.tolist()) == text


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 50), st.integers(1, 9))
def test_surely_chinese_is_sure(text: str, start: int, length: int) -> None:
    part = text.encode()[start : start + length]
    if surely_chinese(part):
        assert CHINESE.search(text)
    if CHINESE.search(part.decode("utf-8", "ignore")):
        assert surely_chinese(part)


def test_bytes_that_may_be_of_any_script() -> None:
    sure = [b"\xe5", b"\xe4\xb8", "中".encode(), b"\xad\xe5", "a，".encode(), b"\xe3\x80", b"\xf0\xa0"]
    unsure = [
        b"",
        b"a",
        b"\xe4",
        b"\xb8\xad",
        b"\xe3\x81",
        b"\xef\xbd",
        b"\xf0",
        b"\xf0\x9f",
        "é".encode(),
        b"\xe4\xb7",
    ]
    assert all(map(surely_chinese, sure))
    assert not any(map(surely_chinese, unsure))


@given(st.one_of(TEXTS, st.lists(st.sampled_from([*WORDS, "春", "▁", "aaaa", "   "])).map("".join)))
@example("")
@example(" ")
@example("\n".join(PROBES))
def test_the_fast_tokenizer_is_the_model(pieces_pair, text: str) -> None:
    _, new, out = pieces_pair
    library = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    assert new.encode(text).ids.tolist() == library.encode(text)
    assert new.decode(library.encode(text)) == library.decode(library.encode(text))


def test_tokens_above_the_vocabulary_stay(english: Path, corpus: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.model").write_bytes(english.read_bytes())
    count = len(open_tokenizer(english).pieces)
    (base / "added_tokens.json").write_text(json.dumps({"<|im_end|>": count + 1, "<|im_start|>": count}))
    config = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "bos_token": "<s>", "add_bos_token": False}
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    for step, folder in enumerate((base, tmp_path / "once"), 1):
        out = tmp_path / ("once" if step == 1 else "twice")
        extend(folder, out, corpus=[corpus], add=10 * step)
    fast = load(tmp_path / "twice")
    assert fast.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [count, count + 1]
    assert fast.encode("x<|im_end|>")[-1] == count + 1
    assert fast.encode("x") == open_tokenizer(english).encode("x").ids.tolist()  # no <s> before it
    assert fast.eos_token == "</s>"
    assert len(fast) == count + 2 + 10 + 20
    config = json.loads((tmp_path / "twice" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "auto_map" not in config
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "twice" / "tokenizer.model"))
    assert library.id_to_piece(count) == "<|im_start|>"
    text = story(3, 200)
    assert library.encode(text) == open_tokenizer(tmp_path / "twice").encode(text).ids.tolist()


def test_pieces_of_a_list(tiny_tokenizer_dir: Path, english: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("委员会\n委员\n会\nthe\n委员会\n", encoding="utf-8")
    assert read_pieces(words) == ["委员会", "委员", "会", "the"]
    record = extend(tiny_tokenizer_dir, tmp_path / "bytes", pieces=words)
    new = open_tokenizer(tmp_path / "bytes")
    for word in ("委员会", "委员", "会"):
        assert [new.pieces[index].bytes.decode() for index in new.encode(word).ids] == [word]
    assert record["never_used"] == 0
    record = extend(english, tmp_path / "pieces", pieces=words)
    assert record["added"] >= 3
    assert open_tokenizer(tmp_path / "pieces").pieces[-1].name in ("会", "the")


def test_only_the_folder_of_pieces_without_a_model_file(pieces_pair, tmp_path: Path) -> None:
    """A converted LLaMA tokenizer often comes as tokenizer.json alone."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((pieces_pair[2] / name).read_bytes())
    (tmp_path / "words.txt").write_text("森林\n林\n森\n", encoding="utf-8")
    extend(base, tmp_path / "out", pieces=tmp_path / "words.txt")
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    new = open_tokenizer(tmp_path / "out")
    assert [new.pieces[index].name for index in new.encode("x森林").ids[-1:]] == ["森林"]


def test_what_cannot_be_done_is_one_line(english: Path, corpus: Path, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="either --corpus"):
        extend(english, tmp_path / "out")
    with pytest.raises(HanmoError, match="--add"):
        extend(english, tmp_path / "out", corpus=[corpus])
    with pytest.raises(HanmoError, match=r"only \d+ new pieces, not 9000"):
        extend(english, tmp_path / "out", corpus=[corpus], add=9000)
    with pytest.raises(HanmoError, match="equal-scores is for a SentencePiece model"):
        extend(tiny_tokenizer_dir, tmp_path / "out", corpus=[corpus], add=5, equal_scores=True)
    unigram = train_sentencepiece(tmp_path / "uni.model", story(), 300, model_type="unigram")
    with pytest.raises(HanmoError, match="SentencePiece Unigram cannot be extended"):
        extend(unigram, tmp_path / "out", corpus=[corpus], add=5)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(HanmoError, match="not empty"):
        extend(english, tmp_path / "mine", corpus=[corpus], add=5)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_learning_is_the_same_every_time(english: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        extend(english, tmp_path / name, corpus=[corpus], add=20)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


# Against the vocabularies that others made ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_lines(shared_data: Path) -> list[str]:
    lines = list(PROBES)
    for source in ("lctt_technews_zh", "laws_zh", "vernacular_novels_zh", "opendocs_zh"):
        for _, record in islice(read_jsonl(shared_data / "pretrain" / f"{source}.jsonl.zst"), 12):
            lines += record["text"][:3000].split("\n")
    return lines


def test_llama_with_chinese_is_the_published_merge(shared_data: Path, real_lines: list[str], tmp_path: Path) -> None:
    folder = shared_data / "tokenizers"
    record = extend(
        folder / "llama2",
        tmp_path / "out",
        pieces=folder / "chinese-llama-sp20k" / "chinese_sp.model",
        equal_scores=True,
    )
    assert (record["tokens"], record["added"]) == (49_953, 17_953)
    ours = read_proto(tmp_path / "out" / "tokenizer.model")
    theirs = read_proto(folder / "tinyllm-zh" / "tinyllm_tokenizer_hf" / "tokenizer.model")
    assert [(p.piece, p.score, p.type) for p in ours.pieces] == [(p.piece, p.score, p.type) for p in theirs.pieces]
    # They switched the space before the text off, which is no matter of pieces.
    ours.normalizer_spec.add_dummy_prefix = False
    one, two = (sentencepiece.SentencePieceProcessor(model_proto=p.SerializeToString()) for p in (ours, theirs))
    assert one.encode(real_lines) == two.encode(real_lines)


def test_llama_with_chinese_in_both_libraries(shared_data: Path, real_lines: list[str], tmp_path: Path) -> None:
    folder = shared_data / "tokenizers"
    extend(folder / "llama2", tmp_path / "out", pieces=folder / "chinese-llama-sp20k")
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    backend = load(tmp_path / "out").backend_tokenizer
    backend.encode_special_tokens = True
    fast = [one.ids for one in backend.encode_batch_fast(real_lines, add_special_tokens=False)]
    assert fast == library.encode(real_lines)
    assert [backend.decode(ids, skip_special_tokens=False) for ids in fast] == [library.decode(ids) for ids in fast]


@pytest.mark.parametrize("name", ["llama2", "chatglm3"])
def test_models_of_others_as_fast_tokenizers(shared_data: Path, real_lines: list[str], name: str) -> None:
    proto = read_proto(shared_data / "tokenizers" / name / "tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    backend = fast_tokenizer(proto)
    backend.encode_special_tokens = True
    assert [one.ids for one in backend.encode_batch_fast(real_lines, add_special_tokens=False)] == library.encode(
        real_lines
    )


def test_a_byte_level_tokenizer_of_others(shared_data: Path, real_lines: list[str], tmp_path: Path) -> None:
    base = shared_data / "tokenizers" / "minimind"
    extend(base, tmp_path / "out", corpus=[shared_data / "pretrain" / "luxun_zh.jsonl.zst"], add=500, sample_mb=1)
    old, new = open_tokenizer(base), open_tokenizer(tmp_path / "out")
    for line in real_lines:
        plain = CHINESE.sub("", line)
        assert new.encode(plain).ids.tolist() == old.encode(plain).ids.tolist()
        assert new.decode(new.encode(line).ids.tolist()) == line
    assert load(tmp_path / "out").chat_template == load(base).chat_template


def test_control_pieces_are_special(english: Path) -> None:
    proto = read_proto(english)
    append(proto, "<|x|>", 0.0, CONTROL)
    backend = fast_tokenizer(proto)
    assert backend.encode("<|x|>", add_special_tokens=False).ids == [len(proto.pieces) - 1]
    assert backend.encode("a").ids[0] == 1
