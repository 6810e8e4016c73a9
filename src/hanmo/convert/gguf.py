"""A Hugging Face model folder as one GGUF file, straight from its safetensors, with memory bounded by a block of rows.

The file holds all that llama.cpp needs: hyperparameters, vocabulary and splitter, the tokens that end a text or a
turn, the chat template, name and licence, and the weights. Matrices are written in the format asked for; vectors
(norms) always in F32, as llama.cpp wants them. Weights are read block by block, so a model larger than memory can be
converted.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType

from hanmo.convert.architectures import experts_of, find
from hanmo.convert.quantise import Importance, quantise, types_of
from hanmo.convert.settings import FORMATS, WRITTEN, unknown_format
from hanmo.convert.vocabulary import Vocabulary, read_vocabulary
from hanmo.convert.weights import Tensor, plan
from hanmo.errors import HanmoError, describe_os_error
from hanmo.files import atomic_write, read_json
from hanmo.models.folder import resolve, title

_KINDS = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}


@dataclass
class GgufReport:
    """What was written.

    Attributes:
        instead: matrices whose rows do not divide into the format's blocks, by what they were written as.
        types: tensors by type.
        padded_tokens: embedding rows beyond the tokenizer, named `[PADn]`.
    """

    path: Path
    format: str
    architecture: str
    bytes: int = 0
    tensors: int = 0
    parameters: int = 0
    padded_tokens: int = 0
    instead: dict[str, list[str]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def convert_gguf(
    model_dir: Path | str,
    out_path: Path | str,
    dtype: str = "f16",
    *,
    name: str | None = None,
    importance: Importance | None = None,
    threads: int = 0,
) -> GgufReport:
    """Write the model folder `model_dir` (or a stage's) as the GGUF file `out_path`, which appears whole or not at all.

    Args:
        model_dir: config.json, model.safetensors (one or sharded) and the tokenizer, of a class in `ARCHITECTURES`.
        out_path: the file to write.
        dtype: a key of `FORMATS`, for the matrices; vectors are F32. Those that llama.cpp's quantiser makes need
            llama-cpp-python, and disk for the model in F32 beside `out_path`.
        name: what the file calls the model; by default the model card's name, else the folder's.
        importance: for that quantiser (see `hanmo.convert.importance`).
        threads: of that quantiser; 0 for all.

    Raises:
        HanmoError: an unknown format or architecture, a tokenizer that llama.cpp would not follow, torn or non-finite
            weights, a full disk.
    """
    if dtype not in FORMATS:
        raise HanmoError(unknown_format(dtype))
    folder, out_path = resolve(model_dir), Path(out_path)
    if dtype in WRITTEN:
        return _write(folder, out_path, dtype, name)
    exact = out_path.with_name(f".{out_path.name}.f32.tmp")
    try:
        report = _write(folder, exact, "f32", name)
        quantise(exact, out_path, dtype, importance, threads)
    finally:
        exact.unlink(missing_ok=True)
    types, odd = types_of(out_path, dtype)
    return replace(report, path=out_path, format=dtype, bytes=out_path.stat().st_size, types=dict(types), instead=odd)


def _write(folder: Path, out_path: Path, dtype: str, name: str | None) -> GgufReport:
    config_path = folder / "config.json"
    config = read_json(config_path)
    architecture = find(config, config_path)
    report = GgufReport(out_path, dtype, architecture.name)
    tensors = plan(folder, config, architecture, _KINDS[dtype])
    vocabulary = read_vocabulary(folder, config["vocab_size"])
    report.tensors = len(tensors)
    sizes = [(tensor, math.prod(tensor.shape)) for tensor in tensors if not tensor.copy]
    report.parameters = sum(size for _, size in sizes)
    # What the experts of a layer hold, which only some of them need for a token.
    routed = sum(size for tensor, size in sizes if "_exps." in tensor.name)
    report.types = dict(Counter(tensor.kind.name for tensor in tensors))
    if dtype != "f16" and (halves := [t.name for t in tensors if t.kind == Kind.F16 and len(t.shape) > 1]):
        report.instead = {"F16": halves}
    report.padded_tokens = vocabulary.padded
    try:
        with atomic_write(out_path, "wb") as file:
            # The writer opens the temporary file by its name; `file` flushes it to disk and gives it its final name.
            writer = gguf.GGUFWriter(Path(file.name), architecture.name)
            try:
                _write_general(writer, folder, name, _size_label(report.parameters, routed, experts_of(config)))
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


def _size_label(parameters: int, routed: int, experts: int) -> str:
    """How GGUF names a size: "1.3M", or "8x4M" where there are experts."""
    if not experts:
        return gguf.size_label(parameters, parameters, 0, 0)
    return gguf.size_label(parameters, parameters - routed, routed // experts, experts)


def _write_general(writer: gguf.GGUFWriter, folder: Path, name: str | None, size: str) -> None:
    """Name, size and whatever the model card states; nothing is guessed."""
    card = gguf.Metadata.load_model_card(folder)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name or card.get("model_name") or title(folder))
    writer.add_size_label(size)
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
            write(_words(card[key]))
    # Where it comes from: the model that it went on from, and the texts that it was trained on.
    for key, count, write in (
        ("base_model", writer.add_base_model_count, writer.add_base_model_name),
        ("datasets", writer.add_dataset_count, writer.add_dataset_name),
    ):
        if card.get(key):
            count(len(_words(card[key])))
            for number, word in enumerate(_words(card[key])):
                write(number, word)


def _words(value: Any) -> list[str]:
    """A card's word or list of words as a list."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _write_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Pieces, merges, the ids that end a text or a turn, and the chat template."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "bert":
        _write_wordpieces(writer, vocabulary)
        return
    if vocabulary.scores is None:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.unknown)
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
    elif vocabulary.begin is not None:
        writer.add_bos_token_id(vocabulary.begin)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    template = _chat_template(folder)
    if template:
        writer.add_chat_template(template)


def _write_wordpieces(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """What stands around a text, and how it is made plain."""
    for name, write in (
        ("[UNK]", writer.add_unk_token_id),
        ("[PAD]", writer.add_pad_token_id),
        ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[SEP]", writer.add_eos_token_id),
        ("[MASK]", writer.add_mask_token_id),
    ):
        write(vocabulary.ids[name])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", vocabulary.lower)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", not vocabulary.accents)


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


def _write_tensors(writer: gguf.GGUFWriter, tensors: list[Tensor]) -> None:
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        # The writer asks an array for its size and to write itself; a `Tensor` does both without being in memory.
        writer.write_tensor_data(cast(Any, tensor), gguf.GGUFEndian.LITTLE)
