"""Filling gaps: what is cut out of packed rows, both packed steps against the models alone, whole runs, and filling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from group import together  # type: ignore[import-not-found]
from tiny_runs import lines, run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter
from hanmo.models.gaps import fill
from hanmo.models.loss import IGNORE
from hanmo.models.megatron_t5.config import MegatronT5Config
from hanmo.models.megatron_t5.model import MegatronT5ForConditionalGeneration
from hanmo.pretrain.alone import Alone
from hanmo.pretrain.distributed import World
from hanmo.pretrain.lanes import Laned
from hanmo.pretrain.loading import without_dropout
from hanmo.pretrain.objectives.gaps import GapRows
from hanmo.pretrain.optimizer import build_optimizers
from hanmo.pretrain.rows import filled_up, taken
from hanmo.pretrain.rules import Rates
from hanmo.pretrain.settings import SpanSettings
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.steps.seq2seq import T5Step, check_seq2seq, seq2seq_flops
from hanmo.serve import Sampling, generate
from hanmo.serve.engines import open_engine
from hanmo.tokenizer import end_of_document, load
from hanmo.tokenizer.forms.wordpiece import build_lossless
from hanmo.tokenizer.sentinels import add_sentinels, sentinels_of
from hanmo.tokens.order import Order
from hanmo.tokens.shards import split_of

SENTENCES = [
    "北京大学的学生在图书馆里学习人工智能。",
    "上海的天气今天非常好，我们去公园散步。",
    "小猫在树下睡觉，小狗在草地上奔跑。",
    "春天到了，花园里的花都开了，孩子们很高兴。",
]
RUNS = {
    "megatron": {"preset": "randeng-2m", "shape": {"hidden": 32, "ffn": 64, "layers": 2}},
    "t5": {"preset": "t5-1m", "shape": {"hidden": 32, "ffn": 64, "layers": 2}},
}


UNIFIED = {
    "preset": "zhouwenwang-2m",
    "shape": {"hidden": 32, "ffn": 64, "layers": 2, "heads": 4, "kv_heads": 4},
}
SHORT = {"context": 64, "batch_tokens": 256, "tokens": 3 * 256, "eval_bytes": 1000}


@pytest.fixture(scope="module")
def lossless(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentinels")
    build_lossless([text * 3 for text in SENTENCES], 570, folder)
    add_sentinels(folder, 20)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, lossless) -> Path:
    from hanmo.tokens import stage
    from hanmo.tokens.settings import TokensSettings

    folder = tmp_path_factory.mktemp("gaps")
    for split, times in (("train", 8), ("heldout", 2)):
        with JsonlZstWriter(folder / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(times * len(SENTENCES)):
                text = SENTENCES[number % len(SENTENCES)] + SENTENCES[number % 3] * (number % 2)
                file.write({"id": str(number), "text": text, "source": "s", "meta": {}})
    stage.run(TokensSettings(workers=1), {"corpus": [folder / "corpus"], "tokenizer": [lossless]}, folder / "tokens")
    return folder / "tokens"


def source(folder: Path, context: int = 64, seed: int = 7, **spans: float) -> tuple[Order, GapRows]:
    tokenizer = load(folder)
    closing = end_of_document(folder)
    documents = [[*tokenizer(text, add_special_tokens=False)["input_ids"], closing] for text in SENTENCES]
    flat = np.array([index for document in documents for index in document], np.uint16)
    order = Order(split_of(flat, np.cumsum([len(d) for d in documents])), context, 1)
    return order, GapRows(order, tokenizer, SpanSettings(**spans), seed, tokenizer.cls_token_id, closing)


def pieces(rows):
    """(what is read, decoder inputs, targets) of each piece."""
    for row in range(len(rows.inputs)):
        for number in range(rows.segment[row].max() + 1):
            here, there = rows.read.segment[row] == number, rows.segment[row] == number
            yield rows.read.inputs[row][here], rows.inputs[row][there], rows.targets[row][there]


def test_what_is_read_and_written_makes_the_text_again(lossless) -> None:
    tokenizer = load(lossless)
    sentinels = sentinels_of(tokenizer)
    closing, opening = end_of_document(lossless), tokenizer.cls_token_id
    order, gaps = source(lossless)
    plain, rows = order.rows(0, 200), gaps.rows(0, 200)
    texts = [plain.targets[r][plain.segment[r] == s].tolist() for r in range(200) for s in np.unique(plain.segment[r])]
    texts = [text for text in texts if sum(token != closing for token in text) > 1]
    cut = total = 0
    for text, (read, inputs, targets) in zip(texts, pieces(rows), strict=True):
        assert inputs[0] == opening and np.array_equal(inputs[1:], targets[:-1]) and targets[-1] == closing
        stretches: dict[int, list[int]] = {}
        for token in targets[:-1].tolist():
            if token in sentinels:
                stretches[token] = []
            else:
                stretches[next(reversed(stretches))].append(token)
        assert list(stretches) == sentinels[: len(stretches)] and all(stretches.values())
        again = [part for token in read.tolist() for part in stretches.get(token, [token])]
        assert again == text
        cut += sum(map(len, stretches.values()))
        total += sum(token != closing for token in text)
    assert cut / total == pytest.approx(0.15, abs=0.02)
    assert (rows.targets[rows.segment < 0] == IGNORE).all()
    part = gaps.rows(50, 3)
    assert part.read and rows.read
    assert np.array_equal(part.read.inputs, rows.read.inputs[50:53]) and np.array_equal(
        part.targets, rows.targets[50:53]
    )
    assert not np.array_equal(source(lossless, seed=8)[1].rows(0, 3).targets, rows.targets[:3])


def model_of(kind: str, vocab_size: int):
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    ids = {"pad_token_id": 4, "eos_token_id": 0, "decoder_start_token_id": 5}
    if kind == "megatron":
        config = MegatronT5Config(vocab_size=vocab_size, max_position_embeddings=64, **shape, **ids)
        model = MegatronT5ForConditionalGeneration(config)
    else:
        config = transformers.T5Config(vocab_size=vocab_size, feed_forward_proj="gated-gelu", **shape, **ids)
        model = transformers.T5ForConditionalGeneration(config)
    without_dropout(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("kind", ["megatron", "t5"])
def test_the_packed_step_is_the_model_on_every_document_alone(kind: str, lossless) -> None:
    model = model_of(kind, len(load(lossless)))
    rows = source(lossless)[1].rows(0, 4)
    total = torch.zeros(())
    for read, inputs, targets in pieces(rows):
        found = model(input_ids=torch.from_numpy(read)[None], decoder_input_ids=torch.from_numpy(inputs)[None])
        total = total + torch.nn.functional.cross_entropy(found.logits[0], torch.from_numpy(targets), reduction="sum")
    names, weights = zip(*model.named_parameters(), strict=True)
    theirs = torch.autograd.grad(total, weights)
    step = step_of(model, "spans")(model, torch.float32, compiled=False, context=64)
    loss = step.loss(rows)
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=1e-4)
    for name, one, other in zip(names, torch.autograd.grad(loss, weights), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, msg=name)
    # Rows that only fill up add nothing, and rows in parts add up.
    torch.testing.assert_close(step.loss(filled_up(rows, 6)), loss)
    torch.testing.assert_close(step.loss(taken(rows, slice(0, 1))) + step.loss(taken(rows, slice(1, 4))), loss)
    half = step_of(model, "spans")(model, torch.bfloat16, compiled=False, context=64).loss(rows)
    assert half.item() == pytest.approx(loss.item(), rel=0.02)


@pytest.mark.parametrize("kind", ["megatron", "t5"])
def test_lanes_equal_one_thread(kind: str, lossless, tiny_settings) -> None:
    rows = source(lossless)[1].rows(0, 3)
    world, before = World(torch.device("cpu")), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = []
        for way in (Alone, Laned):
            model = model_of(kind, len(load(lossless)))
            made = way(model, tiny_settings, torch.float32, world, step_of(model, "spans"))
            made.loss(rows).backward()
            found.append({name: p.grad for name, p in model.named_parameters()})
    finally:
        torch.set_num_threads(before)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-3, msg=name)


def test_a_model_that_computes_otherwise_is_refused() -> None:
    model = model_of("t5", 100)
    check_seq2seq(model, "given", T5Step)
    model.decoder.block[1].layer[1].EncDecAttention.scaling = 2.0
    with pytest.raises(HanmoError, match=r"given: T5ForConditionalGeneration: not an encoder-decoder .*other logits"):
        check_seq2seq(model, "given", T5Step)


def test_rates_and_arithmetic() -> None:
    model = model_of("t5", 100)
    rates = Rates(matrix=1.0, embedding=2.0, head=3.0, other=4.0)
    groups = [group for one in build_optimizers(model, "muon", rates, 0.0) for group in one.param_groups]
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["shared.weight"] == 2.0
    assert found["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == 2.0
    assert found["decoder.block.2.layer.1.EncDecAttention.q.weight"] == 1.0
    # By hand: matrices of 32 x 32, feed-forward parts of 3 x 32 x 64; on 16 places that are read, 4 are written.
    square, wide, norms = 32 * 32, 3 * 32 * 64, 32
    encoder = 2 * (4 * square + wide + 2 * norms) + 32 * 4
    decoder = 3 * (6 * square + wide + 3 * norms) + 32 * 4 + 100 * 32
    crossing = 3 * 2 * square
    scores = 12 * 32 * (2 * 16 + 3 * 0.25 * (4 + 16))
    assert seq2seq_flops(model, 16, 4) == 6 * (encoder + crossing + 0.25 * decoder) + scores


@pytest.mark.parametrize("kind", ["megatron", "t5"])
def test_a_run_that_is_stopped_and_goes_on_and_what_it_leaves(kind: str, tokens, tmp_path: Path) -> None:
    prompts = ["北京<extra_id_0>的学生", "今天"]
    options = {"context": 64, "batch_tokens": 512, "tokens": 16 * 512, "sample_prompts": prompts, **RUNS[kind]}
    counts = run_stage(tokens, tmp_path / "run", **options)
    losses = [line["loss"] for line in lines(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-3:]) < losses[0] - 1 and 0 < counts["heldout_loss"] < losses[0]
    samples = lines(tmp_path / "run" / "samples.jsonl")
    assert samples[-2]["text"].startswith("北京") and samples[-2]["text"].endswith("的学生")
    folder = tmp_path / "run" / "model"
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = load(folder)
    assert model.config.decoder_start_token_id == tokenizer.cls_token_id
    assert model.generation_config.decoder_start_token_id == tokenizer.cls_token_id
    # Stopped and gone on with, it ends with the same bits; other micro-batches change rounding alone.
    run_stage(tokens, tmp_path / "grown", **options | {"tokens": 10 * 512})
    run_stage(tokens, tmp_path / "grown", **options)
    whole, grown = (saved(tmp_path / name / "model") for name in ("run", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)
    run_stage(tokens, tmp_path / "micro", **options | {"micro_tokens": 128})
    apart = [line["loss"] for line in lines(tmp_path / "micro" / "log.jsonl") if "loss" in line]
    assert apart[:8] == pytest.approx(losses[:8], rel=1e-4)
    # A folder goes on.
    more = run_stage(tokens, tmp_path / "more", folder, **options | {"tokens": 5 * 512})
    assert more["loss"] < losses[0] - 1


@pytest.mark.parametrize("kind", ["megatron", "t5"])
def test_gaps_are_filled_alone_in_a_batch_and_without_a_cache(kind: str, lossless) -> None:
    tokenizer = load(lossless)
    model = model_of(kind, len(tokenizer)).eval()
    closing = end_of_document(lossless)
    texts = ["北京<extra_id_0>的学生<extra_id_1>里", "小猫在树下", "<extra_id_0>好"]
    together = fill(model, tokenizer, texts, closing, longest=12)
    assert [fill(model, tokenizer, [text], closing, longest=12)[0] for text in texts] == together
    names = sentinels_of(tokenizer)
    for text, found in zip(texts, together, strict=True):
        given = text if "<extra" in text else text + "<extra_id_0>"
        parts = given.replace("<extra_id_0>", "\n0\n").replace("<extra_id_1>", "\n1\n").split("\n")
        ids = [
            index
            for part in parts
            for index in ([names[int(part)]] if part in ("0", "1") else tokenizer(part)["input_ids"])
        ]
        inputs = torch.tensor([[*ids, closing]])
        plain = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False, use_cache=False
        )[0, 1:].tolist()
        assert found.written == len(plain) and found.ended == (plain[-1] == closing)
        for number, gap in enumerate(found.gaps):
            stretch = []
            if names[number] in plain:
                behind = plain[plain.index(names[number]) + 1 :]
                stop = next((at for at, token in enumerate(behind) if token in names or token == closing), len(behind))
                stretch = behind[:stop]
            assert gap == tokenizer.decode(stretch, skip_special_tokens=True)


def test_the_command_fills_gaps(lossless, tmp_path: Path, capsys) -> None:
    tokenizer = load(lossless)
    from hanmo.models.save import save_model

    save_model(model_of("megatron", len(tokenizer)), tokenizer, tmp_path / "run" / "model", [end_of_document(lossless)])
    texts = ["北京<extra_id_0>的学生", "小猫"]
    greedy = Sampling(max_tokens=8, temperature=0)
    found = generate(tmp_path / "run", texts, sampling=greedy, threads=1)
    assert [one.text for one in found] == capsys.readouterr().out.splitlines()
    generate(tmp_path / "run", texts, sampling=greedy, output=tmp_path / "out.jsonl")
    assert [line["completion"] for line in lines(tmp_path / "out.jsonl")] == [one.text for one in found]
    drawn = Sampling(max_tokens=8, seed=3)
    assert generate(tmp_path / "run", texts, sampling=drawn) == generate(tmp_path / "run", texts, sampling=drawn)
    with pytest.raises(HanmoError, match="<extra_id_99>: the model knows <extra_id_0> to <extra_id_19>"):
        generate(tmp_path / "run", ["<extra_id_99>"], sampling=greedy)
    with pytest.raises(HanmoError, match="<extra_id_0> stands twice in a prompt"):
        generate(tmp_path / "run", ["<extra_id_0>和<extra_id_0>"], sampling=greedy)
    with pytest.raises(HanmoError, match="prompt 1: 101 tokens, and the model has 64 positions; shorten it"):
        generate(tmp_path / "run", ["好" * 99 + "<extra_id_0>"], sampling=greedy)
    with pytest.raises(HanmoError, match="an encoder-decoder, which holds no conversation"):
        open_engine(tmp_path / "run")


def test_slips_are_one_line(tokens, make_tokens, tmp_path: Path) -> None:
    plain = make_tokens("plain", ["news"])
    with pytest.raises(HanmoError, match=r"objective: spans needs a tokenizer with <extra_id_0>.*set sentinels: 100"):
        run_stage(plain, tmp_path / "a", **RUNS["t5"])
    with pytest.raises(HanmoError, match="objective: causal: randeng-2m learns spans; give another preset"):
        run_stage(tokens, tmp_path / "b", **RUNS["megatron"], objective="causal")


def in_two(tokens: Path, out: Path) -> None:
    """In a group: a run of each way to share a model; stock T5 cannot be cut."""
    for parallel, kind in (("ddp", "megatron"), ("fsdp", "megatron"), ("ddp", "t5")):
        run_stage(tokens, out / parallel / kind, **SHORT, **RUNS[kind], parallel=parallel)
    run_stage(tokens, out / "ddp" / "unified", **SHORT, **UNIFIED)
    run_stage(tokens, out / "fsdp" / "unified", **SHORT, **UNIFIED, parallel="fsdp")
    with pytest.raises(HanmoError, match="parallel: fsdp, zero3: a stock T5 cannot be cut over processes here"):
        run_stage(tokens, out / "refused", **SHORT, **RUNS["t5"], parallel="fsdp")


def test_two_processes_train_as_one(tokens, tmp_path: Path) -> None:
    together(2, in_two, tokens, tmp_path)
    for kind, how in {**RUNS, "unified": UNIFIED}.items():
        counts = run_stage(tokens, tmp_path / kind, **SHORT, **how)
        for parallel in ("ddp", "fsdp"):
            if (tmp_path / parallel / kind).is_dir():
                one, two = (lines(tmp_path / name / "log.jsonl") for name in (kind, f"{parallel}/{kind}"))
                losses = ([line["loss"] for line in found if "loss" in line] for found in (one, two))
                assert next(losses) == pytest.approx(next(losses), rel=1e-3), (parallel, kind)
                seen = [line["heldout_loss"] for line in two if "heldout_loss" in line]
                assert seen == [pytest.approx(counts["heldout_loss"], rel=0.05)]
