from __future__ import annotations

import gzip
import json

import pytest

from hanmo.errors import HanmoError
from hanmo.serve import Sampling, generate
from hanmo.serve.completion import read_prompts

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
        generate(model, ["短", "长" * 300], output=tmp_path / "x.jsonl", device="cpu")
    assert list(tmp_path.iterdir()) == []
