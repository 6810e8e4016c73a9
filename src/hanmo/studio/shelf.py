"""What stands in a folder of runs: runs, their stages, and what each stage can show.

A run is a folder whose subfolders are stages (they hold our `manifest.json` or `stage.json`). Stages that stand in the
given folder itself are one more run, so that the folder of a single run can be given, too. A run or a stage is only
ever found by its name among those that are there: no text from outside becomes a path, and a link that leads out of
the folder is not followed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.evaluate.collect import headline
from hanmo.files import read_json
from hanmo.studio.logs import glimpse

#: The name of the run that the given folder itself is.
SELF = "@"
#: A stage that changed a file in so many seconds is taken for working where no lock tells.
_FRESH = 60
#: What a stage can show, by a file that is there then.
_SHOWS = {
    "curves": "log.jsonl",
    "samples": "samples.jsonl",
    "corpus": "stats.json",
    "tokenizer": "tokenizer.json",
    "exam": "eval.json",
    "records": "records.json",
    "model": "model/config.json",
    "card": "model/README.md",
    "report": "report.html",
}
#: What else is read for it.
_READ = {"corpus": ("train/*.zst", "rejects/*.zst"), "exam": ("*.jsonl",), "tokenizer": ("*.json",)}
#: Files that one takes along.
_TAKEN = ("*.gguf", "tokenizer.json", "tokenizer.model", "eval.json", "report.html", "*.onnx")
_KEPT = ("settings", "counts", "seconds", "peak_memory_mb", "versions", "machine")


class Missing(HanmoError):
    """No run, stage or file of that name."""


class Shelf:
    """The runs below a folder.

    Raises:
        HanmoError: there is no such folder.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise HanmoError(f"{root}: no such folder; give the one that holds the --out folders of `hanmo run`")
        self._read: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._glimpsed: dict[Path, tuple[tuple[int, int], list[float]]] = {}

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the one that changed last first: {id, name, state, changed, stages, head, spark}."""
        locks = _locks()
        found = [run for name, stages in self._runs() if (run := self._summary(name, stages, locks))]
        return sorted(found, key=lambda run: -run["changed"])

    def run(self, name: str) -> dict[str, Any]:
        """One run with all that its stages say of themselves."""
        locks = _locks()
        stages = [self._stage(folder, locks) | self._more(folder) for folder in self._stages(self._run_folder(name))]
        if not stages:
            raise Missing(f"run '{name}': no stages there")
        stages.sort(key=_order)
        return {"id": name, "name": self.title(name), "stages": stages}

    def folder(self, run: str, stage: str) -> Path:
        """The folder of a stage.

        Raises:
            Missing: there is none of that name.
        """
        for folder in self._stages(self._run_folder(run)):
            if folder.name == stage:
                return folder
        raise Missing(f"stage '{run}/{stage}': not there")

    def title(self, run: str) -> str:
        """What a run is called."""
        return self.root.name if run == SELF else run

    def all_stages(self) -> Iterator[tuple[str, Path]]:
        """(run, stage's folder) of all that is there."""
        for run, folders in self._runs():
            for folder in folders:
                yield run, folder

    def json(self, path: Path) -> Any:
        """A JSON file's value, read again only when the file changed; None where there is none or it is torn."""
        try:
            stat = path.stat()
            mark = (stat.st_mtime_ns, stat.st_size)
            known = self._read.get(path)
            if known is None or known[0] != mark:
                known = self._read[path] = (mark, read_json(path))
            return known[1]
        except (OSError, HanmoError):
            self._read.pop(path, None)
            return None

    def inside(self, path: Path) -> bool:
        """Whether a path, its links followed, is in the folder of runs."""
        return path.resolve().is_relative_to(self.root)

    def holds(self, folder: Path, what: str) -> bool:
        """Whether a stage has what can be shown under that name (see `_SHOWS`)."""
        file = folder / _SHOWS[what]
        return file.is_file() and self.inside(file)

    def showing(self, run: str, stage: str, what: str) -> Path:
        """The folder of a stage that can show `what`, none of whose files leads out of the folder of runs.

        Raises:
            Missing: there is no such stage, or it has nothing of the kind.
        """
        folder = self.folder(run, stage)
        if not self.holds(folder, what):
            raise Missing(f"stage '{run}/{stage}': no {_SHOWS[what]} there")
        read = (path for pattern in _READ.get(what, ()) for path in folder.glob(pattern))
        if not all(self.inside(path) for path in read):
            raise Missing(f"stage '{run}/{stage}': its files are links out of {self.root.name}")
        return folder

    def _folders(self, parent: Path) -> Iterator[Path]:
        try:
            children = sorted(parent.iterdir())
        except OSError:
            return
        for child in children:
            if not child.name.startswith(".") and child.is_dir() and (not child.is_symlink() or self.inside(child)):
                yield child

    def _runs(self) -> Iterator[tuple[str, list[Path]]]:
        own = list(self._stages(self.root))
        if own:
            yield SELF, own
        for folder in self._folders(self.root):
            if folder not in own and (stages := list(self._stages(folder))):
                yield folder.name, stages

    def _run_folder(self, name: str) -> Path:
        if name == SELF:
            return self.root
        for folder in self._folders(self.root):
            if folder.name == name:
                return folder
        raise Missing(f"run '{name}': not there")

    def _stages(self, run: Path) -> Iterator[Path]:
        for folder in self._folders(run):
            said = self._said(folder)
            if said is not None:
                yield folder

    def _said(self, folder: Path) -> dict[str, Any] | None:
        """The stage's manifest, else what it was told to do."""
        for name in ("manifest.json", "stage.json"):
            found = self.json(folder / name)
            if isinstance(found, dict) and isinstance(found.get("do"), str):
                return found
        return None

    def _stage(self, folder: Path, locks: set[int]) -> dict[str, Any]:
        said = self._said(folder) or {}
        written = self._read.get(folder / "manifest.json")
        if written is not None:
            state, changed = "done", written[0][0] / 1e9
        else:
            changed = _changed(folder)
            state = "working" if _held(folder, locks) or time.time() - changed < _FRESH else "interrupted"
        begun = said.get("started") or _iso(_modified(folder / "stage.json"))
        seconds = said.get("seconds")
        return {
            "id": folder.name,
            "do": said.get("do", "?"),
            "state": state,
            "started": begun,
            "changed": changed,
            "seconds": seconds if isinstance(seconds, int | float) else None,
        }

    def _more(self, folder: Path) -> dict[str, Any]:
        said = self._said(folder) or {}
        inputs = {role: [Path(path).name for path in paths] for role, paths in (said.get("inputs") or {}).items()}
        shows = [name for name in _SHOWS if self.holds(folder, name)]
        if said.get("do") != "corpus" and "corpus" in shows:
            shows.remove("corpus")  # other stages have a stats.json of their own
        if "model" in shows or any(any(folder.glob(pattern)) for pattern in _TAKEN):
            shows.append("files")
        return {**{key: said.get(key) for key in _KEPT}, "inputs": inputs, "shows": shows}

    def _summary(self, name: str, folders: list[Path], locks: set[int]) -> dict[str, Any]:
        stages = [self._stage(folder, locks) | {"curves": self.holds(folder, "curves")} for folder in folders]
        stages.sort(key=_order)
        states = [stage["state"] for stage in stages]
        return {
            "id": name,
            "name": self.title(name),
            "state": next((state for state in ("working", "interrupted") if state in states), "done"),
            "changed": max(stage["changed"] for stage in stages),
            "stages": stages,
            "head": self._head(folders),
            "spark": self._spark(folders, stages),
        }

    def _head(self, folders: list[Path]) -> dict[str, Any]:
        """The figures a person looks for first (those of the report)."""
        said = [self._said(folder) or {} for folder in folders]
        stages = [
            {"do": one.get("do"), "counts": one.get("counts"), "seconds": one.get("seconds")}
            | {key: one.get(key) for key in ("peak_memory_mb", "machine")}
            for one in said
        ]
        found = (self.json(folder / "eval.json") for folder in folders)
        evaluations = [one for one in found if isinstance(one, dict) and {"models", "exams"} <= one.keys()]
        try:
            head = headline({"stages": stages, "evaluations": evaluations})
        except (KeyError, TypeError, AttributeError):  # of another version: its own page shows what it can
            return {}
        counts = [stage["counts"] or {} for stage in stages if stage["do"] == "pretrain"]
        if counts and "parameters" not in head and counts[-1].get("parameters"):
            head["parameters"] = counts[-1]["parameters"]
        if counts and "heldout" not in head and counts[-1].get("heldout_bpb"):
            head["heldout"] = {"bits_per_byte": counts[-1]["heldout_bpb"]}
        return head

    def _spark(self, folders: list[Path], stages: list[dict[str, Any]]) -> list[float]:
        """The course of the loss of the first training there is: pretraining where a run has one."""
        by_name = {folder.name: folder for folder in folders}
        logs = [by_name[stage["id"]] / "log.jsonl" for stage in stages]
        path = next((log for log in logs if log.is_file()), None)
        if path is None:
            return []
        stat = path.stat()
        mark = (stat.st_mtime_ns, stat.st_size)
        known = self._glimpsed.get(path)
        if known is None or known[0] != mark:
            known = self._glimpsed[path] = (mark, glimpse(path))
        return known[1]


def _order(stage: dict[str, Any]) -> tuple[str, str]:
    return stage["started"] or "~", stage["id"]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _changed(folder: Path) -> float:
    """When something in the folder changed last, in seconds since 1970."""
    names = ("manifest.json", "stage.json", "log.jsonl", "samples.jsonl", "checkpoints")
    return max(_modified(folder), *(_modified(folder / name) for name in names))


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _locks() -> set[int]:
    """Inodes of files that a process of this machine has locked; empty where the system does not tell (not Linux).

    Looking instead of trying to lock: a lock that is only tried could be in a run's way.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    fields = [line.split() for line in lines]
    return {int(part[5].rpartition(":")[2]) for part in fields if len(part) > 5 and part[1] == "FLOCK"}


def _held(folder: Path, locks: set[int]) -> bool:
    try:
        return bool(locks) and (folder / ".hanmo.lock").stat().st_ino in locks
    except OSError:
        return False
