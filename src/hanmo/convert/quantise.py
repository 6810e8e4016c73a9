"""Quantised GGUF files by llama.cpp's own quantiser, and which weights matter for it.

The quantiser reads an F32 file, so that nothing is rounded twice. K-quants and IQ4_XS pack 256 weights of a row
together; of a matrix whose rows do not divide so, llama.cpp takes the nearest format in blocks of 32 instead (Q4_K
becomes Q5_0, Q5_K Q5_1, Q6_K Q8_0, IQ4_XS IQ4_NL), and F16 where 32 does not divide them either. What was taken is read
back from the file.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from hanmo.convert.llamacpp import require_llama_cpp
from hanmo.errors import HanmoError
from hanmo.files import atomic_write

#: Mean square of what each column of a matrix is multiplied with, float32 [columns], by the matrix's name in GGUF.
Importance = Mapping[str, NDArray[np.float32]]


def quantise(source: Path, out: Path, form: str, importance: Importance | None = None, threads: int = 0) -> None:
    """Write the F32 file `source` as `out`, which appears whole or not at all.

    Args:
        form: a key of `BLOCKS`.
        importance: columns that are multiplied with large numbers are rounded more carefully.
        threads: 0 for all.

    Raises:
        HanmoError: llama.cpp is not installed, or refuses.
    """
    api = require_llama_cpp()
    from llama_cpp._logger import llama_log_callback as before

    said: list[str] = []

    @api.llama_log_callback
    def listen(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        said.append(text.decode("utf-8", "replace"))

    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{form.upper()}")
    params.nthread = threads
    held = _as_array(api, importance) if importance else None
    if held is not None:
        params.imatrix = held
    api.llama_log_set(listen, ctypes.c_void_p(0))
    try:
        with atomic_write(out, "wb") as file:
            failed = api.llama_model_quantize(str(source).encode(), str(file.name).encode(), ctypes.byref(params))
            if failed:
                why = next((line.strip() for line in reversed(said) if "fail" in line or "error" in line), "no reason")
                raise HanmoError(f"{out}: llama.cpp could not quantise to {form} ({why})")
    finally:
        api.llama_log_set(before, ctypes.c_void_p(0))


def _as_array(api: object, importance: Importance) -> ctypes.Array:
    """The C array of a matrix's name, its values and their number; an empty name ends it."""
    data = api.llama_model_imatrix_data  # type: ignore[attr-defined]
    array = (data * (len(importance) + 1))()
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        kept = np.ascontiguousarray(values, np.float32)
        entry.name, entry.size = name.encode(), kept.size
        # ctypes holds on to the buffer as long as the array lives.
        entry.data = (ctypes.c_float * kept.size).from_buffer_copy(kept.tobytes())
    return array


def types_of(path: Path, form: str) -> tuple[Counter[str], dict[str, list[str]]]:
    """(tensors of a GGUF file by type, the matrices that stand in another type than `form`'s for their width)."""
    counted: Counter[str] = Counter()
    instead: dict[str, list[str]] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        counted[kind] += 1
        # Mixtures hold some matrices in a K-quant of more bits on purpose.
        meant = kind.endswith("_K") or kind in (form.upper(), "F32")
        if not meant and len(tensor.shape) > 1 and tensor.shape[0] % 256:
            instead.setdefault(kind, []).append(tensor.name)
    return counted, instead
