"""Settings of the exam stage."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from hanmo.stage import Names, Settings, setting


class ExamSettings(Settings):
    """Public exams by name, asked through lm-eval."""

    tasks: Names = setting(doc="exams, e.g. ceval, cmmlu, c3 (`hanmo eval exams` lists them); lm:NAME is lm-eval's")
    method: Literal["loglikelihood", "ppl", "gen", "cloze"] = setting(
        "loglikelihood",
        "loglikelihood: of each letter, as lm-eval; ppl: of the whole text, as OpenCompass; gen: what is written; "
        "cloze: of each option's text",
    )
    shots: int = setting(0, "worked examples in front of a question", ge=0)
    limit: int | None = setting(None, "items of every subject, taken evenly; empty: all", ge=1)
    chat: Literal["auto", "yes", "no"] = setting(
        "auto", "ask by the chat template; auto: a chat model that is asked to write (gen)"
    )
    contamination: float = setting(
        0.5, "share of an item that one document of the corpus must hold to count", gt=0, le=1
    )
    resamples: int = setting(2000, "of the items, for the interval of the difference between two models", ge=100)
    context: int | None = setting(None, "longest input in tokens; empty: the longest the model is made for", ge=64)
    precision: Literal["float32", "bfloat16"] = setting("float32", "of the arithmetic")
    device: str = setting("auto", "auto, cpu, cuda, mps, npu, ...", affects="speed")
    batch_tokens: int = setting(
        0, "tokens that are read at once; 0: 512 a processor of a CPU, 16,384 elsewhere", ge=0, affects="speed"
    )

    @model_validator(mode="after")
    def _some(self) -> ExamSettings:
        if not self.tasks:
            raise ValueError("tasks: name an exam, e.g. ceval")
        return self
