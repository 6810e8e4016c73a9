"""The runner: which stages of a recipe must run, and running each in a process of its own.

A stage's result is decided by its key: what it does, the settings that change its result, and the results it reads. The
folder of a finished stage holds the key in `manifest.json`; that of a stage under way in `stage.json`. From these:

* the same key and budget: done, skipped;
* the same key, a larger budget (more training tokens): extended from what is there;
* the same key, no manifest: a killed try, resumed;
* another key: run anew, and the reason is printed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hanmo import ranks
from hanmo.console import console, human_seconds
from hanmo.errors import HanmoError
from hanmo.files import fingerprint_json, fingerprint_path, read_json, write_json
from hanmo.messages import translated
from hanmo.models import hub
from hanmo.plan.shortage import fitted, killed_advice
from hanmo.process import StageProcess, computing, start_stage
from hanmo.recipe import Recipe, Stage
from hanmo.remote import as_path, faults, home_of, is_remote, remove_tree
from hanmo.stage import Affects, Settings, StageKind, affects_of, by_effect
from hanmo.stages import KINDS

#: Seconds that a stage gets to write its checkpoint after a stop was asked for.
GRACE = 60
#: Exit status of a stage that said what is wrong with its settings or inputs.
REFUSED = 2


@dataclass
class Job:
    """One stage with everything that is needed to run it."""

    name: str
    kind: StageKind
    settings: Settings
    inputs: dict[str, list[Path]]
    out: Path
    #: Fingerprint of every input, role by role, in the order of `inputs`.
    results: dict[str, list[str]] = field(default_factory=dict)

    def deciding(self) -> dict[str, Any]:
        """The settings whose change makes another result."""
        return self._by_effect("result")

    def budget(self) -> dict[str, Any]:
        """The settings whose growth extends a result."""
        return self._by_effect("budget")

    def external(self) -> dict[str, str]:
        """Files that the settings name, with the fingerprints of their content."""
        return {str(path): fingerprint_path(path) for path in self.settings.external()}

    def key(self) -> str:
        """What the result depends on, budget aside."""
        files = sorted(self.external().values())
        return fingerprint_json([self.kind.do, self.deciding(), self.results, files])

    def result(self) -> str:
        """What a stage that reads this one depends on."""
        return fingerprint_json([self.key(), self.budget()])

    def _by_effect(self, effect: Affects) -> dict[str, Any]:
        return by_effect(self.settings, effect)


@dataclass(frozen=True)
class Plan:
    """What is to be done about a job: "skip", "extend", "resume", "run" (first time) or "rerun", and why."""

    action: str
    reason: str = ""


def plan(job: Job, force: bool = False) -> Plan:
    """Compare a job with what its folder holds."""
    manifest, begun = _maybe(job.out / "manifest.json"), _maybe(job.out / "stage.json")
    before = manifest or begun
    if before is None:
        with faults(job.out):
            foreign = job.out.is_dir() and any(p.name != ".hanmo.lock" for p in job.out.iterdir())
        if foreign:
            raise HanmoError(f"{job.out}: not empty, and not made by hanmo; give another --out")
        return Plan("run")
    if force:
        return Plan("rerun", "asked for")
    if before["key"] != job.key():
        return Plan("rerun", _difference(before, job))
    if manifest is None:
        return Plan("resume", "an earlier try was interrupted")
    if manifest["budget"] == job.budget():
        return Plan("skip")
    grown = all(_number(value) >= _number(manifest["budget"].get(name)) for name, value in job.budget().items())
    changed = next(name for name, value in job.budget().items() if manifest["budget"].get(name) != value)
    words = f"{changed}: {manifest['budget'].get(changed)} -> {job.budget()[changed]}"
    return Plan("extend", words) if grown else Plan("rerun", words)


def execute(job: Job, what: Plan) -> dict[str, Any]:
    """Run a job in a process of its own and return its manifest.

    Raises:
        HanmoError: the stage was killed, or another run works in the same folder.
        SystemExit: the stage failed; it has said why, and its status is passed on.
    """
    # There are no locks in object storage: only runs on this machine are kept apart there.
    home = home_of(job.out)
    new = not home.exists()
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.with_name(f"{home.name}.lock") if is_remote(job.out) else home / ".hanmo.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HanmoError(f"{job.out}: another hanmo works there; wait for it or stop it") from None
    try:
        if what.action == "rerun":
            _wipe(job.out)
        with faults(job.out):
            (job.out / "manifest.json").unlink(missing_ok=True)
        write_json(
            job.out / "stage.json",
            {
                "stage": job.name,
                "do": job.kind.do,
                "settings": job.settings.model_dump(mode="json"),
                "inputs": {role: [str(path) for path in paths] for role, paths in job.inputs.items()},
                "key": job.key(),
                "budget": job.budget(),
                "result": job.result(),
                "results": job.results,
                "external": job.external(),
            },
        )
        if _by_all(job.kind):
            number = ranks.tell({"stage": job.name, "do": job.kind.do, "out": str(job.out)})
            _child(job.name, job.kind, job.out, ranks.together(f"{number}-{job.name}"))
        else:
            _child(job.name, job.kind, job.out, ranks.alone())
    except SystemExit as failed:
        if new and failed.code == REFUSED and not is_remote(job.out):
            _leave_nothing(job.out)
        raise
    finally:
        lock.release()
    return read_json(job.out / "manifest.json")


def _leave_nothing(folder: Path) -> None:
    """Remove the folder of a stage that was refused before it wrote anything: nothing was begun there."""
    if {path.name for path in folder.iterdir()} <= {"stage.json", ".hanmo.lock"}:
        shutil.rmtree(folder)


def _by_all(kind: StageKind) -> bool:
    """Whether all processes that were started together do a stage of this kind, each with a child of its own."""
    return ranks.grouped() and kind.process != "hanmo.child"


def follow() -> None:
    """Take part in what the first of several processes runs, up to its end.

    Raises:
        SystemExit: a stage failed.
    """
    for told in ranks.heard():
        out = as_path(told["out"])
        _child(told["stage"], KINDS[told["do"]], out, ranks.together(f"{told['number']}-{told['stage']}"))


class _Stopped(BaseException):
    """A stop was asked for while a stage's process was being started."""


def _child(name: str, kind: StageKind, out: Path, environment: dict[str, str]) -> None:
    """Start a stage's process, pass signals on to it, and wait.

    The child leads a process group of its own and holds a pipe to us: when we die it ends itself with all its workers
    (`hanmo.child`), and when it dies we sweep up after it.
    """
    process: StageProcess | None = None
    stopped: float | None = None

    def stop(*_: Any) -> None:
        nonlocal stopped
        stopped = stopped or time.monotonic()
        if process is None:
            raise _Stopped
        # Where a signal cannot be caught by others (Windows) this would end it at once, without its checkpoint; Ctrl-C
        # reaches all processes of a console there.
        if hasattr(os, "killpg"):
            process.send(signal.SIGTERM)

    handlers = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        asking = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
        handlers = {number: signal.signal(number, stop) for number in asking}
    status = 0
    try:
        with contextlib.suppress(_Stopped):
            process = start_stage(kind, out, environment)
            while (ended := process.wait(1)) is None:
                if stopped is not None and time.monotonic() > stopped + GRACE:
                    process.send(getattr(signal, "SIGKILL", signal.SIGTERM))
            status = ended
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if process is not None:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.let_go()
    if stopped is not None:
        console.print(f"stopped in stage '{name}'; the same command goes on from there")
        raise SystemExit(130)
    if status < 0 or status in (134, 137):
        # 128 and more is how a shell, a container or a launcher says the same.
        number = abs(status) % 128
        more = killed_advice(kind, out) if number in (signal.SIGABRT, 9) else ""
        raise HanmoError(
            f"stage '{name}' was killed (signal {number}, often out of memory); the same command goes on{more}"
        )
    if status:
        raise SystemExit(status)


def jobs_of(recipe: Recipe, out: Path) -> list[Job]:
    """The jobs of a recipe in running order, their keys chained through what they read."""
    jobs: dict[str, Job] = {}
    outside: dict[Path, tuple[Path, str]] = {}
    for stage in recipe.stages:
        inputs: dict[str, list[Path]] = {}
        results: dict[str, list[str]] = {}
        for role, items in stage.sources.items():
            for item in items:
                if isinstance(item, str):
                    path, result = jobs[item].out, jobs[item].result()
                else:
                    if item not in outside:
                        outside[item] = taken(item, out / stage.name)
                    path, result = outside[item]
                inputs.setdefault(role, []).append(path)
                results.setdefault(role, []).append(result)
        jobs[stage.name] = Job(stage.name, stage.kind, stage.settings, inputs, out / stage.name, results)
    return list(jobs.values())


def taken(path: Path, out: Path) -> tuple[Path, str]:
    """(where an input from outside a recipe is, its fingerprint); a model by name is fetched.

    Args:
        out: the folder of the stage that reads it, which knows which revision of a model it has read before.
    """
    if not hub.named(path):
        return path, source_result(path)
    before = _maybe(out / "manifest.json") or _maybe(out / "stage.json") or {}
    known = [result for results in before.get("results", {}).values() for result in results]
    return hub.fetched(path, next((one for one in known if one.startswith(hub.repository(path))), ""))


def source_result(path: Path) -> str:
    """The fingerprint of an input from outside a recipe: its manifest's where a stage made it, else its content's."""
    with faults(path):
        manifest = _maybe(path / "manifest.json") if path.is_dir() else None
    result = manifest.get("result") if manifest else None
    return result or fingerprint_path(path)


def run_recipe(
    recipe: Recipe,
    out: Path,
    start: str | None = None,
    until: str | None = None,
    dry: bool = False,
    only: str | None = None,
    fit: bool = False,
) -> list[tuple[str, Plan]]:
    """Run what must be run; returns what was done (or, with `dry`, would be) stage by stage.

    Args:
        start: run this stage and all that reads it anew, even when done.
        until: the last stage to look at.
        only: look at no stage but this one; those that it reads must be done.
        fit: choose micro-batches, recomputation and sharding so that each training stage fits into memory.
    """
    if ranks.following():
        follow()
        return []
    with ranks.leading():
        return _run_recipe(recipe, out, start, until, dry, only, fit)


def _run_recipe(
    recipe: Recipe, out: Path, start: str | None, until: str | None, dry: bool, only: str | None, fit: bool
) -> list[tuple[str, Plan]]:
    names = [stage.name for stage in recipe.stages]
    for name in (start, until, only):
        if name is not None and name not in names:
            raise HanmoError(f"no stage '{name}' in recipe '{recipe.name}' (stages: {', '.join(names)})")
    forced = _downstream(recipe.stages, start) if start else set()
    if until:
        recipe = Recipe(recipe.name, recipe.stages[: names.index(until) + 1])
    done: list[tuple[str, Plan]] = []
    ran: set[str] = set()
    for number, job in enumerate(jobs_of(recipe, out), 1):
        if only and job.name != only:
            reader = next(stage for stage in recipe.stages if stage.name == only)
            if job.name in reader.after and plan(job).action != "skip":
                raise HanmoError(f"stage '{only}' reads '{job.name}', which is not done: run that first")
            continue
        what = plan(job, force=job.name in forced)
        # What reads a stage that will be made anew cannot be judged by the old one's files; its key already differs
        # unless the stage was only forced, resumed or extended to the same result.
        done.append((job.name, what))
        label = f"[{number}/{len(recipe.stages)}] {job.name} ({job.kind.do})"
        if what.action == "skip":
            console.print(f"{label}: done before")
            continue
        console.print(
            f"[bold]{label}[/]: {translated(what.action)}{f' ({translated(what.reason)})' if what.reason else ''}"
        )
        if not dry:
            if fit:
                computing()
                job.settings = fitted(job.kind, job.settings, job.inputs)
            manifest = execute(job, what)
            ran.add(job.name)
            console.print(f"{label}: {human_seconds(manifest['seconds'])}, {manifest['peak_memory_mb']:.0f} MB")
    return done


def status(out: Path) -> list[dict[str, Any]]:
    """What stands in a run folder: one entry a stage with its state ("done" or "interrupted"), seconds and counts."""
    if not out.is_dir():
        raise HanmoError(f"{out}: no such run folder")
    found = []
    for folder in sorted(p for p in out.iterdir() if p.is_dir()):
        manifest, begun = _maybe(folder / "manifest.json"), _maybe(folder / "stage.json")
        if manifest:
            found.append({"state": "done", **manifest})
        elif begun:
            found.append({"state": "interrupted", **begun})
    if not found:
        raise HanmoError(f"{out}: no stages there; is it the --out of a `hanmo run`?")
    return sorted(found, key=lambda item: item.get("started", "~"))


def _downstream(stages: list[Stage], first: str) -> set[str]:
    reached = {first}
    for stage in stages:
        if reached & set(stage.after):
            reached.add(stage.name)
    return reached


def _difference(before: dict[str, Any], job: Job) -> str:
    """In words, why the key is another one."""
    if before["do"] != job.kind.do:
        return f"the stage did {before['do']}"
    schema = type(job.settings)
    for name, value in job.settings.model_dump(mode="json").items():
        if affects_of(schema, name) == "result" and before["settings"].get(name) != value:
            return f"{name}: {_short(before['settings'].get(name))} -> {_short(value)}"
    for role in sorted({*before["results"], *job.results}):
        if before["results"].get(role) != job.results.get(role):
            return f"its {role} changed"
    external = job.external()
    for path, print_ in external.items():
        if before["external"].get(path) != print_:
            return f"{path} changed"
    return "a setting was removed or added"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("-inf")


def _maybe(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except HanmoError:
        return None
    return value if isinstance(value, dict) and "key" in value else None


def _wipe(folder: Path) -> None:
    """Empty a stage's folder (which carries our stage.json or manifest.json), the lock aside."""
    if is_remote(folder):
        remove_tree(folder)
        folder = home_of(folder)
    for path in folder.iterdir():
        if path.name == ".hanmo.lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
