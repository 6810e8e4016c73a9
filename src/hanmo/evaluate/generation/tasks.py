"""The table of generation tasks. One that is like another is a line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanmo.errors import chosen

Kind = Literal["text", "words", "spelling", "sums", "facts"]


@dataclass(frozen=True)
class Task:
    """One generation task.

    Attributes:
        name: as it is asked for.
        what: in words.
        kind: how answers are judged.
        sources, targets: what the fields of its records are called in known files; the first that is there is taken.
        prompt: what a model is asked; {} is the source.
        tokens: longest answer.
        main: the figure that is reported first.
    """

    name: str
    what: str
    kind: Kind
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    prompt: str
    tokens: int
    main: str


_TEXT = ("content", "text", "source", "src", "short_text", "article", "document", "input")
_SUMMARY = ("summary", "title", "target", "tgt", "abstract", "output", "label")

_ALL = (
    Task("lcsts", "headlines of short news", "text", _TEXT, _SUMMARY, "为下面的短文写一个摘要：\n{}", 48, "rouge_l"),
    Task("cepsum", "what a product is, in short", "text", _TEXT, _SUMMARY, "写一段商品简介：\n{}", 128, "rouge_l"),
    Task(
        "csl-title",
        "titles of papers",
        "text",
        ("abst", *_TEXT),
        _SUMMARY,
        "为下面的论文摘要写一个标题：\n{}",
        48,
        "rouge_l",
    ),
    Task("adgen", "advertisements for clothes", "text", _TEXT, _SUMMARY, "按下面的标签写一段广告：\n{}", 192, "bleu_4"),
    Task("text", "texts of your own", "text", _TEXT, _SUMMARY, "{}", 128, "rouge_l"),
    Task(
        "segmentation",
        "words with spaces between them",
        "words",
        ("text", "sentence", "source"),
        ("words", "segmented", "target"),
        "把下面的句子分成词，词之间空一格：\n{}",
        256,
        "f1",
    ),
    Task(
        "spelling",
        "wrong characters put right",
        "spelling",
        ("original_text", "source", "src", "wrong", "text"),
        ("correct_text", "target", "tgt", "correct"),
        "改正下面句子里的错别字：\n{}",
        192,
        "sentence_correction_f1",
    ),
    Task(
        "math23k",
        "word problems of primary school",
        "sums",
        ("original_text", "question", "problem", "text"),
        ("ans", "answer"),
        "列出算式，不用计算：\n{}",
        96,
        "accuracy",
    ),
    Task("kbqa", "facts, in one name", "facts", ("question",), ("answer", "answers"), "{}", 64, "exact"),
)

#: All tasks by name.
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
#: Other names of tasks, as folders and papers have them.
_ALIASES = {
    "csl": "csl-title",
    "cws": "segmentation",
    "pku": "segmentation",
    "msr": "segmentation",
    "csc": "spelling",
    "sighan": "spelling",
    "kgclue": "kbqa",
    "nlpcc-kbqa": "kbqa",
    "summary": "lcsts",
}


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        HanmoError: there is none; with the nearest.
    """
    return chosen("task", name, TASKS, _ALIASES)
