"""How items are asked: one lm-eval task a subject, by one of four methods.

| method | what stands before the answer | what is compared |
|---|---|---|
| loglikelihood | question, lettered options, 答案： | ln p of each letter (lm-eval's `multiple_choice`, its `acc`) |
| cloze | question, 答案： | ln p of each option's text by its characters (lm-eval's `acc_norm`) |
| ppl | as loglikelihood | cross-entropy of the whole text with each letter (OpenCompass's PPLInferencer) |
| gen | as loglikelihood | the first letter that is written |

Endings and pairs have no letters: they are compared as texts by the first three methods, and under letters by `gen`.
A number is always written. Prompts of C-Eval, CMMLU, XCOPA and ZhoBLiMP are lm-eval's, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from hanmo.evaluate.exams.catalog import Form
from hanmo.evaluate.exams.reading import Item, Part
from hanmo.evaluate.items import LETTERS

Method = Literal["loglikelihood", "ppl", "gen", "cloze"]
METHODS: tuple[Method, ...] = ("loglikelihood", "ppl", "gen", "cloze")

#: Tokens that an answer may take: a letter with some words around it; the steps to a number.
_LETTER_TOKENS, _NUMBER_TOKENS = 16, 256
_MARKED = re.compile(r"(?:答案|选项?)\s*(?:应该|应当|就)?(?:是|为|选)?\s*[:：]?\s*[（(]?([A-H])(?![A-Za-z])")
_LETTER = re.compile(r"(?<![A-Za-z])([A-H])(?![A-Za-z])")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def task(name: str, form: Form, part: Part, items: Sequence[Item], method: Method, shots: int) -> ConfigurableTask:
    """An lm-eval task that asks `items` of a subject.

    Args:
        name: the task's name, unique in a run.
        shots: worked examples before each question, at most those that the subject has.
    """
    splits = {"items": items, "examples": part.examples}
    by_id = {f"{split}/{place}": item for split, own in splits.items() for place, item in enumerate(own)}
    lettered = form == "choice" or method == "gen"
    inside = any(item.inside for item in items)

    def text(doc: dict[str, Any]) -> str:
        item = by_id[doc["id"]]
        if form == "number":
            return f"问题：{item.question}\n答案："
        if not lettered:
            return item.question
        if item.inside:
            return f"{item.question}\n答案："
        if method == "cloze":
            return f"{item.question}\n答案："
        asked = {"ending": f"{item.question}……\n", "pair": "下面哪一句合乎语法？\n", "choice": f"{item.question}\n"}
        options = zip(LETTERS, item.options, strict=False)
        return asked[form] + "".join(f"{letter}. {option}\n" for letter, option in options) + "答案："

    def choices(doc: dict[str, Any]) -> list[str]:
        item = by_id[doc["id"]]
        return list(item.options) if not lettered or (method == "cloze" and not item.inside) else item.letters

    def written(doc: dict[str, Any]) -> str:
        item = by_id[doc["id"]]
        return str(item.answer) if form == "number" else LETTERS[item.answer]

    docs = {
        split: datasets.Dataset.from_list([{"id": f"{split}/{place}"} for place in range(len(own))])
        for split, own in splits.items()
        if own
    }
    writes = method == "gen" or form == "number"
    shots = min(shots, len(part.examples))
    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: docs,
        "test_split": "items",
        "doc_to_text": text,
        "description": part.description,
        "num_fewshot": shots,
        # lm-eval puts a blank before an answer, but not between the halves of a Chinese sentence pair or of a verse.
        "target_delimiter": "" if form == "pair" or (method == "cloze" and not inside) else " ",
    }
    if shots:
        config |= {"fewshot_split": "examples", "fewshot_config": {"sampler": "first_n"}}
    if writes:
        number = form == "number"
        config |= {
            "output_type": "generate_until",
            "doc_to_target": written,
            "generation_kwargs": {
                "until": ["\n\n", "问题："] if number else ["\n"],
                "max_gen_toks": _NUMBER_TOKENS if number else _LETTER_TOKENS,
                "do_sample": False,
            },
            "process_results": lambda doc, results: {"acc": float(_given(results[0], number) == written(doc))},
        }
    else:
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": choices,
            "doc_to_target": lambda doc: by_id[doc["id"]].answer,
        }
    metrics = ["acc"] if writes or method == "ppl" else ["acc", "acc_norm"]
    config["metric_list"] = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in metrics]
    made = (_Perplexity if method == "ppl" and not writes else ConfigurableTask)(config=config)
    made.set_fewshot_seed(0)
    return made


def decides(method: Method) -> str:
    """The metric of a task that is the method's."""
    return "acc_norm" if method == "cloze" else "acc"


def _given(reply: str, number: bool) -> str | None:
    """The answer in a reply: the last number, or the letter behind 答案, or else the first letter that stands alone."""
    if number:
        found = _NUMBER.findall(reply)
        return re.sub(r"\.0+$", "", found[-1].replace(",", "")) if found else None
    match = _MARKED.search(reply) or _LETTER.search(reply)
    return match[1] if match else None


class _Perplexity(ConfigurableTask):
    """Multiple choice by the perplexity of the whole text with each option, the least of which is the choice.

    OpenCompass's `PPLInferencer` (Contributors 2023), with the prompts of this module.
    """

    def construct_requests(self, doc: dict[str, Any], ctx: str | list[str], **kwargs: Any) -> list[Instance]:
        made = super().construct_requests(doc, ctx, **kwargs)
        for one in made if isinstance(made, list) else [made]:
            one.request_type = "perplexity"  # type: ignore[assignment]
            one.arguments = ("".join(one.arguments),)
        return made if isinstance(made, list) else [made]

    def process_results(self, doc: dict[str, Any], results: Sequence[float]) -> dict[str, float]:
        least = min(range(len(results)), key=lambda index: results[index])
        return {"acc": float(least == self.doc_to_target(doc))}
