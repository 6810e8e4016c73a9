"""Published Zhouwenwang checkpoints, fabricated with their names: the logits are those of a plain reference in float64.

The reference below is written from the published description alone: interleaved rotation, explicit loops over heads,
no code of the model under test.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hanmo.errors import HanmoError
from hanmo.models.unified.convert import TYPES, convert, from_published, half_split, recognises

CONFIG = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
}


def published(seed: int = 0) -> dict[str, Tensor]:
    """Weights with a published checkpoint's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    d, f, head = CONFIG["hidden_size"], CONFIG["intermediate_size"], 8
    state: dict[str, Tensor] = {}

    def draw(name: str, *shape: int, norm: bool = False) -> None:
        value = torch.randn(*shape, generator=generator) * 0.3
        state[name] = value + 1 if norm else value

    def norm(name: str) -> None:
        draw(f"{name}.weight", d, norm=True)
        draw(f"{name}.bias", d)

    def linear(name: str, rows: int, columns: int) -> None:
        draw(f"{name}.weight", rows, columns)
        draw(f"{name}.bias", rows)

    state["embeddings.position_ids"] = torch.arange(64)[None]
    draw("embeddings.word_embeddings.weight", CONFIG["vocab_size"], d)
    draw("embeddings.token_type_embeddings.weight", 2, d)
    for number in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{number}"
        norm(f"{at}.attention.ln")
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", d, d)
        state[f"{at}.attention.self.rope_emb.div_term"] = torch.exp(torch.arange(0, head, 2) * -math.log(1e4) / head)
        linear(f"{at}.attention.output.dense", d, d)
        norm(f"{at}.ln")
        linear(f"{at}.intermediate.dense", f, d)
        linear(f"{at}.output.dense", d, f)
    norm("encoder.ln")
    linear("pooler.dense", d, d)
    return state


def reference(state: dict[str, Tensor], ids: list[int], types: list[int]) -> np.ndarray:
    """Logits [length, vocabulary] in float64, token by token and head by head."""
    w = {name: value.double().numpy() for name, value in state.items()}
    length, heads = len(ids), CONFIG["num_attention_heads"]
    idx = np.cumsum(types)

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def rotated(x: np.ndarray, place: int) -> np.ndarray:
        """Neighbouring channels are the two coordinates that are turned."""
        out = np.empty_like(x)
        for pair in range(len(x) // 2):
            angle = place * 10000.0 ** (-2 * pair / len(x))
            one, two = x[2 * pair], x[2 * pair + 1]
            out[2 * pair] = one * math.cos(angle) - two * math.sin(angle)
            out[2 * pair + 1] = two * math.cos(angle) + one * math.sin(angle)
        return out

    stream = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][types]
    width = stream.shape[1] // heads
    for number in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{number}"
        x = normed(stream, f"{at}.attention.ln")
        query, key, value = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        attended = np.zeros_like(stream)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for q in range(length):
                seen = [k for k in range(length) if idx[k] <= idx[q]]
                asked = rotated(query[q, part], q)
                scores = np.array([asked @ rotated(key[k, part], k) for k in seen]) / math.sqrt(width)
                weights = np.exp(scores - scores.max())
                attended[q, part] = (weights / weights.sum()) @ value[seen, part]
        stream = stream + linear(attended, f"{at}.attention.output.dense")
        wide = linear(normed(stream, f"{at}.ln"), f"{at}.intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        stream = stream + linear(wide, f"{at}.output.dense")
    return normed(stream, "encoder.ln") @ w["embeddings.word_embeddings.weight"].T


def folder_of(
    state: dict[str, Tensor], model_type: str, path: Path, form: str = "safetensors", prefix: str = ""
) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG | {"model_type": model_type}))
    named = {prefix + name: value.contiguous() for name, value in state.items()}
    if form == "safetensors":
        save_file(named, path / "model.safetensors")
    elif form == "bin":
        torch.save(named, path / "pytorch_model.bin")
    else:
        names = sorted(named)
        halves = {"a.bin": names[::2], "b.bin": names[1::2]}
        for file, inside in halves.items():
            torch.save({name: named[name] for name in inside}, path / file)
        weight_map = {name: file for file, inside in halves.items() for name in inside}
        (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


CASES = [("megatron-bert", "bin", ""), ("bert", "safetensors", "bert."), ("roformer", "shards", "roformer.")]


@pytest.mark.parametrize(("model_type", "form", "prefix"), CASES)
def test_logits_are_those_of_the_reference(model_type: str, form: str, prefix: str, tmp_path: Path) -> None:
    """Under each published name, in each form of file, in all three modes."""
    state = published()
    model, left_over = from_published(folder_of(state, model_type, tmp_path / "model", form, prefix))
    assert left_over == ["pooler.dense.bias", "pooler.dense.weight"]
    ids = [1, 7, 30, 2, 49, 11, 7]
    for types in ([0] * 7, [1] * 7, [0, 0, 0, 1, 1, 1, 1]):
        with torch.no_grad():
            found = model.double()(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0]
        expected = reference(state, ids, types)
        assert np.abs(found.numpy() - expected).max() < 1e-9 * np.abs(expected).max()


def test_it_goes_on_as_ours(tmp_path: Path) -> None:
    model, _ = from_published(folder_of(published(), "roformer", tmp_path / "theirs"))
    model.save_pretrained(tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    ids = torch.arange(1, 9)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    found = model.generate(ids, max_new_tokens=5, do_sample=False)
    # By the reference, token by token.
    text = ids[0].tolist()
    for _ in range(5):
        text.append(int(reference(published(), text, [1] * len(text))[-1].argmax()))
    assert found[0].tolist() == text


def test_the_order_of_channels() -> None:
    assert half_split(torch.arange(12), 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_only_such_models_are_recognised() -> None:
    names = set(published())
    assert set(TYPES) == {"megatron-bert", "bert", "roformer"}
    assert recognises(names) and recognises(f"bert.{name}" for name in names)
    assert not recognises(names | {"embeddings.position_embeddings.weight"}), "Erlangshen has positions"
    # transformers' own RoFormer keeps its angles in the encoder and has its norms behind the parts.
    assert not recognises({"embeddings.word_embeddings.weight", "encoder.layer.0.attention.output.LayerNorm.weight"})
    with pytest.raises(HanmoError, match="not a Zhouwenwang checkpoint"):
        convert(CONFIG, published() | {"embeddings.position_embeddings.weight": torch.zeros(64, 24)})


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in published().items() if key != name}


@pytest.mark.parametrize(
    ("config", "state", "line"),
    [
        (CONFIG, without("encoder.layer.1.ln.bias"), r"1 weights are missing \(bert.encoder.layer.1.ln.bias\)"),
        (
            CONFIG | {"intermediate_size": 48},
            published(),
            r"shape \[40, 24\] in the weights, \[48, 24\] by conf",
        ),
        (CONFIG | {"num_attention_heads": 6}, published(), "rotary angles are not those of base 10000 and heads of 4"),
        ({"hidden_size": 24}, published(), "num_attention_heads is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(config: dict, state: dict[str, Tensor], line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        convert(config, state)


def test_folders_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match=r"no config\.json there"):
        from_published(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HanmoError, match="no weights there"):
        from_published(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"torn")
    with pytest.raises(HanmoError, match=r"pytorch_model.bin: cannot be read .*; fetch it again"):
        from_published(tmp_path)
