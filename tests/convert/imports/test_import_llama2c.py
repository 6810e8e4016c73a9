"""llama2.c's .bin files: both headers, their faults, and the real stories260K."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fabricated_checkpoints import EXACT, IDS, distance, llama2_shapes, logits
from hanmo.convert.imports import import_model
from hanmo.errors import HanmoError
from plain_references import fabricate, llama2c

SHAPE = (24, 40, 2, 4, 2, 37, 16)  # width, FFN, layers, heads, key-value heads, vocabulary, positions
MATRICES = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
MLP = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


def fabricated(tied: bool) -> dict[str, torch.Tensor]:
    return fabricate(llama2_shapes() | ({} if tied else {"output.weight": (37, 24)}))


def export(path: Path, weights: dict[str, torch.Tensor], version: int, tied: bool) -> Path:
    """The bytes that llama2.c's export.py writes, from its documented order."""
    layers = ["attention_norm", *MATRICES, "ffn_norm", *MLP]
    if version == 0:
        head = struct.pack("<7i", *SHAPE[:5], SHAPE[5] if tied else -SHAPE[5], SHAPE[6])
        order = ["tok_embeddings.weight", *layers, "norm.weight", "tables", "output.weight"]
    else:
        head = struct.pack("<Ii7iB", 0x616B3432, version, *SHAPE, tied).ljust(256, b"\0")
        order = ["attention_norm", "ffn_norm", "norm.weight", "tok_embeddings.weight", *MATRICES, *MLP, "output.weight"]
    content = [head]
    for name in order:
        if name == "tables":
            content.append(np.zeros(2 * 16 * 3, "<f4").tobytes())
        elif name in weights:
            content.append(weights[name].numpy().astype("<f4").tobytes())
        elif name != "output.weight":
            content += [weights[f"layers.{n}.{name}.weight"].numpy().astype("<f4").tobytes() for n in range(2)]
    path.write_bytes(b"".join(content))
    return path


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_both_versions_with_and_without_a_head(tmp_path: Path, version: int, tied: bool) -> None:
    weights = fabricated(tied)
    record = import_model(export(tmp_path / "any.name", weights, version, tied), tmp_path / "out")
    assert record["kind"] == "llama2.c" and record["tied"] == tied
    assert distance(logits(AutoModelForCausalLM, tmp_path / "out"), llama2c(weights, IDS, 4)) < EXACT


def test_faults_are_one_line(tmp_path: Path) -> None:
    weights = fabricated(True)
    whole = export(tmp_path / "a.bin", weights, 0, True).read_bytes()
    cases = {
        "torn llama2.c file": whole[:-4],
        "too long llama2.c file": whole + b"1234",
        "version 2 is int8": export(tmp_path / "b", weights, 2, True).read_bytes(),
        "version 7 is unknown": export(tmp_path / "b", weights, 7, True).read_bytes(),
        "ends inside its header": export(tmp_path / "b", weights, 1, True).read_bytes()[:100],
        "impossible shape": struct.pack("<Ii7iB", 0x616B3432, 1, 24, 40, 2, 5, 2, 37, 16, 1).ljust(300, b"\0"),
    }
    for line, content in cases.items():
        (tmp_path / "c.bin").write_bytes(content)
        with pytest.raises(HanmoError, match=line):
            import_model(tmp_path / "c.bin", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_real_stories260k(tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "models" / "stories260K" / "checkpoint_legacy.bin"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    record = import_model(file, tmp_path / "out")
    assert record["parameters"] == 260_032 and record["tokenizer"] == "llama2c"
    dim, hidden, layers, heads, kv, rows, _ = struct.unpack("<7i", file.read_bytes()[:28])
    numbers, at = torch.from_numpy(np.fromfile(file, "<f4", offset=28)), 0
    weights: dict[str, torch.Tensor] = {}

    def take(names: list[str], *form: int) -> None:
        nonlocal at
        for name in names:
            weights[name] = numbers[at : at + int(np.prod(form))].view(form)
            at += int(np.prod(form))

    def each(name: str) -> list[str]:
        return [f"layers.{n}.{name}.weight" for n in range(layers)]

    take(["tok_embeddings.weight"], rows, dim)
    take(each("attention_norm"), dim)
    for name, out in zip(MATRICES, (dim, kv * dim // heads, kv * dim // heads, dim), strict=True):
        take(each(name), out, dim)
    take(each("ffn_norm"), dim)
    for name, form in zip(MLP, ((hidden, dim), (dim, hidden), (hidden, dim)), strict=True):
        take(each(name), *form)
    take(["norm.weight"], dim)
    # Trained weights make logits of 13, of which float32 itself knows the sixth digit.
    found = logits(AutoModelForCausalLM, tmp_path / "out")
    reference = llama2c(weights, IDS, heads)
    assert distance(found, reference) < 5 * EXACT and (found.argmax(-1) == reference.argmax(-1)).all()

    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = torch.tensor([[1, *tokenizer.encode("Once upon a time", add_special_tokens=False)]])
    told = tokenizer.decode(model.generate(prompt, max_new_tokens=60, do_sample=False)[0], skip_special_tokens=True)
    # llama2.c itself, at temperature 0, begins with these words (its own test of this model).
    assert told.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
