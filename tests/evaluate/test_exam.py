"""Exams: the sitting of chat and base models, the statistics, and the eval stage over them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from hanmo.errors import HanmoError
from hanmo.evaluate import heldout
from hanmo.evaluate.exam import choose_items, line_ends, sit, worked_examples
from hanmo.evaluate.items import ExamItem, score
from hanmo.evaluate.settings import EvalSettings
from hanmo.evaluate.significance import compare, mcnemar, tally
from hanmo.evaluate.stage import name_folders, run
from hanmo.files import JsonlZstWriter, read_json, read_jsonl

ITEMS = [
    ExamItem(
        id="a1", category="动物", kind="choice", question="小猫在哪里睡觉？", choices=["树下", "水里"], answer="A"
    ),
    ExamItem(
        id="a2", category="动物", kind="choice", question="小猫吃什么？", choices=["花", "草", "小鱼"], answer="C"
    ),
    ExamItem(id="b1", category="日历", kind="short", question="今天星期几？", answer="星期二", hops=2),
    ExamItem(id="b2", category="日历", kind="short", question="气温多少度？", answer="18", accept=["18度"]),
]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path):
    from hanmo.tokenizer import load

    return load(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def learnt(model, tokenizer):
    """The tiny model after it has learnt the items by heart, in both forms: a base text and a chat."""
    import copy

    from hanmo.evaluate.items import render_question
    from hanmo.tokenizer.chat import ChatFormat, encode_text

    torch.manual_seed(0)
    model = copy.deepcopy(model).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.25)
    ask = ChatFormat(tokenizer)
    rows = []
    for item in ITEMS:
        reply = {"role": "assistant", "content": f"答案是{item.answer}。"}
        rows.append(ask.encode([{"role": "user", "content": render_question(item)}, reply])[0])
        rows.append([0, *encode_text(tokenizer, f"问题：\n{item.question}\n答案：\n{item.answer_text}\n")])
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("chat", [True, False])
def test_a_model_that_knows_the_answers_gets_them(learnt, tokenizer, chat: bool) -> None:
    sitting = sit(learnt, tokenizer, ITEMS, chat=chat)
    assert [reply["id"] for reply in sitting.replies] == [item.id for item in ITEMS]
    assert all(reply["right"] for reply in sitting.replies), sitting.replies
    assert sitting.method["name"] == ("chat" if chat else "completion")
    summary = sitting.summary
    assert summary["total"]["k"] == 4
    assert {name: part["n"] for name, part in summary["hops"].items()} == {"1": 3, "2": 1}
    assert summary["categories"]["动物"]["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert summary["cut"] == summary["too_long"] == summary["empty"] == 0


def test_choice_of_a_base_model_is_the_likeliest_option(model, tokenizer) -> None:
    """Against the log-likelihoods computed one option at a time."""
    from hanmo.tokenizer import encode_text

    sitting = sit(model, tokenizer, ITEMS[:2], chat=False, examples=[("你好吗？", "好"), ("一加一？", "二")])
    assert sitting.method["shots"] == 2
    opening = "问题：\n你好吗？\n答案：\n好\n\n问题：\n一加一？\n答案：\n二\n\n"
    for item, reply in zip(ITEMS[:2], sitting.replies, strict=True):
        costs = []
        for option in item.choices or []:
            prompt = [0, *encode_text(tokenizer, f"{opening}问题：\n{item.question}\n答案：\n")]
            ids = prompt + encode_text(tokenizer, f"{option}\n")
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            cost = -sum(logs[at - 1, ids[at]].item() for at in range(len(prompt), len(ids)))
            costs.append(cost / len(option.encode()))
        assert reply["nats_per_byte"] == pytest.approx(costs, abs=2e-4)
        assert reply["reply"] == "ABC"[int(np.argmin(costs))]


def test_shared_opening_changes_nothing(model, tokenizer) -> None:
    """Whether the worked examples are read once for all or with every question, the options cost the same."""
    examples = [("你好吗？今天天气好吗？", "好"), ("一加一等于几？", "二")]
    together = sit(model, tokenizer, ITEMS, chat=False, examples=examples)
    for item, reply in zip(ITEMS, together.replies, strict=True):
        (alone,) = sit(model, tokenizer, [item], chat=False, examples=examples).replies
        assert alone["reply"] == reply["reply"]
        if item.choices:
            assert alone["nats_per_byte"] == pytest.approx(reply["nats_per_byte"], abs=2e-4)


def test_examples_give_way_to_a_short_context_and_long_items_are_counted(model, tokenizer) -> None:
    many = [("这是一个很长很长的例子，用来占地方。" * 2, "好")] * 6
    sitting = sit(model, tokenizer, ITEMS, chat=False, examples=many, context=160, answer_tokens=8)
    assert 0 < sitting.method["shots"] < 6
    assert sitting.summary["too_long"] == 0
    for chat in (True, False):
        short = sit(model, tokenizer, ITEMS, chat=chat, context=12, answer_tokens=8)
        assert short.summary["too_long"] == 4
        assert short.summary["total"] | {"k": 0} == short.summary["total"]


def test_line_ends(tokenizer) -> None:
    ends = set(line_ends(tokenizer))
    assert ends == {index for index in range(len(tokenizer)) if "\n" in tokenizer.decode([index])}


def test_worked_examples_are_short_single_turns(tmp_path: Path) -> None:
    rows = [
        [("user", "一加一等于几？"), ("assistant", "二")],
        [("system", "你是老师"), ("user", "好吗"), ("assistant", "好")],
        [("user", "好吗"), ("assistant", "好"), ("user", "真的？"), ("assistant", "真的")],
        [("user", "写一首诗"), ("assistant", "长" * 30)],
        [("user", "选一个：\nA. 甲\nB. 乙"), ("assistant", "A")],
        [("user", "天上有几个太阳？"), ("assistant", "一个")],
    ]
    file = tmp_path / "sft.jsonl"
    lines = [orjson.dumps({"messages": [{"role": r, "content": c} for r, c in row]}) for row in rows]
    file.write_bytes(b"\n".join(lines))
    assert sorted(worked_examples(file, 5, 1)) == [("一加一等于几？", "二"), ("天上有几个太阳？", "一个")]
    assert len(worked_examples(file, 1, 1)) == 1


def test_smaller_exam_is_part_of_a_larger_one() -> None:
    items = [ITEMS[2].model_copy(update={"id": f"i{n}"}) for n in range(50)]
    ten, twenty = choose_items(items, 10), choose_items(items, 20)
    assert len(ten) == 10
    assert {i.id for i in ten} < {i.id for i in twenty}
    assert choose_items(items, None) == choose_items(items, 50) == items


def test_tally_says_on_which_side_of_chance() -> None:
    assert tally([True] * 60 + [False] * 40, [0.25] * 100)["versus_chance"] == "above"
    assert tally([True] * 25 + [False] * 75, [0.25] * 100)["versus_chance"] == "same"
    assert tally([False] * 100, [0.25] * 100)["versus_chance"] == "below"
    assert tally([False] * 100, [0.0] * 100)["versus_chance"] == "same"


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(1, 8) == mcnemar(8, 1)
    assert 0 < mcnemar(900, 300) < 1e-60


def test_compare() -> None:
    first = [True, True, False, False] * 50
    second = [True, False, True, True] * 50
    found = compare(first, second)
    assert (found["gained"], found["lost"], found["difference"]) == (100, 50, 0.25)
    assert 0.1 < found["low"] < 0.25 < found["high"] < 0.4
    # The normal approximation of a paired difference, within the noise of 2,000 resamples.
    spread = math.sqrt((0.75 - 0.25**2) / 200)
    assert found["low"] == pytest.approx(0.25 - 1.96 * spread, abs=0.02)
    same = compare(first, first)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="unlike"):
        compare([True], [])


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for shard in range(2):
        with JsonlZstWriter(folder / "heldout" / f"{shard:05}.jsonl.zst") as writer:
            for n in range(30):
                text = "春天到了，花园里的花都开了。" * (1 + n % 3)
                writer.write({"id": f"{shard}-{n}", "text": text, "source": "甲" if n % 2 else "乙", "meta": {}})
    return folder


def test_draw_is_even_limited_and_independent_of_shards(corpus: Path, tmp_path: Path) -> None:
    everything, counts = heldout.draw(corpus, 1000, 1e9)
    assert counts["documents"] == counts["of_documents"] == len(everything) == 60
    some, counts = heldout.draw(corpus, 20, 1e9)
    assert len(some) == 20 and {text.source for text in some} == {"甲", "乙"}
    few, counts = heldout.draw(corpus, 1000, 300)
    assert counts["bytes"] == sum(len(text.text.encode()) for text in few) <= 300
    one, counts = heldout.draw(corpus, 1000, 1)
    assert len(one) == 1
    other = tmp_path / "other"
    with JsonlZstWriter(other / "heldout" / "00000.jsonl.zst") as writer:
        for file in sorted((corpus / "heldout").iterdir(), reverse=True):
            for _, record in read_jsonl(file):
                writer.write(record)
    again, _ = heldout.draw(other, 20, 1e9)
    assert sorted(map(str, again)) == sorted(map(str, some))


def test_draw_without_heldout_text(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="no held-out text"):
        heldout.draw(tmp_path, 1, 1)


def test_stage(corpus: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    """Two models, one of them a stage folder and a base; a microworld folder and a plain file as exams."""
    base = tmp_path / "base" / "model"
    shutil.copytree(tiny_model_dir, base)
    config = base / "generation_config.json"
    config.write_bytes(orjson.dumps(orjson.loads(config.read_bytes()) | {"eos_token_id": [0]}))
    chat = tmp_path / "sft"
    shutil.copytree(tiny_model_dir, chat)
    world = tmp_path / "world"
    world.mkdir()
    (world / "exam.jsonl").write_bytes(b"\n".join(orjson.dumps(item.model_dump()) for item in ITEMS))
    dialogue = [{"role": "user", "content": "好吗？"}, {"role": "assistant", "content": "好。"}]
    (world / "sft.jsonl").write_bytes(orjson.dumps({"messages": dialogue}))
    retrieval = {"accuracy": 0.31, "method": "both", "by_method": {}, "by_category": {"动物": 0.5}, "sentences": 9}
    (world / "stats.json").write_bytes(orjson.dumps({"retrieval": retrieval}))
    extra = tmp_path / "extra.jsonl"
    extra.write_bytes(orjson.dumps(ITEMS[0].model_dump()))
    settings = EvalSettings(heldout_documents=10, answer_tokens=6, sample_tokens=5, bootstrap=100)
    out = tmp_path / "eval"
    inputs = {"model": [tmp_path / "base", chat], "corpus": [corpus], "exam": [world, extra]}
    counts = run(settings, inputs, out)
    result = read_json(out / "eval.json")
    assert [(m["name"], m["kind"]) for m in result["models"]] == [("base", "base"), ("sft", "chat")]
    assert result["exams"]["world"] == {
        "items": 4,
        "chance": pytest.approx((1 / 2 + 1 / 3) / 4),
        "baselines": {"retrieval": {"accuracy": 0.31, "categories": {"动物": 0.5}, "method": "both"}},
    }
    first, second = result["models"]
    assert first["heldout"]["bits_per_byte"] == pytest.approx(second["heldout"]["bits_per_byte"])
    assert first["exams"]["world"]["method"]["shots"] == 1
    assert second["exams"]["extra"]["total"]["n"] == 1
    assert {sample["kind"] for sample in first["samples"]} == {"completion"}
    assert {sample["kind"] for sample in second["samples"]} == {"completion", "chat"}
    (bits,) = result["heldout_comparisons"]
    assert (bits["first"], bits["second"], bits["difference"]) == ("base", "sft", pytest.approx(0))
    assert [(c["exam"], c["first"], c["second"]) for c in result["comparisons"]] == [
        ("world", "base", "sft"),
        ("extra", "base", "sft"),
    ]
    assert counts["scored_documents"] == 10 and counts["exam_items"] == 5
    for name in ("base", "sft"):
        rows = [row for _, row in read_jsonl(out / f"exam-{name}.jsonl")]
        assert len(rows) == 5 and {row["exam"] for row in rows} == {"world", "extra"}
        by_id = {item.id: item for item in ITEMS}
        assert all(row["right"] == score(row["reply"], by_id[row["id"]]) for row in rows)
    before = (out / "eval.json").read_bytes()
    run(settings, inputs, out)
    after = read_json(out / "eval.json")
    strip = lambda value: orjson.dumps([m | {"seconds": 0, "exams": {}} for m in value["models"]])  # noqa: E731
    assert strip(orjson.loads(before)) == strip(after), "the same settings give the same figures"


def test_stage_without_corpus_and_exam(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = EvalSettings(prompts=["春天"], questions=[], sample_tokens=4)
    run(settings, {"model": [tiny_model_dir]}, tmp_path / "eval")
    (model,) = read_json(tmp_path / "eval" / "eval.json")["models"]
    assert model["heldout"] is None and model["exams"] == {} and len(model["samples"]) == 1


def test_faults_are_one_clear_line(tmp_path: Path, tiny_model_dir: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    cases = [
        (EvalSettings(context=999), tiny_model_dir, "context is 999, but model .* is made for 256 tokens"),
        (EvalSettings(prompts=["长" * 300]), tiny_model_dir, "has .* tokens, the model's context is 256"),
        (EvalSettings(), broken, "not a causal language model that loads"),
        (EvalSettings(), tmp_path / "none", "no such folder"),
    ]
    for settings, folder, message in cases:
        with pytest.raises(HanmoError, match=message) as caught:
            run(settings, {"model": [folder]}, tmp_path / "eval")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "eval" / "eval.json").exists()


def test_names(tmp_path: Path) -> None:
    for name in ("x/sft/model", "y/sft/model", "z/base"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    folders = name_folders([tmp_path / "x/sft", tmp_path / "y/sft", tmp_path / "z/base"])
    assert list(folders) == ["sft", "y-sft", "base"]
    with pytest.raises(HanmoError, match="two models are named z-base"):
        name_folders([tmp_path / "z/base"] * 3)
