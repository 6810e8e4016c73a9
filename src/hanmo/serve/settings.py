"""Settings of the answers stage."""

from __future__ import annotations

from pydantic import model_validator

from hanmo.posttrain.settings import RecordSettings
from hanmo.stage import setting


class AnswersSettings(RecordSettings):
    """A teacher's answers to prompts, as records to tune a student on."""

    form: str = setting(
        "auto",
        "form of the prompts' files: prompt ({prompt: text}), or any form of dialogues; auto: recognised per file, "
        "each: recognised per record",
    )
    system: str = setting("", "a system message put before every prompt that has none; it is kept in the records")
    samples: int = setting(1, "answers to each prompt", ge=1)
    answer_tokens: int = setting(256, "longest answer in tokens", ge=1)
    temperature: float = setting(0.7, "of the answers; 0 takes the likeliest token", ge=0)
    top_p: float = setting(0.95, "the share of probability that is drawn from", gt=0, le=1)
    keep_cut: bool = setting(False, "also keep answers that were cut at answer_tokens")
    context: int | None = setting(None, "of prompt and answer together; empty: the model's own, at most 8192", ge=8)
    device: str = setting("auto", "auto, cpu, cuda, mps, npu, ...", affects="speed")
    # Batched products round otherwise, so the batch decides which of two nearly equal tokens is taken.
    batch_prompts: int = setting(16, "prompts answered at once", ge=1)

    @model_validator(mode="after")
    def _drawn(self) -> AnswersSettings:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: at temperature 0 all answers to a prompt are the same; raise temperature")
        return self
