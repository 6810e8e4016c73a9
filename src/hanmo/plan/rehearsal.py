"""A step of tuning, done with tensors that have shapes and no numbers, to see how much memory it takes at its peak.

The stages after pretraining run transformers' own layers under TRL's trainers, for any class of decoder. So nothing is
counted by formula: the model's own code runs forward and backward under torch's `FakeTensorMode`, and the bytes of all
storages alive are followed from operator to operator. A model of 1.5B parameters takes 5 seconds and no memory.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DynamicCache
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

from hanmo.posttrain import adapters
from hanmo.posttrain.distill import ROWS, mixed
from hanmo.posttrain.scoring import score, score_in_parts, states_at
from hanmo.posttrain.settings import AdapterSettings, DistillSettings

#: Bytes that NF4 with quantised scales takes for a weight.
FOUR_BITS = 0.53


@dataclass(frozen=True)
class Batch:
    """What goes through the model at a time.

    Attributes:
        rows, length: of the padded batch; at most so many tokens.
        learnt: share of the tokens that are scored.
        logits: of all tokens are held, prompts and padding included (TRL's trainers for ORPO and SimPO do that).
        masked: rows of several records carry a mask of their own.
        judged: log-probabilities and entropies are computed as TRL's trainers for GRPO and RLOO do it.
    """

    rows: int
    length: int
    learnt: float = 1.0
    logits: bool = False
    masked: bool = False
    judged: bool = False


@dataclass(frozen=True)
class Rehearsed:
    """What was seen, in bytes.

    Attributes:
        weights: of the model as it is held, adapters included.
        parameters, trained: how many parameters the model has, and how many of them learn.
        step: at the peak of forward and backward pass, above the weights, gradients included.
        kept: by the end of the model's forward pass for its backward pass.
        look: at the peak of a forward pass that keeps nothing, above the weights.
        teacher: weights of the model that is distilled from; 0: none is.
    """

    weights: float
    parameters: int
    trained: int
    step: float
    kept: float
    look: float
    teacher: float = 0.0


#: What was rehearsed before: stages of one recipe often do the same with a model.
_seen: dict[tuple[Any, ...], Rehearsed] = {}
_written: dict[tuple[Any, ...], float] = {}


class Alive(TorchDispatchMode):
    """Follows the bytes of all storages that operators have made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._sizes:
                    self._sizes[key] = storage.nbytes()
                    self.now += self._sizes[key]
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key)
        return result

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def rehearse(
    config: Any,
    batch: Batch,
    look: Batch,
    dtype: torch.dtype,
    attention: str,
    *,
    scores: bool = False,
    adapter: AdapterSettings | None = None,
    recompute: bool = False,
    accumulates: bool = False,
    taught: tuple[Any, DistillSettings, int] | None = None,
) -> Rehearsed:
    """Go through a step, and through a look at held-out records.

    Args:
        config: of transformers.
        dtype: of the products.
        attention: the implementation's name.
        scores: the model has a score in place of the vocabulary's head.
        adapter: what learns, where that is not all of the model.
        accumulates: gradients of an earlier forward pass are there already.
        taught: configuration of the model that is distilled from; how; and the tokens compared, at most (0: all).

    Raises:
        Exception: whatever the model's code raises that cannot go without numbers.
    """
    adapter = adapter if adapter and adapter.adapter != "none" else None
    told = taught and (taught[0].to_json_string(), taught[1].model_dump_json(), taught[2])
    learns = adapter and adapter.model_dump_json()
    key = (config.to_json_string(), batch, look, dtype, attention, scores, learns, recompute, accumulates, told)
    if key not in _seen:
        _seen[key] = _rehearse(config, batch, look, dtype, attention, scores, adapter, recompute, accumulates, taught)
    return _seen[key]


def rehearse_answers(config: Any, rows: int, prompt: int, longest: int, dtype: torch.dtype, attention: str) -> float:
    """Go through the writing of answers (`hanmo.evaluate.generate`); bytes at the peak, above the weights.

    Args:
        rows: answers that are written at a time.
        prompt, longest: tokens of the prompts, and of prompt and answer together.
    """
    key = (config.to_json_string(), rows, prompt, longest, dtype, attention)
    if key not in _written:
        _written[key] = _rehearse_answers(config, rows, prompt, longest, dtype, attention)
    return _written[key]


def _rehearse_answers(config: Any, rows: int, prompt: int, longest: int, dtype: torch.dtype, attention: str) -> float:
    model, _ = _model(config, torch.float32, attention, False, None)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive, torch.no_grad():
        give_storage(model.eval())
        alive.peak = weights = alive.now
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            cache: Any = DynamicCache(config=model.config)
            for seen, new in ((prompt, prompt), (longest, 1)):
                for layer in cache.layers if new == 1 else ():
                    # As it is before the last token; the prompt's own is gone.
                    heads, width = layer.keys.shape[1], layer.keys.shape[3]
                    layer.keys = layer.keys.new_empty(rows, heads, longest - 1, width)
                    layer.values = layer.values.new_empty(rows, heads, longest - 1, width)
                logits = (
                    model(
                        input_ids=torch.zeros(rows, new, dtype=torch.int64),
                        attention_mask=torch.ones(rows, seen, dtype=torch.int64),
                        position_ids=torch.zeros(rows, new, dtype=torch.int64),
                        past_key_values=cache,
                        use_cache=True,
                        logits_to_keep=1,
                    )
                    .logits[:, -1]
                    .float()
                )
                chances, order = (logits / 0.5).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
                before = chances.cumsum(dim=-1) - chances
                chances = chances.masked_fill(before >= 1, 0.0).cumsum(dim=-1)
                del logits, chances, order, before
        return alive.peak - weights


def _rehearse(
    config: Any,
    batch: Batch,
    look: Batch,
    dtype: torch.dtype,
    attention: str,
    scores: bool,
    adapter: AdapterSettings | None,
    recompute: bool,
    accumulates: bool,
    taught: tuple[Any, DistillSettings, int] | None,
) -> Rehearsed:
    model, four_bits = _model(config, dtype, attention, scores, adapter)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        give_storage(model)
        weights = alive.now
        lesson = None if taught is None else _Lesson(*taught, dtype, attention)
        told = alive.now - weights
        learn = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learn:
            if accumulates:
                parameter.grad = torch.zeros_like(parameter)
        alive.peak = alive.now
        loss, kept = _forward(model, batch, dtype, alive, lesson)
        loss.backward()
        step = alive.peak - weights - told
        del loss
        for parameter in learn:
            parameter.grad = None
        model.eval()
        alive.peak = start = alive.now
        with torch.no_grad():
            _forward(model, look, dtype, alive)
            if lesson is not None:
                lesson.look(model, batch, dtype)
        parameters, trained = (sum(p.numel() for p in chosen) for chosen in (model.parameters(), learn))
        return Rehearsed(weights - four_bits, parameters, trained, step, kept, alive.peak - start, told)


def _model(
    config: Any, dtype: torch.dtype, attention: str, scores: bool, adapter: AdapterSettings | None
) -> tuple[Any, float]:
    """The model to train, on torch's meta device, and the bytes that four bits a weight save of what it shows."""
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    config = copy.deepcopy(config)  # making a model writes into it
    if scores:
        config.num_labels, config.pad_token_id = 1, 0
    with torch.device("meta"):
        model: Any = auto.from_config(
            config, dtype=dtype if adapter else torch.float32, attn_implementation=attention
        ).train()
        if not adapter:
            return model, 0.0
        saved = 0.0
        if adapter.adapter == "qlora":
            head = model.get_output_embeddings().weight
            linear = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
            coded = [weight for weight in linear if weight is not head]
            saved = sum(weight.numel() * (weight.itemsize - FOUR_BITS) for weight in coded)
            # One layer's weights are there in the dtype of the products while it is at work.
            saved -= max(weight.numel() * weight.itemsize for weight in coded)
        # What bitsandbytes puts in the place of linear layers needs numbers; the matrices beside them are the same.
        adapters.attach(model, adapter.model_copy(update={"adapter": "lora"}) if saved else adapter, 1)
    return model, saved


def give_storage(model: Any) -> None:
    """Put tensors of the mode that is on in the place of those on the meta device; what is tied stays tied."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    new = torch.empty(tensor.shape, dtype=tensor.dtype)
                    learns = tensor.requires_grad
                    made[id(tensor)] = torch.nn.Parameter(new, learns) if held is module._parameters else new
                held[name] = made[id(tensor)]


class _Lesson:
    """A teacher without numbers; see `hanmo.posttrain.distill.Teacher`."""

    def __init__(self, config: Any, settings: DistillSettings, tokens: int, dtype: torch.dtype, attention: str) -> None:
        with torch.device("meta"):
            self.model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        give_storage(self.model.eval().requires_grad_(False))
        # Rows of embeddings may be more than the tokens.
        self._settings, self._tokens = settings, tokens or config.vocab_size

    def read(self, where: torch.Tensor, **given: Any) -> torch.Tensor:
        with torch.no_grad():
            return states_at(self.model.base_model, where, **given)

    def score(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, read: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            told = self.model.get_output_embeddings()(read).float()[:, : self._tokens]
        return mixed(self._settings, F.linear(hidden, weight).float(), told, targets)

    def look(self, student: Any, batch: Batch, dtype: torch.dtype) -> None:
        """A look at how far the student is from it on held-out records."""
        count = max(1, round(batch.learnt * ROWS * (batch.length - 1)))
        where = torch.zeros(count, dtype=torch.int64)
        given = {"input_ids": torch.zeros(ROWS, batch.length, dtype=torch.int64), "use_cache": False}
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            mine, told = (
                one.get_output_embeddings()(states_at(one.base_model, where, **given)).float()[:, : self._tokens]
                for one in (student, self.model)
            )
            F.kl_div(mine.log_softmax(-1), told.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def _forward(
    model: Any, batch: Batch, dtype: torch.dtype, alive: Alive, lesson: _Lesson | None = None
) -> tuple[torch.Tensor, float]:
    """A loss with the same tensors behind it as the trainers', and the bytes that the layers have left for it."""
    before = alive.now
    ids = torch.zeros(batch.rows, batch.length, dtype=torch.int64)
    given: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if batch.masked:
        given["attention_mask"] = torch.ones(batch.rows, 1, batch.length, batch.length, dtype=torch.bool)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        if batch.logits:
            # Outputs leave autocast in fp32.
            logits = model(**given).logits.float()
            kept = alive.now - before
        else:
            hidden = model.base_model(**given).last_hidden_state[:, :-1].flatten(0, 1)
            kept = alive.now - before
            count = max(1, round(batch.learnt * hidden.shape[0]))
            head = model.get_output_embeddings()
            if batch.judged:
                # Off the accelerators, prompts and padding are scored as well.
                targets = torch.zeros(hidden.shape[0], dtype=torch.int64)
                outputs = ("log_probs", "entropy")
                found = ChunkedLogProbFunction.apply(
                    hidden, head.weight, head.bias, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, outputs
                )
                return found[0].sum(), kept
            weight = model.score.weight if head is None else head.weight
            where, targets = torch.zeros(2, count, dtype=torch.int64)
            # A head with a single score has nothing to choose from.
            picked = hidden.index_select(0, where)
            if weight.shape[0] == 1:
                return F.linear(picked, weight).float().sum(), kept
            if lesson is not None:
                read = lesson.read(where, **given)
                return score_in_parts(lesson.score, picked, weight, targets, read)[0].sum(), kept
            return score_in_parts(score, picked, weight, targets)[0].sum(), kept
    labels = torch.zeros(batch.rows, batch.length - 1, dtype=torch.int64)
    chosen = logits[: batch.rows // 2, :-1].contiguous().view(-1, logits.shape[-1])
    loss = F.cross_entropy(chosen, labels[: batch.rows // 2].flatten())
    # Row by row, as TRL does it.
    picked = [
        row.gather(-1, label[:, None])[:, 0] - row.logsumexp(-1)
        for row, label in zip(logits[:, :-1], labels, strict=True)
    ]
    return loss + torch.stack(picked).sum(), kept
