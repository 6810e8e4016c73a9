"""Filling masks: which tokens are hidden, the packed encoder against the stock one, and whole runs on task files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_runs import run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, read_jsonl
from hanmo.models.loss import IGNORE
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.objectives.texts import task_splits, with_openings
from hanmo.pretrain.steps.encoder import EncoderStep
from hanmo.tokenizer import load
from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton
from hanmo.tokens.order import Order
from hanmo.tokens.shards import open_split, split_of

SENTENCES = [
    "北京大学的学生在图书馆里学习人工智能",
    "上海的天气今天非常好，我们去公园散步",
    "花呗可以分期付款吗",
    "怎么用花呗支付火车票",
    "The model learns from text quickly",
    "小猫在树下睡觉，小狗在草地上奔跑",
]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> Path:
    """A BERT tokenizer of the sentences' characters, with some pieces of English words."""
    folder = tmp_path_factory.mktemp("wordpiece")
    words = ["the", "model", "learn", "##s", "from", "text", "quick", "##ly"]
    pieces = SPECIALS + sorted({c for text in SENTENCES for c in text if not c.isascii()}) + words
    save_bert(skeleton({piece: index for index, piece in enumerate(pieces)}, True), True, folder)
    return folder


@pytest.fixture(scope="module")
def vocabulary(wordpiece) -> dict[str, int]:
    return load(wordpiece).get_vocab()


SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def encoder(family: str, vocab_size: int, out: Path | None = None, tokenizer: Path | None = None):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=vocab_size, **SHAPE)
    model = getattr(transformers, f"{family}ForMaskedLM")(config)
    if out is not None:
        model.save_pretrained(out)
        if tokenizer:
            transformers.BertTokenizerFast.from_pretrained(tokenizer).save_pretrained(out)
    return model


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """120 pairs in AFQMC's form."""
    path = tmp_path_factory.mktemp("task") / "afqmc.json"
    chooser = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(120):
            one, other = chooser.choice(SENTENCES, 2)
            record = {"sentence1": f"{one}{number % 7 * '，'}", "sentence2": f"{other}", "label": "0"}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def order_of(documents: list[list[int]], context: int) -> Order:
    flat = np.array([index for document in documents for index in document], np.uint16)
    return Order(split_of(flat, np.cumsum([len(d) for d in documents])), context, 1)


def row_source(wordpiece, context: int = 48, **options) -> tuple[Order, MaskedRows]:
    tokenizer = load(wordpiece)
    order = order_of([tokenizer(text)["input_ids"] for text in SENTENCES], context)
    return order, MaskedRows(order, tokenizer, **{"share": 0.15, "whole_words": True, "seed": 7, **options})


def test_what_is_hidden_and_what_stands_there(wordpiece) -> None:
    order, masked = row_source(wordpiece)
    plain, rows = order.rows(0, 2000).targets, masked.rows(0, 2000)
    hidden = rows.targets != IGNORE
    assert np.array_equal(rows.targets[hidden], plain[hidden])
    assert np.array_equal(rows.inputs[~hidden], plain[~hidden])
    ordinary = plain > MASK
    assert not hidden[~ordinary].any()  # never [CLS], [SEP], [UNK]
    assert hidden.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.005)
    of_hidden = rows.inputs[hidden]
    assert (of_hidden == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (of_hidden == plain[hidden]).mean() == pytest.approx(0.1 + 0.1 / len(load(wordpiece)), abs=0.01)
    assert (of_hidden > MASK).sum() + (of_hidden == MASK).sum() == hidden.sum()


def test_words_are_hidden_as_a_whole(wordpiece, vocabulary) -> None:
    order, masked = row_source(wordpiece)
    plain, rows = order.rows(0, 300).targets, masked.rows(0, 300)
    hidden = rows.targets != IGNORE
    for word in (["天", "气"], ["learn", "##s"], ["quick", "##ly"], ["图", "书", "馆"]):
        ids = [vocabulary[piece] for piece in word]
        places = [
            (row, at)
            for row in range(300)
            for at in range(49 - len(ids))
            if plain[row, at : at + len(ids)].tolist() == ids
        ]
        together = [hidden[row, at : at + len(ids)] for row, at in places]
        assert len(together) > 50 and any(part.all() for part in together)
        assert all(part.all() or not part.any() for part in together), word
    # Words beside each other are apart: one may be hidden without the other.
    both = [vocabulary["model"], vocabulary["learn"]]
    apart = [
        hidden[r, a] != hidden[r, a + 1] for r in range(300) for a in range(47) if plain[r, a : a + 2].tolist() == both
    ]
    assert any(apart)
    loose = row_source(wordpiece, whole_words=False)[1].rows(0, 300).targets != IGNORE
    ids = [vocabulary["天"], vocabulary["气"]]
    pairs = [loose[r, a : a + 2] for r in range(300) for a in range(47) if plain[r, a : a + 2].tolist() == ids]
    assert any(pair.any() and not pair.all() for pair in pairs)


def test_masks_are_a_pure_function_of_the_row_and_new_in_each_pass(wordpiece) -> None:
    order, masked = row_source(wordpiece)
    whole = masked.rows(0, 40)
    part = masked.rows(13, 5)
    assert np.array_equal(whole.inputs[13:18], part.inputs) and np.array_equal(whole.targets[13:18], part.targets)
    again = row_source(wordpiece)[1].rows(0, 40)
    assert np.array_equal(whole.inputs, again.inputs)
    other = row_source(wordpiece, seed=8)[1].rows(0, 40)
    assert not np.array_equal(whole.targets, other.targets)
    text = order.rows(0, 40).targets
    same = [r for r in range(1, 40) if np.array_equal(text[r][:20], text[0][:20])]
    assert all(not np.array_equal(whole.targets[r][:20], whole.targets[0][:20]) for r in same)


@pytest.mark.parametrize("family", ["Bert", "Ernie", "MegatronBert"])
def test_the_packed_encoder_equals_every_document_alone(family: str, wordpiece, vocabulary) -> None:
    model = encoder(family, len(vocabulary)).eval()
    tokenizer = load(wordpiece)
    pairs = [tokenizer(one, other) for one, other in itertools.pairwise(SENTENCES)]
    order = order_of([pair["input_ids"] for pair in pairs], 64)
    rows = MaskedRows(order, tokenizer, 0.3, True, 1).rows(0, 3)
    step = EncoderStep(model, torch.float32, compiled=False, context=64, separator=SEP)
    loss = step.loss(rows)
    plain = torch.zeros(())
    for row in range(3):
        for segment in np.unique(rows.segment[row]):
            here = rows.segment[row] == segment
            ids = torch.from_numpy(rows.inputs[row][here])[None]
            types = ((ids == SEP).cumsum(1) - (ids == SEP).long()).clamp(0, 1)
            logits = model(input_ids=ids, token_type_ids=types).logits[0]
            targets = torch.from_numpy(rows.targets[row][here])
            plain = plain + F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-4)
    names, weights = zip(*model.named_parameters(), strict=True)
    ours = torch.autograd.grad(loss, weights, allow_unused=True)
    theirs = torch.autograd.grad(plain, weights, allow_unused=True)
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_compiled_and_bf16_agree(wordpiece, vocabulary) -> None:
    model = encoder("Bert", len(vocabulary)).eval()
    rows = row_source(wordpiece)[1].rows(0, 4)
    plain = EncoderStep(model, torch.float32, compiled=False, context=48).loss(rows)
    fast = EncoderStep(model, torch.float32, compiled=True, context=48).loss(rows)
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-3)
    again = EncoderStep(model, torch.float32, compiled=False, context=48, recompute=True).loss(rows)
    bias = model.cls.predictions.transform.dense.bias, model.bert.encoder.layer[0].attention.self.query.weight
    for one, other in zip(torch.autograd.grad(plain, bias), torch.autograd.grad(again, bias), strict=True):
        assert torch.equal(one, other)
    half = EncoderStep(model, torch.bfloat16, compiled=False, context=48).loss(rows)
    half.backward()
    assert half.item() == pytest.approx(plain.item(), rel=0.01)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("family", ["Bert", "MegatronBert"])
def test_a_run_on_a_task_file(family: str, task, wordpiece, vocabulary, tmp_path: Path, capfd) -> None:
    encoder(family, len(vocabulary), tmp_path / "given", wordpiece)
    options = {"objective": "masked", "batch_tokens": 512, "context": 64, "tokens": 40 * 512, "lr": 3e-3}
    counts = run_stage(task, tmp_path / "run", tmp_path / "given", **options)
    losses = [line["loss"] for _, line in read_jsonl(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert counts["heldout_loss"] < losses[0] and "nats a masked token" in capfd.readouterr().err
    folder = tmp_path / "run" / "model"
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == f"{family}ForMaskedLM" and not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.hidden_dropout_prob == 0.1  # for fine-tuning, as before
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.mask_token == "[MASK]" and tokenizer(SENTENCES[2])["input_ids"][0] == CLS
    # Stopped and gone on with, it ends with the same bits.
    run_stage(task, tmp_path / "grown", tmp_path / "given", **options | {"tokens": 20 * 512})
    run_stage(task, tmp_path / "grown", tmp_path / "given", **options)
    whole, grown = (saved(tmp_path / name / "model") for name in ("run", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)


def test_a_run_on_a_tokens_folder_with_vocab_txt_alone(wordpiece, vocabulary, tmp_path: Path) -> None:
    from hanmo.tokens import stage as tokens_stage
    from hanmo.tokens.settings import TokensSettings

    for split, times in (("train", 8), ("heldout", 2)):
        with JsonlZstWriter(tmp_path / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(times * len(SENTENCES)):
                file.write({"id": str(number), "text": SENTENCES[number % len(SENTENCES)], "source": "s", "meta": {}})
    data = tmp_path / "tokens"
    tokens_stage.run(TokensSettings(workers=1), {"corpus": [tmp_path / "corpus"], "tokenizer": [wordpiece]}, data)
    encoder("Bert", len(vocabulary), tmp_path / "given")
    (tmp_path / "given" / "vocab.txt").write_text(
        "\n".join(sorted(vocabulary, key=lambda piece: vocabulary[piece])) + "\n", encoding="utf-8"
    )
    options = {"objective": "masked", "batch_tokens": 256, "context": 32, "freeze": ["embeddings"]}
    counts = run_stage(data, tmp_path / "run", tmp_path / "given", **options)
    assert counts["heldout_loss"] > 0
    before, after = saved(tmp_path / "given"), saved(tmp_path / "run" / "model")
    frozen = [name for name in before if ".embeddings." in name]
    assert len(frozen) == 5 and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["cls.predictions.bias"], after["cls.predictions.bias"])


def test_openings_stand_before_every_document(wordpiece) -> None:
    documents = [[5, 6, SEP], [7, SEP], [8, 9, 10, SEP]]
    flat = np.concatenate(documents).astype(np.uint16)
    plain = split_of(flat, np.array([3, 5, 9]), np.array([0, 1, 0]), ["a", "b"])
    split = with_openings(plain, CLS)
    assert [split.document(index).tolist() for index in range(3)] == [[CLS, *d] for d in documents]
    whole = [CLS, 5, 6, SEP, CLS, 7, SEP, CLS, 8, 9, 10, SEP]
    assert len(split.tokens) == 12
    for start in range(12):
        assert int(split.tokens[start]) == whole[start]
        for stop in range(start, 13):
            assert split.tokens[start:stop].tolist() == whole[start:stop]
    assert split.shards[0].amounts == {0: (2, 9), 1: (1, 3)}


def test_task_files_are_encoded_as_pairs(task, wordpiece) -> None:
    tokenizer = load(wordpiece)
    train, heldout = task_splits([task], tokenizer)
    assert train.sources == ["afqmc"] and len(heldout) and len(train) + len(heldout) <= 120
    for index in range(len(train)):
        ids = train.document(index).tolist()
        assert ids[0] == CLS and ids[-1] == SEP and ids.count(SEP) == 2


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['{"colour": "red"}'], r"x.json:1: a record of no known task \(fields: colour\)"),
        (['{"sentence": "好"}', "{torn"], r"x.json:2: not JSON"),
        ([""], "no records of a task there"),
    ],
)
def test_files_that_are_no_tasks_are_one_line(lines, line: str, wordpiece, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(HanmoError, match=line):
        task_splits([tmp_path / "x.json"], load(wordpiece))


def test_slips_of_the_objective_are_one_line(
    task, tokens, tiny_model_dir, wordpiece, vocabulary, tmp_path: Path
) -> None:
    with pytest.raises(HanmoError, match="objective: masked needs a tokenizer with \\[CLS\\]"):
        run_stage(tokens, tmp_path / "a", tiny_model_dir, objective="masked")
    with pytest.raises(HanmoError, match="task files are encoded by the tokenizer in the model's folder"):
        run_stage(task, tmp_path / "b", preset="erlangshen-2m")
    with pytest.raises(HanmoError, match="objective: masked: hanmo-1m learns causal; give another preset"):
        run_stage(task, tmp_path / "b", objective="masked")
    with pytest.raises(HanmoError, match=r"no tokens.json there"):
        run_stage(task, tmp_path / "c", tiny_model_dir)
    torch.manual_seed(0)
    config = transformers.RoFormerConfig(vocab_size=len(vocabulary), embedding_size=32, **SHAPE)
    transformers.RoFormerForMaskedLM(config).save_pretrained(tmp_path / "rope")
    transformers.BertTokenizerFast.from_pretrained(wordpiece).save_pretrained(tmp_path / "rope")
    with pytest.raises(HanmoError, match="RoFormerForMaskedLM: not an encoder that the packed step can run"):
        run_stage(task, tmp_path / "d", tmp_path / "rope", objective="masked")


def test_real_task_files(shared_data: Path) -> None:
    tokenizer = transformers.BertTokenizerFast(str(shared_data / "tokenizers" / "bert-base-chinese" / "vocab.txt"))
    bench = shared_data / "bench"
    train, heldout = task_splits([bench / "afqmc", bench / "fewclue" / "chid", bench / "c3"], tokenizer)
    assert len(train) + len(heldout) > 6000
    rows = MaskedRows(Order(train, 128, 1), tokenizer, 0.15, True, 1).rows(0, 64)
    assert 0.12 < (rows.targets != IGNORE).mean() < 0.17


def test_a_masked_tokens_folder_keeps_its_split(tokens) -> None:
    split = open_split(tokens, "train")
    opened = with_openings(split, 1)
    assert len(opened.tokens) == len(split.tokens) + len(split) and len(opened) == len(split)
