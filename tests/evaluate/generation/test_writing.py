"""Models of every class answer a task's records; what is written down of it; faults before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hanmo.errors import HanmoError
from hanmo.evaluate.generation import stage
from hanmo.evaluate.generation.settings import GenerationSettings, RecordsSettings
from hanmo.evaluate.generation.writing import Writer
from hanmo.models.linglong.configuration import LingLongConfig
from hanmo.models.linglong.modeling import LingLongForCausalLM
from hanmo.models.save import save_model
from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedForMaskedLM
from hanmo.posttrain import sft
from hanmo.posttrain.settings import SftSettings
from hanmo.tokenizer import load, save
from hanmo.tokenizer.chat import ChatFormat
from hanmo.tokenizer.forms.wordpiece import build_lossless

NAMES = "甲乙丙"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("facts") / "train.jsonl"
    rows = [{"question": f"{name}在哪里？", "answer": f"{name}城"} for name in NAMES]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder: Path, family: str, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_attention_heads": 2}
    wide = {"hidden_size": 48, "intermediate_size": 96, "max_position_embeddings": 64}
    if family == "unified":
        model: Any = UnifiedForMaskedLM(UnifiedConfig(**shape, **wide))
    elif family == "t5":
        config = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=48, d_kv=24, d_ff=96, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        model = transformers.T5ForConditionalGeneration(config)
    elif family == "backward":
        config = LingLongConfig(vocab_size=len(tokenizer), n_position=64, n_embd=48, n_layer=2, n_head=2, backward=True)
        model = LingLongForCausalLM(config)
    else:
        model = transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**shape, **wide, num_key_value_heads=2, head_dim=24, tie_word_embeddings=True)
        )
    model.save_pretrained(folder)
    save(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def wordpieces(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("wordpiece")
    build_lossless([f"答案是在哪里？{NAMES}城" * 3], 531, folder)
    return load(folder)


def alone(folder: Path, question: str) -> str:
    """A unified model's answer, the prompt a prefix that sees itself whole."""
    model, tokenizer = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval(), load(folder)
    ids = torch.tensor([ChatFormat(tokenizer).encode([{"role": "user", "content": question}], True)[0]])
    row = model.generate(ids, token_type_ids=torch.zeros_like(ids), max_new_tokens=64 - ids.shape[1], do_sample=False)
    return tokenizer.decode(row[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("family", ["qwen3", "backward", "unified", "t5"])
def test_a_model_of_every_class_is_tuned_and_answers(
    tmp_path: Path, family: str, facts: Path, tiny_tokenizer_dir: Path, wordpieces: Any
) -> None:
    tokenizer = wordpieces if family == "unified" else load(tiny_tokenizer_dir)
    base = make(tmp_path / "base", family, tokenizer)
    records, tuned, out = tmp_path / "records", tmp_path / "tuned", tmp_path / "out"
    records.mkdir()
    task = {"task": "kbqa", "prompt": "{}"}
    assert stage.make_records(RecordsSettings(**task), {"data": [facts]}, records)["records"] == len(NAMES)
    quick = {
        "epochs": 100,
        "batch_size": 6,
        "learning_rate": 0.003,
        "max_length": 64,
        "validation": 0,
        "precision": "fp32",
    }
    sft.run(SftSettings(**quick), {"model": [base], "records": [records]}, tuned)
    settings = GenerationSettings(**task, resamples=100, device="cpu", batch_prompts=4)
    inputs = {"model": [tuned] if family in ("unified", "t5") else [tuned, base], "data": [facts]}
    if family == "backward":
        inputs["model"] = [tuned]
    counts = stage.run(settings, inputs, out)
    found = json.loads((out / "generation.json").read_text(encoding="utf-8"))
    best = found["models"][0]
    assert best["asked"] == "chat" and best["counts"] == {"empty": 0, "cut": 0, "too_long": 0}
    lines = [json.loads(line) for line in (out / "predictions-tuned.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3]
    answers = [line["prediction"] for line in lines]
    if family == "unified":  # learns this more slowly: its answers are those that it gives alone
        assert answers == [alone(tuned / "model", f"{name}在哪里？") for name in NAMES]
        assert counts["models"]["tuned"]["exact"] >= 1 / 3
        return
    assert answers == [f"{name}城" for name in NAMES] and counts["models"]["tuned"] == {"exact": 1.0}
    assert 0.4 < best["figures"]["exact"]["low"] < 0.5
    if family == "qwen3":
        other = found["models"][1]
        assert other["asked"] == "plain" and other["figures"]["exact"]["value"] == 0
        (pair,) = found["comparisons"]
        assert pair["first"] == "tuned" and pair["exact"]["difference"] == -1 and pair["exact"]["high"] < 0


def test_a_plain_model_is_shown_examples(tiny_model_dir: Path, tmp_path: Path, facts: Path) -> None:
    settings = GenerationSettings(task="kbqa", ask="plain", device="cpu")
    writer = Writer(tiny_model_dir, settings, CPU, 8, [("甲在哪里？", "甲城"), ("乙在哪里？", "乙城")])
    asked = writer.tokenizer.decode(writer.encode("丙在哪里？"), skip_special_tokens=True)
    assert (
        asked == "问题：\n甲在哪里？\n答案：\n甲城\n\n问题：\n乙在哪里？\n答案：\n乙城\n\n问题：\n丙在哪里？\n答案：\n"
    )
    # So long that only one example fits beside it.
    long = next("丙" * n for n in range(200) if len(writer.encode("丙" * n)) < len(writer.encode("丙" * (n - 1))))
    kept = writer.tokenizer.decode(writer.encode(long), skip_special_tokens=True)
    assert "甲城" not in kept and "乙城" in kept and len(writer.encode(long)) + 8 <= 256
    short, cut = writer.write(["丙", "丙" * 300])
    assert not short.too_long and "\n" not in short.text and cut.too_long and cut.text == ""


def test_a_chat_model_s_answer_is_that_of_transformers(tiny_model_dir: Path) -> None:
    writer = Writer(tiny_model_dir, GenerationSettings(task="text", device="cpu"), CPU, 12)
    assert writer.way == "chat"
    prompts = ["小猫在哪里？", "春天到了，花园里的花"]
    ids = [ChatFormat(writer.tokenizer).encode([{"role": "user", "content": p}], True)[0] for p in prompts]
    for prompt, reply in zip(ids, writer.write(prompts), strict=True):
        (row,) = writer.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False).tolist()
        new = row[len(prompt) :]
        new = new[: next((at for at, token in enumerate(new) if token in (0, 2)), len(new))]
        assert reply.text == writer.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_figures_of_texts(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("".join(f"{name}在花园里看见小猫\t{name}看见小猫\n" for name in NAMES), encoding="utf-8")
    settings = GenerationSettings(task="lcsts", resamples=100, device="cpu", answer_tokens=8)
    stage.run(settings, {"model": [tiny_model_dir], "data": [path]}, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "generation.json").read_text(encoding="utf-8"))
    (model,) = found["models"]
    assert {"rouge_1", "rouge_2", "rouge_l", "bleu_4", "rouge_l_words", "bleu_4_words"} <= model["figures"].keys()
    assert {"distinct_1", "distinct_2", "repetition"} <= found["references"].keys()
    start = found["baselines"]["beginning"]["rouge_1"]
    assert start["value"] == pytest.approx(1 / 5)  # of 甲在花园里, the first alone is right
    assert start["low"] <= start["value"] <= start["high"]


def test_what_cannot_be_asked(tmp_path: Path, tiny_tokenizer_dir: Path, facts: Path) -> None:
    tokenizer = load(tiny_tokenizer_dir)
    t5 = make(tmp_path / "t5", "t5", tokenizer)
    with pytest.raises(HanmoError, match="this class is asked by a turn"):
        Writer(t5, GenerationSettings(task="kbqa", ask="plain"), CPU, 8)
    inputs = {"model": [t5], "data": [facts]}
    with pytest.raises(HanmoError, match="task 'kbaq' is unknown; did you mean 'kbqa'"):
        stage.run(GenerationSettings(task="kbaq"), inputs, tmp_path / "out")
    with pytest.raises(HanmoError, match="field 'answers': is missing"):
        stage.run(GenerationSettings(task="kbqa", target="answers"), inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    encoder = tmp_path / "encoder"
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    save_model(transformers.BertForMaskedLM(config), tokenizer, encoder, [0])
    with pytest.raises(HanmoError, match="an encoder, which fills masks and writes no text"):
        Writer(encoder, GenerationSettings(task="kbqa"), CPU, 8)
