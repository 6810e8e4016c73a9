"""Settings of the evaluation and report stages."""

from __future__ import annotations

from typing import Literal

from hanmo.stage import Settings, factory, setting

#: Openings every model completes: a story, a season, the weather, a scene and a line of verse. None ends in
#: punctuation: the tokenizer joins a mark with the word behind it, so training text rarely shows a cut after a mark.
PROMPTS = ("从前有一个", "春天来了", "今天的天气", "他走进家门看见", "床前明月光")
#: Questions every chat model answers beside the exam.
QUESTIONS = ("你好！", "请介绍一下你自己。", "三加五等于几？")


class EvalSettings(Settings):
    """Held-out bits per byte, exams and samples of one or several models."""

    heldout_documents: int = setting(
        2000, "most held-out documents to score, drawn evenly over all of them by a hash of their id", ge=1
    )
    heldout_mb: float = setting(0.5, "most megabytes of held-out text to score (UTF-8)", gt=0)
    context: int | None = setting(
        None, "window in tokens for scoring text; empty: the longest the model is made for", ge=8
    )
    bootstrap: int = setting(1000, "resamples of the held-out documents for the 95 % interval", ge=100)
    exam_limit: int | None = setting(None, "ask only this many items of every exam, drawn evenly; empty: all", ge=1)
    answer_tokens: int = setting(48, "longest answer to an exam question, in tokens", ge=1)
    choose: Literal["auto", "likelihood"] = setting(
        "auto",
        "how a chat model chooses: auto: by what it writes; likelihood: the likeliest option, as models that never "
        "learnt to chat do, so that both can be compared",
    )
    shots: int = setting(4, "worked examples in front of a question for a model that was never trained to chat", ge=0)
    prompts: list[str] = factory(lambda: list(PROMPTS), "openings that every model completes")
    questions: list[str] = factory(lambda: list(QUESTIONS), "questions that every chat model answers")
    variety: int = setting(
        8, "texts drawn behind each opening, to measure repetition and variety; 0: not measured", ge=0
    )
    sample_tokens: int = setting(80, "longest sample, in tokens", ge=1)
    temperature: float = setting(0.8, "of the samples; 0 takes the likeliest token", ge=0)
    top_p: float = setting(0.95, "of the samples: the share of probability that is drawn from", gt=0, le=1)
    seed: int = setting(7, "of the samples, the bootstrap and the choice of worked examples")
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "of the arithmetic; float32 is exact, bfloat16 is for large models on a GPU"
    )
    device: str = setting("auto", "auto, cpu, cuda, mps, npu, ...", affects="speed")
    batch_tokens: int = setting(4096, "tokens scored at once", ge=64, affects="speed")
    batch_prompts: int = setting(64, "answers written at once", ge=1, affects="speed")


class ReportSettings(Settings):
    """The page about a run."""

    title: str | None = setting(None, "headline of the page; empty: the name of the run's folder")
    language: Literal["auto", "en", "zh"] = setting(
        "auto", "language the page opens in; auto: the reader's browser decides (a button changes it)"
    )
    reject_examples: int = setting(3, "examples shown of every reason a document was left out for", ge=0)
    curve_points: int = setting(600, "most points kept of every curve", ge=50)
