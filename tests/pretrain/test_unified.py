"""The unified objective: which piece does what, the packed step against the model alone, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_runs import QUICK, lines, run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.evaluate.bpb import bits_per_byte
from hanmo.files import JsonlZstWriter
from hanmo.models.loss import IGNORE
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedForMaskedLM
from hanmo.pretrain.alone import Alone
from hanmo.pretrain.distributed import World
from hanmo.pretrain.lanes import Laned
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.objectives.unified import UnifiedRows, causal_rows
from hanmo.pretrain.rows import filled_up, taken
from hanmo.pretrain.settings import MaskSettings, PretrainSettings, UnifiedSettings
from hanmo.pretrain.steps.unified import UnifiedStep, check_unified
from hanmo.serve import Sampling
from hanmo.serve.engines import open_engine
from hanmo.tokenizer import load
from hanmo.tokenizer.forms.wordpiece import build_lossless
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import open_split, split_of

SENTENCES = [
    "北京大学的学生在图书馆里学习人工智能。",
    "上海的天气今天非常好，我们去公园散步。",
    "小猫在树下睡觉，小狗在草地上奔跑。",
    "The model learns from text quickly, 今天天气很好。",
]
RUN = {"preset": "zhouwenwang-2m", "shape": {"hidden": 32, "ffn": 64, "layers": 2, "heads": 4, "kv_heads": 4}}


@pytest.fixture(scope="module")
def lossless(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lossless")
    build_lossless([text * 3 for text in SENTENCES], 590, folder)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, lossless) -> Path:
    from hanmo.tokens import stage
    from hanmo.tokens.settings import TokensSettings

    folder = tmp_path_factory.mktemp("unified")
    for split, times in (("train", 8), ("heldout", 2)):
        with JsonlZstWriter(folder / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(times * len(SENTENCES)):
                text = SENTENCES[number % len(SENTENCES)] + SENTENCES[number % 3] * (number % 2)
                file.write({"id": str(number), "text": text, "source": "s", "meta": {}})
    stage.run(TokensSettings(workers=1), {"corpus": [folder / "corpus"], "tokenizer": [lossless]}, folder / "tokens")
    return folder / "tokens"


def order_of(tokenizer, context: int) -> Order:
    documents = [
        [tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for text in SENTENCES
    ]
    flat = np.array([index for document in documents for index in document], np.uint16)
    return Order(split_of(flat, np.cumsum([len(d) for d in documents])), context, 1)


def source(folder: Path, context: int = 64, seed: int = 7, **shares: float) -> tuple[Order, UnifiedRows]:
    tokenizer = load(folder)
    order = order_of(tokenizer, context)
    return order, UnifiedRows(order, tokenizer, UnifiedSettings(**shares), MaskSettings(), seed)


def pieces(rows: Rows):
    """(ids, targets, types) of each piece."""
    assert rows.types is not None
    for row in range(len(rows.inputs)):
        for number in np.unique(rows.segment[row]):
            here = rows.segment[row] == number
            yield rows.inputs[row][here], rows.targets[row][here], rows.types[row][here]


def test_each_piece_has_one_task_in_the_shares_asked_for(lossless) -> None:
    order, unified = source(lossless, masked=2, causal=1, prefix=1)
    plain, rows = order.rows(0, 600), unified.rows(0, 600)
    special = load(lossless).all_special_ids
    counts = {"masked": 0, "causal": 0, "prefix": 0}
    cuts = []
    for (ids, targets, types), (_, text, _) in zip(
        pieces(rows),
        pieces(Rows(plain.inputs, plain.targets, plain.position, plain.segment, plain.targets)),
        strict=True,
    ):
        if types.all():
            counts["causal"] += 1
            assert targets[0] == IGNORE and np.array_equal(targets[1:], text[1:]) and np.array_equal(ids, text)
        elif types.any():
            counts["prefix"] += 1
            cut = int(types.argmax())
            cuts.append(cut / len(types))
            assert types[cut:].all() and (targets[:cut] == IGNORE).all() and np.array_equal(ids, text)
            assert np.array_equal(targets[cut:], text[cut:])
        else:
            counts["masked"] += 1
            hidden = targets != IGNORE
            assert np.array_equal(ids[~hidden], text[~hidden]) and np.array_equal(targets[hidden], text[hidden])
            assert not np.isin(targets[hidden], special).any()
    total = sum(counts.values())
    assert counts["causal"] / total == pytest.approx(0.25, abs=0.04)
    assert counts["prefix"] / total == pytest.approx(0.25, abs=0.04)
    assert 0.4 < np.mean(cuts) < 0.6


def test_rows_are_a_pure_function_of_their_number(lossless) -> None:
    _, unified = source(lossless)
    whole, part = unified.rows(0, 30), unified.rows(11, 4)
    assert whole.types is not None and part.types is not None
    assert np.array_equal(whole.types[11:15], part.types) and np.array_equal(whole.targets[11:15], part.targets)
    other = source(lossless, seed=8)[1].rows(0, 30)
    assert other.types is not None and not np.array_equal(whole.types, other.types)
    # One task alone is that task, whatever else could have been drawn.
    alone = source(lossless, masked=0, causal=1, prefix=0)[1].rows(0, 5)
    assert alone.types is not None and alone.types.all()


def test_words_of_the_lossless_kind_are_masked_whole(lossless) -> None:
    tokenizer = load(lossless)
    order = order_of(tokenizer, 64)
    plain = order.rows(0, 400).targets
    hidden = MaskedRows(order, tokenizer, 0.15, True, 1).rows(0, 400).targets != IGNORE
    ids = tokenizer("天气", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2
    both = [hidden[r, a : a + 2] for r in range(400) for a in range(63) if plain[r, a : a + 2].tolist() == ids]
    assert any(pair.all() for pair in both) and not any(pair.any() and not pair.all() for pair in both)


def model_of(vocab_size: int) -> UnifiedForMaskedLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = UnifiedConfig(vocab_size=vocab_size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape)
    model = UnifiedForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_the_packed_step_is_the_model_on_every_document_alone(lossless) -> None:
    model = model_of(len(load(lossless)))
    rows = source(lossless)[1].rows(0, 4)
    step = UnifiedStep(model, torch.float32, compiled=False, context=64)
    loss = step.loss(rows)
    total = torch.zeros(())
    for ids, targets, types in pieces(rows):
        labels = torch.from_numpy(targets)[None]
        if not (labels != IGNORE).any():
            continue
        total = (
            total
            + model(
                input_ids=torch.from_numpy(ids)[None],
                token_type_ids=torch.from_numpy(types)[None],
                labels=labels,
                num_items_in_batch=1,
            ).loss
        )
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-4)
    names, weights = zip(*model.named_parameters(), strict=True)
    for name, one, other in zip(
        names, torch.autograd.grad(loss, weights), torch.autograd.grad(total, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=name)
    half = UnifiedStep(model, torch.bfloat16, compiled=False, context=64).loss(rows)
    assert half.item() == pytest.approx(loss.item(), rel=0.01)
    # Rows that only fill up add nothing, and rows in parts add up.
    filled = step.loss(filled_up(rows, 6))
    parts = step.loss(taken(rows, slice(0, 1))) + step.loss(taken(rows, slice(1, 4)))
    torch.testing.assert_close(filled, loss)
    torch.testing.assert_close(parts, loss)


def test_lanes_equal_one_thread(lossless, tiny_settings) -> None:
    rows = source(lossless)[1].rows(0, 3)
    world, before = World(torch.device("cpu")), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = []
        for way in (Alone, Laned):
            model = model_of(len(load(lossless)))
            way(model, tiny_settings, torch.float32, world, UnifiedStep).loss(rows).backward()
            found.append({name: p.grad for name, p in model.named_parameters()})
    finally:
        torch.set_num_threads(before)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-3, msg=name)


def test_compiled_is_as_eager(lossless) -> None:
    model = model_of(len(load(lossless)))
    rows = source(lossless)[1].rows(0, 2)
    plain = UnifiedStep(model, torch.float32, compiled=False, context=64).loss(rows)
    fast = UnifiedStep(model, torch.float32, compiled=True, context=64).loss(rows)
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-3)


def test_a_model_that_computes_otherwise_is_refused() -> None:
    model = model_of(100)
    check_unified(model, "given")
    model.bert.encoder.layer[1].attention.self.scaling *= 1.5
    with pytest.raises(HanmoError, match=r"given: UnifiedForMaskedLM: not a unified model .*other logits"):
        check_unified(model, "given")


def test_held_out_documents_are_asked_for_every_token_once() -> None:
    documents = [list(range(10, 31)), [40, 41], [50, 51, 52]]
    flat = np.array([index for document in documents for index in document], np.uint16)
    rows = causal_rows(split_of(flat, np.cumsum([len(d) for d in documents])), 3, 8)
    asked = rows.targets[rows.targets != IGNORE]
    assert sorted(asked.tolist()) == sorted(index for document in documents for index in document[1:])
    behind = rows.targets[:, 1:] != IGNORE
    # Each is answered by the token before it, of the same piece.
    assert np.array_equal(rows.inputs[:, :-1][behind] + 1, rows.targets[:, 1:][behind])
    assert np.array_equal(rows.segment[:, :-1][behind], rows.segment[:, 1:][behind])


def test_a_run_that_is_stopped_and_goes_on_and_what_it_leaves(tokens, tmp_path: Path) -> None:
    options = {**RUN, "context": 64, "batch_tokens": 512, "tokens": 30 * 512, "lr": 3e-3, "sample_prompts": ["今天"]}
    counts = run_stage(tokens, tmp_path / "run", **options)
    losses = [line["loss"] for line in lines(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-3:]) < losses[0] - 1
    assert 0 < counts["heldout_loss"] < losses[0] and 0 < counts["heldout_bpb"] < 10
    assert lines(tmp_path / "run" / "samples.jsonl")[-1]["text"].startswith("今天")
    folder = tmp_path / "run" / "model"
    for auto in (transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM):
        model, info = auto.from_pretrained(folder, output_loading_info=True)
        assert isinstance(model, UnifiedForMaskedLM) and not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = load(folder)
    # As a decoder it sees what is before a token alone, also where nobody says types; and so the engine writes.
    ids = torch.tensor([[tokenizer.cls_token_id, *tokenizer("今天天气")["input_ids"]]])
    with torch.no_grad():
        shorter = model(ids[:, :3]).logits
        torch.testing.assert_close(model(ids).logits[:, :3], shorter)
    engine = open_engine(tmp_path / "run", threads=1)
    assert engine.encode("今天天气") == ids[0].tolist()
    greedy = Sampling(max_tokens=5, temperature=0)
    alone = engine.complete([engine.encode("今天")], greedy)
    assert alone[0].text == engine.complete([engine.encode("今天"), engine.encode("上海的")], greedy)[0].text
    assert model.config.eos_token_id == tokenizer.eos_token_id and model.config.bos_token_id == tokenizer.cls_token_id
    assert model.config.hidden_dropout_prob == 0.1
    # Stopped and gone on with, it ends with the same bits; other micro-batches change rounding alone.
    run_stage(tokens, tmp_path / "grown", **options | {"tokens": 15 * 512})
    run_stage(tokens, tmp_path / "grown", **options)
    whole, grown = (saved(tmp_path / name / "model") for name in ("run", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)
    run_stage(tokens, tmp_path / "micro", **options | {"micro_tokens": 128})
    pieces = [line["loss"] for line in lines(tmp_path / "micro" / "log.jsonl") if "loss" in line]
    assert pieces[:8] == pytest.approx(losses[:8], rel=1e-4)


def test_a_folder_goes_on(tokens, tmp_path: Path) -> None:
    options = {**RUN, "context": 64, "batch_tokens": 512, "tokens": 10 * 512, "lr": 3e-3}
    run_stage(tokens, tmp_path / "first", **options)
    counts = run_stage(tokens, tmp_path / "more", tmp_path / "first" / "model", **options)
    first = [line["loss"] for line in lines(tmp_path / "first" / "log.jsonl") if "loss" in line]
    assert counts["loss"] < first[0] - 1
    config = json.loads((tmp_path / "more" / "model" / "config.json").read_text())
    assert config["architectures"] == ["UnifiedForMaskedLM"] and config["hidden_size"] == 32


def test_slips_are_one_line(tokens, tiny_model_dir, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="masked, causal and prefix are all 0; raise one of them"):
        PretrainSettings(**{**QUICK, "unified": {"masked": 0, "causal": 0, "prefix": 0}})
    with pytest.raises(HanmoError, match="objective: unified: hanmo-1m learns causal; give another preset"):
        run_stage(tokens, tmp_path / "a", objective="unified")
    with pytest.raises(HanmoError, match="objective: causal: zhouwenwang-2m learns unified; give another preset"):
        run_stage(tokens, tmp_path / "b", **RUN, objective="causal")
    with pytest.raises(HanmoError, match=r"no model that transformers can load here"):
        run_stage(tokens, tmp_path / "c", tiny_model_dir, objective="unified", vocabulary="swap")
    task = tmp_path / "afqmc.json"
    task.write_text('{"sentence1": "好", "sentence2": "不好", "label": "0"}\n', encoding="utf-8")
    with pytest.raises(HanmoError, match="task files are for objective: masked; make tokens of the"):
        run_stage(task, tmp_path / "d", **RUN)


def test_bits_per_byte_of_the_look_are_those_of_eval(tokens, tmp_path: Path) -> None:
    options = {**RUN, "context": 64, "batch_tokens": 512, "tokens": 10 * 512, "lr": 3e-3}
    counts = run_stage(tokens, tmp_path / "run", **options)
    folder = tmp_path / "run" / "model"
    split = open_split(tokens, "heldout")
    tokenizer = load(folder)
    texts = [tokenizer.decode(split.document(number), skip_special_tokens=True) for number in range(len(split))]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    # The look cuts documents where a row is full, and these are shorter.
    found = bits_per_byte(model, tokenizer, texts, 64)
    assert counts["heldout_bpb"] == pytest.approx(found["bits_per_byte"], rel=2e-3)
