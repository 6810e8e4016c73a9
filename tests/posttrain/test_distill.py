"""Distillation: the loss by its definition, what it moves, teachers that do not fit; a teacher's answers as records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.posttrain.conftest import dialogue
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from hanmo.errors import HanmoError
from hanmo.posttrain import distill, sft, training
from hanmo.posttrain.encode import IGNORE, Example
from hanmo.posttrain.scoring import use_label_scoring
from hanmo.posttrain.settings import DistillSettings, SftSettings
from hanmo.serve import answers
from hanmo.serve.settings import AnswersSettings
from hanmo.tokenizer import load

FIXED: dict[str, Any] = {"precision": "fp32", "threads": 1}


def make(folder: Path, tokenizer: Path, width: int, layers: int, rows: int = 400) -> Path:
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=[2, 0],
        pad_token_id=0,
    )
    torch.manual_seed(layers)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    load(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    return make(tmp_path_factory.mktemp("student"), tiny_tokenizer_dir, 32, 1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Tuned on the records that the tests have; its embedding has rows to spare."""
    folder = tmp_path_factory.mktemp("teacher")
    base = make(folder / "base", tiny_tokenizer_dir, 64, 2, rows=448)
    records = folder / "records.jsonl"
    lines = (json.dumps(dialogue(index), ensure_ascii=False) for index in range(120))
    records.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = SftSettings(**FIXED, epochs=8, batch_size=8, learning_rate=4e-3, validation=0)
    sft.run(settings, {"model": [base], "records": [records]}, folder / "tuned")
    return folder / "tuned"


def divergence(own: torch.Tensor, told: torch.Tensor, kind: str, between: float) -> torch.Tensor:
    """D of rows of logits, by the papers' definitions, in probabilities."""
    p, q = told.softmax(-1), own.softmax(-1)

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a.log() - b.log())).sum(-1)

    if kind == "forward":
        return kl(p, q)
    if kind == "reverse":
        return kl(q, p)
    middle = between * p + (1 - between) * q
    return between * kl(p, middle) + (1 - between) * kl(q, middle)


@pytest.mark.parametrize(
    ("kind", "temperature", "weight"),
    [("forward", 1.0, 1.0), ("forward", 2.0, 0.3), ("reverse", 1.5, 0.5), ("jsd", 1.0, 0.7)],
)
def test_the_loss_is_its_definition(
    student: Path, teacher: Path, tmp_path: Path, kind: Any, temperature: float, weight: float
) -> None:
    settings = DistillSettings(
        **FIXED, device="cpu", divergence=kind, between=0.25, temperature=temperature, weight=weight
    )
    start = training.Start(student, settings, tmp_path)
    lesson = distill.Teacher(teacher, start, settings)
    model: Any = start.model.train()
    ids = torch.randint(3, 400, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :5] = IGNORE
    labels[1, 9:] = IGNORE
    counts = labels[:, 1:] != IGNORE
    own = model(ids).logits[:, :-1][counts]
    with torch.no_grad():
        told = lesson.model(ids).logits[:, :-1, :400][counts]
    apart = divergence(own / temperature, told / temperature, kind, 0.25)
    expected = (1 - weight) * F.cross_entropy(own, labels[:, 1:][counts], reduction="none")
    expected = expected + weight * temperature**2 * apart
    use_label_scoring(model, lesson)
    found = model(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True)
    assert found.loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    wanted = torch.autograd.grad(expected.mean(), list(model.parameters()))
    for one, other in zip(torch.autograd.grad(found.loss, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert all(not parameter.requires_grad for parameter in lesson.model.parameters())
    model.eval()  # held-out records are scored by their words alone
    plain = model(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True).loss
    assert plain.item() == pytest.approx(F.cross_entropy(own, labels[:, 1:][counts]).item(), rel=1e-5)


def test_the_measured_divergence(student: Path, teacher: Path, tmp_path: Path) -> None:
    settings = DistillSettings(**FIXED, device="cpu")
    start = training.Start(student, settings, tmp_path)
    lesson = distill.Teacher(teacher, start, settings)
    rows = [Example([5, 6, 7, 8, 9], [IGNORE, IGNORE, 7, 8, 9]), Example([5, 6, 7], [IGNORE, 6, 7])]
    nats, tokens = lesson.divergence(rows * 9)
    assert tokens.tolist() == [3, 2] * 9 and nats[0] == pytest.approx(nats[2])
    with torch.no_grad():
        own, told = (one(torch.tensor([[5, 6, 7]])).logits[0, :2, :400] for one in (start.model, lesson.model))
    assert nats[1] == pytest.approx(divergence(own, told, "forward", 0).sum().item(), rel=1e-5)


def test_a_student_nears_its_teacher(student: Path, teacher: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    inputs = {"model": [student], "teacher": [teacher], "records": [jsonl(dialogue(i) for i in range(80))]}
    quick = {**FIXED, "epochs": 3, "batch_size": 8, "learning_rate": 4e-3, "validation": 0.2}
    out = tmp_path / "distilled"
    counts = distill.run(DistillSettings(**quick, weight=1.0, packing=True), inputs, out)
    assert counts["kl_after"] < 0.7 * counts["kl_before"] and counts["difference_high"] < 0
    found = json.loads((out / "distilled.json").read_text(encoding="utf-8"))
    assert found["records"] == 16 and found["after"]["low"] < found["after"]["kl"] < found["after"]["high"]
    assert math.isclose(found["difference"]["mean"], counts["kl_after"] - counts["kl_before"], rel_tol=1e-6)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    looked = [line["validation_kl"] for line in log if "validation_kl" in line]
    assert looked[0] == pytest.approx(counts["kl_before"], abs=1e-5) and looked[-1] < looked[0]
    assert (out / "model" / "model.safetensors").is_file() and not (out / "trainer").exists()
    again = distill.run(DistillSettings(**quick, weight=1.0, packing=True), inputs, tmp_path / "again")
    assert again["kl_after"] == counts["kl_after"]


def test_a_teacher_that_does_not_fit(student: Path, teacher: Path, jsonl: Callable[..., Path], tmp_path: Path) -> None:
    records = [jsonl(dialogue(i) for i in range(30))]
    other = tmp_path / "other"
    make(other, teacher / "model", 32, 1)
    path = other / "tokenizer.json"
    changed = json.loads(path.read_text(encoding="utf-8"))
    changed["model"]["merges"].pop()
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"has another tokenizer than the student.*hanmo answers"):
        distill.run(
            DistillSettings(**FIXED), {"model": [student], "teacher": [other], "records": records}, tmp_path / "a"
        )
    config = json.loads((student / "config.json").read_text(encoding="utf-8"))
    short = make(tmp_path / "short", student, 32, 1)
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}), encoding="utf-8")
    with pytest.raises(HanmoError, match="the teacher has a context of 64 tokens, records may have 128"):
        distill.run(
            DistillSettings(**FIXED), {"model": [student], "teacher": [short], "records": records}, tmp_path / "b"
        )
    (short / "config.json").write_text(json.dumps(config | {"model_type": "hanmo_unified"}), encoding="utf-8")
    with pytest.raises(HanmoError, match=r"this model learns unified\. Let the teacher answer prompts"):
        distill.run(
            DistillSettings(**FIXED), {"model": [short], "teacher": [teacher], "records": records}, tmp_path / "c"
        )


class _Killed(Exception):
    pass


def test_answers_are_the_same_wherever_it_was_killed(
    teacher: Path, jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_PORTION", 4)
    prompts = jsonl([{"prompt": f"{i}在哪里？"} for i in range(5)] + [{"prompt": "0在哪里？"}], "prompts.jsonl")
    records = jsonl([dialogue(i) for i in range(5)])
    inputs = {"teacher": [teacher], "prompts": [prompts, records]}
    settings = AnswersSettings(
        answer_tokens=40, samples=2, temperature=1.0, device="cpu", system="简短", batch_prompts=3
    )
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    counts = answers.run(settings, inputs, one)
    assert counts["prompts"] == 10 and counts["records"] + sum(counts["left_out"].values()) == 20
    plain = answers._answer
    calls: list[int] = []

    def dying(engine: Any, portion: Any, first: int, *rest: Any) -> None:
        calls.append(first)
        if first == 4 and calls.count(4) == 1:
            raise _Killed
        plain(engine, portion, first, *rest)

    monkeypatch.setattr(answers, "_answer", dying)
    with pytest.raises(_Killed):
        answers.run(settings, inputs, other)
    assert not (other / "sft.jsonl").exists()
    assert answers.run(settings, inputs, other) == counts and calls == [0, 4, 4, 8]
    assert (one / "sft.jsonl").read_bytes() == (other / "sft.jsonl").read_bytes()
    assert sorted(path.name for path in other.iterdir()) == ["answers.json", "sft.jsonl"]
    first = json.loads((one / "sft.jsonl").read_text(encoding="utf-8").splitlines()[0])["messages"]
    assert [message["role"] for message in first] == ["system", "user", "assistant"]
    assert first[1]["content"] == "0在哪里？" and first[2]["content"]
    account = json.loads((one / "answers.json").read_text(encoding="utf-8"))
    assert account["duplicates"] == 1 and account["files"][0]["form"] == "prompt"


def test_answers_that_are_worth_nothing(
    teacher: Path, student: Path, jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    prompts = jsonl([{"prompt": "你好"}, {"prompt": "丙" * 200}], "prompts.jsonl")
    settings = AnswersSettings(answer_tokens=1, temperature=0, device="cpu")
    with pytest.raises(HanmoError, match="none of the 2 prompts has an answer worth keeping") as error:
        answers.run(settings, {"teacher": [teacher], "prompts": [prompts]}, tmp_path / "out")
    assert "'prompt longer than the context': 1" in str(error.value)
    bad = jsonl([{"prompt": "你好"}, {"prompt": " "}], "bad.jsonl")
    with pytest.raises(HanmoError, match=r"bad\.jsonl:2: field 'prompt': is empty"):
        answers.run(settings, {"teacher": [teacher], "prompts": [bad]}, tmp_path / "out")
    with pytest.raises(ValueError, match="at temperature 0 all answers to a prompt are the same"):
        AnswersSettings(samples=2, temperature=0)
