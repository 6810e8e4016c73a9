"""A Hugging Face model folder as one GGUF file, straight from its safetensors, with memory bounded by a block of rows.

The file holds all that llama.cpp needs: hyperparameters, vocabulary and splitter, the tokens that end a text or a
turn, the chat template, name and licence, and the weights. Matrices are written in the format asked for; vectors
(norms) always in F32, as llama.cpp wants them. Weights are read block by block, so a model larger than memory can be
converted.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from hanmo.convert.architectures import find
from hanmo.convert.settings import FORMATS, unknown_format
from hanmo.convert.vocabulary import Vocabulary, read_vocabulary
from hanmo.errors import HanmoError, describe_os_error
from hanmo.files import atomic_write, read_json
from hanmo.models.folder import resolve

_KINDS = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
#: Weights that are held at once while a matrix is written (16 MiB as F32).
_BLOCK = 4 << 20


@dataclass
class GgufReport:
    """What was written.

    Attributes:
        kept_f16: tensors whose rows do not divide into the format's blocks, written as F16 instead.
        padded_tokens: embedding rows beyond the tokenizer, named `[PADn]`.
    """

    path: Path
    format: str
    architecture: str
    bytes: int = 0
    tensors: int = 0
    parameters: int = 0
    padded_tokens: int = 0
    kept_f16: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the model: where it lies, its name in GGUF, and the type that it is written as."""

    file: Path
    source: str
    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the GGUF file."""
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // per_block * block_bytes

    def tofile(self, file: IO[bytes]) -> None:
        """Read the weights block by block and write them as `kind` (the call numpy arrays answer to)."""
        from safetensors import safe_open

        with safe_open(str(self.file), framework="pt") as weights:
            part = weights.get_slice(self.source)
            rows = max(1, _BLOCK // max(1, math.prod(self.shape[1:])))
            for start in range(0, self.shape[0], rows):
                block = part[start : start + rows].float().numpy()
                if not np.isfinite(block).all():
                    raise HanmoError(
                        f"{self.file}: {self.source} holds NaN or infinite weights: the training went wrong"
                    )
                with np.errstate(over="ignore"):
                    written = gguf.quantize(block, self.kind)
                if written.dtype == np.float16 and not np.isfinite(written).all():
                    raise HanmoError(
                        f"{self.file}: {self.source} holds weights beyond the range of F16; convert to bf16 or f32"
                    )
                file.write(np.ascontiguousarray(written).data)


def convert_gguf(
    model_dir: Path | str, out_path: Path | str, dtype: str = "f16", *, name: str | None = None
) -> GgufReport:
    """Write the model folder `model_dir` (or a stage's) as the GGUF file `out_path`, which appears whole or not at all.

    Args:
        model_dir: config.json, model.safetensors (one or sharded) and the tokenizer, of a class in `ARCHITECTURES`.
        out_path: the file to write.
        dtype: a key of `FORMATS`, for the matrices; vectors are F32.
        name: what the file calls the model; by default the model card's name, else the folder's.

    Raises:
        HanmoError: an unknown format or architecture, a tokenizer that llama.cpp would not follow, torn or non-finite
            weights, a full disk.
    """
    if dtype not in FORMATS:
        raise HanmoError(unknown_format(dtype))
    folder, out_path = resolve(model_dir), Path(out_path)
    config_path = folder / "config.json"
    config = read_json(config_path)
    architecture = find(config, config_path)
    report = GgufReport(out_path, dtype, architecture.name)
    tensors = list(_plan(folder, config, architecture.arch, _KINDS[dtype], report))
    vocabulary = read_vocabulary(folder, config["vocab_size"])
    report.tensors = len(tensors)
    report.parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    report.padded_tokens = vocabulary.padded
    try:
        with atomic_write(out_path, "wb") as file:
            # The writer opens the temporary file by its name; `file` flushes it to disk and gives it its final name.
            writer = gguf.GGUFWriter(Path(file.name), architecture.name)
            try:
                _write_general(writer, folder, name, report)
                architecture.write(writer, config, config_path)
                writer.add_file_type(_FILE_TYPES[dtype])
                writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
                _write_vocabulary(writer, folder, config, vocabulary)
                _write_tensors(writer, tensors)
            finally:
                writer.close()
        report.bytes = out_path.stat().st_size
    except OSError as error:
        error.filename = error.filename or str(out_path)
        raise HanmoError(describe_os_error(error) or f"{out_path}: cannot be written ({error})") from None
    return report


def _plan(
    folder: Path, config: dict[str, Any], arch: gguf.MODEL_ARCH, kind: Kind, report: GgufReport
) -> Iterator[_Tensor]:
    """Every tensor of the folder with its GGUF name and type, in the order of the names in GGUF's own list."""
    layers = config["num_hidden_layers"]
    names = gguf.get_tensor_name_map(arch, layers)
    found: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
    for file, source, shape in _weights(folder):
        if source == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # a second copy of the embedding, which llama.cpp uses for both
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise HanmoError(f"{file}: tensor {source} has no name in llama.cpp's {gguf.MODEL_ARCH_NAMES[arch]}")
        found[target] = (file, source, shape)
    _require_whole(folder, config, found)
    per_block, _ = gguf.GGML_QUANT_SIZES[kind]
    for target in sorted(found, key=_place):
        file, source, shape = found[target]
        written = Kind.F32 if len(shape) == 1 else kind
        if written == kind and shape[-1] % per_block:
            written = Kind.F16
            report.kept_f16.append(target)
        yield _Tensor(file, source, target, shape, written)


def _weights(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
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


def _require_whole(folder: Path, config: dict[str, Any], found: dict[str, Any]) -> None:
    """All layers hold the same tensors, and the ends of the model are there."""
    layers: dict[int, set[str]] = {index: set() for index in range(config["num_hidden_layers"])}
    for target in found:
        if target.startswith("blk."):
            _, index, rest = target.split(".", 2)
            layers[int(index)].add(rest)
    whole = set().union(*layers.values())
    missing = [f"blk.{index}.{rest}" for index, held in layers.items() for rest in sorted(whole - held)]
    missing += [name for name in ("token_embd.weight", "output_norm.weight") if name not in found]
    if not config.get("tie_word_embeddings") and "output.weight" not in found:
        missing.append("output.weight")
    if missing:
        raise HanmoError(f"{folder}: {len(missing)} tensors are missing from the weights, first {missing[0]}")
    rows = found["token_embd.weight"][2][0]
    if rows != config["vocab_size"]:
        raise HanmoError(
            f"{folder}: the embedding has {rows} rows, but config.json says vocab_size {config['vocab_size']}"
        )


def _place(name: str) -> tuple[int, str]:
    """Embedding first, then the layers in order, then the head: the order in which a model reads them."""
    if name.startswith("blk."):
        return int(name.split(".")[1]), name
    return (-1 if name.startswith("token_embd") else 1 << 30), name


def _write_general(writer: gguf.GGUFWriter, folder: Path, name: str | None, report: GgufReport) -> None:
    """Name, size and whatever the model card states; nothing is guessed."""
    card = gguf.Metadata.load_model_card(folder)
    parent = folder.resolve()
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name or card.get("model_name") or (parent.parent if parent.name == "model" else parent).name)
    writer.add_size_label(gguf.size_label(report.parameters, report.parameters, 0, 0))
    for key, write in (
        ("license", writer.add_license),
        ("license_name", writer.add_license_name),
        ("license_link", writer.add_license_link),
        ("author", writer.add_author),
        ("url", writer.add_url),
    ):
        if isinstance(card.get(key), str):
            write(card[key])
    for key, write in (("language", writer.add_languages), ("tags", writer.add_tags)):
        if card.get(key):
            write([card[key]] if isinstance(card[key], str) else [str(item) for item in card[key]])


def _write_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Pieces, merges, the ids that end a text or a turn, and the chat template."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    eos = _first_eos(folder, config)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if vocabulary.turn_end is not None:
        writer.add_eot_token_id(vocabulary.turn_end)
    if vocabulary.end_of_text is not None:
        writer.add_pad_token_id(vocabulary.end_of_text)
        # Never put before a text (add_bos is off); engines take it for an empty prompt, where the end of the document
        # before is right. Left out, llama.cpp would take token 11, which is some letter.
        writer.add_bos_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    template = _chat_template(folder)
    if template:
        writer.add_chat_template(template)


def _first_eos(folder: Path, config: dict[str, Any]) -> int | None:
    """The id that ends this model's output: the first of its generation config (a chat model's: the end of a turn)."""
    path = folder / "generation_config.json"
    eos = read_json(path).get("eos_token_id") if path.is_file() else None
    eos = config.get("eos_token_id") if eos is None else eos
    return eos[0] if isinstance(eos, list) else eos


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    template = read_json(path).get("chat_template") if path.is_file() else None
    return template if isinstance(template, str) else None


def _write_tensors(writer: gguf.GGUFWriter, tensors: list[_Tensor]) -> None:
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        # The writer asks an array for its size and to write itself; a `_Tensor` does both without being in memory.
        writer.write_tensor_data(cast(Any, tensor), gguf.GGUFEndian.LITTLE)
