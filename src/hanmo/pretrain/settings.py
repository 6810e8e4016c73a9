"""Settings of the pretraining stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hanmo.errors import HanmoError
from hanmo.models.families import AUTO, learns, objective_of
from hanmo.models.folder import resolve
from hanmo.models.presets import build_config, full_name, preset
from hanmo.pretrain.guard import GuardSettings
from hanmo.pretrain.trackers import TrackerName
from hanmo.stage import Settings, factory, setting

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: A number of passes over a source.
Passes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


def parse_count(value: object) -> object:
    """'3M' -> 3000000; other values pass through for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().lower().replace("_", "")
        factor = _UNITS.get(text[-1:], 1)
        number = text.rstrip("kmb") if factor > 1 else text
        try:
            return round(float(number) * factor)
        except ValueError:
            raise ValueError(f"'{value}' is not a count such as 500000, 3M or 2B") from None
    return value


class MixSettings(Settings):
    """How much of the training text is from which source."""

    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = setting(
        None, "share of the rows by source, in any unit; sources not named get none. Without it: their sizes"
    )
    max_epochs: Passes | dict[str, Passes] | None = setting(
        None, "passes after which a source's share goes to the others; one number for all, or by source"
    )
    temperature: float = setting(1.0, "shares to this power: below 1 lifts small sources, 0 makes all equal", ge=0)


class MaskSettings(Settings):
    """What a masked model has to fill in; see `hanmo.pretrain.objectives.masked`."""

    share: float = setting(0.15, "share of a row's tokens that are to be predicted", gt=0, lt=1)
    whole_words: bool = setting(
        True, "mask all characters of a word together (words by rjieba), not characters one by one"
    )
    ngrams: int = setting(
        1,
        "mask up to so many neighbouring words together; 4: one to four of them, 40, 30, 20 and 10 % of the time",
        ge=1,
        le=64,
    )
    sentence_order: bool = setting(
        False,
        "make pairs of consecutive parts of a document, half of them swapped, and learn which came first as well "
        "(for encoders with a head for it: BERT and MegatronBert)",
    )


class UnifiedSettings(Settings):
    """What a unified model does with a piece of text; see `hanmo.pretrain.objectives.unified`."""

    masked: float = setting(0.5, "share of the pieces in which masks are filled", ge=0, allow_inf_nan=False)
    causal: float = setting(0.25, "share that is written from its first token on", ge=0, allow_inf_nan=False)
    prefix: float = setting(0.25, "share that goes on from a beginning seen whole", ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _something(self) -> UnifiedSettings:
        if not self.masked + self.causal + self.prefix:
            raise ValueError("masked, causal and prefix are all 0; raise one of them")
        return self


class SpanSettings(Settings):
    """What an encoder-decoder has to write; see `hanmo.pretrain.objectives.gaps`."""

    share: float = setting(0.15, "share of a document's tokens that are cut out", gt=0, lt=1)
    mean: float = setting(3.0, "tokens in a stretch that is cut out, on the average", ge=1, allow_inf_nan=False)


class ExpertSettings(Settings):
    """How the experts of a mixture are kept alike in use; see `hanmo.models.experts`."""

    balance: Literal["auto", "auxiliary", "bias", "none"] = setting(
        "auto",
        "bias: by a bias for the choice, without a loss (GLM-4-MoE); auxiliary: by a loss; auto: bias if there is one",
    )
    weight: float = setting(0.01, "of the auxiliary loss, which is 1 where all are alike", ge=0)
    rate: float = setting(0.001, "by which the bias moves in a step", ge=0)


class ShapeSettings(Settings):
    """What of a model's shape is not its preset's; see `hanmo.models.presets.Preset`."""

    hidden: int | None = setting(None, "width of the stream, in channels", ge=8)
    ffn: int | None = setting(None, "inner width of the feed-forward layers", ge=8)
    layers: int | None = setting(None, "how many", ge=1)
    heads: int | None = setting(None, "of queries", ge=1)
    kv_heads: int | None = setting(None, "of keys and values; a divisor of heads", ge=1)
    head_dim: int | None = setting(None, "channels of a head; even", ge=2, multiple_of=2)

    def given(self) -> dict[str, int]:
        """The fields that are set."""
        return self.model_dump(exclude_none=True)


class PretrainSettings(Settings):
    """Pretraining a model on packed documents, or continuing one on them."""

    preset: str = setting("hanmo-4m", "shape of the model, e.g. 92m (see hanmo.models.presets)")
    shape: ShapeSettings = factory(ShapeSettings, "what differs from the preset, e.g. {layers: 4, hidden: 448}")
    start: Literal["random", "bigram"] = setting(
        "random",
        "of a new model; bigram: as a model of pairs of tokens, fitted to counts of the data in seconds, with a head "
        "of its own beside the input embedding",
    )
    objective: Literal["auto", "causal", "masked", "unified", "spans"] = setting(
        "auto",
        "causal: predict the next token; masked: fill masks (BERT and its like); unified: both, by token types; spans: "
        "write what was cut out (T5); auto: what the preset, or the model that is given, learns",
    )
    masks: MaskSettings = factory(MaskSettings, "what is masked, with objective: masked or unified")
    unified: UnifiedSettings = factory(
        UnifiedSettings, "with objective: unified, shares of the tasks, e.g. {masked: 2, causal: 1, prefix: 1}"
    )
    spans: SpanSettings = factory(SpanSettings, "what is cut out, with objective: spans")
    experts: ExpertSettings = factory(ExpertSettings, "how they are balanced, e.g. {balance: bias, rate: 0.001}")
    vocabulary: Literal["same", "swap"] = setting(
        "same", "where a given model's ids are not the data's: refuse; or swap: resize it as `hanmo model resize` does"
    )
    strict: bool = setting(
        True, "refuse a given model with missing, unexpected or mismatched weights; false: say which, and go on"
    )
    freeze: list[str] = factory(
        list, "parts that do not change: embeddings, layers.0-5, layers.3.attention, layers.*.mlp, norm, head"
    )
    skip_steps: int = setting(0, "begin the data behind so many steps of it (batch_tokens each)", ge=0)
    skip: list[tuple[Annotated[int, Field(ge=0)], int]] = factory(
        list, "stretches of the data to pass over, in steps of batch_tokens: [[100, 120]] leaves out 100 to 119"
    )
    tokens: int = setting(3_000_000, "training budget in tokens, e.g. 3M or 2B", affects="budget", ge=1)
    context: int = setting(512, "tokens in a packed row, and the model's context", ge=16)
    batch_tokens: int = setting(
        0, "tokens in one optimiser step, a multiple of context; 0: by the budget (docs/training.md)", ge=0
    )
    mix: MixSettings | None = setting(
        None, "sources with weights, caps and temperature, e.g. {weights: {news: 2, law: 1}, max_epochs: {law: 4}}"
    )
    shuffle: Literal["global", "shards"] = setting(
        "global", "shuffle all documents together, or those of a few shards at a time (needed where data is a URL)"
    )
    shard_cache_gb: float = setting(20.0, "disk for shards that are fetched from a URL", affects="speed", gt=0)
    optimizer: Literal["muon", "adamw"] = setting("muon", "muon: Muon on the matrices, AdamW elsewhere; or all AdamW")
    matrix_lr: float = setting(0.0, "Muon's learning rate (unused by adamw); 0: by rule (docs/training.md)", ge=0)
    lr: float = setting(0.0, "AdamW's learning rate; 0: by rule", ge=0)
    embedding_lr: float = setting(0.0, "AdamW's for the input embedding; 0: lr, or by rule", ge=0)
    head_lr: float = setting(0.0, "AdamW's for a head of its own; 0: lr, or by rule", ge=0)
    weight_decay: float = setting(0.0, "decoupled weight decay on matrices", ge=0)
    schedule: Literal["wsd", "cosine", "linear", "constant"] = setting(
        "wsd", "of the rates: wsd stays and falls at the end; cosine and linear fall from the warm-up on"
    )
    warmup_tokens: int = setting(-1, "linear warm-up, in tokens; -1: by the batch (docs/training.md)", ge=-1)
    decay_fraction: float = setting(0.4, "wsd: last part of the budget in which the rates fall", ge=0, le=1)
    decay_shape: Literal["linear", "sqrt", "cosine"] = setting("linear", "wsd: how they fall")
    min_lr: float = setting(0.0, "where the rates end, by their peak", ge=0, le=1)
    batch_start: int = setting(0, "tokens in the first batch, which doubles up to batch_tokens; 0: constant", ge=0)
    batch_warmup_tokens: int = setting(0, "tokens until the batch has grown to batch_tokens", ge=0)
    clip: float = setting(1.0, "largest norm of the gradient; 0 for none", ge=0)
    guard: GuardSettings = factory(GuardSettings, "when a step is skipped, and when the run goes back")
    seed: int = setting(1, "of the initial weights and of the order of documents", ge=0)
    device: str = setting("auto", "auto, cpu, cuda, mps, ...", affects="speed")
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = setting(
        "auto",
        "arithmetic of the products; auto: the one a probe finds fast (bf16, else fp16, else fp32); fp8: bf16, with "
        "linear layers in 8 bits",
        affects="speed",
    )
    compile: bool = setting(True, "compile the step (needs a C++ compiler on CPU)", affects="speed")
    micro_tokens: int = setting(0, "tokens in one forward pass; 0: the batch, at most 8192", affects="speed", ge=0)
    recompute: Literal["auto", "none", "layers"] = setting(
        "auto",
        "layers: keep only the layers' inputs for the backward pass; auto: where memory does not suffice otherwise",
        affects="speed",
    )
    processes: int = setting(
        0, "on this machine; 0: one for every accelerator, or 1. Without meaning under torchrun", affects="speed", ge=0
    )
    parallel: Literal["ddp", "fsdp", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"] = setting(
        "ddp",
        "among processes: ddp, each holds all weights; fsdp, each a part of every weight; zero1, zero2, zero3: of "
        "DeepSpeed (with optimizer: adamw; -offload: with the host's memory)",
        affects="speed",
    )
    threads: int = setting(0, "CPU threads; 0: torch's default, or a share of the cores", affects="speed", ge=0)
    lanes: int = setting(
        0,
        "threads of a CPU that compute rows of their own; 0: all; 1: none, which needs less memory",
        affects="speed",
        ge=0,
    )
    checkpoint_seconds: float = setting(60.0, "time between checkpoints", affects="speed", gt=0)
    checkpoint_steps: int = setting(0, "steps between checkpoints; 0: by time alone", affects="speed", ge=0)
    save_initial: bool = setting(
        False, "also keep the model as it is before the first step, as model-initial", affects="speed"
    )
    save_every_tokens: int = setting(
        0, "also keep the model every so many tokens, as model-step-00001000; 0: not", affects="speed", ge=0
    )
    prefix: str = setting(
        "", "in the names of kept models: law makes model-law-step-00001000", affects="speed", pattern=r"^[\w.-]*$"
    )
    log_every: int = setting(10, "steps between lines of log.jsonl", affects="speed", ge=1)
    eval_every: int = setting(200, "steps between looks at held-out text; 0: only at the end", affects="speed", ge=0)
    eval_bytes: int = setting(100_000, "held-out text to look at, in UTF-8 bytes", affects="speed", ge=1000)
    sample_prompts: list[str] = factory(
        lambda: ["今天", "小明"], "beginnings that the model completes at every look", affects="speed"
    )

    trackers: list[TrackerName] = factory(
        list, "trackio, swanlab, wandb, tensorboard: where the log's figures go as well", affects="speed"
    )
    project: str = setting("hanmo", "the trackers' project", affects="speed", min_length=1)
    run_name: str = setting("", "the trackers' name for the run; without it the folder's", affects="speed")

    _counts = field_validator(
        "tokens",
        "batch_tokens",
        "batch_start",
        "batch_warmup_tokens",
        "warmup_tokens",
        "micro_tokens",
        "save_every_tokens",
        mode="before",
    )(parse_count)

    @field_validator("skip")
    @classmethod
    def _rising(cls, stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
        behind = 0
        for first, last in stretches:
            if first >= last or first < behind:
                raise ValueError(f"[{first}, {last}] is no stretch [first, last) behind the one before it")
            behind = last
        return stretches

    @model_validator(mode="after")
    def _one_way_to_skip(self) -> PretrainSettings:
        if self.skip and self.skip[0][0] < self.skip_steps:
            raise ValueError(f"skip: {list(self.skip[0])} begins within the first {self.skip_steps} (skip_steps)")
        return self

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        return full_name(name)

    @model_validator(mode="after")
    def _whole_groups(self) -> PretrainSettings:
        shape = replace(preset(self.preset), **self.shape.given())
        if shape.heads % shape.kv_heads:
            raise ValueError(f"shape: {shape.heads} heads do not divide among {shape.kv_heads} kv_heads")
        if self.start == "bigram" and shape.family != "qwen3":
            raise ValueError(f"start: bigram is for presets of ours (hanmo-...), and {self.preset} is a {shape.family}")
        return self

    def resolved(self, given: Path | None) -> PretrainSettings:
        """With `objective: auto` made what the model in the folder `given` learns, or else the preset.

        Raises:
            HanmoError: the preset does not learn what is asked for.
        """
        if given is None and self.masks.sentence_order and preset(self.preset).family != "megatron-bert":
            raise HanmoError(
                f"masks.sentence_order: {self.preset} has no head for it; give an erlangshen preset, or leave it out"
            )
        if self.objective == "auto":
            found = objective_of(resolve(given)) if given else learns(self.preset)[0]
            return self.model_copy(update={"objective": found})
        if given is None and self.objective not in learns(self.preset):
            raise HanmoError(
                f"objective: {self.objective}: {self.preset} learns {', '.join(learns(self.preset))}; give another "
                "preset (`hanmo models`), or the folder of a model to continue as `model`"
            )
        return self

    def auto_class(self, given: Path | None = None) -> str:
        """The auto class of transformers that makes the model, or opens the one in the folder `given`."""
        objective = self.resolved(given).objective
        pairs = objective == "masked" and self.masks.sentence_order
        return "AutoModelForPreTraining" if pairs else AUTO[objective]

    def config(self, vocab_size: int) -> PreTrainedConfig:
        """The transformers configuration of a new model of these settings, for so many tokens."""
        tied = False if self.start == "bigram" else None
        return build_config(self.preset, vocab_size, self.context, tied, **self.shape.given())
