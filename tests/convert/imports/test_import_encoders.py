"""BERT and MegatronBert in every form that Fengshenbang published, against plain float64 arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from fabricated_checkpoints import EXACT, IDS, distance, encoder_shapes, folder, logits, mask_head_shapes
from hanmo.convert.imports import import_model
from hanmo.errors import HanmoError
from hanmo.files import read_json
from plain_references import classify, encoder, fabricate, fill_mask

#: Not the class's own, so that an epsilon which is lost on the way shows.
EPS = 1e-4
TYPES = [0, 0, 0, 0, 1, 1, 1, 1, 1]
MEGATRON: dict[str, Any] = {
    "architectures": ["MegatronBertForMaskedLM"],
    "model_type": "megatron-bert",
    "hidden_act": "gelu_new",
    "layer_norm_eps": EPS,
    "num_attention_heads": 4,
}
BERT = {"model_type": "bert", "layer_norm_eps": EPS, "hidden_act": "gelu", "num_attention_heads": 4}
HEAD = "cls.predictions."


def erlangshen(at: str = "bert.", before: bool = True, pooler: bool = False) -> dict[str, torch.Tensor]:
    return fabricate(encoder_shapes(at, before, pooler) | mask_head_shapes())


@pytest.mark.parametrize("at", ["bert.", ""])
@pytest.mark.parametrize("head", ["alone", "with its copies", "with the pooler"])
def test_erlangshen_fills_masks(tmp_path: Path, at: str, head: str) -> None:
    weights = erlangshen(at, pooler=head == "with the pooler")
    stored = dict(weights)
    if head == "with its copies":
        stored[f"{HEAD}decoder.weight"] = weights[f"{at}embeddings.word_embeddings.weight"].clone()
        stored[f"{HEAD}decoder.bias"] = weights[f"{HEAD}bias"].clone()
        stored[f"{at}embeddings.position_ids"] = torch.arange(16)[None]
    record = import_model(folder(tmp_path / "there", stored, MEGATRON, safe=bool(at)), tmp_path / "out")
    assert record["class"] == "MegatronBertForMaskedLM" and record["tied"] and not record["missing"]
    assert record["unused"] == ([f"{at}pooler.dense.{k}" for k in ("bias", "weight")] * (head == "with the pooler"))
    reference = fill_mask(weights, encoder(weights, IDS, TYPES, 4, at, EPS), at, tanh=True, eps=EPS)
    assert distance(logits(AutoModelForMaskedLM, tmp_path / "out", TYPES), reference) < EXACT


def test_a_head_of_its_own_stays_untied(tmp_path: Path) -> None:
    weights = erlangshen()
    own = fabricate({f"{HEAD}decoder.weight": (37, 24)}, 5)
    record = import_model(folder(tmp_path / "there", weights | own, MEGATRON), tmp_path / "out")
    assert not record["tied"]
    words = {"bert.embeddings.word_embeddings.weight": own[f"{HEAD}decoder.weight"]}
    reference = fill_mask(weights | words, encoder(weights, IDS, TYPES, 4, "bert.", EPS), "bert.", tanh=True, eps=EPS)
    assert distance(logits(AutoModelForMaskedLM, tmp_path / "out", TYPES), reference) < EXACT


def test_both_pretraining_heads_are_kept(tmp_path: Path) -> None:
    order = {"cls.seq_relationship.weight": (2, 24), "cls.seq_relationship.bias": (2,)}
    weights = fabricate(encoder_shapes("bert.") | mask_head_shapes() | order)
    record = import_model(folder(tmp_path / "there", weights, MEGATRON), tmp_path / "out")
    assert record["class"] == "MegatronBertForPreTraining" and not record["unused"]
    from transformers import MegatronBertForPreTraining

    model = MegatronBertForPreTraining.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([IDS]), token_type_ids=torch.tensor([TYPES]))
    hidden = encoder(weights, IDS, TYPES, 4, "bert.", EPS)
    assert distance(output.prediction_logits[0], fill_mask(weights, hidden, "bert.", tanh=True, eps=EPS)) < EXACT
    reference = classify(weights, hidden, "bert.", "cls.seq_relationship")
    assert distance(output.seq_relationship_logits[0], reference) < EXACT


@pytest.mark.parametrize("before", [True, False])
def test_without_a_head_the_bare_model(tmp_path: Path, before: bool) -> None:
    weights = fabricate(encoder_shapes("bert.", before))
    stored = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
              for k, v in weights.items()}  # fmt: skip
    config = MEGATRON if before else BERT
    record = import_model(folder(tmp_path / "there", stored, config), tmp_path / "out")
    assert record["class"] == ("MegatronBertModel" if before else "BertModel")
    reference = encoder(weights, IDS, TYPES, 4, "bert.", EPS)
    assert distance(logits(AutoModel, tmp_path / "out", TYPES), reference) < EXACT


def test_a_missing_pooler_is_refused_by_name_or_recorded(tmp_path: Path) -> None:
    weights = fabricate(encoder_shapes("", pooler=False))
    source = folder(tmp_path / "there", weights, MEGATRON)
    with pytest.raises(HanmoError, match=r"2 tensors missing \(pooler.dense.weight, pooler.dense.bias\); --no-strict"):
        import_model(source, tmp_path / "out")
    record = import_model(source, tmp_path / "out", strict=False)
    assert record["missing"] == ["pooler.dense.bias", "pooler.dense.weight"]


@pytest.mark.parametrize(("before", "labels", "wrapped"), [(True, 1, False), (True, 3, True), (False, 2, False)])
def test_the_fine_tuning_script_s_pth(tmp_path: Path, before: bool, labels: int, wrapped: bool) -> None:
    layer = {"cls_layer.weight": (labels, 24), "cls_layer.bias": (labels,)}
    weights = fabricate(encoder_shapes("bert_encoder.", before) | layer)
    stored = (
        {"model_state_dict": {f"module.model.{k}": v for k, v in weights.items()}, "step": 7} if wrapped else weights
    )
    torch.save(stored, tmp_path / "best.pth")
    (tmp_path / "base.json").write_text(json.dumps(MEGATRON if before else BERT))
    record = import_model(tmp_path / "best.pth", tmp_path / "out", config=tmp_path / "base.json")
    assert record["class"] == f"{'MegatronBert' if before else 'Bert'}ForSequenceClassification"
    assert read_json(tmp_path / "out" / "config.json").get("problem_type") == (
        "multi_label_classification" if labels == 1 else None
    )
    reference = classify(weights, encoder(weights, IDS, TYPES, 4, "bert_encoder.", EPS), "bert_encoder.", "cls_layer")
    found = logits(AutoModelForSequenceClassification, tmp_path / "out", TYPES)
    assert found.shape == (labels,) and distance(found, reference) < EXACT


@pytest.mark.parametrize(
    ("weights", "config", "line"),
    [
        ({"transformer.blocks.0.attn.c_attn.w": (8, 24), "transformer.wte.weight": (13312, 8)}, {}, "LingLong"),
        # A torn LingLong is no GPT-2, whichever of its marks it has.
        ({"transformer.h.0.attn.c_attn.weight": (8, 24)}, {"model_type": "linglong"}, "lack transformer.wte.weight"),
        ({"transformer.h.0.attn.c_attn.weight": (8, 24)}, {"attn_mode": "sparse", "n_head": 2}, "lack transformer.wte"),
        ({"h.0.attn.c_attn.weight": (8, 24), "pinyin.weight": (1354, 8)}, {"n_head": 2}, "lack wte.weight"),
        ({"h.0.attn.c_attn.weight": (8, 24), "wte.weight": (26240, 8)}, None, "LingLong"),
        ({"shared.word_embeddings.weight": (8, 8)}, {"model_type": "t5"}, "lack shared.position_embeddings.weight"),
        ({"encoder.block.0.T5LayerSelfAttention.SelfAttention.q.weight": (8, 8)}, None, "lack shared.word_embeddings"),
        ({"encoder.layer.0.attention.self.query.weight": (8, 8), "encoder.embed_positions.weight": (8, 8)}, {}, "RoFo"),
        ({"model.layers.0.mlp.experts.0.up_proj.weight": (8, 8)}, {"model_type": "minimind"}, "a mixture of experts"),
        ({"model.layers.0.mlp.experts.0.up_proj.weight": (8, 8)}, {"model_type": "qwen2_moe"}, "a stock class"),
        ({"model.layers.0.self_attn.q_proj.weight": (8, 8)}, {"model_type": "gemma"}, "gemma is a stock class"),
        ({"model.layers.0.self_attn.q_proj.weight": (8, 8)}, {"model_type": "zzz"}, "zzz computes by code"),
        (
            {
                f"xyz.{n}": (8, 8)
                for n in ("encoder.layer.0.attention.self.query.weight", "embeddings.position_embeddings.weight")
            },
            None,
            "under none of BERT's names",
        ),
        ({"conv.weight": (8, 8)}, None, r"of no kind that is known here \(1 tensors: conv.weight\)"),
    ],
)
def test_what_has_no_class_here_is_named_and_refused(
    tmp_path: Path, weights: dict[str, tuple[int, ...]], config: dict[str, Any] | None, line: str
) -> None:
    with pytest.raises(HanmoError, match=line):
        import_model(folder(tmp_path / "there", fabricate(weights), config), tmp_path / "out")
    assert not (tmp_path / "out").exists()
