"""The verbs of the corridor, in its order. To add one: a room's settings and function, and a line here."""

from __future__ import annotations

from hanmo.convert.settings import ConvertSettings
from hanmo.corpus.microworld.settings import MicroworldSettings
from hanmo.corpus.settings import CorpusSettings
from hanmo.errors import HanmoError, nearest
from hanmo.evaluate.exams.settings import ExamSettings
from hanmo.evaluate.generation.settings import GenerationSettings, RecordsSettings
from hanmo.evaluate.settings import EvalSettings, ReportSettings
from hanmo.posttrain.settings import (
    DistillSettings,
    DpoSettings,
    QuestionsSettings,
    RewardSettings,
    RlSettings,
    SftSettings,
)
from hanmo.pretrain.settings import PretrainSettings
from hanmo.serve.settings import AnswersSettings
from hanmo.stage import Input, StageKind
from hanmo.tokenizer.settings import TokenizerSettings
from hanmo.tokens.settings import TokensSettings
from hanmo.understand.settings import UnderstandSettings

_ALL = (
    StageKind(
        "microworld",
        "make the small world's texts, dialogues, preferences and exam",
        MicroworldSettings,
        (),
        "hanmo.corpus.microworld.stage:run",
    ),
    StageKind(
        "corpus",
        "read raw text, clean it, drop what is unfit or a duplicate, hold some out",
        CorpusSettings,
        (
            Input("documents", "folders or files of raw text", required=False, many=True),
            Input("exams", "exams that must not be in the text; in a recipe, those it evaluates on", False, many=True),
        ),
        "hanmo.corpus.stage:run",
        remote="writes",
    ),
    StageKind(
        "tokenizer",
        "train a tokenizer on a corpus",
        TokenizerSettings,
        (Input("corpus", "a corpus folder"),),
        "hanmo.tokenizer.train:run",
        remote="reads",
    ),
    StageKind(
        "tokens",
        "encode a corpus into token shards",
        TokensSettings,
        (Input("corpus", "a corpus folder"), Input("tokenizer", "a tokenizer folder")),
        "hanmo.tokens.stage:run",
        remote="writes",
    ),
    StageKind(
        "pretrain",
        "train a decoder on token shards",
        PretrainSettings,
        (
            Input("data", "folders of token shards, made with one tokenizer; or task files, for masked", many=True),
            Input("model", "a model to continue: a stage's folder, or any folder transformers loads", required=False),
        ),
        "hanmo.pretrain.stage:run",
        remote="reads",
        process="hanmo.pretrain.launch",
        planner="hanmo.plan.fit",
    ),
    StageKind(
        "records",
        "make dialogues of the files of a generation task, for sft",
        RecordsSettings,
        (Input("data", "the task's files", many=True),),
        "hanmo.evaluate.generation.stage:make_records",
    ),
    StageKind(
        "sft",
        "tune a model on dialogues",
        SftSettings,
        (Input("model", "the model to tune"), Input("records", "files of dialogues", many=True)),
        "hanmo.posttrain.sft:run",
        planner="hanmo.plan.tuning",
    ),
    StageKind(
        "questions",
        "part a domain's records into dialogues for sft and an exam of held-out questions",
        QuestionsSettings,
        (Input("records", "files of dialogues", many=True),),
        "hanmo.posttrain.questions:run",
    ),
    StageKind(
        "answers",
        "let a model answer prompts into records, for sft",
        AnswersSettings,
        (
            Input("teacher", "the model that answers: a model folder, a stage's folder or a .gguf file"),
            Input("prompts", "files of prompts, or of dialogues whose answers are not read", many=True),
        ),
        "hanmo.serve.answers:run",
    ),
    StageKind(
        "distill",
        "tune a model on dialogues towards a larger model's probabilities",
        DistillSettings,
        (
            Input("model", "the model to tune"),
            Input("teacher", "the larger model, with the same tokenizer"),
            Input("records", "files of dialogues", many=True),
        ),
        "hanmo.posttrain.distill:run",
        planner="hanmo.plan.tuning",
    ),
    StageKind(
        "reward",
        "train a reward model on preferences",
        RewardSettings,
        (Input("model", "the model to start from"), Input("pairs", "files of preferences", many=True)),
        "hanmo.posttrain.reward:run",
        planner="hanmo.plan.tuning",
    ),
    StageKind(
        "dpo",
        "tune a model on preferences",
        DpoSettings,
        (
            Input("model", "the model to tune"),
            Input("pairs", "files of preferences", many=True),
            Input("reward", "a reward model that compares answers before and behind the training", required=False),
        ),
        "hanmo.posttrain.dpo:run",
        planner="hanmo.plan.tuning",
    ),
    StageKind(
        "understand",
        "tune a model on an understanding task (CLUE, entities, reading) and predict",
        UnderstandSettings,
        (Input("model", "the model to tune"), Input("data", "the folder with the task's files")),
        "hanmo.understand.stage:run",
    ),
    StageKind(
        "grpo",
        "tune a model on rewards: rules that can be checked, or a reward model",
        RlSettings,
        (
            Input("model", "the model to tune"),
            Input("records", "files of dialogues: prompts, and the answers that rewards compare with", many=True),
            Input("reward", "a reward model, for the reward `model`", required=False),
        ),
        "hanmo.posttrain.rl.stage:run",
        planner="hanmo.plan.rewarded",
    ),
    StageKind(
        "eval",
        "measure models on held-out text and exams",
        EvalSettings,
        (
            Input("model", "the models to measure", many=True),
            Input("corpus", "a corpus folder with held-out text", required=False),
            Input("exam", "exam files or the folder of a microworld", required=False, many=True),
        ),
        "hanmo.evaluate.stage:run",
    ),
    StageKind(
        "exam",
        "let models sit public exams (C-Eval, CMMLU, C3 and others)",
        ExamSettings,
        (
            Input("model", "the models", many=True),
            Input("data", "a folder of the exams' own files; without it they come from the hub", required=False),
            Input(
                "corpus", "folders of the corpora that were trained on: what of the exams is in them", False, many=True
            ),
        ),
        "hanmo.evaluate.exams.stage:run",
    ),
    StageKind(
        "generation",
        "let models write: summaries, advertisements, words, corrections, equations, facts",
        GenerationSettings,
        (
            Input("model", "the models", many=True),
            Input("data", "the task's files", many=True),
            Input("examples", "more of them: worked examples for models that never learnt dialogues", False, many=True),
        ),
        "hanmo.evaluate.generation.stage:run",
    ),
    StageKind(
        "convert",
        "write a model as GGUF for llama.cpp and Ollama",
        ConvertSettings,
        (
            Input("model", "the model to convert"),
            Input("corpus", "folder of a corpus stage: its text tells which weights matter", required=False),
        ),
        "hanmo.convert.stage:run",
    ),
    StageKind(
        "report",
        "one page about a whole run",
        ReportSettings,
        (Input("eval", "the folder of an eval stage"),),
        "hanmo.evaluate.report:run",
    ),
)

#: All kinds of stages by their verb.
KINDS: dict[str, StageKind] = {item.do: item for item in _ALL}


def kind(do: str, where: str) -> StageKind:
    """Look a kind up; an unknown verb is an error at `where` that names the nearest."""
    if do not in KINDS:
        raise HanmoError(f"{where}: do: '{do}' is unknown{nearest(do, KINDS)} (known: {', '.join(KINDS)})")
    return KINDS[do]
