"""Settings of the stages after pretraining."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import model_validator

from hanmo.errors import nearest
from hanmo.stage import Settings, factory, setting

SftForm = Literal["auto", "each", "messages", "sharegpt", "alpaca", "turns", "instances", "qa", "template"]
#: The rewards of reinforcement learning (`hanmo.posttrain.rl.rewards` says what each gives).
REWARDS = ("exact", "choice", "arithmetic", "format", "length", "verse", "model")
PreferenceForm = Literal["auto", "each", "pair", "alpaca", "sharegpt", "ranked", "medicalgpt", "labelled"]


class FileRule(Settings):
    """What is special about some of the record files (those whose name matches a pattern)."""

    form: str = setting("", "their form, where it shall not be recognised from the content")
    user: str = setting("", "with `assistant`: a template of the question, e.g. '译成白话文：{classical}'")
    assistant: str = setting("", "a template of the answer, e.g. '{modern}'")
    template: list[dict[Literal["prompt", "label"], str]] = factory(
        list, "in place of the two: parts in their order, e.g. [{prompt: '标题：{title}'}, {label: '{summary}'}]"
    )
    system: str = setting("", "a system message put before every dialogue that has none")
    max_records: int = setting(0, "take at most this many of their records, a fixed sample; 0: all", ge=0)

    @model_validator(mode="after")
    def _whole_template(self) -> FileRule:
        if bool(self.user) != bool(self.assistant):
            raise ValueError("a template needs both `user` and `assistant`")
        if self.user and self.template:
            raise ValueError("either the templates `user` and `assistant` or a list `template`, not both")
        if self.spoken() and self.form not in ("", "template"):
            raise ValueError("either a form or templates, not both")
        if any(len(part) != 1 for part in self.template):
            raise ValueError("each part of `template` is one of {prompt: ...} and {label: ...}")
        if self.template and not any("label" in part for part in self.template):
            raise ValueError("`template` has no part marked label: nothing would be learnt")
        return self

    def spoken(self) -> list[tuple[str, str]]:
        """(role, template) of each part, in their order."""
        if self.user:
            return [("user", self.user), ("assistant", self.assistant)]
        return [
            ("user" if kind == "prompt" else "assistant", text) for part in self.template for kind, text in part.items()
        ]


class RecordSettings(Settings):
    """How record files are read."""

    form: str = setting("auto", "form of the record files; auto: recognised per file, each: recognised per record")
    files: dict[str, FileRule] = factory(
        dict, "rules for files by name pattern, e.g. {'alpaca_zh*': {max_records: 5000}}; the first that matches holds"
    )
    sets: list[str] = factory(
        list, "where records are a folder with a dataset_info.json: names of its sets; none named: all that fit"
    )
    on_bad_record: Literal["fail", "skip"] = setting(
        "fail", "a record with a fault: stop with its file and line, or leave it out and count it"
    )
    max_records: int = setting(0, "take at most this many records, a fixed sample; 0: all", ge=0)
    seed: int = setting(1, "of the order of records and of any sampling", ge=0)


class QuestionsSettings(RecordSettings):
    """Records of a domain, parted: dialogues to tune on, and questions that nobody is tuned on."""

    held: int = setting(300, "at most so many questions held out, and never more than a fifth of the records", ge=4)
    options: int = setting(4, "answers that a held-out question is shown with, of which one is its own", ge=2, le=8)
    longest: int = setting(120, "longest answer of a held-out question, in characters", ge=1)


class TuningSettings(RecordSettings):
    """What SFT and DPO have in common."""

    max_length: int = setting(0, "longest record in tokens; 0: the model's context", ge=0)
    validation: float = setting(0.02, "fraction of the records held out to watch the loss", ge=0, le=0.5)
    learning_rate: float = setting(0.0, "peak of the rate; 0: by the model's size", ge=0)
    warmup: float = setting(0.05, "fraction of the steps in which the rate rises", ge=0, le=1)
    weight_decay: float = setting(0.0, "decoupled weight decay", ge=0)
    clip: float = setting(1.0, "largest norm of the gradient", gt=0)
    device: str = setting("auto", "auto or cpu", affects="speed")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "arithmetic of the products; auto: bf16 where a probe finds it fast", affects="speed"
    )
    micro_batch: int = setting(
        0, "records in one forward pass; 0: the batch, less where records are long", affects="speed", ge=0
    )
    recompute: Literal["none", "layers"] = setting(
        "none", "layers: keep only their inputs and compute them again in the backward pass", affects="speed"
    )
    threads: int = setting(0, "CPU threads; 0: torch's default", affects="speed", ge=0)
    log_every: int = setting(5, "steps between lines of log.jsonl", affects="speed", ge=1)
    evaluations: int = setting(4, "looks at the held-out records after the first", affects="speed", ge=1)


class ResumedSettings(Settings):
    """Of the stages that go on where they were killed."""

    checkpoint_seconds: float = setting(
        300.0, "time between checkpoints, from which a killed run goes on", affects="speed", gt=0
    )


class AdapterSettings(Settings):
    """Which weights are tuned: all of the model, or small matrices beside them (`hanmo.posttrain.adapters`)."""

    adapter: Literal["none", "lora", "dora", "qlora"] = setting(
        "none", "small matrices beside frozen weights, in place of tuning them all; qlora: frozen weights in 4 bits"
    )
    rank: int = setting(16, "of an adapter's matrices", ge=1)
    alpha: int = setting(0, "what an adapter is scaled by, over its rank; 0: twice the rank", ge=0)
    dropout: float = setting(0.0, "before an adapter's matrices, in training", ge=0, lt=1)
    targets: list[str] = factory(
        list, "layers that get an adapter, e.g. [q_proj, v_proj]; none named: all linear ones but the head"
    )
    merge: bool = setting(True, "also write the plain model with the adapter in its weights")


class SftSettings(TuningSettings, ResumedSettings, AdapterSettings):
    """Supervised fine-tuning: loss on the assistant's words only."""

    form: SftForm = setting(
        "auto", "form of the record files; auto: recognised per file, each: recognised per record (mixed files)"
    )
    epochs: int = setting(2, "passes over the records", ge=1)
    batch_size: int = setting(16, "records in one optimiser step", ge=1)
    too_long: Literal["truncate", "split", "drop"] = setting(
        "truncate",
        "a record above max_length: keep the exchanges that fit, make several records of it, or leave it out",
    )
    packing: bool = setting(False, "several records in one row, which do not see each other")
    neftune: float = setting(
        0.0, "alpha of the noise on the embeddings in training (NEFTune, arXiv:2310.05914), e.g. 5; 0: none", ge=0
    )


class DistillSettings(SftSettings):
    """Supervised fine-tuning towards a larger model's probabilities (Hinton et al. 2015, arXiv:1503.02531)."""

    divergence: Literal["forward", "reverse", "jsd"] = setting(
        "forward",
        "forward: KL(teacher || student), reverse: KL(student || teacher) (Gu et al. 2023), jsd: between the two "
        "(Agarwal et al. 2023)",
    )
    between: float = setting(0.5, "jsd: where between forward (0) and reverse (1)", gt=0, lt=1)
    weight: float = setting(
        0.5, "the teacher's share of the loss; what is left is the cross-entropy on the records", gt=0, le=1
    )
    temperature: float = setting(1.0, "that both models' logits are divided by", gt=0)


class PairSettings(TuningSettings, ResumedSettings):
    """What the stages that learn from preferences have in common."""

    form: PreferenceForm = setting(
        "auto", "form of the pair files; auto: recognised per file, each: recognised per record (mixed files)"
    )
    ranked_pairs: Literal["best", "adjacent", "all"] = setting(
        "best", "pairs made of ranked answers: the best with each other one, neighbours, or all"
    )
    epochs: int = setting(1, "passes over the pairs", ge=1)
    validation: float = setting(0.05, "fraction of the pairs held out to watch margins and accuracy", ge=0, le=0.5)
    batch_size: int = setting(16, "pairs in one optimiser step", ge=1)


class RewardSettings(PairSettings):
    """A reward model by Bradley and Terry's model of comparisons: a decoder with one score at its last token."""

    validation: float = setting(0.1, "fraction of the pairs held out for accuracy and calibration", ge=0, le=0.5)
    center: float = setting(
        0.01, "weight of the squared sum of a pair's rewards in the loss, which keeps rewards around 0", ge=0
    )


class DpoSettings(PairSettings):
    """Preference tuning: DPO and its kin, with the start as reference where a loss has one."""

    loss: Literal["dpo", "ipo", "kto", "orpo", "simpo"] = setting(
        "dpo",
        "dpo (Rafailov 2023), ipo (Azar 2023), kto (Ethayarajh 2024), orpo (Hong 2024), simpo (Meng 2024); these two "
        "need no reference",
    )
    beta: float = setting(
        0.0, "dpo, ipo, kto: how dear it is to leave the reference; orpo, simpo: weight; 0: 0.1, for simpo 2", ge=0
    )
    gamma: float = setting(1.0, "simpo: by how much the chosen answer's reward shall be the larger one", ge=0)
    sft_weight: float = setting(
        0.0, "weight of an SFT loss on the chosen answers beside the preference loss, which keeps them likely", ge=0
    )
    answers: int = setting(
        64, "held-out prompts that are answered before and behind the training, for lengths, KL and win rate", ge=0
    )
    answer_tokens: int = setting(128, "longest of these answers, in tokens", ge=1)

    @property
    def strength(self) -> float:
        """`beta`, or the loss's usual one."""
        return self.beta or (2.0 if self.loss == "simpo" else 0.1)

    @model_validator(mode="after")
    def _own_sft(self) -> DpoSettings:
        if self.sft_weight and self.loss in ("kto", "orpo"):
            why = "has an SFT loss of its own" if self.loss == "orpo" else "looks at single answers"
            raise ValueError(f"sft_weight: loss {self.loss} {why}; leave sft_weight out")
        return self


class RlSettings(TuningSettings, ResumedSettings):
    """Reinforcement learning from rewards: groups of answers to a prompt, each judged against the others."""

    method: Literal["grpo", "rloo"] = setting(
        "grpo",
        "grpo (Shao et al. 2024, arXiv:2402.03300) or rloo (Ahmadian et al. 2024, arXiv:2402.14740); the TRL that is "
        "pinned has no PPO any more",
    )
    form: SftForm = setting(
        "auto", "form of the record files; auto: recognised per file, each: recognised per record (mixed files)"
    )
    rewards: dict[str, float] = factory(
        lambda: {"exact": 1.0}, f"rewards with their weights, of {', '.join(REWARDS)}; e.g. {{exact: 1, format: 0.1}}"
    )
    pattern: str = setting("", "reward format: a regular expression to be found in the answer, e.g. '答案是.+。$'")
    characters: list[int] = factory(lambda: [1, 100], "reward length: fewest and most characters of an answer")
    verse: Literal["auto", "五绝", "七绝", "五律", "七律"] = setting("auto", "reward verse: the form asked for")
    steps: int = setting(100, "optimiser steps", ge=1)
    prompts: int = setting(8, "prompts in a step", ge=1)
    generations: int = setting(8, "answers to each prompt, which are judged against each other", ge=2)
    answer_tokens: int = setting(128, "longest answer in tokens", ge=1)
    temperature: float = setting(1.0, "of the answers drawn in training", gt=0)
    beta: float = setting(0.02, "weight of the KL from the start; 0: none is computed", ge=0)
    validation: float = setting(0.1, "fraction of the prompts held out, answered before and behind", ge=0, le=0.5)
    held_prompts: int = setting(200, "at most so many prompts held out", ge=1)
    vllm: bool = setting(False, "write the answers with vLLM in this process (a GPU; vllm must be installed)")

    @property
    def batch_size(self) -> int:
        """Answers in one optimiser step."""
        return self.prompts * self.generations

    @property
    def epochs(self) -> int:
        """`steps` says how long."""
        return 1

    @model_validator(mode="after")
    def _usable(self) -> RlSettings:
        for name in self.rewards:
            if name not in REWARDS:
                raise ValueError(f"rewards: '{name}' is none{nearest(name, REWARDS)} (known: {', '.join(REWARDS)})")
        if not any(self.rewards.values()):
            raise ValueError("rewards: none has a weight other than 0")
        if "format" in self.rewards and not self.pattern:
            raise ValueError("pattern: reward format needs a regular expression")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: '{self.pattern}' is no regular expression ({error})") from None
        if len(self.characters) != 2 or not 0 < self.characters[0] <= self.characters[1]:
            raise ValueError("characters: two numbers are needed, fewest and most, e.g. [10, 60]")
        return self
