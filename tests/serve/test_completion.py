from __future__ import annotations

import gzip
import json
import threading
from typing import Any

import pytest
import torch

from hanmo.errors import HanmoError
from hanmo.serve import Sampling, generate
from hanmo.serve.completion import read_prompts
from hanmo.serve.engines import Completion
from hanmo.serve.engines.beams import likeliest
from hanmo.serve.engines.transformers import TransformersEngine

SHORT = Sampling(temperature=0, max_tokens=8)


@pytest.mark.parametrize("name", ["plain.txt", "lines.jsonl", "packed.jsonl.gz"])
def test_prompts_are_read_from_lines_and_jsonl(tmp_path, name):
    path = tmp_path / name
    prompts = ["春天\u2028来了", " 两个 空格 "]
    lines = prompts if name.endswith("txt") else [json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts]
    data = ("\n\n".join(lines) + "\r\n").encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(read_prompts(path)) == prompts


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(HanmoError, match=r"bad\.jsonl:2: .*prompt"):
        list(read_prompts(path))
    path = tmp_path / "gbk.txt"
    path.write_bytes("好\n".encode() + "中文".encode("gbk"))
    with pytest.raises(HanmoError, match=r"gbk\.txt:2: not UTF-8"):
        list(read_prompts(path))
    with pytest.raises(HanmoError, match="cannot be read"):
        list(read_prompts(tmp_path / "none.txt"))


@pytest.fixture(params=["folder", "gguf"])
def model(request, tiny_model_dir):
    return tiny_model_dir if request.param == "folder" else request.getfixturevalue("tiny_gguf")


def test_one_prompt_streams_to_stdout(model, capfd):
    (answer,) = generate(model, ["小猫"], sampling=SHORT, device="cpu")
    assert capfd.readouterr().out.startswith("小猫") and answer.completion_tokens == 8


def test_prompts_from_a_file_go_to_a_file(model, tmp_path, capfd):
    source, target = tmp_path / "prompts.txt", tmp_path / "out" / "answers.jsonl"
    source.write_text("花园\n春天到了\n", encoding="utf-8")
    answers = generate(model, ["小猫"], input=source, output=target, sampling=SHORT, batch_size=2, device="cpu")
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [record["prompt"] for record in records] == ["小猫", "花园", "春天到了"]
    assert [record["completion"] for record in records] == [answer.text for answer in answers]
    assert records[0] == {
        "prompt": "小猫",
        "completion": answers[0].text,
        "prompt_tokens": answers[0].prompt_tokens,
        "tokens": 8,
        "finish_reason": answers[0].finish,
    }
    assert capfd.readouterr().out == ""
    (alone,) = generate(model, ["春天到了"], sampling=SHORT, device="cpu")
    assert alone.text == answers[2].text


def test_questions_are_put_as_questions(model, transformers_engine, capfd):
    (answer,) = generate(model, ["你好"], as_chat=True, sampling=SHORT, device="cpu")
    prompt = transformers_engine.encode_chat([{"role": "user", "content": "你好"}])
    assert answer == transformers_engine.complete([prompt], SHORT)[0]
    assert not capfd.readouterr().out.startswith("你好")


def test_what_cannot_be_done_is_said(model, tmp_path):
    with pytest.raises(HanmoError, match="nothing to complete"):
        generate(model, [])
    with pytest.raises(HanmoError, match=r"prompt 2: .*context is 256"):
        generate(model, ["短", "长" * 300], output=tmp_path / "x.jsonl", clip=False, device="cpu")
    with pytest.raises(HanmoError, match="batch_size"):
        generate(model, ["短"], batch_size=0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_long_loses_its_beginning_and_is_counted(tiny_model_dir, transformers_engine, tmp_path, capfd):
    target = tmp_path / "x.jsonl"
    long = "".join(map(str, range(200)))
    options: dict[str, Any] = {"prefix": "问", "suffix": "答", "sampling": SHORT, "device": "cpu"}
    answers = generate(tiny_model_dir, ["短", long], output=target, **options)
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    cut = records[1]["clipped"]
    assert 0 < cut < len(long) and "clipped" not in records[0] and records[1]["prompt"] == long
    assert "1 of 2 prompts are too long for the context of 256 tokens" in (said := capfd.readouterr().err)
    assert f"lost their beginning, {cut} characters" in " ".join(said.split())
    # Nothing but the answer's room is left free.
    kept = transformers_engine.encode(f"问{long[cut:]}答")
    assert answers[1].prompt_tokens == len(kept) <= 256 - 8 < len(transformers_engine.encode(f"问{long[cut - 1 :]}答"))
    assert answers[1] == transformers_engine.complete([kept], SHORT)[0]
    (asked,) = generate(tiny_model_dir, [long], as_chat=True, **options)
    kept = transformers_engine.encode_chat([{"role": "user", "content": "问答"}])
    assert kept[: len(kept) // 2] and 200 < asked.prompt_tokens <= 248  # the template was not cut


class Stopped(Exception):
    pass


def test_a_batch_goes_on_where_it_was_killed(tiny_model_dir, tmp_path, monkeypatch, capfd):
    target, partial = tmp_path / "x.jsonl", tmp_path / "x.jsonl.partial"
    prompts = [f"小猫{number}" for number in range(7)]
    drawn = Sampling(seed=3, temperature=1.5, max_tokens=6)

    def run(sampling: Sampling = drawn) -> list[Completion]:
        return generate(tiny_model_dir, prompts, output=target, batch_size=3, sampling=sampling, device="cpu")

    whole = run()
    expected = target.read_bytes()
    target.unlink()
    complete, asked = TransformersEngine.complete, []

    def dies(self: Any, ids: Any, *rest: Any, **more: Any) -> Any:
        if len(asked) == 2:
            raise Stopped
        asked.append(len(ids))
        return complete(self, ids, *rest, **more)

    monkeypatch.setattr(TransformersEngine, "complete", dies)
    with pytest.raises(Stopped):
        run()
    assert not target.exists() and "6 of 7 answers; the same command goes on" in capfd.readouterr().err
    # Killed in the middle of a line: the batch that it belonged to is computed anew.
    partial.write_bytes(partial.read_bytes()[:-5])
    asked.clear()
    assert run() == whole and asked == [3, 1]
    assert target.read_bytes() == expected and not partial.exists()
    assert "goes on behind 3 of 7" in capfd.readouterr().err
    asked.clear()
    with pytest.raises(Stopped):
        run()
    asked.clear()
    monkeypatch.setattr(TransformersEngine, "complete", complete)
    assert run(SHORT) != whole and "begins anew" in capfd.readouterr().err and not partial.exists()


def test_plugins_are_asked_for_each_prompt(tiny_model_dir, transformers_engine, tmp_path):
    seen = []

    def look(prompt: str) -> str:
        seen.append(prompt)
        return f"<{prompt}>"

    target = tmp_path / "x.jsonl"
    options: dict[str, Any] = {"prefix": "{look}", "plugins": {"look": look}, "sampling": SHORT, "device": "cpu"}
    answers = generate(tiny_model_dir, ["一", "二", "三"], output=target, batch_size=2, **options)
    assert seen == ["一", "二", "三"]
    assert answers[2] == transformers_engine.complete([transformers_engine.encode("<三>三")], SHORT)[0]


# ---- beam search ----


def test_beams_find_a_likelier_answer_than_greedy(tiny_model_dir, transformers_engine):
    """Every answer of three tokens is at most as likely as what as many beams as tokens and pairs find."""
    engine, prompt = transformers_engine, transformers_engine.encode("小猫")
    model = engine._model

    def logprob(ids: list[int]) -> float:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
        return float(logits.log_softmax(-1)[range(len(ids)), ids].sum())

    none = frozenset[int]()
    search = lambda beams: likeliest(  # noqa: E731
        model, prompt, Sampling(beams=beams), 3, engine.vocab_size, none, threading.Event()
    )
    greedy = [int(token) for token in engine.tokens(prompt, SHORT, threading.Event())][:3]
    assert search(1) == greedy
    assert logprob(search(16)) >= logprob(search(4)) >= logprob(greedy) - 1e-4
    with torch.inference_mode():
        # By hand: of the 20 likeliest first tokens, each with all second ones.
        first = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
        best = first[: engine.vocab_size].topk(20)
        rows = torch.tensor([[*prompt, int(token)] for token in best.indices])
        second = model(rows).logits[:, -1].double().log_softmax(-1)[:, : engine.vocab_size]
    pairs = best.values[:, None] + second
    row, column = divmod(int(pairs.argmax()), pairs.shape[1])
    pair = likeliest(model, prompt, Sampling(beams=20), 2, engine.vocab_size, none, threading.Event())
    assert pair == [int(best.indices[row]), column]


def test_beams_answer_through_the_public_function_and_are_refused_where_there_are_none(
    tiny_model_dir, transformers_engine, tiny_gguf, tmp_path, capfd
):
    beams = Sampling(beams=3, max_tokens=8)
    answers = generate(tiny_model_dir, ["小猫", "花园"], output=tmp_path / "x.jsonl", sampling=beams, device="cpu")
    (alone,) = generate(tiny_model_dir, ["花园"], sampling=beams, device="cpu")
    assert alone == answers[1] and capfd.readouterr().out.strip() == "花园" + alone.text.strip()
    cancel = threading.Event()
    cancel.set()
    (left,) = transformers_engine.complete([transformers_engine.encode("小猫")], beams, cancel=cancel)
    assert left.finish == "cancelled"
    with pytest.raises(HanmoError, match=r"beams: tiny's engine has no beam search"):
        generate(tiny_gguf, ["小猫"], sampling=beams, device="cpu")
    with pytest.raises(HanmoError, match="beams: 65 is out of range"):
        Sampling(beams=65)
