"""The process of one stage: `python -m hanmo.child OUT` does what OUT/stage.json says and commits by manifest.json."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from hanmo import ranks
from hanmo.console import console
from hanmo.errors import HanmoError, Interrupted, describe_os_error
from hanmo.files import read_json, write_json
from hanmo.plan.devices import anonymous_memory
from hanmo.plan.shortage import advice, out_of_memory
from hanmo.pool import cores
from hanmo.remote import as_path, brought, home_of, publish, settle
from hanmo.slurm import WAITING, Waiting
from hanmo.stages import KINDS

#: Exit status of a stage that was asked to stop and can go on (that of a shell's command after Ctrl-C).
STOPPED = 130
#: Exit status of a process that lost another one of its group (EX_PROTOCOL of sysexits.h).
LOST = 76
_LIBRARIES = ("hanmo", "torch", "transformers", "tokenizers", "trl", "numpy")


def main(out: Path) -> int:
    """Run the stage described in `out`; returns the exit status."""
    die_with_parent()
    console.quiet = ranks.following()
    begun = read_json(out / "stage.json")
    what = KINDS[begun["do"]]
    settings = what.settings.model_validate(begun["settings"])
    inputs = {role: [as_path(path) for path in paths] for role, paths in begun["inputs"].items()}
    started, clock = datetime.now(UTC), time.perf_counter()
    memory = MemoryWatch()
    try:
        place = out if what.remote == "writes" else _settled(out, begun["key"])
        if not what.remote:
            inputs = {role: [brought(path) for path in paths] for role, paths in inputs.items()}
        counts = what.load()(settings, inputs, place)
        if ranks.following():
            return 0
        if place != out:
            publish(place, out)
        seconds = time.perf_counter() - clock
        write_json(
            out / "manifest.json",
            {
                **begun,
                "counts": counts,
                "seconds": round(seconds, 3),
                "peak_memory_mb": round(memory.peak_rss() / 1e6, 1),
                "peak_anonymous_mb": round(memory.peak_anonymous() / 1e6, 1),
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
                "machine": machine(),
            },
        )
        if home_of(out) == out:
            cards(what.do, out, inputs)
    except Interrupted as stop:
        if not ranks.following():
            console.print(str(stop), markup=False)
        return STOPPED
    except HanmoError as error:
        return fail(str(error))
    except Waiting as waiting:
        console.print(f"{begun['stage']}: {waiting}", markup=False)
        return WAITING
    except Exception as error:
        if out_of_memory(error):
            return fail(f"stage '{begun['stage']}': out of memory{advice(what, settings, inputs)}")
        line = describe_os_error(error)
        if line is None and ranks.grouped() and ranks.left_by_another(error):
            return LOST
        if line is None:
            raise
        return fail(line)
    return 0


def cards(do: str, out: Path, inputs: dict[str, list[Path]]) -> None:
    """Write the card of a model that was just made, or those of the models that were just measured beside it."""
    from hanmo.evaluate.card import refresh

    measured = [path for path in inputs.get("model", []) if path.resolve().parent == out.resolve().parent]
    for folder in measured if do in ("eval", "exam") else [out]:
        refresh(folder)


def _settled(out: Path, key: str) -> Path:
    """`settle`, done by the first of several processes."""
    if not ranks.grouped() or home_of(out) == out:
        return settle(out, key)
    if ranks.local()[1] != ranks.size():
        raise HanmoError(f"{out}: several machines that train together need an --out in a folder that all of them see")
    if ranks.following():
        ranks.store().wait(["settled"])
        return home_of(out)
    place = settle(out, key)
    ranks.store().set("settled", "1")
    return place


def fail(line: str) -> int:
    """Print one error line on stderr, unless another process has told of its own, and return the exit status for it."""
    if ranks.first_to_tell():
        console.quiet = False
        console.print(f"error: {line}", style="red", markup=False)
    return 2


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that matter for a result."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """What a figure needs beside it: processor, cores and system (no names of people or hosts)."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # there on Linux alone
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n")
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": cores(), "system": platform.system()}


class MemoryWatch:
    """Samples this process's memory ten times a second.

    Anonymous memory is what a process really takes; memory-mapped files, which the system can drop at will, count only
    in the resident size.
    """

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._rss = self._anonymous = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def peak_rss(self) -> int:
        """The largest resident size seen, in bytes."""
        self._sample()
        return self._rss

    def peak_anonymous(self) -> int:
        """The largest anonymous size seen, in bytes; the resident size where the system does not tell them apart."""
        self._sample()
        return self._anonymous

    def _watch(self) -> None:
        while True:
            self._sample()
            time.sleep(0.1)

    def _sample(self) -> None:
        rss = self._process.memory_info().rss
        self._rss, self._anonymous = max(self._rss, rss), max(self._anonymous, anonymous_memory(rss))


def die_with_parent() -> None:
    """End this process and its workers when the runner is gone: the pipe on stdin then closes."""

    def watch() -> None:
        # Straight from the descriptor: a reader of sys.stdin would hold its lock when the interpreter ends.
        while os.read(0, 4096):
            pass
        if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    if not sys.stdin.isatty():
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(as_path(sys.argv[1])))
