"""LingLong, Zhouwenwang and Randeng through the command, as classes of ours, against plain float64 arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from fabricated_checkpoints import folder, linglong_newer, linglong_shapes, randeng, zhouwenwang
from hanmo.cli import cli
from hanmo.convert.imports import import_model
from hanmo.convert.imports.plan import halves
from hanmo.errors import HanmoError
from hanmo.files import read_json
from plain_references import classify, fabricate
from plain_references import linglong as linglong_in_float64
from plain_references import randeng as randeng_in_float64
from plain_references import zhouwenwang as zhouwenwang_in_float64

Weights = dict[str, torch.Tensor]


def command(path: Path, out: Path, *options: str) -> dict[str, Any]:
    """What `hanmo convert import` prints on stdout; it must end well."""
    done = CliRunner().invoke(cli, ["convert", "import", str(path), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def model_of(auto: Any, out: Path, **options: Any) -> Any:
    """Plain `from_pretrained` in float64; nothing may be missing or left over."""
    model, info = auto.from_pretrained(out, dtype=torch.float64, output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def close(found: torch.Tensor, reference: torch.Tensor) -> None:
    assert found.shape == reference.shape and reference.abs().max() > 0.1
    assert (found - reference).abs().max() < 1e-9 * reference.abs().max()


# LingLong

HEADS, STRIDE, COLUMNS = 4, 5, 2
YAML = {"n_ctx": 32, "n_vocab": 37, "n_head": HEADS, "epsilon": 1e-8, "embd_dropout": 0.1, "attn_dropout": 0.1}
SPARSE = {"mode": "sparse", "stride": STRIDE, "c": COLUMNS}
TOKENS = torch.randint(37, (23,), generator=torch.Generator().manual_seed(0)).tolist()
READINGS = torch.randint(1354, (23,), generator=torch.Generator().manual_seed(1)).tolist()
NEWER = {
    "architectures": ["LingLongForCausalLM"],
    "model_type": "linglong",
    **{"vocab_size": 37, "n_position": 32, "n_embd": 24, "n_layer": 3, "n_head": HEADS, "n_inner": None},
    **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-8, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    **{"bos_token_id": 10, "eos_token_id": 8, "pad_token_id": 0, "use_pinyin": False, "backward": False},
    **{"attn_mode": "sparse", "attn_stride": STRIDE, "attn_c": COLUMNS, "torch_dtype": "float32"},
}


def linglong(pinyin: bool = False) -> Weights:
    return fabricate(linglong_shapes() | ({"transformer.wpinyin.weight": (1354, 24)} if pinyin else {}))


def legacy(path: Path, state: Weights, config: dict[str, Any]) -> tuple[Path, ...]:
    """A `.pt` and its YAML, which may lie anywhere; the latter as an option."""
    torch.save(state, path / "model.pt")
    (path / "settings.yaml").write_text(yaml.safe_dump(config))
    return path / "model.pt", path / "settings.yaml"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("pinyin", [False, True])
def test_legacy_linglong(tmp_path: Path, sparse: bool, pinyin: bool) -> None:
    state = linglong(pinyin)
    config = {**YAML, **(SPARSE if sparse else {"mode": "dense"}), "backward": True}
    weights, settings = legacy(tmp_path, state, {"model": config, "seed": 1})
    said = command(weights, tmp_path / "out", "--config", str(settings))
    assert said["kind"] == "LingLong, legacy form" and said["unmapped"] == said["missing"] == said["unused"] == 0
    assert read_json(tmp_path / "out" / "import.json")["config_unused"] == ["seed"]
    model = model_of(AutoModelForCausalLM, tmp_path / "out")
    shape = model.config
    assert shape.use_pinyin is pinyin and shape.backward and shape.layer_norm_epsilon == 1e-8
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.attn_mode) == (3, 4, 24, "sparse" if sparse else "dense")
    read = {"pinyin_ids": torch.tensor([READINGS])} if pinyin else {}
    with torch.no_grad():
        found = model(torch.tensor([TOKENS]), **read).logits[0]
    sizes = (STRIDE, COLUMNS) if sparse else None
    close(found, linglong_in_float64(state, TOKENS, HEADS, sizes, READINGS if pinyin else None))


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
def test_newer_linglong(tmp_path: Path, form: str) -> None:
    state, there = linglong(), tmp_path / "there"
    weights = linglong_newer(state)
    if form == "shards":  # the tied head is there in some files and absent in others
        folder(there, {}, NEWER, safe=False)
        (there / "pytorch_model.bin").unlink()
        parts = {"a.safetensors": sorted(weights)[:10], "b.safetensors": sorted(weights)[10:]}
        for part, inside in parts.items():
            save_file({name: weights[name] for name in inside}, there / part)
        index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
        (there / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
        folder(there, weights, NEWER, safe=form == "safetensors")
    said = command(there, tmp_path / "out")
    assert said["class"] == "LingLongForCausalLM" and said["unmapped"] == said["config_unused"] == 0
    exact, other = (linglong_in_float64(state, TOKENS, HEADS, (STRIDE, COLUMNS), tanh=tanh) for tanh in (False, True))
    assert (exact - other).abs().max() > 1e-5
    for reference, options in ((exact, {}), (other, {"activation_function": "gelu_new"})):
        model = model_of(AutoModelForCausalLM, tmp_path / "out", **options)
        with torch.no_grad():
            close(model(torch.tensor([TOKENS])).logits[0], reference)
    assert read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"] == 8


def test_what_legacy_files_leave_out(tmp_path: Path) -> None:
    """Sixteen heads, as all published models have; sparse where there is a stride; ids of that vocabulary alone."""
    state = fabricate(linglong_shapes(width=32, layers=2))
    weights, settings = legacy(tmp_path, state, {"stride": STRIDE, "c": COLUMNS})
    record = import_model(weights, tmp_path / "out", config=settings)
    assert [note.split(":")[0] for note in record["notes"][:2]] == ["no n_head", "no attn_mode"]
    model = model_of(AutoModelForCausalLM, tmp_path / "out")
    assert (model.config.n_head, model.config.attn_mode, model.config.eos_token_id) == (16, "sparse", None)
    with torch.no_grad():
        close(model(torch.tensor([TOKENS])).logits[0], linglong_in_float64(state, TOKENS, 16, (STRIDE, COLUMNS)))


def test_what_of_linglong_does_not_fit_is_named(tmp_path: Path) -> None:
    def fault(state: Weights, config: dict[str, Any] | None, line: str) -> None:
        weights, settings = legacy(tmp_path, state, config or {})
        with pytest.raises(HanmoError, match=line) as caught:
            import_model(weights, tmp_path / "out", config=settings if config is not None else None)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    whole, config = linglong(), {**YAML, **SPARSE}
    lost = {name: tensor for name, tensor in whole.items() if name != "transformer.blocks.1.mlp.c_fc.b"}
    fault(lost, config, r"1 tensors missing \(transformer\.h\.1\.mlp\.c_fc\.bias\)")
    fault(whole, {**config, "n_ctx": 64}, r"settings\.yaml: n_ctx: 64, but 32 by the weights")
    fault(whole, {**config, "use_pinyin": True}, r"no pinyin table \[1354, 24\]")
    tables = {f"transformer.{name}.weight": torch.zeros(1354, 24) for name in ("one", "two")}
    fault(whole | tables, config, "one.weight, transformer.two.weight: each may be the pinyin table")
    fault(whole | {"lm_head.weight": torch.zeros(37, 24)}, config, "not the token embedding")
    fault({n: t for n, t in whole.items() if ".wte." not in n}, config, r"the weights lack transformer\.wte\.weight")
    fault(whole, None, "nothing tells whether its layers are sparse")
    fault(whole, {**config, "n_head": 5}, "LingLongConfig does not take this configuration")
    fault(whole, {**config, "mode": "thin"}, "neither dense nor sparse")
    reward = whole | {"reward_head.weight": torch.zeros(1, 24)}
    fault(reward, config, r"1 tensors without a place there \(reward_head.weight\); --no-strict imports the rest")
    weights, settings = legacy(tmp_path, reward, config)
    command(weights, tmp_path / "out", "--config", str(settings), "--no-strict")
    assert read_json(tmp_path / "out" / "import.json")["unmapped"] == ["reward_head.weight"]


def test_linglong_s_words_and_classes_come_along(tmp_path: Path, shared_data: Path) -> None:
    """The real vocabulary of 13,312 characters, for which a legacy file says neither heads nor ids."""
    files = sorted((shared_data / "tokenizers" / "linglong-cpm2").glob("*.txt"))
    vocabulary = next((file for file in files if len(file.read_text("utf-8").split("\n")) in (13312, 13313)), None)
    if vocabulary is None:
        pytest.skip("needs the published vocabulary")
    state = fabricate(linglong_shapes(rows=13312, width=32, layers=2))
    weights, settings = legacy(tmp_path, state, {"mode": "dense"})
    said = command(weights, tmp_path / "out", "--config", str(settings), "--tokenizer", str(vocabulary))
    assert said["tokenizer"] == "linglong"
    model, tokenizer = model_of(AutoModelForCausalLM, tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (model.config.n_head, model.config.bos_token_id, model.config.eos_token_id) == (16, 10, 8)
    ids = tokenizer("今天天气很好", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        close(model(torch.tensor([ids])).logits[0], linglong_in_float64(state, ids, 16, None))


# Zhouwenwang

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"春夏秋冬山水花月风云雨雪日天地人大小上下左右东西南北中"]
UNIFIED = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "vocab_size": 37,
    "pad_token_id": 0,
}
IDS = [1, 7, 30, 2, 36, 11, 7]


def in_two(path: Path, weights: Weights) -> None:
    """Pickled shards in the place of the one file there."""
    (path / "pytorch_model.bin").unlink()
    names = sorted(weights)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, inside in parts.items():
        torch.save({name: weights[name] for name in inside}, path / file)
    weight_map = {name: file for file, inside in parts.items() for name in inside}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("kind", ["megatron-bert", "bert", "roformer"])
@pytest.mark.parametrize(("at", "form"), [("", "bin"), ("bert.", "safetensors"), ("roformer.", "shards")])
def test_zhouwenwang_under_each_of_its_names(tmp_path: Path, kind: str, at: str, form: str) -> None:
    state, there = zhouwenwang(at), tmp_path / "there"
    folder(there, state, {**UNIFIED, "model_type": kind}, safe=form == "safetensors")
    if form == "shards":
        in_two(there, state)
    (there / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    said = command(there, tmp_path / "out")
    assert (said["kind"], said["class"], said["tokenizer"]) == ("Zhouwenwang", "UnifiedForMaskedLM", "bert")
    assert said["unmapped"] == said["missing"] == said["config_unused"] == 0
    record = read_json(tmp_path / "out" / "import.json")
    assert record["unused"] == [f"{at}pooler.dense.bias", f"{at}pooler.dense.weight"]
    for types in ([0] * 7, [1] * 7, [0, 0, 0, 1, 1, 1, 1]):
        expected = zhouwenwang_in_float64(state, IDS, types, 4, at)
        for auto in (AutoModelForMaskedLM, AutoModelForCausalLM):
            model = model_of(auto, tmp_path / "out")
            with torch.no_grad():
                found = model(input_ids=torch.tensor([IDS]), token_type_ids=torch.tensor([types])).logits[0]
            close(found, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("春夏")["input_ids"] == [2, 5, 6, 3]


def test_zhouwenwang_goes_on_as_ours(tmp_path: Path) -> None:
    state = zhouwenwang("")
    import_model(folder(tmp_path / "there", state, UNIFIED), tmp_path / "out")
    model = model_of(AutoModelForMaskedLM, tmp_path / "out")
    model.save_pretrained(tmp_path / "ours")
    again = model_of(AutoModelForMaskedLM, tmp_path / "ours")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    found = model.generate(ids, max_new_tokens=5, do_sample=False)
    # By the reference, token by token.
    text = ids[0].tolist()
    for _ in range(5):
        text.append(int(zhouwenwang_in_float64(state, text, [1] * len(text), 4)[-1].argmax()))
    assert found[0].tolist() == text


def test_the_order_of_channels() -> None:
    """As llama2.c's rows are re-ordered: the same function does both."""
    assert halves(torch.arange(12), 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_what_of_zhouwenwang_does_not_fit_is_named(tmp_path: Path) -> None:
    def fault(state: Weights, config: dict[str, Any], line: str) -> None:
        source = folder(tmp_path / str(len(list(tmp_path.iterdir()))), state, config)
        with pytest.raises(HanmoError, match=line) as caught:
            import_model(source, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    whole = zhouwenwang("")
    lost = {name: tensor for name, tensor in whole.items() if name != "encoder.layer.1.ln.bias"}
    fault(lost, UNIFIED, r"1 tensors missing \(bert.encoder.layer.1.ln.bias\)")
    fault(whole, {**UNIFIED, "intermediate_size": 48}, "intermediate_size: 48, but 40 by the weights")
    fault(whole, {**UNIFIED, "num_attention_heads": 6}, "rotary angles are not those of base 10000 and heads of 4")
    fault(whole, {**UNIFIED, "num_attention_heads": 8}, "8 heads of 24 channels have no even width")
    fault(whole, {"hidden_size": 24}, "num_attention_heads is not there")
    fault(whole, {**UNIFIED, "model_type": "gemma"}, "gemma is a stock class")
    fault(whole, {**UNIFIED, "model_type": "hanmo_unified"}, "a class of Hanmo's own; load it as it is")
    wide = whole | {"encoder.layer.1.attention.self.query.weight": torch.zeros(12, 24)}
    fault(wide, UNIFIED, r"bert.encoder.layer.1.attention.self.query.weight \[12, 24\] for \[24, 24\]")
    # Erlangshen has positions, and a BERT without them is none of ours.
    places = whole | {"embeddings.position_embeddings.weight": torch.zeros(16, 24)}
    fault(places, {**UNIFIED, "model_type": "megatron-bert"}, "Erlangshen / MegatronBert, but not wholly")
    after = {name.replace("attention.ln.", "attention.output.LayerNorm."): tensor for name, tensor in whole.items()}
    fault(after, {**UNIFIED, "model_type": "bert"}, "without its position embeddings, which a stock class would invent")
    tuned = {f"bert_encoder.{name}": tensor for name, tensor in whole.items()} | {
        "cls_layer.weight": torch.zeros(2, 24)
    }
    fault(tuned, UNIFIED, r"Zhouwenwang, but not wholly .*missing \(classifier.bias\)")


@pytest.mark.parametrize(("labels", "layer"), [(1, "cls_layer"), (3, "cls_layer"), (3, "classifier")])
def test_a_zhouwenwang_that_was_tuned_to_judge(tmp_path: Path, labels: int, layer: str) -> None:
    """As the fine-tuning script leaves it (`bert_encoder.`, a pickle), and under a class's names."""
    at = "bert_encoder." if layer == "cls_layer" else "roformer."
    weights = zhouwenwang(at) | fabricate({f"{layer}.weight": (labels, 24), f"{layer}.bias": (labels,)}, 5)
    folder(tmp_path / "there", weights, UNIFIED | {"model_type": "roformer"}, safe=layer != "cls_layer")
    record = import_model(tmp_path / "there", tmp_path / "out")
    assert (record["class"], record["unused"]) == ("UnifiedForSequenceClassification", [])
    assert read_json(tmp_path / "out" / "config.json").get("problem_type") == (
        "multi_label_classification" if labels == 1 else None
    )
    states = zhouwenwang_in_float64(weights, IDS, [0] * 7, 4, at, states=True)
    model = model_of(AutoModelForSequenceClassification, tmp_path / "out")
    with torch.no_grad():
        close(model(torch.tensor([IDS])).logits[0], classify(weights, states, at, layer))


# Randeng

T5 = {
    # As published files have it: nothing of positions, and a stock T5's end.
    "model_type": "T5",
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "layer_norm_epsilon": 1e-5,
    "feed_forward_proj": "gelu",
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
READ, WRITTEN = [5, 9, 33, 59, 4, 9], [1, 7, 7, 20]


@pytest.mark.parametrize("part", ["T5Layer", "MegatronT5Layer"])
def test_randeng(tmp_path: Path, part: str) -> None:
    state, more = randeng(), {"relative_attention_num_buckets": 32}
    there = folder(tmp_path / "there", randeng(part) | {"odd.weight": torch.zeros(2)}, T5 | more, safe=False)
    said = command(there, tmp_path / "out", "--no-strict")
    assert said["class"] == "MegatronT5ForConditionalGeneration" and said["missing"] == 0 and said["tied"]
    record = read_json(tmp_path / "out" / "import.json")
    assert record["unmapped"] == ["odd.weight"] and record["config_unused"] == list(more)
    assert len(record["derived"]) == 7 and not any("embed_tokens" in name for name in load(tmp_path / "out"))
    model = model_of(AutoModelForSeq2SeqLM, tmp_path / "out")
    assert model.config.max_position_embeddings == 40
    with torch.no_grad():
        found = model(torch.tensor([READ]), decoder_input_ids=torch.tensor([WRITTEN])).logits[0]
    close(found, randeng_in_float64(state, READ, WRITTEN, 3))
    text = [1]
    for _ in range(4):
        text.append(int(randeng_in_float64(state, READ, text, 3)[-1].argmax()))
    assert model.generate(torch.tensor([READ]), max_new_tokens=4, do_sample=False)[0].tolist() == text


def load(out: Path) -> Weights:
    return load_file(out / "model.safetensors")


def test_randeng_s_own_vocabulary_has_ids_of_its_own(tmp_path: Path) -> None:
    state = randeng(rows=21248)
    there = folder(tmp_path / "there", state, {**T5, "vocab_size": 32128, "eos_token_id": 1})
    (there / "generation_config.json").write_text('{"eos_token_id": 1, "decoder_start_token_id": 0}')
    pieces = [*WORDS, *(f"[unused{number}]" for number in range(21128 - len(WORDS)))]
    (there / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    record = import_model(there, tmp_path / "out")
    assert record["tokenizer"] == "bert" and record["notes"] == [
        "[BOS] 21128 begins and [EOS] 21129 ends what it writes"
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("春<extra_id_0>夏<extra_id_117>", add_special_tokens=False)["input_ids"]
    assert ids == [5, 21130, 6, 21247] and len(tokenizer) == 21248
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (21128, 21129, 0)
    assert record["config_unused"] == ["bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"]
    for name in ("config.json", "generation_config.json"):
        said = read_json(tmp_path / "out" / name)
        ids = [said[f"{role}_token_id"] for role in ("bos", "eos", "pad", "decoder_start")]
        assert ids == [21128, 21129, 0, 21128], name


def test_what_of_randeng_does_not_fit_is_named(tmp_path: Path) -> None:
    def fault(state: Weights, config: dict[str, Any], line: str) -> None:
        source = folder(tmp_path / str(len(list(tmp_path.iterdir()))), state, config)
        with pytest.raises(HanmoError, match=line) as caught:
            import_model(source, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    whole = randeng()
    fault(whole, {**T5, "d_ff": 48}, "d_ff: 48, but 40 by the weights")
    fault(whole, {**T5, "feed_forward_proj": "gated-gelu"}, "feed_forward_proj: gated-gelu is none of gelu, relu")
    fault(whole, {**T5, "num_heads": 4}, "num_heads: 4 heads do not divide the 18 rows")
    lost = {name: tensor for name, tensor in whole.items() if name != "decoder.final_layer_norm.bias"}
    fault(lost, T5, r"1 tensors missing \(decoder.final_layer_norm.bias\)")
    places = {name: tensor for name, tensor in whole.items() if name != "shared.position_embeddings.weight"}
    fault(places, T5, r"the weights lack shared.position_embeddings.weight")
    other = whole | {"decoder.embed_tokens.word_embeddings.weight": torch.zeros(60, 24)}
    fault(other, T5, "decoder.embed_tokens.word_embeddings.weight differs from shared.word_embeddings.weight")
    fault({"shared.weight": torch.zeros(2, 2)}, {"model_type": "t5"}, "t5 is a stock class of transformers; load it")
