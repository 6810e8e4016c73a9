"""Hidden states by name, against what transformers itself gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import hanmo.models
from hanmo.errors import HanmoError
from hanmo.models.parts import modules_of
from hanmo.models.save import save_model
from hanmo.pretrain.freezing import freeze
from hanmo.tokenizer import load

TEXTS = ["小猫在树下睡觉。", "春天"]


def test_states_are_those_of_transformers(tiny_model_dir: Path) -> None:
    found = hanmo.models.hidden(tiny_model_dir, TEXTS, layers=["embeddings", "layers.0-3", "norm", "head"])
    assert list(found) == [
        "embeddings",
        "layers.0",
        "layers.1",
        "layers.2",
        "layers.3",
        "norm",
        "head",
        "ids",
        "lengths",
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    tokenizer = load(tiny_model_dir)
    longest = int(found["lengths"].max())
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        length = int(found["lengths"][number])
        assert ids[0].tolist() == found["ids"][number, :length].tolist()
        with torch.no_grad():
            stock = model(ids, output_hidden_states=True)
        states = stock.hidden_states
        names = ["embeddings", "layers.0", "layers.1", "layers.2"]
        for name, state in [*zip(names, states, strict=False), ("norm", states[-1]), ("head", stock.logits)]:
            torch.testing.assert_close(found[name][number, :length], state[0], msg=name)
            assert found[name].shape[:2] == (2, longest) and not found[name][number, length:].any()


def test_parts_of_a_layer_add_up(tiny_model_dir: Path) -> None:
    names = ["layers.2", "layers.3", "layers.3.attention", "layers.3.mlp"]
    found = hanmo.models.hidden(tiny_model_dir, TEXTS[:1], layers=names)
    whole = found["layers.2"] + found["layers.3.attention"] + found["layers.3.mlp"]
    torch.testing.assert_close(whole, found["layers.3"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "MegatronBert", "GPT2"])
def test_other_families_have_the_same_names(family: str, tiny_tokenizer_dir: Path) -> None:
    kind = "LMHeadModel" if family == "GPT2" else "ForMaskedLM"
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 400}
    if family != "GPT2":
        shape["intermediate_size"] = 32
    model = getattr(transformers, f"{family}{kind}")(getattr(transformers, f"{family}Config")(**shape)).eval()
    layers = ["layers.0", "layers.0.attention", "layers.0.mlp"]
    assert {"embeddings", "head", *layers} <= modules_of(model).keys()
    assert ("norm" in modules_of(model)) == (family != "Bert")
    found = hanmo.models.hidden(model, TEXTS, ["layers.0-1"], tokenizer=load(tiny_tokenizer_dir))
    with torch.no_grad():
        stock = model(found["ids"][:1, : int(found["lengths"][0])], output_hidden_states=True).hidden_states
    torch.testing.assert_close(found["layers.0"][0], stock[1][0])


@pytest.mark.parametrize("kind", ["t5", "hanmo_megatron_t5"])
def test_encoder_decoders(kind: str, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    tokenizer = load(tiny_tokenizer_dir)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), decoder_start_token_id=2, **shape)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    save_model(model, tokenizer, tmp_path / "model", [0])
    names = list(modules_of(model))
    first = "encoder.layers.0"
    assert names[:5] == [
        "embeddings",
        first,
        f"{first}.attention",
        f"{first}.mlp",
        "encoder.layers.1",
    ]
    assert "decoder.layers.2.cross" in names and "encoder.layers.0.cross" not in names
    wanted = ["encoder.layers.0-1", "encoder.norm", "decoder.layers.2.cross", "decoder.norm"]
    found = hanmo.models.hidden(tmp_path / "model", TEXTS, layers=wanted)
    assert hanmo.models.hidden(tmp_path / "model", TEXTS)["encoder.norm"].equal(found["encoder.norm"])
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        written = torch.cat([torch.tensor([[2]]), ids[:, :-1]], 1)
        with torch.no_grad():
            stock = model(input_ids=ids, decoder_input_ids=written, output_hidden_states=True)
        length = ids.shape[1]
        for name, state in (
            ("encoder.layers.0", stock.encoder_hidden_states[1]),
            ("encoder.norm", stock.encoder_last_hidden_state),
            ("decoder.norm", stock.decoder_hidden_states[-1]),
        ):
            assert torch.allclose(found[name][row, :length], state[0], atol=1e-5), name
    with pytest.raises(
        HanmoError, match=r"no part 'decoder.layers.3' \(known: embeddings, encoder.layers.0-1, .*cross"
    ):
        hanmo.models.hidden(tmp_path / "model", TEXTS, layers=["decoder.layers.0-3"])
    freeze(model, ["embeddings", "encoder.*"])
    learns = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learns <= {"decoder", "lm_head", "lm_head_bias"} and "decoder" in learns


@pytest.mark.usefixtures("warm_stages")
def test_the_command(tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "states.safetensors"
    command = [sys.executable, "-m", "hanmo", "model", "hidden", str(tiny_model_dir), "--text", TEXTS[0], "--text"]
    command += [TEXTS[1], "--layer", "layers.3.attention", "--layer", "norm", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    states = load_file(out)
    assert {name: list(tensor.shape) for name, tensor in states.items()} | {"out": str(out)} == said
    expected = hanmo.models.hidden(tiny_model_dir, TEXTS, ["layers.3.attention"])["layers.3.attention"]
    assert torch.equal(states["layers.3.attention"], expected)


@pytest.mark.parametrize(
    ("texts", "layers", "line"),
    [
        (
            TEXTS,
            ["layers.9"],
            r"layers: no part 'layers.9'; did you mean 'layers.\d'\? \(known: embeddings, layers.0-3",
        ),
        ([], ["norm"], "hidden: no text is given"),
        (["好" * 2000], ["norm"], r"hidden: text 1 has \d+ tokens; the model's context is 256"),
        ([""], ["norm"], "hidden: text 1 has 0 tokens"),
    ],
)
def test_slips_are_one_line(tiny_model_dir: Path, texts: list[str], layers: list[str], line: str) -> None:
    with pytest.raises(HanmoError, match=line):
        hanmo.models.hidden(tiny_model_dir, texts, layers)
