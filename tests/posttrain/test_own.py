"""Tuning of the classes that TRL does not know: rows of records, their loss against the class's own, whole runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.posttrain.conftest import dialogue
from tokenizers import Tokenizer, models

from hanmo.errors import HanmoError
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.generation import pinyin_reader
from hanmo.models.linglong.modeling import LingLongForCausalLM
from hanmo.models.loss import IGNORE
from hanmo.models.save import save_model
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedForMaskedLM
from hanmo.posttrain import sft
from hanmo.posttrain.labelled import LabelledRows, Piece, encoder_of, piece_of
from hanmo.posttrain.settings import SftSettings
from hanmo.pretrain.steps import step_of
from hanmo.serve import Sampling, generate
from hanmo.tokenizer import encode_text, load, save
from hanmo.tokenizer.chat import ChatFormat
from hanmo.tokenizer.forms.wordpiece import build_lossless

RECORDS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda n: ([7] * n[0], [8] * n[1])), min_size=1, max_size=40
)


def labelled(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    return prompt + answer, [IGNORE] * len(prompt) + answer


@given(RECORDS, st.integers(1, 3), st.sampled_from(["causal", "unified", "spans"]))
def test_every_record_comes_once_in_each_pass(records, passes: int, objective: str) -> None:
    marked = [([100 + i, *prompt], answer) for i, (prompt, answer) in enumerate(records)]
    pieces = [piece_of(objective, *labelled(*record), start=99) for record in marked]
    rows = LabelledRows(pieces, 32, passes, seed=3)
    found = rows.rows(0, len(rows))
    read = found.read.inputs if found.read is not None else found.inputs
    assert Counter(read[read >= 100].tolist()) == {100 + i: passes for i in range(len(records))}
    learnt = sum(int((target != IGNORE).sum()) for target in found.targets)
    assert learnt == passes * sum(len(answer) for _, answer in marked)
    assert (found.targets[found.segment == 32] == IGNORE).all()
    again = rows.rows(len(rows), 1)
    assert (again.inputs == found.inputs[:1]).all()


def test_what_a_record_asks_for() -> None:
    ids, labels = [1, 2, 3, 4, 5, 6], [IGNORE, 2, IGNORE, IGNORE, 5, 6]
    assert piece_of("causal", ids, labels) == Piece([1, 2, 3, 4, 5], [2, IGNORE, IGNORE, 5, 6])
    assert piece_of("unified", ids, labels) == Piece(ids, [IGNORE] * 4 + [5, 6], types=[0] * 4 + [1] * 2)
    assert piece_of("spans", ids, labels, start=9) == Piece([9, 5], [5, 6], read=[1, 2, 3, 4])


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wordpiece")
    texts = [message["content"] for index in range(30) for message in dialogue(index)["messages"]]
    build_lossless(texts, 544, folder)
    return folder


@pytest.fixture(scope="module")
def unified(tmp_path_factory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("unified")
    torch.manual_seed(0)
    tokenizer = load(tokenizer_folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = UnifiedConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape)  # type: ignore[arg-type]
    UnifiedForMaskedLM(config).save_pretrained(folder)
    save(tokenizer, folder)
    return folder


def test_without_markers_messages_stand_between_separators() -> None:
    plain = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "甲": 3, "乙": 4}, "[UNK]")),
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    notes: Counter[str] = Counter()
    encode = encoder_of(plain, "truncate")
    said = [
        {"role": "user", "content": "甲"},
        {"role": "assistant", "content": "乙"},
        {"role": "user", "content": "甲"},
    ]
    assert encode(said, 9, notes) == [([1, 3, 2, 4, 2], [IGNORE] * 3 + [4, 2])]
    assert encode(said, 4, notes) == [([1, 3, 2, 4], [IGNORE] * 3 + [4])]
    assert encode(said, 3, notes) == [] == encoder_of(plain, "drop")(said, 4, notes)
    assert notes == {"longer than max_length, cut": 2, "longer than max_length, dropped": 1}


def test_packed_records_have_the_models_own_loss(unified: Path) -> None:
    model = UnifiedForMaskedLM.from_pretrained(unified, dtype=torch.float32).eval()
    encode = encoder_of(load(unified), "truncate")
    encoded = [encode(dialogue(index)["messages"], 64, Counter()) for index in range(6)]
    pieces = [piece_of("unified", *found) for (found,) in encoded]
    rows = LabelledRows(pieces, 64, 1, seed=1)
    packed = step_of(model, "unified")(model, torch.float32, False, 64).loss(rows.rows(0, len(rows)))
    own = 0.0
    for piece in pieces:
        ids, types = torch.tensor([piece.inputs]), torch.tensor([piece.types])
        found = model(ids, token_type_ids=types, labels=torch.tensor([piece.targets]), num_items_in_batch=1)
        own += float(found.loss)
    assert float(packed) == pytest.approx(own, rel=1e-4)


def test_a_unified_model_learns_to_answer(unified: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    records = jsonl(dialogue(index) for index in range(60))
    settings = SftSettings(epochs=8, batch_size=4, learning_rate=5e-3, precision="fp32", threads=1, validation=0.1)
    counts = sft.run(settings, {"model": [unified], "records": [records]}, tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.5 * losses[0] and counts["last_loss"] == losses[-1]
    assert counts["records"] == 54 and counts["validation_records"] == 6
    looked = [line["validation_loss"] for line in log if "validation_loss" in line]
    assert looked[-1] < looked[0] and counts["validation_loss"] == pytest.approx(looked[-1], abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.jsonl", "model", "records.json"]
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model").eval()
    tokenizer = load(tmp_path / "out" / "model")
    for index in range(3):
        question = dialogue(index)["messages"][0]
        asked = torch.tensor([ChatFormat(tokenizer).encode([question], add_generation_prompt=True)[0]])
        written = model.generate(asked, token_type_ids=torch.zeros_like(asked), max_new_tokens=16, do_sample=False)
        answer = tokenizer.decode(written[0, asked.shape[1] :])
        # So small a model learns what an answer looks like, and not whom it is about.
        assert "在" in answer and answer.endswith("。<|im_end|>"), answer


def test_a_run_goes_on_to_the_same_bits(
    unified: Path, jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hanmo.pretrain.trainer import Trainer

    inputs = {"model": [unified], "records": [jsonl(dialogue(index) for index in range(30))]}
    settings = SftSettings(epochs=2, precision="fp32", threads=1, batch_size=4)
    sft.run(settings, inputs, tmp_path / "whole")
    step = Trainer._one_step

    def dies(self: Trainer, *given):  # type: ignore[no-untyped-def]
        if self.step == 3:
            self.save()
            self.store.wait()
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_one_step", dies)
        with pytest.raises(KeyboardInterrupt):
            sft.run(settings, inputs, tmp_path / "cut")
    sft.run(settings, inputs, tmp_path / "cut")
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_stock_t5_is_tuned(tokenizer_folder: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = load(tokenizer_folder)
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    config = transformers.T5Config(vocab_size=len(tokenizer), **shape)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    save(tokenizer, tmp_path / "t5")
    settings = SftSettings(epochs=4, batch_size=4, learning_rate=5e-3, precision="fp32", threads=1, max_length=64)
    inputs = {"model": [tmp_path / "t5"], "records": [jsonl(dialogue(index) for index in range(30))]}
    sft.run(settings, inputs, tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out" / "model")
    assert type(again).__name__ == "T5ForConditionalGeneration"


@pytest.fixture(scope="module")
def linglong(tmp_path_factory):
    """A function that gives the folder of a small LingLong of a form, with characters and their pinyin."""
    from hanmo.tokenizer.forms import pinyin

    root = tmp_path_factory.mktemp("linglong")
    texts = [message["content"] for index in range(30) for message in dialogue(index)["messages"]]
    pinyin.build(texts, 530, root / "tokenizer")

    def make(form: str) -> Path:
        torch.manual_seed(0)
        tokenizer = load(root / "tokenizer")
        rows = len(pinyin.read_classes(root / "tokenizer" / "pinyin.txt"))
        config = LingLongConfig(
            vocab_size=len(tokenizer), n_position=128, n_embd=32, n_layer=2, n_head=4, n_vocab_pinyin=rows,
            bos_token_id=None, eos_token_id=0, **{form: True},
        )  # fmt: skip
        save_model(LingLongForCausalLM(config), tokenizer, root / form, [0])
        return root / form

    return make


@pytest.mark.parametrize("form", ["use_pinyin", "backward"])
def test_linglong_s_records_have_the_models_own_loss(linglong, form: str) -> None:
    """Packed into rows, as each alone: with readings of the record, or each message from its end."""
    folder = linglong(form)
    model, tokenizer = LingLongForCausalLM.from_pretrained(folder).eval(), load(folder)
    encode, chat = encoder_of(tokenizer, "truncate", form == "backward"), ChatFormat(tokenizer)
    pinyin_of = pinyin_reader(folder) if form == "use_pinyin" else None
    pieces, own = [], 0.0
    for index in range(6):
        asked, said = dialogue(index)["messages"]
        (found,) = encode([asked, said], 128, Counter())
        question, answer = (encode_text(tokenizer, message["content"]) for message in (asked, said))
        head = [chat.turn_start, *encode_text(tokenizer, "user\n"), *question[:: -1 if form == "backward" else 1]]
        head += [chat.turn_end, *encode_text(tokenizer, "\n"), chat.turn_start, *encode_text(tokenizer, "assistant\n")]
        tail = [*answer[:: -1 if form == "backward" else 1], chat.turn_end]
        ids, mask = head + tail, [0] * len(head) + [1] * len(tail)
        assert found.input_ids == ids
        pieces.append(piece_of("causal", *found, pinyin_of=pinyin_of))
        more = {"pinyin_ids": torch.tensor([pinyin_reader(folder)(ids)[:-1]])} if pinyin_of else {}
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]]), **more).logits[0]
        learnt = torch.tensor(mask[1:]) == 1
        own += float(torch.nn.functional.cross_entropy(logits[learnt], torch.tensor(ids[1:])[learnt], reduction="sum"))
    rows = LabelledRows(pieces, 128, 1, seed=1)
    packed = step_of(model, "causal")(model, torch.float32, False, 128).loss(rows.rows(0, len(rows)))
    assert len(rows) < 6 and float(packed) == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("form", ["use_pinyin", "backward"])
def test_linglong_learns_to_answer(linglong, form: str, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    settings = SftSettings(epochs=12, batch_size=4, learning_rate=1e-2, precision="fp32", threads=1, validation=0.1)
    inputs = {"model": [linglong(form)], "records": [jsonl(dialogue(index) for index in range(60))]}
    sft.run(settings, inputs, tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    looked = [line["validation_loss"] for line in log if "validation_loss" in line]
    assert losses[-1] < 0.3 * losses[0] and looked[-1] < looked[0]
    # The served model gives the answer in the order in which it is read.
    questions = [dialogue(index)["messages"][0]["content"] for index in range(2)]
    greedy = Sampling(temperature=0, max_tokens=48)
    for answer in generate(tmp_path / "out" / "model", questions, sampling=greedy, as_chat=True, device="cpu"):
        # So small a model learns what an answer looks like: it ends with a place.
        assert answer.text[-2:] in ("园。", "校。", "里。", "下。", "边。") and answer.finish == "stop", answer


def test_slips_are_one_line(unified: Path, tokenizer_folder: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    records = jsonl([dialogue(1)])
    config = transformers.BertConfig(vocab_size=640, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(HanmoError, match="an encoder writes no answers"):
        sft.run(SftSettings(), {"model": [tmp_path / "bert"], "records": [records]}, tmp_path / "out")
    with pytest.raises(HanmoError, match="none of the 1 records fits into 4 tokens"):
        sft.run(SftSettings(max_length=4), {"model": [unified], "records": [records]}, tmp_path / "out")
