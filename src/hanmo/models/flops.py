"""How much arithmetic a token of training is: the model FLOPs that MFU counts.

A matrix of n weights costs 2n FLOPs for a token forward and 4n backward. Attention multiplies queries with keys and
weights with values: 4 * width * context forward and twice that backward, in every layer. As in PaLM (arXiv:2204.02311,
appendix B), which the field's figures follow, the whole context is counted although half of it is masked, and neither
recomputed activations nor the optimiser count. The input embedding is looked up and not multiplied, so it does not
count; the head does, also where it is the same matrix. Of experts, those chosen for a token count.
"""

from __future__ import annotations

from typing import Any


def flops_per_token(weights: int, layers: int, width: int, context: int) -> int:
    """FLOPs of forward and backward pass for one token.

    Args:
        weights: parameters that are multiplied (see `multiplied_weights`).
        layers: attention layers.
        width: channels of all query heads together.
        context: tokens in a row.
    """
    return 6 * weights + 12 * layers * width * context


def multiplied_weights(model: Any) -> int:
    """Parameters that a token meets in a transformers model, without its input embedding, but with the head."""
    # Imported where it is needed: it takes torch, and a plan is made without it until a model is counted.
    from hanmo.models.experts import inactive_parameters

    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = outputs is not None and outputs.weight is inputs
    held = sum(p.numel() for p in model.parameters()) - (0 if tied else inputs.numel())
    return held - inactive_parameters(model)


def model_flops(model: Any, context: int) -> int:
    """FLOPs of training a transformers decoder on one token of a row of `context`."""
    config = model.config.get_text_config()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return flops_per_token(multiplied_weights(model), config.num_hidden_layers, width, context)
