"""LingLong behind the engine: sparse, from right to left, with pinyin; alone, in a batch, and as its class writes."""

from __future__ import annotations

import json
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hanmo.errors import HanmoError
from hanmo.models.linglong.generation import complete, pinyin_reader
from hanmo.models.presets import build_config
from hanmo.models.save import save_model
from hanmo.serve import Sampling, generate
from hanmo.serve.engines import open_engine
from hanmo.serve.engines.transformers import TransformersEngine
from hanmo.serve.text import for_terminal
from hanmo.tokenizer import encode_text, load
from hanmo.tokenizer.chat import ChatFormat

TEXT = "银行行长在重庆的银行里行走。春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
PROMPTS = ["春眠不觉晓", "银行", "夜来风雨声，花落知多少。春眠"]
GREEDY = Sampling(temperature=0, max_tokens=24)
#: What distinguishes each; the first three share a tokenizer.
KINDS = {
    "dense": {"attn_mode": "dense"},
    "sparse": {},
    "backward": {"backward": True},
    "pinyin": {"use_pinyin": True},
    "word": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A function that gives the model folder of a kind: random weights, blocks of 8 tokens."""
    from hanmo.tokenizer.forms import pinyin, word

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind in made:
            return made[kind]
        out = tmp_path_factory.mktemp(kind)
        if kind == "word":
            word.build([TEXT * 4], 275, "rjieba", out / "tokenizer")
        else:
            pinyin.build([TEXT * 4], 530, out / "tokenizer")
        tokenizer = load(out / "tokenizer")
        torch.manual_seed(0)
        config = build_config("linglong-1m", len(tokenizer), 128)
        rows = len(pinyin.read_classes(out / "tokenizer" / "pinyin.txt")) if kind == "pinyin" else 4
        blocks = {"vocab_size": len(tokenizer), "attn_stride": 8, "attn_c": 2, "n_vocab_pinyin": rows}
        for key, value in {**blocks, **KINDS[kind]}.items():
            setattr(config, key, value)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.mul_({"transformer.wte.weight": 8, "transformer.wpe.weight": 30}.get(name, 14))
        save_model(model, tokenizer, out / "model", stops=[0])
        made[kind] = out / "model"
        return made[kind]

    return make


def own(path: Path, prompts: list[str], **more: Any) -> list[list[int]]:
    """New ids in reading order by the class's own generation, without the engine."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), load(path)
    more |= {"pinyin_of": pinyin_reader(path)} if model.config.use_pinyin else {}
    ids = [encode_text(tokenizer, text) for text in prompts]
    return complete(model, ids, max_new_tokens=24, opening=[0], do_sample=False, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_in_a_batch_and_as_its_own_class(folder, kind: str) -> None:
    path = folder(kind)
    engine = open_engine(path, device="cpu")
    assert isinstance(engine, TransformersEngine) and engine.backward == (kind == "backward")
    encoded = [engine.encode(prompt) for prompt in PROMPTS]
    batch = engine.complete(encoded, GREEDY)
    alone = [engine.complete([ids], GREEDY)[0] for ids in encoded]
    assert batch == alone
    wanted = own(path, PROMPTS)
    for ids, answer, new in zip(encoded, alone, wanted, strict=True):
        drawn = list(islice(engine.tokens(ids, GREEDY, threading.Event()), answer.completion_tokens))
        written = drawn[:-1] if answer.finish == "stop" else drawn
        assert (written[::-1] if engine.backward else written) == new and new
    assert own(path, PROMPTS, use_cache=False) == wanted
    assert len({answer.text for answer in alone}) == 3


def test_a_longer_prompt_behind_what_is_cached_is_read_with_its_pinyin(folder) -> None:
    path = folder("pinyin")
    fresh, used = open_engine(path, device="cpu"), open_engine(path, device="cpu")
    plain = Sampling(temperature=0, max_tokens=6, repetition_penalty=1.0)
    used.complete([used.encode("银行里")], plain)
    ids = fresh.encode("银行行长在重庆")
    assert used.complete([ids], plain) == fresh.complete([ids], plain)


def test_a_backward_model_writes_what_stands_before(folder, capfd, tmp_path: Path) -> None:
    path = folder("backward")
    (answer,) = generate(path, ["不觉"], prefix="春眠", suffix="晓", sampling=GREEDY, device="cpu")
    assert capfd.readouterr().out == f"{for_terminal(answer.text)}春眠不觉晓\n" and answer.text
    whole = generate(path, ["春眠不觉晓"], sampling=GREEDY, device="cpu")
    assert whole == [answer]
    out = tmp_path / "out.jsonl"
    generate(path, ["不觉", "不"], prefix="春眠", suffix="晓", output=out, sampling=GREEDY, device="cpu")
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert records[0]["prompt"] == "不觉" and records[0]["completion"] == answer.text
    capfd.readouterr()
    generate(path, ["春眠", "夜来"], sampling=GREEDY, device="cpu")
    out_text = capfd.readouterr().out
    assert out_text.endswith("夜来\n\n") and "春眠\n\n" in out_text


def test_a_backward_answer_ends_right_of_a_stop_string(folder) -> None:
    engine = open_engine(folder("backward"), device="cpu")
    ids = engine.encode("春眠不觉晓")
    whole = engine.complete([ids], GREEDY)[0].text
    stop = whole[-3:-1]
    answer = engine.complete([ids], Sampling(temperature=0, max_tokens=24, stop=(stop,)))[0]
    assert answer.finish == "stop" and answer.text == whole[whole.rfind(stop) + len(stop) :]
    pieces = list(engine.stream(ids, GREEDY))
    assert [piece.text for piece in pieces] == [whole] and pieces[-1].finish == "length"


def test_a_backward_model_reads_a_chat_s_messages_from_their_ends(folder, capfd) -> None:
    engine = open_engine(folder("backward"), device="cpu")
    tokenizer = load(folder("backward"))
    form = ChatFormat(tokenizer)
    wanted, talk = [], [("user", "春眠"), ("assistant", "不觉晓"), ("user", "鸟")]
    for role, said in talk:
        wanted += [form.turn_start, *encode_text(tokenizer, f"{role}\n"), *encode_text(tokenizer, said)[::-1]]
        wanted += [form.turn_end, *encode_text(tokenizer, "\n")]
    wanted += [form.turn_start, *encode_text(tokenizer, "assistant\n")]
    messages = [{"role": role, "content": said} for role, said in talk]
    assert engine.can_chat and engine.encode_chat(messages) == wanted
    # The answer comes from its end, too, and is printed as it is read, without the question.
    (answer,) = generate(folder("backward"), ["春眠"], sampling=GREEDY, as_chat=True, device="cpu")
    drawn = list(islice(engine.tokens(engine.encode_chat(messages[:1]), GREEDY, threading.Event()), 24))
    stop = next((at for at, token in enumerate(drawn) if token in engine.stop_ids), len(drawn))
    whole = tokenizer.decode(drawn[:stop][::-1], skip_special_tokens=True)
    assert answer.text and str(answer.text) == whole.replace("\ufffd", "")  # it writes halves of characters, too
    assert capfd.readouterr().out == for_terminal(answer.text) + "\n"


def test_bits_per_byte_are_those_of_the_turned_text(folder) -> None:
    from hanmo.evaluate.bpb import score_texts

    for kind in ("backward", "pinyin"):
        path = folder(kind)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), load(path)
        wanted = []
        for text in PROMPTS:
            ids = encode_text(tokenizer, text)
            row = [0, *(ids[::-1] if kind == "backward" else ids), 0]
            more = {"pinyin_ids": torch.tensor([pinyin_reader(path)(row)])} if kind == "pinyin" else {}
            with torch.no_grad():
                logits = model(torch.tensor([row]), **more).logits[0, :-1]
            wanted.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum")))
        assert score_texts(model, tokenizer, PROMPTS, 128).nats.tolist() == pytest.approx(wanted, rel=1e-4)


def test_samples_of_the_eval_stage(folder, tmp_path: Path) -> None:
    from hanmo.evaluate.settings import EvalSettings
    from hanmo.evaluate.stage import evaluate

    settings = EvalSettings(prompts=["春眠不觉晓"], sample_tokens=8, temperature=0)
    for kind in ("backward", "pinyin"):
        result, _, _ = evaluate(kind, folder(kind), [], {}, settings, torch.device("cpu"))
        (answer,) = generate(folder(kind), ["春眠不觉晓"], sampling=Sampling(temperature=0, max_tokens=8), device="cpu")
        text = result["samples"][0]["text"].replace("\ufffd", "")
        assert text and text == str(answer.text)
        with pytest.raises(HanmoError, match="sits no exams"):
            evaluate(kind, folder(kind), [], {"exam": ([], [], {})}, settings, torch.device("cpu"))
