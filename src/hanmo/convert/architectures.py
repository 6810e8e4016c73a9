"""Which model classes can be written for llama.cpp, and how each one's config.json reads in GGUF's keys.

To add a family: a function that writes its hyperparameters (and refuses what llama.cpp's graph of it lacks), and a line
in `ARCHITECTURES`. The names of tensors come from gguf's own map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from hanmo.errors import HanmoError

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A family that llama.cpp knows: gguf's id of it and the writer of its hyperparameters."""

    arch: gguf.MODEL_ARCH
    write: Callable[[gguf.GGUFWriter, Config, Path], None]

    @property
    def name(self) -> str:
        """The family's name in GGUF."""
        return gguf.MODEL_ARCH_NAMES[self.arch]


def find(config: Config, path: Path) -> Architecture:
    """The family of a config.json; `path` names the file in the error for an unknown one."""
    classes = config.get("architectures") or [config.get("model_type", "of no class")]
    for name in classes:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    raise HanmoError(
        f"{path}: {', '.join(map(str, classes))} cannot be written as GGUF; "
        f"what can be converted: {', '.join(ARCHITECTURES)}"
    )


def _qwen3(writer: gguf.GGUFWriter, config: Config, path: Path) -> None:
    """Qwen3: grouped-query attention with normalised queries and keys, SwiGLU, no biases."""
    _require(config, path, "hidden_act", "silu")
    _require(config, path, "attention_bias", False)
    _require(config, path, "use_sliding_window", False)
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rope_theta(config, path))
    writer.add_vocab_size(config["vocab_size"])


def _require(config: Config, path: Path, key: str, value: Any) -> None:
    found = config.get(key, value)
    if found != value:
        raise HanmoError(f"{path}: {key} is {found!r}; llama.cpp's graph of this model has {value!r} only")


def _rope_theta(config: Config, path: Path) -> float:
    """The base of the rotary positions; transformers 5 keeps it in `rope_parameters`, earlier ones beside it."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HanmoError(f"{path}: rope_type is {kind!r}; only plain rotary positions (default) can be converted")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)


#: Class in config.json -> how it is written.
ARCHITECTURES: dict[str, Architecture] = {
    "Qwen3ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN3, _qwen3),
}
