"""Several models in one server, and those that read."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers

from hanmo.errors import HanmoError
from hanmo.models.fill import fill
from hanmo.serve.models import Entry, Models, kind_of, named
from hanmo.tokenizer.forms.wordpiece import save_bert, skeleton

HELLO = [{"role": "user", "content": "你好"}]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"春天来到了。花开"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "reader"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(**shape, vocab_size=len(PIECES), max_position_embeddings=16)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    save_bert(skeleton({piece: index for index, piece in enumerate(PIECES)}, True), True, folder)
    return folder


def tuned(encoder: Path, folder: Path, head: str, record: dict) -> Path:
    """A folder as `hanmo understand train` makes it, with weights as they fell."""
    config = transformers.AutoConfig.from_pretrained(encoder)
    config.num_labels = len(record.pop("outputs"))
    torch.manual_seed(1)
    getattr(transformers, head)(config).save_pretrained(folder)
    save_bert(skeleton({piece: index for index, piece in enumerate(PIECES)}, True), True, folder)
    (folder / "task.json").write_text(json.dumps({"names": {}, "max_length": 16, "entities": "span", **record}))
    return folder


def post(server, path: str, **body) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=30)


# ---- loading and unloading ----


@pytest.fixture
def three(scripted):
    """Three models of which two may be in memory, and what was opened and closed."""
    log: list[str] = []

    def entry(name: str) -> Entry:
        def load():
            engine = scripted(name.encode(), delay=0.002)
            engine.name = name
            engine.close = lambda: log.append(f"-{name}")
            log.append(f"+{name}")
            return engine

        return Entry(name, "writer", load)

    models = Models([entry(name) for name in "abc"], most=2)
    models.load_first()
    return models, log


def test_the_least_recently_used_goes(three, run_server):
    models, log = three
    with run_server(models) as server:
        say = lambda name: post(server, "chat/completions", model=name, messages=HELLO)  # noqa: E731
        for name in ("a", "b", "a", "c", "b"):
            answer = say(name).json()
            assert answer["choices"][0]["message"]["content"] == answer["model"] == name
        assert log == ["+a", "+b", "-b", "+c", "-a", "+b"]
        assert post(server, "chat/completions", messages=HELLO).json()["model"] == "a"
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [(one["id"], one["loaded"]) for one in listed] == [("a", True), ("b", True), ("c", False)]
        assert say("d").status_code == 404 and "'b'" in say("bb").json()["error"]["message"]
    assert sorted(log[-2:]) == ["-a", "-b"]


def test_a_model_at_work_stays(three, run_server, until):
    models, log = three
    with run_server(models) as server:
        api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=20)
        streams = []
        for name in "ab":
            post(server, "chat/completions", model=name, messages=HELLO)
            models.workers[name].engine._script = lambda _: b"x" * 100_000
            stream = api.chat.completions.create(model=name, messages=HELLO, stream=True)
            next(iter(stream))
            streams.append(stream)
        refused = post(server, "chat/completions", model="c", messages=HELLO)
        assert refused.status_code == 503 and refused.headers["retry-after"] and "+c" not in log
        streams[1].close()
        until(lambda: not models.entries["b"].users)
        assert post(server, "chat/completions", model="c", messages=HELLO).status_code == 200
        assert log[-2:] == ["-b", "+c"]
        streams[0].close()


def test_many_asking_for_a_model_load_it_once(three, run_server):
    models, log = three
    with run_server(models) as server:
        codes: list[int] = []
        ask = lambda: codes.append(post(server, "chat/completions", model="b", messages=HELLO).status_code)  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [200] * 6 and log.count("+b") == 1


def test_a_model_that_cannot_be_loaded_is_a_500_that_names_no_file(scripted, run_server):
    def broken():
        raise HanmoError("/home/someone/model: torn")

    models = Models([Entry("a", "writer", scripted), Entry("b", "writer", broken)])
    models.load_first()
    with run_server(models) as server:
        answer = post(server, "chat/completions", model="b", messages=HELLO)
        assert answer.status_code == 500 and "someone" not in answer.text
        assert post(server, "chat/completions", model="a", messages=HELLO).status_code == 200


def test_names_and_kinds(tmp_path, encoder, tiny_model_dir):
    assert named("runs/demo/dpo") == ("dpo", Path("runs/demo/dpo"))
    assert named("mine=runs/demo/dpo") == ("mine", Path("runs/demo/dpo"))
    assert named("runs/a=b/dpo") == ("dpo", Path("runs/a=b/dpo"))
    assert kind_of(encoder) == "encoder" and kind_of(tiny_model_dir) == kind_of(Path("x.gguf")) == "writer"
    with pytest.raises(HanmoError, match="no such folder"):
        kind_of(tmp_path / "none")
    with pytest.raises(HanmoError, match=r"'a'.*a2=PATH"):
        Models([Entry("a", "writer", lambda: None), Entry("a", "writer", lambda: None)])  # type: ignore[arg-type]


# ---- reading ----


@pytest.fixture(scope="module")
def readers(encoder, tmp_path_factory, run_server, tiny_model_dir):
    from hanmo.serve.server import _entry

    root = tmp_path_factory.mktemp("tuned")
    labels = ["0", "1"]
    pair = {"task": "afqmc", "labels": labels, "method": "head", "outputs": labels}
    tags = {"task": "cluener", "labels": ["name", "book"], "method": "head", "outputs": ["b", "b", "e", "e"]}
    folders = [
        encoder,
        tuned(encoder, root / "pairs", "BertForSequenceClassification", pair),
        tuned(encoder, root / "names", "BertForTokenClassification", tags),
        tiny_model_dir,
    ]
    options = {"context": None, "device": "cpu", "threads": 1, "parallel": 1, "kind": "auto"}
    entries = [_entry(str(folder), options) for folder in folders]
    entries[-1].name = "writer"
    models = Models(entries, most=2)
    with run_server(models) as server:
        yield server


def test_embeddings_of_encoders_and_decoders(readers, encoder, tiny_model_dir):
    from hanmo.models.states import hidden

    api = openai.OpenAI(base_url=f"{readers.url}/v1", api_key="none", max_retries=0, timeout=60)
    for name, folder, pooling in (
        ("reader", encoder, "mean"),
        ("reader", encoder, "first"),
        ("writer", tiny_model_dir, "last"),
    ):
        texts = ["春天来了", "花"]
        found = api.embeddings.create(model=name, input=texts, extra_body={"pooling": pooling})
        states = hidden(folder, texts, ["layers.1" if name == "reader" else "norm"])
        rows = [state[:length] for state, length in zip(next(iter(states.values())), states["lengths"], strict=True)]
        for one, row in zip(found.data, rows, strict=True):
            vector = {"mean": row.mean(0), "first": row[0], "last": row[-1]}[pooling]
            assert np.allclose(one.embedding, vector / vector.norm(), atol=1e-5)
        assert found.usage.prompt_tokens == int(states["lengths"].sum())
    # The client asks for base64; numbers are the same.
    raw = post(readers, "embeddings", model="reader", input="花").json()["data"][0]["embedding"]
    coded = post(readers, "embeddings", model="reader", input="花", encoding_format="base64").json()["data"][0]
    assert np.allclose(np.frombuffer(base64.b64decode(coded["embedding"]), "<f4"), raw)
    long = post(readers, "embeddings", model="reader", input="春" * 40)
    assert long.status_code == 400 and "16" in long.json()["error"]["message"]


def test_masks_are_filled(readers, encoder):
    texts = ["春[MASK]来了", "[MASK]开[MASK]"]
    found = post(readers, "fill-mask", model="reader", input=texts, top=2).json()["data"]
    for one, expected in zip(found, fill(encoder, texts, 2), strict=True):
        assert one["filled"] == expected["filled"]
        assert [[g["token"] for g in m] for m in one["masks"]] == [[g["token"] for g in m] for m in expected["masks"]]
    none = post(readers, "fill-mask", model="reader", input="春天")
    assert none.status_code == 400 and "[MASK]" in none.json()["error"]["message"]


def test_pairs_are_classified_and_entities_found(readers):
    pairs = [["春天来了", "花开了"], ["花", "天"]]
    found = post(readers, "classify", model="pairs", input=pairs).json()["data"]
    assert [set(one["probabilities"]) for one in found] == [{"0", "1"}] * 2
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
    single = post(readers, "classify", model="pairs", input=["花"])
    assert single.status_code == 400 and "pairs" in single.json()["error"]["message"]
    text = "春天来到了花开"
    (found,) = post(readers, "entities", model="names", input=text).json()["data"]
    for one in found["entities"]:
        assert text[one["start"] : one["end"]] == one["text"] and one["type"] in ("name", "book")
    assert readers.models.entries["names"].kind == "tuned"


def test_what_a_model_cannot_do_is_said(readers):
    for path, body, says in [
        ("chat/completions", {"model": "reader", "messages": HELLO}, "fill-mask"),
        ("completions", {"model": "pairs", "prompt": "花"}, "classify"),
        ("fill-mask", {"model": "writer", "input": "花"}, "chat"),
        ("entities", {"model": "reader", "input": "花"}, "embeddings"),
        ("classify", {"model": "names", "input": "花"}, "entities"),
        ("embeddings", {"model": "pairs", "input": "花"}, "classify"),
        ("tokenize", {"model": "reader", "prompt": "花"}, "embeddings"),
    ]:
        answer = post(readers, path, **body)
        assert answer.status_code == 400 and says in answer.json()["error"]["message"], (path, answer.text)
    for path in ("embeddings", "fill-mask", "entities"):
        assert post(readers, path, input=[]).status_code == post(readers, path).status_code == 400
