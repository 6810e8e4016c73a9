"""The tensors of a model folder as llama.cpp wants them, read block by block: any model fits into memory.

What stands in safetensors is already what GGUF has, with four exceptions. Experts lie there one by one and are one
tensor [experts, out, in] in GGUF; GPT-2's matrices are [in, out]; Llama's queries and keys are ordered for rotary pairs
half a head apart, and GGUF's Llama pairs neighbours; and a gate of one row is a vector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from hanmo.convert.architectures import COLUMNS, ROTARY, Architecture, experts_of, layers_of
from hanmo.errors import HanmoError
from hanmo.files import read_json

#: Weights that are held at once while a matrix is written (16 MiB as F32).
_BLOCK = 4 << 20
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
#: Small tensors that decide much, and that llama.cpp's own files keep whole: the router, learnt positions.
_EXACT = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the GGUF file: the (file, name) that it is read from, several for experts; its name, shape, type.

    Attributes:
        layout: how each source stands (`architectures.ROWS` and its like).
        head: rows of an attention head, where `layout` is `ROTARY`.
        copy: it repeats another tensor of the file.
    """

    sources: tuple[tuple[Path, str], ...]
    name: str
    shape: tuple[int, ...]
    kind: Kind
    layout: str
    head: int = 0
    copy: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the GGUF file."""
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // per_block * block_bytes

    def tofile(self, file: IO[bytes]) -> None:
        """Read the weights block by block and write them as `kind` (the call numpy arrays answer to)."""
        from safetensors import safe_open

        for path, source in self.sources:
            with safe_open(str(path), framework="pt") as weights:
                for block in self._blocks(weights.get_slice(source)):
                    if not np.isfinite(block).all():
                        raise HanmoError(f"{path}: {source} holds NaN or infinite weights: the training went wrong")
                    with np.errstate(over="ignore"):
                        written = gguf.quantize(block, self.kind)
                    if written.dtype == np.float16 and not np.isfinite(written).all():
                        raise HanmoError(
                            f"{path}: {source} holds weights beyond the range of F16; convert to bf16 or f32"
                        )
                    file.write(np.ascontiguousarray(written).data)

    def _blocks(self, part: Any) -> Iterator[np.ndarray]:
        """The rows of one source in GGUF's order, as float32."""
        shape = part.get_shape()
        if len(shape) == 1 or len(self.shape) == 1:
            yield part[:].float().numpy().reshape(-1)
            return
        rows, columns = shape[::-1] if self.layout == COLUMNS else shape
        step = max(1, _BLOCK // columns)
        if self.layout == ROTARY:
            step = max(1, step // self.head) * self.head
        for start in range(0, rows, step):
            if self.layout == COLUMNS:
                yield np.ascontiguousarray(part[:, start : start + step].float().numpy().T)
                continue
            block = part[start : start + step].float().numpy()
            if self.layout == ROTARY:
                halves = block.reshape(-1, 2, self.head // 2, columns)
                block = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(-1, columns)
            yield block


@dataclass(frozen=True)
class _Found:
    """What a folder's tensors make of one tensor in GGUF: its sources by number (0 where it is no expert)."""

    sources: dict[int, tuple[Path, str]]
    shape: tuple[int, ...]
    expert: bool


def plan(folder: Path, config: dict[str, Any], architecture: Architecture, kind: Kind) -> list[Tensor]:
    """Every tensor of the file with its GGUF name and type: embedding, layers in order, head.

    Args:
        kind: the type of matrices. One whose rows do not divide into its blocks becomes F16; vectors, routers and
            learnt positions stay F32.

    Raises:
        HanmoError: a tensor that llama.cpp has no name for, tensors missing, torn files.
    """
    found = _find(folder, config, architecture)
    _require_whole(folder, config, architecture, found)
    per_block, _ = gguf.GGML_QUANT_SIZES[kind]
    tensors = []
    for target, item in found.items():
        source = item.sources[min(item.sources)][1]
        layout = architecture.layout_of(source)
        shape = item.shape[::-1] if layout == COLUMNS and len(item.shape) == 2 else item.shape
        if len(shape) == 2 and shape[0] == 1:
            shape = shape[1:]
        written = Kind.F32 if len(shape) == 1 or target.endswith(_EXACT) else kind
        if written == kind and shape[-1] % per_block:
            written = Kind.F16
        if item.expert:
            shape = (len(item.sources), *shape)
        head = _head(config, source) if layout == ROTARY else 0
        sources = tuple(item.sources[index] for index in sorted(item.sources))
        tensors.append(Tensor(sources, target, shape, written, layout, head))
    if architecture.own_head and "output.weight" not in found:
        embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        tensors.append(
            Tensor(embedding.sources, "output.weight", embedding.shape, embedding.kind, embedding.layout, copy=True)
        )
    return sorted(tensors, key=lambda tensor: _place(tensor.name))


def _find(folder: Path, config: dict[str, Any], architecture: Architecture) -> dict[str, _Found]:
    """The folder's tensors by their names in GGUF."""
    names = gguf.get_tensor_name_map(architecture.arch, layers_of(config))
    tied = config.get("tie_word_embeddings", architecture.tied)
    found: dict[str, _Found] = {}
    for file, source, shape in _stored(folder):
        if source == "lm_head.weight" and tied:
            continue  # a second copy of the embedding, which llama.cpp uses for both
        if architecture.left_out and re.search(architecture.left_out, source):
            continue
        if re.search(r"\.h\.\d+\.attn\.(masked_)?bias$", source):
            continue  # GPT-2's causal mask and its fill value, which old files hold
        expert = _EXPERT.search(source)
        plain = _EXPERT.sub(".experts.", source)
        # The map knows the bias of the choice as a part of the gate.
        plain = plain.replace("e_score_correction_bias", "e_score_correction.bias")
        plain = re.sub(r"^(model|bert)\.", "", plain) if architecture.encoder else plain
        target = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise HanmoError(f"{file}: tensor {source} has no name in llama.cpp's {architecture.name}")
        item = found.setdefault(target, _Found({}, shape, expert is not None))
        if item.shape != shape:
            raise HanmoError(f"{file}: {source} is {list(shape)}, and others of its kind are {list(item.shape)}")
        item.sources[int(expert[1]) if expert else 0] = (file, source)
    return found


def _stored(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """(file, name, shape) of every tensor in a folder's safetensors, one file or sharded."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.is_file():
            raise HanmoError(f"{file}: no such file; a model to convert has its weights as safetensors")
        try:
            with safe_open(str(file), framework="pt") as weights:
                for source in weights.keys():  # noqa: SIM118 (not a dict)
                    yield file, source, tuple(weights.get_slice(source).get_shape())
        except SafetensorError as error:
            raise HanmoError(f"{file}: torn or no safetensors file ({error}); make or fetch it again") from None


def _require_whole(folder: Path, config: dict[str, Any], architecture: Architecture, found: dict[str, _Found]) -> None:
    """All layers of a kind hold the same tensors, all experts are there, and the ends of the model."""
    layers: dict[int, set[str]] = {index: set() for index in range(layers_of(config))}
    for target in found:
        if target.startswith("blk."):
            _, index, rest = target.split(".", 2)
            layers[int(index)].add(rest)
    missing = []
    dense = config.get("first_k_dense_replace") or 0
    for kind in (range(min(dense, len(layers))), range(dense, len(layers))):
        whole = set().union(*(layers[index] for index in kind))
        missing += [f"blk.{index}.{rest}" for index in kind for rest in sorted(whole - layers[index])]
    for target, item in found.items():
        if item.expert:
            missing += [f"{target} of expert {n}" for n in range(experts_of(config)) if n not in item.sources]
    missing += [name for name in ("token_embd.weight", "output_norm.weight") if name not in found]
    if (
        not (architecture.encoder or config.get("tie_word_embeddings", architecture.tied))
        and "output.weight" not in found
    ):
        missing.append("output.weight")
    missing = [name for name in missing if name not in architecture.absent]
    if missing:
        raise HanmoError(f"{folder}: {len(missing)} tensors are missing from the weights, first {missing[0]}")
    rows = found["token_embd.weight"].shape[0]
    if rows != config["vocab_size"]:
        raise HanmoError(
            f"{folder}: the embedding has {rows} rows, but config.json says vocab_size {config['vocab_size']}"
        )


def _head(config: dict[str, Any], source: str) -> int:
    """Rows of an attention head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _place(name: str) -> tuple[int, str]:
    """Embeddings first, then the layers in order, then the head: the order in which a model reads them."""
    if name.startswith("blk."):
        return int(name.split(".")[1]), name
    return (-1 if name.startswith(("token_", "position_embd")) else 1 << 30), name
