"""Encoders as ONNX: one graph for any number and length of texts, checked with onnxruntime against the model.

Inputs are `input_ids` and `attention_mask`, int64 [texts, length], and `token_type_ids` where the model has types;
outputs are what its head gives (`logits`; of a reader `start_logits` and `end_logits`). Beside the graph lie the
tokenizer and config.json, as optimum's classes expect them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import read_json, whole_folder, write_json
from hanmo.models.folder import resolve

#: Heads that take a text and answer at once, by the end of their classes' names.
_HEADS = (
    "ForMaskedLM",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
#: Texts and lengths that are compared; of all but the first text of a batch the last places are padding.
_SHAPES = ((1, 8), (3, 33), (2, 96))
#: Largest difference of float32 logits, by their spread, that rounding explains.
_CLOSE = 1e-3


def write_onnx(model: Path, out: Path, int8: bool = False) -> dict[str, Any]:
    """Make the folder `out` with model.onnx, and with `int8` model-int8.onnx, of an encoder.

    Args:
        int8: also with matrices in 8 bits, and activations rounded as they come (dynamic quantisation, for CPUs).

    Returns:
        {"inputs", "outputs", "files": {name: {"bytes", "difference": the largest of logits, by their spread,
        "same_choice": share of places at which the same is likeliest}}}, also in onnx.json.

    Raises:
        HanmoError: no encoder, the packages are missing, or the graph does not do what the model does.
    """
    need("onnxscript", "onnx")
    need("onnxruntime", "onnx")
    folder = resolve(model)
    network, inputs, outputs = _opened(folder)
    result: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "files": {}}
    with whole_folder(out, "onnx.json") as made:
        exact = made / "model.onnx"
        _export(network, inputs, outputs, exact)
        result["files"][exact.name] = _compared(network, inputs, exact)
        if result["files"][exact.name]["difference"] > _CLOSE:
            raise HanmoError(
                f"{folder}: the graph's logits differ by {result['files'][exact.name]['difference']:.1e} of their "
                "spread from the model's; nothing was written"
            )
        if int8:
            small = made / "model-int8.onnx"
            _quantise(exact, small)
            result["files"][small.name] = _compared(network, inputs, small)
        for path in folder.iterdir():
            if path.suffix in (".json", ".txt", ".jinja", ".model") and "safetensors" not in path.name:
                shutil.copyfile(path, made / path.name)
        write_json(made / "onnx.json", result)
    return result


def _opened(folder: Path) -> tuple[Any, list[str], list[str]]:
    """(the model, the names of what it takes, of what it gives)."""
    import torch
    import transformers

    import hanmo.registration  # noqa: F401

    config = read_json(folder / "config.json")
    name = str((config.get("architectures") or [""])[0])
    if not name.endswith(_HEADS):
        raise HanmoError(
            f"{folder}: {name or 'a model without a named class'} is no encoder with a head; for models that write use "
            "`hanmo convert gguf`"
        )
    transformers.utils.logging.disable_progress_bar()
    known = getattr(transformers, name, None) or transformers.AutoModelForMaskedLM
    network: Any = known.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()
    inputs = ["input_ids", "attention_mask"]
    if int(getattr(network.config, "type_vocab_size", 1) or 1) > 1:
        inputs.append("token_type_ids")
    reader = name.endswith("ForQuestionAnswering")
    return network, inputs, ["start_logits", "end_logits"] if reader else ["logits"]


def _export(network: Any, inputs: list[str], outputs: list[str], path: Path) -> None:
    import torch

    class Named(torch.nn.Module):
        """The model with inputs by their order and its logits alone."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *given: torch.Tensor) -> Any:
            found = self.network(**dict(zip(inputs, given, strict=True)), return_dict=True)
            return tuple(_logits(found, name) for name in outputs) if len(outputs) > 1 else _logits(found, outputs[0])

    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length")}
    given = tuple(torch.from_numpy(array) for array in _given(network, inputs, 2, 16).values())
    quiet = logging.getLogger("torch.onnx")
    before = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Named(),
                given,
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=((axes,) * len(inputs),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        quiet.setLevel(before)


def _logits(found: Any, name: str) -> Any:
    return found[name] if name in found else found["prediction_logits"]


def _given(network: Any, inputs: list[str], texts: int, length: int) -> dict[str, np.ndarray]:
    """Drawn ids; all texts but the first end in padding, and their second halves are of another type."""
    draw = np.random.default_rng(length)
    mask = np.ones((texts, length), np.int64)
    mask[1:, length * 3 // 4 :] = 0
    types = np.zeros((texts, length), np.int64)
    types[:, length // 2 :] = 1
    ids = draw.integers(5, network.config.vocab_size, (texts, length))
    return {name: {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}[name] for name in inputs}


def _compared(network: Any, inputs: list[str], path: Path) -> dict[str, Any]:
    """How far a graph in onnxruntime is from the model, over texts of several shapes, padding aside."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    difference, same, places = 0.0, 0, 0
    for texts, length in _SHAPES:
        given = _given(network, inputs, texts, length)
        found: Any = session.run(None, given)
        with torch.inference_mode():
            own = network(**{name: torch.from_numpy(array) for name, array in given.items()}, return_dict=True)
        for name, theirs in zip(names, found, strict=True):
            ours = _logits(own, name).numpy()
            if ours.shape[:2] == (texts, length):  # at every place, of which padding does not count
                kept = given["attention_mask"].astype(bool)
                ours, theirs = ours[kept], theirs[kept]
            difference = max(difference, float(np.abs(ours - theirs).max() / ours.std()))
            if ours.ndim > 1:
                same, places = same + int((ours.argmax(-1) == theirs.argmax(-1)).sum()), places + len(ours)
    agreed = {"same_choice": round(same / places, 4)} if places else {}
    return {"bytes": path.stat().st_size, "difference": difference, **agreed}


def _quantise(source: Path, target: Path) -> None:
    """Matrices in 8 bits, a scale for each of their columns."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared")
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    # Unsigned weights: sums of signed ones saturate in the instructions of processors without VNNI (by a half, seen).
    quantize_dynamic(str(prepared), str(target), per_channel=True, weight_type=QuantType.QUInt8)
    prepared.unlink()
