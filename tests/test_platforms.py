"""Windows and macOS have not all that Linux has: nothing of ours needs it, as far as Linux can tell without it."""

from __future__ import annotations

import ast
import builtins
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hanmo

sys.path.insert(0, str(Path(__file__).parent / "pretrain"))

from tiny_runs import QUICK, make_model, make_order, make_settings

SOURCE = Path(hanmo.__file__).parent
#: Modules of Python that Windows has not, and what its `os` and `signal` have not.
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
ABSENT: dict[Any, list[str]] = {
    os: [
        *("chown", "fchmod", "fork", "getpgid", "getpgrp", "getuid", "geteuid", "killpg", "mkfifo", "nice", "pread"),
        *("posix_fadvise", "sched_getaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname", "wait", "waitid"),
    ],
    # SIGALRM and setitimer are missing there, too, but the tests' own time limit is made of them.
    signal: ["SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "sigwait"],
}


def test_no_module_needs_unix_to_be_imported() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in _imported(node)
        if name.partition(".")[0] in MODULES
    ]
    assert not found


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without what only Unix, or only Linux, has; pytest (`tmp_path`) and others' modules need it still."""
    for module, names in ABSENT.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    real, opened = builtins.__import__, Path.read_text

    def importing(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        ours = str((globals or {}).get("__name__", "")).startswith("hanmo")
        if ours and name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, globals, *rest, **more)

    def reading(self: Path, *given: Any, **more: Any) -> str:
        if self.parts[1:2] in (("proc",), ("sys",)):
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return opened(self, *given, **more)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.setattr(Path, "read_text", reading)


def stage(do: str, out: Path, inputs: dict[str, Any], **settings: Any) -> Path:
    """Do a stage in this process."""
    from hanmo.stages import KINDS

    given = {role: path if isinstance(path, list) else [path] for role, path in inputs.items()}
    out.mkdir(parents=True, exist_ok=True)
    KINDS[do].load()(KINDS[do].settings.model_validate(settings), given, out)
    return out


def test_a_small_corridor(elsewhere: None, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = ["".join(chr(0x4E00 + (n * 7 + i * i) % 90) for i in range(90)) for n in range(150)]
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    corpus = stage("corpus", tmp_path / "corpus", {}, sources=[{"path": str(text)}], workers=1)
    tokenizer = stage("tokenizer", tmp_path / "tokenizer", {"corpus": corpus}, vocab_size=300)
    tokens = stage("tokens", tmp_path / "tokens", {"corpus": corpus, "tokenizer": tokenizer}, workers=1)
    base = stage("pretrain", tmp_path / "base", {"data": tokens}, **QUICK)
    assert (base / "model" / "model.safetensors").is_file() and (base / "checkpoints").is_dir()


def test_what_a_process_asks_of_its_machine(elsewhere: None) -> None:
    from hanmo.child import MemoryWatch, machine
    from hanmo.corpus.readers.guard import _bound_memory
    from hanmo.doctor import usable_cores
    from hanmo.plan.devices import host_room
    from hanmo.pool import cores
    from hanmo.studio.shelf import _locks

    assert cores() == usable_cores() == machine()["cores"] == os.cpu_count()
    assert host_room() > 1e6 and MemoryWatch().peak_anonymous() > 1e6 and _locks() == set()
    _bound_memory()


def test_a_stage_is_started_and_its_status_passed_on(elsewhere: None, tmp_path: Path) -> None:
    from hanmo.run import _child

    kind: Any = SimpleNamespace(process="tabnanny")
    (tmp_path / "well.py").write_text("pass\n")
    _child("well", kind, tmp_path / "well.py", dict(os.environ))
    kind.process = "no_such_module"
    with pytest.raises(SystemExit) as ended:
        _child("badly", kind, tmp_path, dict(os.environ))
    assert ended.value.code == 1


class _NoDoubles(TorchDispatchMode):
    """MPS has no float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, func
        return result


def test_a_step_makes_no_float64_on_its_device(tmp_path: Path) -> None:
    from hanmo.pretrain.trainer import Trainer

    settings = make_settings().model_copy(update={"threads": 1})
    trainer = Trainer(make_model(), settings, make_order(), tmp_path, torch.float32)
    with _NoDoubles():
        for number in range(2):
            trainer._one_step(trainer._rows(number), 128)
        trainer.spread.measure(trainer._rows(2))
