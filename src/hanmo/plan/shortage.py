"""Running out of memory: telling it from other faults, and the advice of a stage's planner.

Light enough to stand in every stage's process: the planner is imported where it is asked.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.remote import as_path
from hanmo.stage import Settings, StageKind

#: How libraries below Python say that memory is short.
_SAID = re.compile(
    r"can't allocate memory|std::bad_alloc|out of memory|could not create a memory|cannot allocate memory"
    r"|can't start new thread",
    re.IGNORECASE,
)
_GENERAL = "; close other programs or use smaller settings"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory, of whatever device."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError, torch.OutOfMemoryError) if torch else (MemoryError,)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError | OSError) and bool(_SAID.search(str(error))))


def advice(what: StageKind, settings: Settings, inputs: dict[str, list[Path]]) -> str:
    """What a stage that ran out of memory in this process should be set to, as the end of a line."""
    if what.planner:
        planner = importlib.import_module(what.planner)
        if words := _quietly(lambda: planner.explain(settings, inputs, planner.of_process(settings))):
            return f": {words}"
    return _GENERAL


def killed_advice(what: StageKind, out: Path) -> str:
    """The same for the stage of a folder that was killed in processes of its own: memory is only the likely cause."""
    if not what.planner:
        return ""
    planner = importlib.import_module(what.planner)

    def explain() -> str:
        begun = read_json(out / "stage.json")
        inputs = {role: [as_path(path) for path in paths] for role, paths in begun["inputs"].items()}
        return planner.explain(what.settings.model_validate(begun["settings"]), inputs, sure=False)

    words = _quietly(explain)
    return f". If it was memory: {words}" if words else ""


def fitted(what: StageKind, settings: Any, inputs: dict[str, list[Path]]) -> Any:
    """A stage's settings with those changed that decide memory, so that it fits; others' as they are."""
    return importlib.import_module(what.planner).fitted(settings, inputs) if what.planner else settings


def _quietly(words: Any) -> str:
    """What `words` returns; where the planner itself fails, the fault it was to explain must not be lost."""
    try:
        return words()
    except (HanmoError, MemoryError, RuntimeError, OSError, ImportError):
        return ""
