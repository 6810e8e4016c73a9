"""Every stage as a Python function: `api.pretrain(data="runs/x/tokens", out="runs/x/base", preset="hanmo-4m")`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hanmo import ranks
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.models import hub
from hanmo.plan.shortage import fitted
from hanmo.recipe import check_settings, load_recipe
from hanmo.remote import as_path, is_remote, is_url
from hanmo.run import Job, Plan, execute, follow, plan, run_recipe, taken
from hanmo.stages import KINDS

PathLike = str | Path


def run_stage(
    do: str,
    *,
    out: PathLike,
    inputs: dict[str, PathLike | Iterable[PathLike]] | None = None,
    fit: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Run one stage in a process of its own and return its manifest; one that is done already is not run again.

    Args:
        do: the verb, a key of `hanmo.stages.KINDS`.
        out: the stage's folder.
        inputs: role -> path or paths.
        fit: choose the settings that decide memory so that the stage fits (see `hanmo.plan.fit`).
        settings: the stage's settings by name.

    Raises:
        HanmoError: a wrong setting or input; the stage's own faults, as the line it printed says.
    """
    if ranks.following():
        follow()
        return read_json(as_path(out) / "manifest.json")
    with ranks.leading():
        return _run_stage(do, as_path(out), inputs, settings, fit)


def _run_stage(
    do: str, out: Path, inputs: dict[str, PathLike | Iterable[PathLike]] | None, settings: dict[str, Any], fit: bool
) -> dict[str, Any]:
    what = KINDS[do]
    given = {role: _paths(value) for role, value in (inputs or {}).items() if value is not None}
    for item in what.inputs:
        if item.required and not given.get(item.role):
            raise HanmoError(f"{do}: needs {item.role}: {item.doc}")
        if not item.many and len(given.get(item.role, [])) > 1:
            raise HanmoError(f"{do}: {item.role} takes one path, {len(given[item.role])} are given")
    checked = check_settings(what, settings, do).anchored(Path.cwd())
    found = {role: [taken(path, out) for path in paths] for role, paths in given.items()}
    given = {role: [path for path, _ in pairs] for role, pairs in found.items()}
    results = {role: [result for _, result in pairs] for role, pairs in found.items()}
    job = Job(out.name if is_remote(out) else out.resolve().name, what, checked, given, out, results)
    todo: Plan = plan(job)
    if todo.action == "skip":
        return read_json(out / "manifest.json")
    if fit:
        job.settings = fitted(what, job.settings, job.inputs)
    return execute(job, todo)


def run(
    recipe: PathLike,
    out: PathLike,
    settings: Iterable[str] = (),
    start: str | None = None,
    until: str | None = None,
    dry: bool = False,
    fit: bool = False,
) -> list[tuple[str, Plan]]:
    """Run a recipe; see `hanmo.run.run_recipe`. `settings` are `stage.key=value` items."""
    return run_recipe(load_recipe(recipe, list(settings)), as_path(out), start, until, dry, fit=fit)


def _paths(value: PathLike | Iterable[PathLike]) -> list[Path]:
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return [_path(str(item)) for item in items]


def _path(item: str) -> Path:
    if is_url(item):
        return as_path(item)
    return Path(item) if hub.named(item) else Path(item).expanduser().resolve()


def microworld(out: PathLike, **settings: Any) -> dict[str, Any]:
    """Make a small world: documents, dialogues, preferences and an exam. See `MicroworldSettings`."""
    return run_stage("microworld", out=out, **settings)


def corpus(out: PathLike, documents: PathLike | Iterable[PathLike] | None = None, **settings: Any) -> dict[str, Any]:
    """Read, clean, filter and split raw text. See `CorpusSettings`."""
    return run_stage("corpus", out=out, inputs={"documents": documents} if documents else {}, **settings)


def tokenizer(corpus: PathLike, out: PathLike, **settings: Any) -> dict[str, Any]:
    """Train a tokenizer on a corpus. See `TokenizerSettings`."""
    return run_stage("tokenizer", out=out, inputs={"corpus": corpus}, **settings)


def tokens(corpus: PathLike, tokenizer: PathLike, out: PathLike, **settings: Any) -> dict[str, Any]:
    """Encode a corpus into token shards. See `TokensSettings`."""
    return run_stage("tokens", out=out, inputs={"corpus": corpus, "tokenizer": tokenizer}, **settings)


def pretrain(
    data: PathLike | Iterable[PathLike], out: PathLike, model: PathLike | None = None, **settings: Any
) -> dict[str, Any]:
    """Pretrain a decoder on the shards in `data` (one folder or several), or continue `model`. See
    `PretrainSettings`.

    With `fit=True` micro-batches, recomputation and sharding are chosen so that it fits into the memory that is free.
    """
    inputs: dict[str, PathLike | Iterable[PathLike]] = {"data": data}
    if model is not None:
        inputs["model"] = model
    return run_stage("pretrain", out=out, inputs=inputs, **settings)


def sft(model: PathLike, records: PathLike | Iterable[PathLike], out: PathLike, **settings: Any) -> dict[str, Any]:
    """Tune a model on dialogues. See `SftSettings`."""
    return run_stage("sft", out=out, inputs={"model": model, "records": records}, **settings)


def distill(
    model: PathLike, teacher: PathLike, records: PathLike | Iterable[PathLike], out: PathLike, **settings: Any
) -> dict[str, Any]:
    """Tune a model on dialogues towards a larger model's probabilities. See `DistillSettings`."""
    return run_stage("distill", out=out, inputs={"model": model, "teacher": teacher, "records": records}, **settings)


def answers(
    teacher: PathLike, prompts: PathLike | Iterable[PathLike], out: PathLike, **settings: Any
) -> dict[str, Any]:
    """Let a model answer prompts into records for `sft`. See `AnswersSettings`."""
    return run_stage("answers", out=out, inputs={"teacher": teacher, "prompts": prompts}, **settings)


def reward(model: PathLike, pairs: PathLike | Iterable[PathLike], out: PathLike, **settings: Any) -> dict[str, Any]:
    """Train a reward model on preferences. See `RewardSettings`."""
    return run_stage("reward", out=out, inputs={"model": model, "pairs": pairs}, **settings)


def dpo(
    model: PathLike,
    pairs: PathLike | Iterable[PathLike],
    out: PathLike,
    reward: PathLike | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Tune a model on preferences; `reward` is a reward model that compares before and after. See `DpoSettings`."""
    return run_stage("dpo", out=out, inputs={"model": model, "pairs": pairs, "reward": reward or ()}, **settings)


def grpo(
    model: PathLike,
    records: PathLike | Iterable[PathLike],
    out: PathLike,
    reward: PathLike | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Tune a model on rewards; `reward` is a reward model, for the reward `model`. See `RlSettings`."""
    return run_stage("grpo", out=out, inputs={"model": model, "records": records, "reward": reward or ()}, **settings)


def evaluate(
    model: PathLike | Iterable[PathLike],
    out: PathLike,
    corpus: PathLike | None = None,
    exam: PathLike | Iterable[PathLike] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Measure models on held-out text and exams. See `EvalSettings`."""
    inputs: dict[str, PathLike | Iterable[PathLike]] = {"model": model}
    if corpus is not None:
        inputs["corpus"] = corpus
    if exam is not None:
        inputs["exam"] = exam
    return run_stage("eval", out=out, inputs=inputs, **settings)


def convert(model: PathLike, out: PathLike, **settings: Any) -> dict[str, Any]:
    """Write a model as GGUF. See `ConvertSettings`."""
    return run_stage("convert", out=out, inputs={"model": model}, **settings)


def import_model(path: PathLike, out: PathLike, **options: Any) -> dict[str, Any]:
    """Make a model folder from another project's checkpoint. See `hanmo.convert.imports.import_model`."""
    from hanmo.convert.imports import import_model as function

    return function(Path(path), Path(out), **options)


def report(eval: PathLike, out: PathLike, **settings: Any) -> dict[str, Any]:
    """Write the report about a run. See `ReportSettings`."""
    return run_stage("report", out=out, inputs={"eval": eval}, **settings)


def generate(model: PathLike, prompts: Sequence[str], **options: Any) -> Any:
    """Continue prompts; see `hanmo.serve.generate`."""
    from hanmo.serve import generate as function

    return function(model, prompts, **options)


def chat(model: PathLike, **options: Any) -> None:
    """Talk to a model in the terminal; see `hanmo.serve.chat`."""
    from hanmo.serve import chat as function

    function(model, **options)


def serve(model: PathLike, **options: Any) -> None:
    """Serve a model over HTTP; see `hanmo.serve.serve`."""
    from hanmo.serve import serve as function

    function(model, **options)
