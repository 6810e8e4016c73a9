"""Cloze questions: how rows are laid, that scores are the model's own, that few records teach."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.tokenizer import load
from hanmo.understand import stage
from hanmo.understand.forms import Example
from hanmo.understand.predict import predict_file
from hanmo.understand.prompts import PromptHead, apart, patterns
from hanmo.understand.rows import Rows
from hanmo.understand.settings import UnderstandSettings
from hanmo.understand.tasks import TASKS, task

Models = Callable[..., Path]


def opened(folder: Path, cls: str) -> tuple[Any, Rows]:
    import transformers

    model = getattr(transformers, cls).from_pretrained(folder).eval()
    return model, Rows(load(folder), model.config, 48)


def test_patterns_are_of_known_tasks_and_have_a_word_for_each_label() -> None:
    for name, asked in patterns().items():
        assert name in TASKS and "{mask}" in asked["pattern"] and asked["question"]
        assert set(asked.get("words", TASKS[name].labels)) == set(TASKS[name].labels)
        assert all("{" + field + "}" in asked["pattern"] for field in "ab"[: len(TASKS[name].fields)])


def test_a_word_counts_by_its_masks(models: Models) -> None:
    model, rows = opened(models(), "AutoModelForMaskedLM")
    head = PromptHead(task("eprstmt"), ["Positive", "Negative"], ["很好", "坏"], "pet", writes=False)
    units = head.units([Example(0, ("我看书",), "Negative", "")], rows, False)
    tokens = rows.tokenizer
    assert [tokens.decode(row.ids).count("[MASK]") for row in units[0]] == [1, 2]
    scores = head._scores(model, units, rows.batch(units[0]))[0]
    with torch.no_grad():
        for row, word, number in ((units[0][1], "很好", 0), (units[0][0], "坏", 1)):
            ids = torch.tensor([row.ids])
            masks = (ids[0] == tokens.mask_token_id).nonzero()[:, 0]
            likely = model(ids).logits[0, masks].log_softmax(-1)
            own = tokens(word, add_special_tokens=False)["input_ids"]
            assert float(scores[number]) == pytest.approx(float(likely[range(len(own)), own].mean()), abs=1e-5)


def test_a_decoder_scores_the_word_and_what_is_behind_it(models: Models) -> None:
    model, rows = opened(models("qwen3"), "AutoModelForCausalLM")
    head = PromptHead(task("tnews"), ["103", "104"], ["体育", "财经"], "pet", writes=True)
    (unit,) = head.units([Example(0, ("今天的新闻",), "103", "")], rows, False)
    with torch.no_grad():
        scores = head._scores(model, [unit], rows.batch(unit))[0]
        ids = torch.tensor([unit[1].ids])
        text = rows.tokenizer.decode(unit[1].ids).replace(" ", "")
        start = rows.tokenizer.convert_ids_to_tokens(unit[1].ids).index("财")
        assert text.endswith("财经新闻：今天的新闻")
        likely = model(ids).logits[0].log_softmax(-1)
        own = [float(likely[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])]
    assert float(scores[1]) == pytest.approx(sum(own) / len(own), abs=1e-5)


def test_long_texts_are_cut_and_the_pattern_stays(models: Models) -> None:
    _, rows = opened(models(), "AutoModelForMaskedLM")
    head = PromptHead(task("csl"), ["0", "1"], ["不是", "是"], "pet", writes=False)
    (unit,) = head.units([Example(0, ("书、水果", "好" * 300), "1", "")], rows, False)
    assert all(len(row) == 48 and row.ids.count(rows.tokenizer.mask_token_id) == n for n, row in enumerate(unit, 1))
    assert rows.cut == 2
    gap = Example(0, (), 0, "", (("坏" * 100, "一二三", "好" * 100), ("坏" * 100, "四五六", "好" * 100)))
    ((row,),) = PromptHead(task("chid"), [], [], "pet", writes=False).units([gap], rows, False)
    tokens = rows.tokenizer.convert_ids_to_tokens(row.ids)
    assert tokens.count("[MASK]") == 3 and tokens[tokens.index("[MASK]") - 1] == "坏" and "好" in tokens


def test_options_are_asked_in_as_many_rows_as_they_need(models: Models) -> None:
    _, rows = opened(models(), "AutoModelForMaskedLM")
    words = [f"新闻体育{n}" for n in range(9)]
    head = PromptHead(task("tnews"), [str(n) for n in range(9)], words, "options", writes=False)
    (unit,) = head.units([Example(0, ("好" * 100,), "3", "")], rows, False)
    assert len(unit) > 1 and max(map(len, unit)) <= 48
    assert [option for row in unit for option, _, _ in row.marks] == list(range(9))
    assert all(row.ids[place] == rows.tokenizer.mask_token_id for row in unit for _, (place,), _ in row.marks)


@pytest.mark.parametrize("family", ["megatron-bert", "bert"])
def test_options_do_not_see_each_other_and_their_order_tells_nothing(family: str, models: Models) -> None:
    model, rows = opened(models(family), "AutoModelForMaskedLM")
    scores = []
    for words in (["体育", "财经新闻", "好"], ["坏", "财经新闻", "体育"]):
        head = PromptHead(task("tnews"), ["1", "2", "3"], words, "options", writes=False)
        units = head.units([Example(0, ("今天看书",), "1", ""), Example(1, ("书",), "2", "")], rows, False)
        with torch.no_grad():
            scores.append(head._scores(model, units, rows.batch([row for unit in units for row in unit])))
    (row,) = units[0]
    tokens = rows.tokenizer.convert_ids_to_tokens(row.ids)
    inputs = apart(model.config, [row], rows.batch([row]))
    positions = inputs["position_ids"][0].tolist()
    assert tokens[:10] == ["[CLS]", "[MASK]", "坏", "[MASK]", *"财经新闻", "[MASK]", "体"]
    assert positions[:13] == [0, 1, 2, 1, 2, 3, 4, 5, 1, 2, 3, 6, 7]
    # In one layer, as here, the others change nothing; in more the text, which sees all, tells of them.
    for first, second in zip(*scores, strict=True):
        assert float(first[1]) == pytest.approx(float(second[1]), abs=1e-6)
        assert float(first[0]) == pytest.approx(float(second[2]), abs=1e-6)
    with torch.no_grad():
        plain = model(torch.tensor([row.ids])).logits[0, 3].log_softmax(-1)[rows.encode("是")[0][0]]
    assert abs(float(plain) - float(scores[1][0][1])) > 1e-6


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "id": n,
            "sentence": "".join(draw.choices("我看书水", k=3)) + "坏好"[good],
            "label": ("Negative", "Positive")[good],
        }
        for n in range(count)
        for good in [draw.randrange(2)]
    ]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("megatron-bert", "pet"),
        ("megatron-bert", "options"),
        ("unified", "pet"),
        ("qwen3", "pet"),
        ("qwen3", "options"),
    ],
)
def test_few_records_teach_and_none_are_enough_to_ask(
    family: str, method: str, models: Models, task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = task_folder(train=reviews(80, 1), dev=reviews(20, 2))
    inputs = {"model": [models(family)], "data": [folder]}
    shared: dict[str, Any] = {"task": "eprstmt", "method": method, "device": "cpu", "precision": "fp32"}
    counts = stage.run(UnderstandSettings(**shared, shots="none"), inputs, tmp_path / "zero")
    assert counts["examples"] == 0 and counts["n"] == 20 and 0 <= counts["score"] <= 1
    few = UnderstandSettings(**shared, epochs=12, learning_rate=0.01, batch_size=8)
    counts = stage.run(few, inputs, tmp_path / "few")
    assert counts["score"] > 0.8
    again = predict_file(tmp_path / "few", folder / "dev.json", tmp_path / "p.json", "cpu")
    assert again["accuracy"] == pytest.approx(counts["score"])


def test_descriptions_of_labels_are_their_words(
    models: Models, task_folder: Callable[..., Path], tmp_path: Path
) -> None:
    records = [{"sentence": "好", "label": str(n), "label_des": name} for n, name in ((3, "体育"), (5, "看书"))]
    folder = task_folder(train=records * 3, dev=records)
    out = tmp_path / "out"
    settings = UnderstandSettings(task="iflytek", method="pet", device="cpu", precision="fp32", epochs=1)
    stage.run(settings, {"model": [models()], "data": [folder]}, out)
    assert read_json(out / "model" / "task.json")["names"] == {"3": "体育", "5": "看书"}


def test_what_cannot_be_asked_is_refused(models: Models, task_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = task_folder(x__train="好 O\n", x__dev="好 O\n")
    settings = UnderstandSettings(task="weibo-ner", method="pet")
    with pytest.raises(HanmoError, match="has no labels to choose from; set method: head"):
        stage.run(settings, {"model": [models()], "data": [folder]}, tmp_path / "out")
    with pytest.raises(ValueError, match="shots: none asks a model as it is"):
        UnderstandSettings(task="tnews", shots="none")
