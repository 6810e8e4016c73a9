"""Tuning tiny models on every kind of task, in this process: what is learnt, what is kept, what is submitted."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.posttrain import training
from hanmo.tokenizer import load
from hanmo.understand import stage
from hanmo.understand.heads import ClassHead, open_model
from hanmo.understand.predict import predict_file
from hanmo.understand.settings import UnderstandSettings

Models = Callable[..., Path]
Folder = Callable[..., Path]


def tune(model: Path, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Run the stage with settings that a tiny model learns with."""
    given: dict[str, Any] = {"learning_rate": 0.01, "batch_size": 8, "device": "cpu", "precision": "fp32"}
    return stage.run(UnderstandSettings(**(given | settings)), {"model": [model], "data": [data]}, out)


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs with a label that one character tells, and some without agreement."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        good = draw.random() < 0.5
        label = "-" if number % 10 == 9 else "entailment" if good else "contradiction"
        text = "".join(draw.choices("我你他书饭水", k=4))
        found.append({"sentence1": text, "sentence2": "好" if good else "坏", "label": label})
    return found


@pytest.fixture(scope="module")
def cmnli(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """A model tuned on CMNLI's form: (counts, its stage's folder, the data)."""
    data, out = tmp_path_factory.mktemp("cmnli"), tmp_path_factory.mktemp("tuned")
    for part, count, seed in (("train", 100, 1), ("dev", 40, 2), ("test", 6, 3)):
        records = pairs(count, seed)
        if part == "test":
            records = [{"id": 100 + n, **{k: v for k, v in r.items() if k != "label"}} for n, r in enumerate(records)]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (data / f"{part}.json").write_text("".join(lines), encoding="utf-8")
    counts = tune(models(), data, out, task="cmnli", epochs=10, seeds=[1, 2], sweep=["lr=0.01,0.00001"])
    return counts, out, data


def test_the_best_of_a_sweep_is_kept_and_its_seeds_are_averaged(cmnli: tuple[dict[str, Any], Path, Path]) -> None:
    counts, out, _ = cmnli
    results = read_json(out / "results.json")
    assert counts["score"] > 0.9 and counts["n"] == 36 and counts["on"] == "dev" and counts["runs"] == 4
    assert counts["examples"] == 90
    assert results["best"] == {"learning_rate": 0.01}
    of_best = [one["dev"]["accuracy"] for one in results["runs"] if one["learning_rate"] == 0.01]
    assert results["score"] == pytest.approx(sum(of_best) / 2) and len(results["sweep"]) == 2
    assert results["chance"] == pytest.approx(1 / 3)
    notes = results["records"]["dev"]["notes"]
    assert notes == {"label '-' (annotators did not agree)": 4}


def test_the_kept_checkpoint_is_the_best_of_its_run(cmnli: tuple[dict[str, Any], Path, Path]) -> None:
    _, out, _ = cmnli
    for number, run in enumerate(read_json(out / "results.json")["runs"], 1):
        lines = [json.loads(line) for line in (out / f"log-{number}.jsonl").read_text().splitlines()]
        looks = {line["step"]: line["dev_accuracy"] for line in lines if "dev_accuracy" in line and line["step"]}
        assert run["dev"]["accuracy"] == pytest.approx(max(looks.values()), abs=1e-6)
        assert looks[run["best_step"]] == max(looks.values())


def test_the_submission_has_every_id_and_a_label(cmnli: tuple[dict[str, Any], Path, Path], tmp_path: Path) -> None:
    _, out, data = cmnli
    lines = [json.loads(line) for line in (out / "cmnli_predict.json").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(range(100, 106))
    assert {line["label"] for line in lines} <= {"entailment", "contradiction", "neutral"}
    # The kept folder, opened anew, says the same; and with labels it is scored.
    assert predict_file(out, data / "test.json", tmp_path / "p.json", "cpu") == {"task": "cmnli", "examples": 6}
    assert (tmp_path / "p.json").read_bytes() == (out / "cmnli_predict.json").read_bytes()
    best = max(one["dev"]["accuracy"] for one in read_json(out / "results.json")["runs"])
    assert predict_file(out, data / "dev.json", tmp_path / "q.json", "cpu")["accuracy"] == pytest.approx(best)
    assert len((tmp_path / "q.json").read_text(encoding="utf-8").splitlines()) == 40


def test_the_tuned_folder_is_stock(cmnli: tuple[dict[str, Any], Path, Path]) -> None:
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(cmnli[1] / "model", output_loading_info=True)
    assert not info["missing_keys"] and model.config.id2label[0] == "entailment"


def test_a_folder_from_before_the_mean_reads_cls(cmnli: tuple[dict[str, Any], Path, Path], tmp_path: Path) -> None:
    shutil.copytree(cmnli[1] / "model", tmp_path / "model")
    record = read_json(tmp_path / "model" / "task.json")
    assert record.pop("pooling") == "cls"
    write_json(tmp_path / "model" / "task.json", record)
    predict_file(tmp_path / "model", cmnli[2] / "test.json", tmp_path / "p.json", "cpu")
    assert (tmp_path / "p.json").read_bytes() == (cmnli[1] / "cmnli_predict.json").read_bytes()


def test_a_class_from_the_mean_of_the_tokens(models: Models, task_folder: Folder, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder, out = task_folder(train=pairs(80, 1), dev=pairs(40, 2)), tmp_path / "mean"
    counts = tune(models(), folder, out, task="ocnli", epochs=8, pooling="mean")
    assert counts["score"] > 0.85 and read_json(out / "model" / "task.json")["pooling"] == "mean"
    again = predict_file(out, folder / "dev.json", tmp_path / "p.json", "cpu")
    assert again["accuracy"] == pytest.approx(counts["score"])
    # No stock class reads a mean; that one says that its layer is missing.
    _, info = AutoModelForSequenceClassification.from_pretrained(out / "model", output_loading_info=True)
    assert {"classifier.weight", "classifier.bias"} <= set(info["missing_keys"])
    names = ["entailment", "contradiction", "neutral"]
    model = open_model(out / "model", ClassHead(names), load(models()), "mean").eval()
    # Padding is no part of the mean.
    ids, mask = torch.tensor([[2, 9, 3, 0], [2, 9, 3, 8]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        states = model.base_model(ids[:1, :3]).last_hidden_state
        expected = model.mean_classifier(states.mean(1))
    assert torch.allclose(logits[:1], expected, atol=1e-6) and not torch.allclose(logits[0], logits[1])
    with pytest.raises(HanmoError, match="leave pooling out"):
        open_model(models("qwen3"), ClassHead(names), load(models("qwen3")), "mean")


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3", "unified"])
def test_other_families_learn_a_class(family: str, models: Models, task_folder: Folder, tmp_path: Path) -> None:
    folder = task_folder(train=pairs(100, 1), dev=pairs(40, 2))
    counts = tune(models(family), folder, tmp_path / "out", task="ocnli", epochs=10)
    assert counts["score"] > 0.85


class Stopped(BaseException):
    """Ends a stage as a signal would: nothing catches it."""


def test_a_stopped_stage_goes_on_where_it_was_and_ends_at_the_same_weights(
    models: Models, task_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In the second pass of its second run, behind a checkpoint; and again behind the last run."""
    folder, whole, halves = task_folder(train=pairs(60, 1), dev=pairs(40, 2)), tmp_path / "whole", tmp_path / "halves"
    given: dict[str, Any] = {"task": "ocnli", "epochs": 3, "sweep": ["lr=0.003,0.01"], "max_length": 7}
    given |= {"log_every": 2, "evaluations": 7, "micro_batch": 4, "checkpoint_seconds": 1e-6}
    counts = tune(models(), folder, whole, **given)

    step, runs, written = training.Careful.training_step, [], stage.write_json

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.state.global_step)
        if runs.count(0) == 4 and runs[-1] == 13:  # two micro-batches a step
            raise Stopped
        return step(self, *args, **kwargs)

    def stopping_at_the_end(path: Path, value: Any) -> None:
        if path.name == "results.json":
            raise Stopped
        written(path, value)

    monkeypatch.setattr(training.Careful, "training_step", stopping)
    with pytest.raises(Stopped):
        tune(models(), folder, halves, **given)
    left = {path.name for path in (halves / "trainer").iterdir()}
    assert left >= {"run-1.json", "run-2"} and (halves / "model").is_dir()
    assert [path.name for path in (halves / "trainer" / "run-2").iterdir()] == ["step-12"]
    assert not (halves / "results.json").exists()
    monkeypatch.setattr(training.Careful, "training_step", step)
    monkeypatch.setattr(stage, "write_json", stopping_at_the_end)
    with pytest.raises(Stopped):
        tune(models(), folder, halves, **given)
    said = capsys.readouterr().err
    assert "goes on behind run 1 of 2" in said and "goes on from step 12" in said
    monkeypatch.setattr(stage, "write_json", written)
    monkeypatch.setattr(training.Careful, "training_step", None)
    again = tune(models(), folder, halves, **given)

    assert again == counts and not (halves / "trainer").exists()
    for path in (whole / "model" / "model.safetensors", *whole.rglob("task.json"), *whole.glob("*predict.json")):
        assert path.read_bytes() == (halves / path.relative_to(whole)).read_bytes()
    assert len(list(whole.glob("*predict.json"))) == 1
    results = [read_json(out / "results.json") for out in (halves, whole)]
    logs = [
        [json.loads(line) for number in (1, 2) for line in (out / f"log-{number}.jsonl").read_text().splitlines()]
        for out in (halves, whole)
    ]
    for timed in (*results[0]["runs"], *results[1]["runs"], *logs[0], *logs[1]):
        timed.pop("seconds", None)
    assert results[0] == results[1] and logs[0] == logs[1]
    assert results[0]["cut_rows"] == 54 + 36, "each row once, however often dev is looked at"


def named(count: int, seed: int) -> str:
    """Sentences in CoNLL's form: 张 or 李 and what is behind it are a person, 北京 is a place."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        for word in draw.choices(["张三", "李四", "北京", "我", "看书", "好"], k=4):
            kind = {"张": "PER", "李": "PER", "北": "LOC"}.get(word[0])
            lines += [f"{c} {'O' if kind is None else f'{place}-{kind}'}" for c, place in zip(word, "BI", strict=False)]
        lines.append("")
    return "\n".join(lines)


@pytest.mark.parametrize("entities", ["crf", "span"])
def test_entities_are_learnt_by_both_heads(entities: str, models: Models, task_folder: Folder, tmp_path: Path) -> None:
    folder = task_folder(x__train=named(60, 1), x__dev=named(30, 2))
    out = tmp_path / "out"
    counts = tune(models(), folder, out, task="msra-ner", entities=entities, epochs=6, max_length=12)
    assert counts["score"] > 0.9
    first = json.loads((out / "msra_ner_predict.json").read_text(encoding="utf-8").splitlines()[0])
    assert set(first["label"]) <= {"PER", "LOC"}
    again = predict_file(out, folder / "x.dev", tmp_path / "p.json", "cpu")
    assert again["f1"] == pytest.approx(counts["score"])


@pytest.mark.parametrize("family", ["megatron-bert", "unified"])
def test_answers_are_found_in_long_passages(family: str, models: Models, task_folder: Folder, tmp_path: Path) -> None:
    draw = random.Random(3)

    def whole(count: int) -> str:
        paragraphs = []
        for number in range(count):
            words = draw.choices("我你他看书饭水好坏", k=40)
            place = draw.randrange(36)
            words[place : place + 4] = "（张三）"
            asked = {"id": f"q{number}", "question": "谁？", "answers": [{"text": "张三", "answer_start": place + 1}]}
            paragraphs.append({"context": "".join(words), "qas": [asked]})
        return json.dumps({"data": [{"paragraphs": paragraphs}]}, ensure_ascii=False)

    folder = task_folder(train=whole(60), dev=whole(20))
    out = tmp_path / "out"
    counts = tune(models(family), folder, out, task="cmrc2018", epochs=8, max_length=32)
    assert counts["score"] > 0.7 and counts["metric"] == "em"
    assert set(read_json(out / "cmrc2018_predict.json")) == {f"q{number}" for number in range(20)}


def test_idioms_compete_for_a_gap(models: Models, task_folder: Folder, tmp_path: Path) -> None:
    draw = random.Random(4)

    def records(count: int) -> list[dict[str, Any]]:
        found = []
        for number in range(count):
            right = draw.randrange(3)
            words = [f"坏{c}" for c in "一二三"]
            words[right] = f"好{draw.choice('四五六')}"
            found.append({"id": number, "content": "他#idiom#了", "candidates": words, "answer": right})
        return found

    folder = task_folder(train=records(40), dev=records(20))
    out = tmp_path / "out"
    counts = tune(models(), folder, out, task="chid", epochs=6)
    assert counts["score"] > 0.9 and counts["chance"] == pytest.approx(1 / 3)
    assert set(json.loads((out / "chid_predict.json").read_text().splitlines()[0])) == {"id", "answer"}


def test_one_file_alone_is_split_and_splits_are_averaged(models: Models, task_folder: Folder, tmp_path: Path) -> None:
    folder = task_folder(dev=pairs(60, 1))
    with pytest.raises(HanmoError, match=r"no training file there; name one: train: dev\.json"):
        tune(models(), folder, tmp_path / "a", task="ocnli")
    counts = tune(models(), folder, tmp_path / "b", task="ocnli", train="dev.json", epochs=1)
    assert (counts["examples"], counts["n"]) == (43, 11)
    folds = {f"{part}_{n}": pairs(20, n) for part in ("train", "dev") for n in range(2)}
    folder = task_folder(**folds, test_public=pairs(20, 9))
    counts = tune(models(), folder, tmp_path / "c", task="ocnli", folds=[0, 1], epochs=1)
    assert counts["runs"] == 2 and counts["on"] == "test"
    assert {one["fold"] for one in read_json(tmp_path / "c" / "results.json")["runs"]} == {0, 1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "afqmcc"}, "did you mean 'afqmc'"),
        ({"sweep": ["rate=1"]}, "sweep: 'rate=1' is no name=value"),
        ({"sweep": ["lr=fast"]}, "sweep: learning_rate: 'fast'"),
        ({"seeds": []}, "seeds: give at least one"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        UnderstandSettings(**({"task": "afqmc"} | settings))


def test_a_sweep_of_several_names() -> None:
    settings = UnderstandSettings(task="afqmc", sweep=["lr=1e-5,3e-5", "epochs=2;3 entities=span"])
    assert settings.variants() == [
        {"learning_rate": rate, "epochs": epochs, "entities": "span"} for rate in (1e-5, 3e-5) for epochs in (2, 3)
    ]


def test_models_that_cannot_be_tuned_are_refused(models: Models, task_folder: Folder, tmp_path: Path) -> None:
    folder = task_folder(train=pairs(10), dev=pairs(10))
    with pytest.raises(HanmoError, match=r"max_length is 65, but the model in .* has 64 positions"):
        tune(models(), folder, tmp_path / "out", task="ocnli", max_length=65)
    with pytest.raises(HanmoError, match=r"not tuned on a task \(no task\.json there\)"):
        predict_file(models(), folder / "dev.json", tmp_path / "p.json")


def test_commands_list_tasks() -> None:
    found = CliRunner().invoke(cli, ["understand", "tasks", "--json"])
    names = [json.loads(line)["task"] for line in found.output.splitlines()]
    assert found.exit_code == 0 and {"afqmc", "chid", "cluener", "msra-ner", "cmrc2018", "drcd"} <= set(names)
