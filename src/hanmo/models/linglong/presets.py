"""The published shapes of LingLong, and a tiny one that learns on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hanmo.errors import HanmoError, nearest

if TYPE_CHECKING:
    from hanmo.models.linglong.configuration import LingLongConfig

_SPARSE = {"n_layer": 24, "n_embd": 1024, "n_head": 16, "n_position": 1024, "attn_mode": "sparse"}
_SMALL = {"n_layer": 12, "n_embd": 768, "n_head": 16, "n_position": 1024, "attn_mode": "dense"}

#: Configurations by name; what they leave out is as in `LingLongConfig`. Parameters are those counted of the published
#: models: 316,991,488 (forward and backward), 318,377,984, 96,066,048 and 105,994,752.
PRESETS: dict[str, dict[str, Any]] = {
    # The blocks are shorter, so that a context of 256 has several.
    "linglong-1m": {
        "n_layer": 4,
        "n_embd": 128,
        "n_head": 4,
        "n_position": 256,
        "attn_mode": "sparse",
        "attn_stride": 32,
        "attn_c": 4,
        "vocab_size": 1024,
    },
    "linglong-317m": {**_SPARSE, "vocab_size": 13312},
    "linglong-317m-backward": {**_SPARSE, "vocab_size": 13312, "backward": True},
    "linglong-318m-pinyin": {**_SPARSE, "vocab_size": 13312, "use_pinyin": True},
    "linglong-106m": {**_SMALL, "vocab_size": 13312},
    "linglong-106m-word": {**_SMALL, "vocab_size": 26240},
}


def build_config(name: str, **other: Any) -> LingLongConfig:
    """The configuration of a preset; `other` are keys of `LingLongConfig` that are to have other values.

    Raises:
        HanmoError: no preset has that name, which names the nearest.
    """
    from hanmo.models.linglong.configuration import LingLongConfig

    if name not in PRESETS:
        raise HanmoError(f"preset '{name}' is unknown{nearest(name, PRESETS)} (known: {', '.join(PRESETS)})")
    return LingLongConfig(**{**PRESETS[name], **other})
