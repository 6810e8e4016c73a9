"""llama2.c's `.bin` files as the tensors of the checkpoint they were exported from.

Two headers of 32-bit integers in little-endian order go before float32 numbers without names (llama2.c, export.py):

* legacy: width, FFN width, layers, heads, key-value heads, vocabulary, positions; a negative vocabulary means that the
  head is a matrix of its own. It carries no mark, so the file's length must be exactly what the header says;
* versioned: the mark "ak42", the version, the same seven, and a byte that says whether head and embedding are one;
  padded to 256 bytes. Version 1 is float32; version 2 is int8, and lossy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanmo.errors import HanmoError

MARK = struct.pack("<I", 0x616B3432)
_FIELDS: tuple[str, ...] = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
_LEGACY_BYTES, _VERSIONED_BYTES = 28, 256
#: No model is larger than that in any of its dimensions; what passes for a header by chance is.
_MOST = 1 << 21

Tensors = dict[str, torch.Tensor]


def legacy_header(head: bytes) -> dict[str, int] | None:
    """The seven numbers at a file's start where they can be a model's shape, else None."""
    if len(head) < _LEGACY_BYTES:
        return None
    shape = _named(struct.unpack_from("<7i", head))
    return shape if _plausible({**shape, "vocab_size": abs(shape["vocab_size"])}) else None


def _named(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip(_FIELDS, numbers, strict=True))


def _plausible(shape: dict[str, int]) -> bool:
    heads, kv_heads = shape["n_heads"], shape["n_kv_heads"]
    return (
        all(0 < value <= _MOST for value in shape.values())
        and shape["n_layers"] <= 1024
        and shape["dim"] % heads == 0
        and shape["dim"] // heads % 2 == 0
        and heads % kv_heads == 0
    )


def read(path: Path, head: bytes) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by the names of llama2.c's own state dict, mapped from the file, and its `model_args`.

    Raises:
        HanmoError: of another version, or shorter or longer than its header says.
    """
    if head.startswith(MARK):
        if len(head) < _VERSIONED_BYTES:
            raise HanmoError(f"{path}: a torn llama2.c file; it ends inside its header of {_VERSIONED_BYTES} bytes")
        version, *numbers = struct.unpack_from("<8i", head, 4)
        if version != 1:
            what = "int8, which lost precision" if version == 2 else "unknown here"
            raise HanmoError(f"{path}: llama2.c version {version} is {what}; export version 0 or 1 (float32) instead")
        shape = _named(numbers)
        tied, start, order = bool(head[36]), _VERSIONED_BYTES, _versioned
        if not _plausible(shape):
            raise HanmoError(f"{path}: the header of this llama2.c file names an impossible shape ({numbers})")
    else:
        legacy = legacy_header(head)
        assert legacy is not None, "recognised by this header"
        shape, start, order = legacy, _LEGACY_BYTES, _legacy
        tied = shape["vocab_size"] > 0
        shape["vocab_size"] = abs(shape["vocab_size"])
    wanted = order(shape, tied)
    expected = start + 4 * sum(count for _, count, _ in wanted)
    if (size := path.stat().st_size) != expected:
        fault = "torn" if size < expected else "too long"
        raise HanmoError(f"{path}: a {fault} llama2.c file ({size} bytes; its header says {expected}); fetch it again")
    # Copy-on-write, since torch wants memory that it may write to; nothing does.
    values = torch.from_numpy(np.memmap(path, dtype="<f4", mode="c", offset=start))
    tensors: Tensors = {}
    at = 0
    for names, count, form in wanted:
        rows = values[at : at + count].view(len(names), *form)
        tensors.update(zip(names, rows, strict=True))
        at += count
    return tensors, {**shape, "norm_eps": 1e-5}


_Group = tuple[list[str], int, tuple[int, ...]]


def _parts(shape: dict[str, int]) -> dict[str, _Group]:
    """What both orders are made of: names, numbers in all, and the shape of each."""
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = (shape[name] for name in _FIELDS)
    head = dim // heads
    forms = {
        "attention_norm": (dim,),
        "ffn_norm": (dim,),
        "attention.wq": (dim, dim),
        "attention.wk": (kv_heads * head, dim),
        "attention.wv": (kv_heads * head, dim),
        "attention.wo": (dim, dim),
        "feed_forward.w1": (hidden, dim),
        "feed_forward.w2": (dim, hidden),
        "feed_forward.w3": (hidden, dim),
    }
    parts: dict[str, _Group] = {}
    for name, form in forms.items():
        names = [f"layers.{layer}.{name}.weight" for layer in range(layers)]
        parts[name] = names, layers * int(np.prod(form)), form
    for name, form in (
        ("norm.weight", (dim,)),
        ("tok_embeddings.weight", (vocabulary, dim)),
        ("output.weight", (vocabulary, dim)),
        ("freqs_cos", (positions, head // 2)),
        ("freqs_sin", (positions, head // 2)),
    ):
        parts[name] = [name], int(np.prod(form)), form
    return parts


_MATRICES = (
    *("attention.wq", "attention.wk", "attention.wv", "attention.wo"),
    *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)


def _legacy(shape: dict[str, int], tied: bool) -> list[_Group]:
    names = ["tok_embeddings.weight", "attention_norm", *_MATRICES[:4], "ffn_norm", *_MATRICES[4:]]
    names += ["norm.weight", "freqs_cos", "freqs_sin"] + ["output.weight"] * (not tied)
    return [_parts(shape)[name] for name in names]


def _versioned(shape: dict[str, int], tied: bool) -> list[_Group]:
    names = ["attention_norm", "ffn_norm", "norm.weight", "tok_embeddings.weight", *_MATRICES]
    return [_parts(shape)[name] for name in names + ["output.weight"] * (not tied)]
