"""What SFT, rewards and preferences share around TRL's trainers: loading, order of the records, guards, saving.

The trainers are TRL's; what is put around them is quiet (nothing on stdout), repeatable (same records, seed and
threads: the same weights to the last bit) and keeps padding small (records of like length share a batch).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Nobody's data or habits leave the machine, and no bar is drawn but ours.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import torch
import transformers
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
)

from hanmo.errors import HanmoError
from hanmo.files import read_json, write_json
from hanmo.models.allocator import keep_freed_memory
from hanmo.models.families import must_write
from hanmo.models.folder import resolve
from hanmo.models.save import save_model
from hanmo.posttrain.adapters import loading
from hanmo.posttrain.attention import NAME
from hanmo.posttrain.resuming import Checkpoints, load_trained
from hanmo.posttrain.settings import AdapterSettings, ResumedSettings, TuningSettings
from hanmo.pretrain.precision import choose, pick_device
from hanmo.tokenizer import load as load_tokenizer
from hanmo.tokenizer.chat import ChatFormat

#: Tokens in one forward pass, padding included, unless `micro_batch` says otherwise: bounds the memory of activations.
FORWARD_TOKENS = 8192
#: What a stage of ours leaves in its folder besides manifest.json; an earlier try's is removed first.
LEFT_BEHIND = (
    "model",
    ".model.*.tmp",
    "adapter",
    ".adapter.*.tmp",
    "log.jsonl",
    "records.json",
    "aligned.json",
    "distilled.json",
)


class Start:
    """A model to be tuned: fp32 weights, its chat format, the device, the dtype of products, the longest record."""

    def __init__(
        self,
        folder: Path,
        settings: TuningSettings,
        out: Path,
        scores: bool = False,
        adapter: AdapterSettings | None = None,
    ) -> None:
        """Load.

        Args:
            scores: as a reward model: a new head with one label takes the place of the vocabulary's.
            adapter: hold the weights as they lie frozen beside one, where it asks for any.
        """
        folder = resolve(folder)
        keep_freed_memory()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.device = pick_device(settings.device)
        self.dtype = arithmetic(out, self.device, settings.precision)
        attention = NAME if self.device.type == "cpu" else "sdpa"
        must_write(folder)
        tokenizer = load_tokenizer(folder)
        self.chat = ChatFormat(tokenizer)
        auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
        given: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention}
        given |= {"num_labels": 1} if scores else {}
        given |= loading(adapter, self.dtype, self.device) if adapter else {}
        try:
            # A new head is drawn at random: the seed makes it the same each time.
            torch.manual_seed(settings.seed)
            model = auto.from_pretrained(folder, **given)
        except (ValueError, OSError, KeyError) as error:
            what = "decoder that can be a reward model" if scores else "causal language model that loads"
            raise HanmoError(f"{folder}: not a {what} ({str(error).splitlines()[0]})") from None
        self.model: PreTrainedModel = model
        rows: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[index, union-attr]
        if len(tokenizer) > rows:
            raise HanmoError(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows} rows; "
                "they do not belong together"
            )
        context = getattr(model.config, "max_position_embeddings", None) or settings.max_length
        if settings.max_length > context:
            raise HanmoError(
                f"max_length is {settings.max_length}, but the model in {folder} has a context of {context} tokens; "
                f"set max_length to at most {context}"
            )
        self.limit: int = settings.max_length or context
        self.parameters = model.num_parameters()

    @property
    def pad(self) -> int:
        """The id that rows are padded with."""
        return self.chat.end_of_text

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which products run in the chosen dtype."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def rate_for(parameters: int, factor: float) -> float:
    """A peak learning rate by size: 1e-3 up to 4M parameters, falling with the root to 2e-5, times `factor`."""
    return factor * min(1e-3, max(2e-5, 1e-3 * math.sqrt(4e6 / parameters)))


def clear(out: Path) -> None:
    """Remove what an earlier, unfinished try left besides its checkpoints."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in LEFT_BEHIND:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def checkpoints(settings: ResumedSettings, out: Path) -> Checkpoints:
    """Where a stage's checkpoints are, until it is done."""
    return Checkpoints(out / "trainer", settings.checkpoint_seconds)


def arithmetic(out: Path, device: torch.device, wanted: str) -> torch.dtype:
    """The dtype of products. A try that was killed has left its own choice, which a second probe might not repeat."""
    begun = out / "trainer" / "begun.json"
    if wanted == "auto" and begun.is_file():
        earlier = read_json(begun)
        if earlier["device"] == str(device):
            return getattr(torch, earlier["dtype"])
    dtype = choose(device, wanted)
    write_json(begun, {"device": str(device), "dtype": str(dtype).removeprefix("torch.")})
    return dtype


def quiet() -> None:
    """No bars and no chatter from the libraries."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")


class LikeLengths(Sampler[int]):
    """An order of the records in which those that share a batch are of like length; another order in every pass.

    Records are shuffled, sorted by length within windows of 50 batches, cut into batches, and the batches are
    shuffled; a batch that is not full comes last.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = lengths
        self.batch = batch
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.lengths), generator=self.generator).tolist()
        window = 50 * self.batch
        batches: list[list[int]] = []
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window], key=lambda index: self.lengths[index])
            batches += [part[at : at + self.batch] for at in range(0, len(part), self.batch)]
        full = [batch for batch in batches if len(batch) == self.batch]
        rest = [batch for batch in batches if len(batch) < self.batch]
        for at in torch.randperm(len(full), generator=self.generator).tolist():
            yield from full[at]
        for batch in rest:
            yield from batch


def micro_batch(settings: TuningSettings, longest: int) -> int:
    """Records in one forward pass: as asked, or a divisor of the batch so that `FORWARD_TOKENS` are not exceeded.

    Args:
        longest: tokens of the longest record.
    """
    batch: int = settings.batch_size  # type: ignore[attr-defined]
    if settings.micro_batch:
        micro = min(settings.micro_batch, batch)
        if batch % micro:
            raise HanmoError(f"micro_batch is {micro}; it must divide batch_size, which is {batch}")
        return micro
    fitting = [size for size in range(1, batch + 1) if batch % size == 0 and size * longest <= FORWARD_TOKENS]
    return max(fitting, default=1)


def looked_at_once(settings: TuningSettings, longest: int) -> int:
    """Rows in a forward pass that keeps nothing for a backward pass: at most 32, fewer where they are long.

    Args:
        longest: tokens of the longest row.
    """
    most = 4 * min(settings.micro_batch or 8, FORWARD_TOKENS // max(1, longest))
    return max(1, min(32, most))


def common_arguments(
    start: Start, settings: TuningSettings, out: Path, lengths: Sequence[int], factor: float
) -> dict[str, Any]:
    """Arguments that both of TRL's configurations take.

    Args:
        lengths: tokens that each record brings into a forward pass.
        factor: of the learning rate that the model's size suggests.
    """
    epochs, batch = settings.epochs, settings.batch_size  # type: ignore[attr-defined]
    micro = micro_batch(settings, max(lengths))
    steps = math.ceil(len(lengths) / batch) * epochs
    return {
        "output_dir": str(out / "trainer"),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "learning_rate": settings.learning_rate or rate_for(start.parameters, factor),
        "lr_scheduler_type": "linear",
        "warmup_steps": round(settings.warmup * steps),
        "weight_decay": settings.weight_decay,
        "adam_beta2": 0.95,
        "max_grad_norm": settings.clip,
        "optim": "adamw_torch_fused",
        "seed": settings.seed,
        "bf16": start.dtype == torch.bfloat16,
        "use_cpu": start.device.type == "cpu",
        "gradient_checkpointing": settings.recompute == "layers",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": settings.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": start.device.type != "cpu",
    }


class Careful(Trainer):
    """Mixed in front of a trainer of TRL's: batches of like lengths, a stop at a broken loss, no telemetry."""

    lengths: Sequence[int]
    #: Writes down how far it has come.
    keep: Callable[[Trainer], None] | None = None
    #: Optimiser steps that an earlier, killed run has made.
    begun_at = 0

    def _send_telemetry(self) -> None:
        return

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        order = LikeLengths(self.lengths, batch, self.args.seed)
        for _ in range(self.begun_at // math.ceil(len(self.lengths) / batch)):
            list(order)  # Each pass has an order of its own, drawn after the one before.
        return order

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        assert self.keep
        self.keep(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, resume_from_checkpoint)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise HanmoError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; "
                f"lower learning_rate (it is {self.args.learning_rate:g}) or set precision: fp32"
            )
        return loss


def save(start: Start, out: Path, records: dict[str, Any]) -> None:
    """Write out/model (fp32 safetensors, tokenizer, generation config) and out/records.json, whole or not at all."""
    tokenizer = start.chat.tokenizer
    tokenizer.chat_template = start.chat.template
    save_model(start.model.cpu(), tokenizer, out / "model", start.chat.stop_ids)  # type: ignore[arg-type]
    shutil.rmtree(out / "trainer", ignore_errors=True)
    write_json(out / "records.json", records)
