"""Small matrices beside a frozen model: LoRA, DoRA and QLoRA by PEFT, and their merge into a plain model.

LoRA (Hu et al. 2021, arXiv:2106.09685) learns a product of two thin matrices beside each linear layer. DoRA (Liu et al.
2024, arXiv:2402.09353) learns the columns' lengths apart from their directions. QLoRA (Dettmers et al. 2023,
arXiv:2305.14314) is LoRA beside weights in four bits (NF4, with quantised scales). The frozen weights are held in the
dtype of the products, the matrices in fp32; a merge is always computed from the base's own weights in fp32.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from hanmo.errors import HanmoError, nearest
from hanmo.extras import need
from hanmo.files import read_json, whole_folder, write_json
from hanmo.models.allocator import return_freed_memory
from hanmo.models.folder import resolve
from hanmo.models.save import save_model
from hanmo.posttrain.settings import AdapterSettings
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer import save as save_tokenizer
from hanmo.tokenizer.chat import ChatFormat

if TYPE_CHECKING:
    from hanmo.posttrain.training import Start

#: The file that makes a folder an adapter.
CONFIG = "adapter_config.json"
#: Of the peak learning rate for tuning all weights: thin matrices that begin at zero want larger steps.
RATE = 5.0
_EXTRA = "lora"


def loading(settings: AdapterSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told about the frozen weights; `dtype` is that of the products."""
    if settings.adapter == "none":
        return {}
    need("peft", _EXTRA)
    if settings.adapter != "qlora":
        return {"dtype": dtype}
    need("bitsandbytes", _EXTRA)
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"dtype": dtype, "quantization_config": four, "device_map": {"": str(device)}}


def attach(model: PreTrainedModel, settings: AdapterSettings, seed: int) -> dict[str, Any]:
    """Put the matrices beside the model's layers, in place, and freeze all else.

    Returns:
        {"adapter", "targets": names of the layers' kinds, "trained_parameters"}.

    Raises:
        HanmoError: a target that no linear layer is called by.
    """
    peft = need("peft", _EXTRA)
    _check_targets(model, settings.targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        # All linear layers but the head: what the papers of QLoRA and DoRA recommend, and what any decoder has.
        target_modules=settings.targets or "all-linear",
        use_dora=settings.adapter == "dora",
    )
    # Drawn at random: the seed makes them the same when a killed run is done again.
    torch.manual_seed(seed)
    model.add_adapter(config)
    # The module's own names: PEFT resolves "all-linear" in place.
    held: Any = model.peft_config["default"]  # type: ignore[attr-defined]
    held.base_model_name_or_path = str(Path(str(model.name_or_path)).resolve())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return {
        "adapter": settings.adapter,
        "targets": sorted({name.rpartition(".")[2] for name in held.target_modules}),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    for target in targets:
        if target not in names:
            raise HanmoError(
                f"targets: no linear layer of this model is called '{target}'{nearest(target, sorted(names))} "
                f"(there are {', '.join(sorted(names))}; the head takes no adapter)"
            )


def save_adapter(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write adapter_config.json, adapter_model.safetensors and the tokenizer: PEFT and vLLM load that folder."""
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder, CONFIG) as made:
        model.save_pretrained(made)
        save_tokenizer(tokenizer, made)


def finish(start: Start, out: Path, records: dict[str, Any], merged: bool) -> None:
    """What a stage leaves: out/adapter, out/model where it is to be merged, out/records.json."""
    tokenizer = start.chat.tokenizer
    tokenizer.chat_template = start.chat.template
    save_adapter(start.model, tokenizer, out / "adapter")
    if merged:
        # The base is loaded once more, whole and in fp32: the frozen one has to go first, and what training had taken.
        del start.model
        gc.collect()
        return_freed_memory()
        merge(out / "adapter", out / "model")
    shutil.rmtree(out / "trainer", ignore_errors=True)
    write_json(out / "records.json", records)


def merge(adapter: Path, out: Path, base: Path | None = None) -> dict[str, Any]:
    """Write a plain model folder (fp32) with the adapter computed into the weights.

    Args:
        adapter: the folder of a LoRA or DoRA adapter as PEFT writes it, or of the stage that made one.
        base: the model it was trained on; None for the folder that the adapter names.

    Returns:
        {"base", "layers": how many got something added, "parameters"}.

    Raises:
        HanmoError: no adapter, no base, or two that do not belong together.
    """
    peft = need("peft", _EXTRA)
    folder = next((found for found in (adapter, adapter / "adapter") if (found / CONFIG).is_file()), None)
    if folder is None:
        raise HanmoError(f"{adapter}: no adapter there (no {CONFIG} in it or in its adapter/)")
    said = read_json(folder / CONFIG)
    if said.get("peft_type") != "LORA" or said.get("task_type") not in (None, "CAUSAL_LM"):
        raise HanmoError(
            f"{folder / CONFIG}: peft_type is {said.get('peft_type')!r}, task_type {said.get('task_type')!r}; "
            "LORA adapters (DoRA's too) of causal language models are merged"
        )
    named = base or Path(said.get("base_model_name_or_path") or "")
    try:
        found = resolve(named)
    except HanmoError as error:
        if base:
            raise
        raise HanmoError(f"{folder / CONFIG}: the model it was trained on: {error}; name it by --base") from None
    model = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32)
    try:
        merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        lines = " ".join(str(error).split())
        raise HanmoError(f"{folder}: not an adapter of the model in {found} ({lines[:200]})") from None
    tokenizer = load_tokenizer(folder if (folder / "tokenizer.json").is_file() else found)
    chat = ChatFormat(tokenizer)
    tokenizer.chat_template = chat.template
    save_model(merged, tokenizer, out, chat.stop_ids)
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        layers = sum(".lora_A." in name for name in weights.keys())  # noqa: SIM118
    return {"base": str(found), "layers": layers, "parameters": merged.num_parameters()}
