"""The table of tasks. A new one that is like another is a line here; a new form of files, a function in `forms`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hanmo.errors import chosen

HeadKind = Literal["class", "choice", "entities", "reading"]
#: The file that says what a tuned folder is tuned on.
RECORD = "task.json"


@dataclass(frozen=True)
class Task:
    """One understanding task.

    Attributes:
        name: as it is asked for.
        what: in words.
        form: of its files, a key of `forms.FORMS`.
        head: what is put on the model.
        fields: names of the text (or the two texts) in a record.
        labels: all labels, in their order; empty: those of the training file.
        submission: what a file of predictions is called.
        length: longest row in tokens by default.
        epochs: by default.
    """

    name: str
    what: str
    form: str
    head: HeadKind
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    submission: str = ""
    length: int = 128
    epochs: int = 5

    @property
    def metric(self) -> str:
        """What the best checkpoint is chosen by, and what is reported first."""
        return {"entities": "f1", "reading": "em"}.get(self.head, "accuracy")


_YES_NO = ("0", "1")
_NLI = ("entailment", "neutral", "contradiction")
_TNEWS = tuple(str(number) for number in (*range(100, 105), *range(106, 111), *range(112, 117)))
_PAIR = ("sentence1", "sentence2")
_CLUENER = (
    "address",
    "book",
    "company",
    "game",
    "government",
    "movie",
    "name",
    "organization",
    "position",
    "scene",
)

_ALL = (
    Task("afqmc", "do two questions to a bank mean the same", "texts", "class", _PAIR, _YES_NO, "afqmc_predict.json"),
    Task("tnews", "headlines in 15 topics", "texts", "class", ("sentence",), _TNEWS, "tnews_predict.json"),
    Task(
        "iflytek",
        "descriptions of apps in 119 topics",
        "texts",
        "class",
        ("sentence",),
        tuple(map(str, range(119))),
        "iflytek_predict.json",
        length=256,
        epochs=8,
    ),
    Task("cmnli", "does the first sentence imply the second", "texts", "class", _PAIR, _NLI, "cmnli_predict.json"),
    Task("ocnli", "the same, written in Chinese", "texts", "class", _PAIR, _NLI, "ocnli_50k_predict.json"),
    Task(
        "wsc",
        "does the pronoun mean the noun",
        "wsc",
        "class",
        labels=("true", "false"),
        submission="cluewsc_predict.json",
        epochs=10,
    ),
    Task(
        "csl",
        "are these the keywords of the abstract",
        "csl",
        "class",
        labels=_YES_NO,
        submission="csl_predict.json",
        length=256,
    ),
    Task("chid", "which idiom fits the gap", "chid", "choice", submission="chid_predict.json", length=128),
    Task("c3", "which answer fits the passage", "c3", "choice", submission="c3_predict.json", length=256),
    Task(
        "cluener",
        "entities of ten types",
        "cluener",
        "entities",
        labels=_CLUENER,
        submission="cluener_predict.json",
        epochs=8,
    ),
    Task("msra-ner", "people, places, organisations in news", "conll", "entities", submission="msra_ner_predict.json"),
    Task("weibo-ner", "names and mentions in Weibo", "conll", "entities", submission="weibo_ner_predict.json"),
    Task("resume-ner", "eight types in résumés", "conll", "entities", submission="resume_ner_predict.json"),
    Task(
        "cmrc2018",
        "find the answer in the passage",
        "squad",
        "reading",
        submission="cmrc2018_predict.json",
        length=384,
        epochs=3,
    ),
    Task(
        "drcd",
        "the same in traditional characters",
        "squad",
        "reading",
        submission="drcd_predict.json",
        length=384,
        epochs=3,
    ),
    Task(
        "eprstmt",
        "is a review good or bad",
        "texts",
        "class",
        ("sentence",),
        ("Positive", "Negative"),
        "eprstmt_predict.json",
        epochs=10,
    ),
    Task(
        "bustm",
        "do two requests to an assistant mean the same",
        "texts",
        "class",
        _PAIR,
        _YES_NO,
        "bustm_predict.json",
        epochs=10,
    ),
    Task(
        "csldcp",
        "abstracts in 67 disciplines",
        "texts",
        "class",
        ("content",),
        submission="csldcp_predict.json",
        length=256,
        epochs=10,
    ),
    Task("text", "texts of your own: {sentence, label}", "texts", "class", ("sentence",), submission="predict.json"),
    Task(
        "pair", "pairs of your own: {sentence1, sentence2, label}", "texts", "class", _PAIR, submission="predict.json"
    ),
    Task("ner", "entities of your own: CoNLL, a character and its tag a line", "conll", "entities"),
    Task("reading", "passages of your own, in SQuAD's form", "squad", "reading", length=384, epochs=3),
)

#: All tasks by name.
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
#: Other names of tasks, as folders and papers have them.
_ALIASES = {"cluewsc": "wsc", "cluewsc2020": "wsc", "msra": "msra-ner", "weibo": "weibo-ner", "cmrc": "cmrc2018"}


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        HanmoError: there is none; with the nearest.
    """
    return chosen("task", name, TASKS, _ALIASES)
