"""Settings of the generation and records stages."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from hanmo.stage import Settings, setting


class TaskSettings(Settings):
    """A generation task and its files."""

    task: str = setting(doc="the task (`hanmo eval tasks` lists them), e.g. lcsts, adgen, spelling")
    source: str = setting("", "the field of a record that the model is given; empty: as the task's known files call it")
    target: str = setting("", "the field with the answer; empty: as the task's known files call it")
    prompt: str = setting("", "what is asked, with {} for the source; empty: the task's own")
    limit: int | None = setting(None, "take at most this many records, evenly; empty: all", ge=1)
    on_bad_record: Literal["fail", "skip"] = setting(
        "fail", "a record with a fault: stop with its file and line, or leave it out and count it"
    )

    @model_validator(mode="after")
    def _place(self) -> TaskSettings:
        if self.prompt and self.prompt.count("{}") != 1:
            raise ValueError("prompt: {} must stand in it once, where the source goes")
        return self


class RecordsSettings(TaskSettings):
    """Dialogues for `hanmo sft` out of a generation task's files."""


class GenerationSettings(TaskSettings):
    """Answers to a generation task, and what they are worth."""

    ask: Literal["auto", "chat", "plain"] = setting(
        "auto", "chat: one turn of a dialogue; plain: question and answer as text; auto: by what the model was tuned to"
    )
    shots: int = setting(4, "worked examples in front of a plain question, from the input `examples`", ge=0)
    answer_tokens: int = setting(0, "longest answer in tokens; 0: the task's own", ge=0)
    resamples: int = setting(1000, "of the records, for the 95 % intervals", ge=100)
    seed: int = setting(7, "of the resamples and of the choice of worked examples")
    precision: Literal["float32", "bfloat16"] = setting("float32", "of the arithmetic")
    device: str = setting("auto", "auto, cpu, cuda, mps, npu, ...", affects="speed")
    batch_prompts: int = setting(64, "answers written at once", ge=1, affects="speed")
