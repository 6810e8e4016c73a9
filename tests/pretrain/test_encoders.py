"""Encoders from scratch: n-grams, the order of sentences, ModernBERT's step, lanes and processes, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from group import together  # type: ignore[import-not-found]
from tiny_runs import lines, run_stage, saved  # type: ignore[import-not-found]

from hanmo.errors import HanmoError
from hanmo.files import JsonlZstWriter, read_json
from hanmo.models.loss import IGNORE
from hanmo.pretrain.alone import Alone
from hanmo.pretrain.distributed import World, joined
from hanmo.pretrain.lanes import Laned
from hanmo.pretrain.objectives.masked import MaskedRows
from hanmo.pretrain.objectives.pairs import IN_ORDER, SWAPPED, PairRows, SentencePairs
from hanmo.pretrain.parallel import spread
from hanmo.pretrain.rows import taken
from hanmo.pretrain.settings import PretrainSettings
from hanmo.pretrain.steps import step_of
from hanmo.pretrain.steps.encoder import EncoderStep, check_encoder
from hanmo.pretrain.steps.modernbert import ModernBertStep
from hanmo.tokenizer import load
from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton
from hanmo.tokens.order import Order, Rows
from hanmo.tokens.shards import split_of

TEXTS = [
    "北京大学的学生在图书馆里学习。他们很用功！“明天考试吗？”有人问。",
    "上海的天气今天非常好。我们去公园散步，看见小猫在树下睡觉。小狗在草地上奔跑。",
    "花呗可以分期付款吗？怎么用花呗支付火车票？",
    "小猫在树下睡觉",
]
PAD, UNK, CLS, SEP, MASK = range(5)


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> Path:
    """A BERT tokenizer of the texts' characters."""
    folder = tmp_path_factory.mktemp("wordpiece")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({c for text in TEXTS for c in text})]
    save_bert(skeleton({piece: index for index, piece in enumerate(pieces)}, True), True, folder)
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, wordpiece) -> Path:
    """A tokens folder of the texts, over and over."""
    from hanmo.tokens import stage
    from hanmo.tokens.settings import TokensSettings

    folder = tmp_path_factory.mktemp("texts")
    for split, times in (("train", 12), ("heldout", 6)):
        with JsonlZstWriter(folder / "corpus" / split / "00000.jsonl.zst") as file:
            for number in range(times * len(TEXTS)):
                file.write({"id": str(number), "text": TEXTS[number % len(TEXTS)], "source": "s", "meta": {}})
    inputs = {"corpus": [folder / "corpus"], "tokenizer": [wordpiece]}
    stage.run(TokensSettings(workers=1), inputs, folder / "tokens")
    return folder / "tokens"


def order_of(wordpiece: Path, context: int) -> Order:
    documents = [load(wordpiece)(text)["input_ids"] for text in TEXTS]
    flat = np.array([index for document in documents for index in document], np.uint16)
    return Order(split_of(flat, np.cumsum([len(document) for document in documents])), context, 1)


def small(family: str, form: str, vocabulary: int, **more):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=vocabulary, max_position_embeddings=64, pad_token_id=None, **shape, **more
    )
    model = getattr(transformers, f"{family}{form}")(config).eval()
    with torch.no_grad():  # so that biases and norms count
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def alone(model, rows: Rows) -> torch.Tensor:
    """The loss of every piece alone in a row, by the model's own forward pass."""
    whole = torch.zeros(())
    for row, segments in enumerate(rows.segment):
        for segment in np.unique(segments):
            here = segments == segment
            ids = torch.from_numpy(rows.inputs[row][here])[None]
            types = ((ids == SEP).cumsum(1) - (ids == SEP).long()).clamp(0, 1)
            given = {} if model.config.model_type == "modernbert" else {"token_type_ids": types}
            found = model(input_ids=ids, **given)
            targets = torch.from_numpy(rows.targets[row][here])
            whole = whole + F.cross_entropy(found[0][0], targets, ignore_index=IGNORE, reduction="sum")
            label = int(rows.order[row][here][0]) if isinstance(rows, PairRows) and rows.order is not None else 0
            if label:
                order = F.cross_entropy(found.seq_relationship_logits, torch.tensor([label - IN_ORDER]))
                whole = whole + order * (targets != IGNORE).sum()
    return whole


def same_loss_and_gradients(model, ours: torch.Tensor, own: torch.Tensor) -> None:
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-4)
    names, weights = zip(*model.named_parameters(), strict=True)
    pairs = zip(torch.autograd.grad(ours, weights), torch.autograd.grad(own, weights), strict=True)
    for name, (one, other) in zip(names, pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_neighbouring_words_are_masked_together(wordpiece) -> None:
    order, tokenizer = order_of(wordpiece, 40), load(wordpiece)
    lengths = {}
    for ngrams in (1, 4):
        rows = MaskedRows(order, tokenizer, 0.15, True, 1, ngrams).rows(0, 500)
        hidden = rows.targets != IGNORE
        text = order.rows(0, 500).targets
        assert hidden.sum() / (text > MASK).sum() == pytest.approx(0.15, abs=0.01)
        assert not hidden[text <= MASK].any()
        begins = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
        lengths[ngrams] = hidden.sum() / begins.sum()
    assert lengths[4] > 1.4 * lengths[1]


def test_runs_of_words_have_the_lengths_of_the_paper(wordpiece) -> None:
    masked = MaskedRows(order_of(wordpiece, 40), load(wordpiece), 0.15, False, 1, 4)
    generator = np.random.Generator(np.random.PCG64(0))
    runs = masked._runs(np.arange(20_000), np.ones(20_000, bool), generator)
    found = np.bincount(np.bincount(runs))[1:] / (runs[-1] + 1)
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.02)
    open_ = np.ones(12, bool)
    open_[[0, 5, 6]] = False
    runs = masked._runs(np.arange(12), open_, generator)
    assert len({runs[0], runs[1], runs[5], runs[6], runs[7]}) == 5 and runs[4] != runs[5]


def test_pairs_are_consecutive_parts_of_a_document(wordpiece) -> None:
    tokenizer = load(wordpiece)
    order = order_of(wordpiece, 48)
    rows = SentencePairs(order, tokenizer, 3).rows(0, 400)
    texts = [[index for index in tokenizer(text)["input_ids"] if index > MASK] for text in TEXTS]
    assert rows.order is not None and (rows.inputs == rows.targets).all()
    labels = {0: 0, IN_ORDER: 0, SWAPPED: 0}
    lost = 0
    for row, plain in enumerate(order.rows(0, 400).targets):
        lost += (plain > MASK).sum() - (rows.inputs[row] > MASK).sum()
        for segment in range(rows.segment[row].max() + 1):
            here = np.flatnonzero(rows.segment[row] == segment)
            assert rows.position[row][here].tolist() == list(range(len(here)))
            ids, label = rows.inputs[row][here].tolist(), int(rows.order[row][here[0]])
            assert not rows.order[row][here[1:]].any()
            labels[label] += 1
            if not label:
                continue
            assert ids[0] == CLS and ids[-1] == SEP and ids.count(SEP) == 2
            cut = ids.index(SEP)
            parts = [ids[1:cut], ids[cut + 1 : -1]]
            first, second = parts if label == IN_ORDER else parts[::-1]
            joined_ = first + second
            assert any(joined_ == text[at : at + len(joined_)] for text in texts for at in range(len(text)))
            # Both end like sentences, and the quotation that belongs to one is not cut off from it.
            assert all(tokenizer.convert_ids_to_tokens(part[-1]) in "。！？”" for part in parts)
            assert not any(tokenizer.convert_ids_to_tokens(part[0]) in "。！？”" for part in parts)
    assert labels[IN_ORDER] / (labels[IN_ORDER] + labels[SWAPPED]) == pytest.approx(0.5, abs=0.05)
    assert labels[0] > 100
    assert 0 < lost / (rows.inputs > MASK).sum() < 0.08
    again = SentencePairs(order_of(wordpiece, 48), tokenizer, 3).rows(17, 5)
    assert np.array_equal(again.inputs, rows.inputs[17:22]) and np.array_equal(again.order, rows.order[17:22])


def test_what_is_a_pair_already_and_what_has_no_sentences_stay(wordpiece) -> None:
    tokenizer = load(wordpiece)
    pairs = [tokenizer(TEXTS[0], TEXTS[1])["input_ids"], tokenizer(TEXTS[3])["input_ids"]]
    flat = np.array([index for pair in pairs for index in pair], np.uint16)
    order = Order(split_of(flat, np.cumsum([len(pair) for pair in pairs])), len(flat), 1)
    rows = SentencePairs(order, tokenizer, 3).rows(0, 20)
    assert rows.order is not None
    whole = order.rows(0, 20)
    uncut = [row for row in range(20) if whole.targets[row, 0] == CLS and whole.targets[row, -1] == SEP]
    assert uncut and not rows.order[uncut].any()
    assert np.array_equal(rows.inputs[uncut], whole.targets[uncut])


@pytest.mark.parametrize("family", ["Bert", "MegatronBert"])
def test_the_order_of_pairs_costs_what_the_models_own_head_says(family: str, wordpiece) -> None:
    tokenizer = load(wordpiece)
    masks = PretrainSettings.model_validate(
        {"preset": "erlangshen-2m", "masks": {"sentence_order": True, "share": 0.3}}
    ).masks
    rows = MaskedRows.of(masks, order_of(wordpiece, 48), tokenizer, 1).rows(0, 4)
    assert isinstance(rows, PairRows) and rows.order is not None and rows.order.any() and rows.paired()
    model = small(family, "ForPreTraining", len(tokenizer))
    step = EncoderStep(model, torch.float32, compiled=False, context=48, separator=SEP)
    same_loss_and_gradients(model, step.loss(rows), alone(model, rows))


@pytest.mark.parametrize("recompute", [False, True])
def test_modernbert_packed_equals_every_document_alone(recompute: bool, wordpiece) -> None:
    tokenizer = load(wordpiece)
    model = small("ModernBert", "ForMaskedLM", len(tokenizer), local_attention=8)
    assert model.config.layer_types == ["full_attention", *["sliding_attention"] * 2, "full_attention"]
    rows = MaskedRows(order_of(wordpiece, 64), tokenizer, 0.3, True, 1).rows(0, 3)
    own = alone(model, rows)
    step = ModernBertStep(model, torch.float32, compiled=False, context=64, recompute=recompute)
    ours = step.loss(rows)
    same_loss_and_gradients(model, ours, own)
    check_encoder(model, "here", step_of(model, "masked"))
    half = ModernBertStep(model, torch.bfloat16, False, 64).loss(rows)
    assert half.item() == pytest.approx(own.item(), rel=0.01)


def build(family: str):
    return small(family, "ForMaskedLM", 80)


def rows_of_numbers(count: int) -> Rows:
    """Random ids in two documents a row, a fifth of them targets; in the last row none."""
    chooser = np.random.default_rng(0)
    ids = chooser.integers(5, 80, (count, 32))
    targets = np.where(chooser.random((count, 32)) < 0.2, ids, IGNORE)
    targets[-1] = IGNORE
    position = np.tile(np.concatenate([np.arange(20), np.arange(12)]).astype(np.int32), (count, 1))
    return Rows(ids, targets, position, np.tile(np.repeat([0, 1], [20, 12]).astype(np.int32), (count, 1)))


OPTIONS = {"preset": "erlangshen-2m", "context": 32, "batch_tokens": 128, "precision": "fp32", "threads": 1}


def gradients(way: Alone, rows: Rows) -> dict[str, torch.Tensor]:
    loss = way.loss(rows)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, weight in way.model.named_parameters():
        assert weight.grad is not None, name
        found[name] = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
    return found


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4, msg=name)


def alone_and_whole(family: str, rows: Rows) -> dict[str, torch.Tensor]:
    settings = PretrainSettings.model_validate({**OPTIONS, "compile": False})
    model = build(family)
    return gradients(Alone(model, settings, torch.float32, World(torch.device("cpu")), step_of(model, "masked")), rows)


@pytest.mark.parametrize("family", ["MegatronBert", "ModernBert"])
def test_lanes_equal_one_thread(family: str) -> None:
    world, before = World(torch.device("cpu")), torch.get_num_threads()
    model, settings = build(family), PretrainSettings.model_validate({**OPTIONS, "compile": False})
    step = step_of(model, "masked")
    torch.set_num_threads(3)
    try:
        compiling = settings.model_copy(update={"compile": True})
        assert isinstance(spread(build(family), compiling, torch.float32, world, step), Laned)
        laned = Laned(model, settings, torch.float32, world, step)
        close(gradients(laned, rows_of_numbers(6)), alone_and_whole(family, rows_of_numbers(6)))
    finally:
        torch.set_num_threads(before)


def cut_in_two(out: Path) -> None:
    """In a group: each process computes half of the rows; the gradients are those of one process."""
    for family in ("MegatronBert", "ModernBert"):
        settings = PretrainSettings.model_validate({**OPTIONS, "compile": False, "parallel": "fsdp"})
        with joined(settings) as world:
            model = build(family)
            way = spread(model, settings, torch.float32, world, step_of(model, "masked"))
            with way.summing(last=True):
                found = gradients(way, taken(rows_of_numbers(6), slice(world.rank * 3, world.rank * 3 + 3)))
            whole = torch.load(out / f"{family}.pt")
            close({name: value for name, value in found.items() if name != "loss"}, whole)


def test_two_processes_that_hold_half_of_each_weight(tmp_path: Path) -> None:
    for family in ("MegatronBert", "ModernBert"):
        whole = alone_and_whole(family, rows_of_numbers(6))
        whole.pop("loss")
        torch.save(whole, tmp_path / f"{family}.pt")
    together(2, cut_in_two, tmp_path)


TINY = {"shape": {"hidden": 48, "ffn": 64, "layers": 3, "heads": 4}, "context": 48, "batch_tokens": 384, "lr": 3e-3}


@pytest.mark.parametrize("preset", ["erlangshen-2m", "modernbert-2m"])
def test_a_preset_becomes_a_model_that_fills_masks(preset: str, tokens, tmp_path: Path, capsys) -> None:
    from click.testing import CliRunner

    from hanmo.cli import cli

    pairs = preset == "erlangshen-2m"
    masks = {"ngrams": 2, "sentence_order": pairs}
    shape = TINY["shape"] | {"kv_heads": 4, "head_dim": 12}
    options = {**TINY, "shape": shape, "preset": preset, "masks": masks, "tokens": 30 * 384}
    counts = run_stage(tokens, tmp_path / "run", **options)
    losses = [line["loss"] for line in lines(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert ("heldout_order_loss" in counts) == pairs and counts["heldout_loss"] > 0
    folder = tmp_path / "run" / "model"
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and len(info["unexpected_keys"]) == 4 * pairs
    assert not (folder / "generation_config.json").exists()
    config = model.config
    assert config.pad_token_id == PAD and config.eos_token_id == (None if pairs else SEP)
    assert (getattr(config, "cls_token_id", CLS), getattr(config, "sep_token_id", SEP)) == (CLS, SEP)
    text = "小猫在树下[MASK]觉"
    filler = transformers.pipeline("fill-mask", model=str(folder), tokenizer=str(folder), device="cpu")
    theirs = filler(text, top_k=3)
    asked = CliRunner().invoke(cli, ["model", "fill", str(tmp_path / "run"), text, "--top", "3", "--json"])
    assert asked.exit_code == 0, asked.output
    line = json.loads(asked.stdout)
    assert [guess["id"] for guess in line["masks"][0]] == [guess["token"] for guess in theirs]
    # Theirs count the rows, too, that only fill the embedding up.
    ratios = [ours["probability"] / its["score"] for ours, its in zip(line["masks"][0], theirs, strict=True)]
    assert ratios == pytest.approx(ratios[:1] * 3, rel=1e-3) and 1 <= ratios[0] < 1.5
    # Stopped and gone on with, it ends with the same bits; and it can be continued as what it is.
    run_stage(tokens, tmp_path / "grown", **options | {"tokens": 15 * 384})
    run_stage(tokens, tmp_path / "grown", **options)
    whole, grown = (saved(tmp_path / name / "model") for name in ("run", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)
    more = {key: value for key, value in options.items() if key not in ("preset", "shape")}
    went_on = run_stage(tokens, tmp_path / "more", folder, **more | {"tokens": 3 * 384, "lr": 1e-5})
    assert went_on["heldout_loss"] == pytest.approx(counts["heldout_loss"], abs=0.1)
    assert saved(tmp_path / "more" / "model").keys() == whole.keys()


def test_slips_are_one_line(tokens, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"masks\.sentence_order: modernbert-2m has no head for it"):
        run_stage(tokens, tmp_path / "a", preset="modernbert-2m", masks={"sentence_order": True})
    small("MegatronBert", "ForMaskedLM", 100).save_pretrained(tmp_path / "given")
    load(tokens / "tokenizer").save_pretrained(tmp_path / "given")
    with pytest.raises(HanmoError, match=r"missing .*seq_relationship|missing .*pooler"):
        run_stage(tokens, tmp_path / "b", tmp_path / "given", masks={"sentence_order": True})
    assert read_json(tmp_path / "b" / "loading.json")["class"] == "MegatronBertForPreTraining"
