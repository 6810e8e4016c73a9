"""A model folder with weights in 8 or 4 bits for vLLM, by llm-compressor, measured against the original.

Matrices are rounded by GPTQ (Frantar et al. 2022) on text of the corpus and saved in the form of compressed-tensors,
which vLLM reads. llm-compressor pins its own torch and transformers, so it may live in an environment of its own, whose
Python HANMO_LLMCOMPRESSOR names.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json, whole_folder, write_json
from hanmo.models.families import must_write
from hanmo.models.folder import resolve

VARIABLE = "HANMO_LLMCOMPRESSOR"
FORMATS = ("int8", "int4")
#: Weights that share a scale, by vLLM's kernels: the more, the smaller; they have to divide every row.
_GROUPS = (128, 64, 32)
#: Tokens that go through the model together.
_ROW = 512


def write_vllm(
    model: Path | str,
    out: Path,
    form: str,
    corpus: Path,
    *,
    tokens: int = 100_000,
    kilobytes: int = 60,
    threads: int = 0,
) -> dict[str, Any]:
    """Make the folder `out` of a decoder with its matrices in 8 bits (activations too, as they come) or in 4.

    Embeddings and the matrix before the words keep 16 bits.

    Args:
        model: a model folder or a stage's.
        out: the folder to make.
        form: "int8" (W8A8: each row has a scale, each token another) or "int4" (W4A16: 128 weights share a scale, or 64
            or 32 where rows do not divide so, or a whole row).
        corpus: folder of a corpus stage: training text for the rounding, held-out text for the measure.
        tokens: of the training text, about.
        kilobytes: of the held-out text, at most.
        threads: 0 for torch's default.

    Returns:
        {"format", "group_size", "bytes", "original_bytes" (in 16 bits), "bits_per_byte", "original_bits_per_byte",
        "worse" (share), "kl" (nats a token), "same_choice" (share of tokens), "versions"}, also in vllm.json.

    Raises:
        HanmoError: no model that vLLM knows, no text, or llm-compressor is missing or fails.
    """
    from hanmo.convert.importance import rows_of
    from hanmo.convert.trial import judge, reference, try_reference
    from hanmo.evaluate.heldout import draw

    if form not in FORMATS:
        raise HanmoError(f"format '{form}' is unknown (known: {', '.join(FORMATS)})")
    folder = resolve(model)
    must_write(folder)
    config = read_json(folder / "config.json")
    _check(config, folder)
    python = _python()
    context = config.get("max_position_embeddings") or _ROW
    samples = [row.tolist() for row in rows_of(folder, corpus, tokens, min(_ROW, context)) if len(row) > 1]
    texts, _ = draw(corpus, 10_000, kilobytes * 1000)
    group = _group_size(config) if form == "int4" else None
    with whole_folder(out, "vllm.json") as made, tempfile.TemporaryDirectory(prefix="hanmo-vllm-") as scratch:
        room = Path(scratch)
        own = reference(folder, [text.text for text in texts], room, threads, _ROW)
        case = {
            "model": str(folder.resolve()),
            "out": str(made.resolve()),
            "groups": {"group_0": _scheme(form, group)},
            "samples": samples,
            "rows": [ids.tolist() for ids in own.rows],
            "starts": own.starts,
            "vocabulary": own.vocabulary,
            "logits": str(room / "logits.npy"),
            "threads": threads,
        }
        versions = _compress(python, case, room)
        found = judge(own, Path(case["logits"]))
        _complete(folder, made, form)
        exact = try_reference(own)["bits_per_byte"]
        result = {
            "format": form,
            "group_size": group,
            "bytes": _weights(made),
            "original_bytes": parameters(folder) * 2,
            "original_bits_per_byte": exact,
            **found,
            "worse": found["bits_per_byte"] / exact - 1,
            "versions": versions,
        }
        write_json(made / "vllm.json", result)
    return result


def _check(config: dict[str, Any], folder: Path) -> None:
    kind = str(config.get("model_type"))
    if kind.startswith(("hanmo_", "linglong")) or config.get("is_encoder_decoder"):
        raise HanmoError(f"{folder}: vLLM does not know this class; `hanmo convert gguf` or `hanmo serve` may")
    if config.get("quantization_config"):
        raise HanmoError(f"{folder}: its weights are quantised already; give the folder that it was made of")
    if experts := next((name for name in config if "experts" in name and config[name]), None):
        raise HanmoError(
            f"{folder}: a mixture of experts ({experts}), whose matrices this cannot round; serve it as it is"
        )


def _group_size(config: dict[str, Any]) -> int | None:
    """How many weights share a scale; None: whole rows."""
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    width = config.get("hidden_size") or config.get("n_embd") or 0
    across = heads * (config.get("head_dim") or width // heads)
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * width
    return next((size for size in _GROUPS if all(row % size == 0 for row in (width, across, inner))), None)


def _scheme(form: str, group: int | None) -> dict[str, Any]:
    """What compressed-tensors is told of all linear layers."""
    common = {"type": "int", "symmetric": True}
    if form == "int8":
        weights = {**common, "num_bits": 8, "strategy": "channel"}
        return {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": {**common, "num_bits": 8, "strategy": "token", "dynamic": True},
        }
    shared = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    return {"targets": ["Linear"], "weights": {**common, "num_bits": 4, **shared}}


def _python() -> Path:
    """The Python that has llm-compressor."""
    named = os.environ.get(VARIABLE)
    if named:
        if not shutil.which(named):
            raise HanmoError(f"{VARIABLE}={named}: not a program; name the Python of llm-compressor's environment")
        return Path(named)
    if importlib.util.find_spec("llmcompressor"):
        return Path(sys.executable)
    raise HanmoError(
        "llmcompressor is not installed; it pins its own torch: python -m venv quantiser && quantiser/bin/pip install "
        f"llmcompressor, then {VARIABLE}=quantiser/bin/python"
    )


def _compress(python: Path, case: dict[str, Any], room: Path) -> dict[str, str]:
    """Run `compressing.py` there; returns the versions it names."""
    question, answer = room / "case.json", room / "result.json"
    write_json(question, case)
    command = [str(python), str(Path(__file__).with_name("compressing.py")), str(question), str(answer)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_MODULE_LOADING": "LAZY"}
    with (room / "log").open("w+b") as log:
        console.print(f"llm-compressor rounds with {len(case['samples'])} rows of text", style="dim", markup=False)
        done = subprocess.run(command, cwd=room, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode or not answer.is_file():
            log.seek(0)
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
            last = " ".join(lines[-1].split())[:300] if lines else f"status {done.returncode}"
            raise HanmoError(f"llm-compressor failed ({last}); nothing was written")
    return read_json(answer)["versions"]


def _complete(folder: Path, made: Path, form: str) -> None:
    """What a model folder has beside weights and configuration: the tokenizer, the card."""
    (made / "recipe.yaml").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".jinja", ".model") and "safetensors" not in path.name:
            if path.name != "config.json":
                shutil.copyfile(path, made / path.name)
        elif path.name == "README.md":
            note = f"Weights in {form} by llm-compressor. Figures above are the original's; vllm.json has its own."
            card = path.read_text(encoding="utf-8").rstrip()
            (made / path.name).write_text(f"{card}\n\n{note}\n", encoding="utf-8")


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def parameters(folder: Path) -> int:
    """Numbers in the weights of a folder."""
    from math import prod

    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count
