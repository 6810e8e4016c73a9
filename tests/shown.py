"""How the README and the pages of docs/ are executed: their blocks, one after the other.

A fenced block is run by this test when an HTML comment (which no reader sees) stands on the line above it:

    <!-- test: -->                                   run it as it stands
    <!-- test: append="base.tokens=20k" -->          add these words to its last command (a tiny size for a long run)
    <!-- test: timeout=300 -->                       seconds that it may take; 120 unless said
    <!-- test: needs=llama_cpp -->                   leave it out where that module is not installed
    <!-- test: background=8000 -->                   start it, go on when the port answers, end it after the last block
                                                     (where that port is taken, all blocks get another one instead)
    <!-- test: shared=world -->                      made once for all pages that have the same block

The marked ```bash and ```python blocks run one after the other, in one empty folder that has a copy of recipes/, with
the environment's programs on PATH; a block may use what an earlier one made. Bash stops at the first failing command.
README.zh.md is not run: it has to hold the same commands.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:^<!-- test:(?P<marks>[^\n]*?)-->[ \t]*\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ \t]*$", re.M | re.S
)
MARKS = {"append", "timeout", "needs", "background", "shared"}


@dataclass(frozen=True)
class Block:
    """A fenced block; `marks` is None where no comment asks to run it."""

    line: int
    language: str
    code: str
    marks: dict[str, str] | None

    @property
    def seconds(self) -> float:
        return float((self.marks or {}).get("timeout", 120))


def blocks(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        marks = None
        if match["marks"] is not None:
            words = shlex.split(match["marks"])
            assert all("=" in word for word in words), f"line {line - 2}: marks are name=value, not {match['marks']}"
            marks = dict(word.split("=", 1) for word in words)
            assert marks.keys() <= MARKS, f"line {line - 2}: unknown mark in {match['marks']}"
            assert match["language"] in ("bash", "python"), f"line {line}: only bash and python blocks can be run"
        found.append(Block(line, match["language"], match["code"], marks))
    return found


def command_of(block: Block, ports: dict[str, str], programs: Path | None = None) -> list[str]:
    """What runs the block; `ports` are to be replaced, `programs` as in `environment`."""
    code = block.code.rstrip()
    if extra := (block.marks or {}).get("append"):
        code = f"{code} {extra}"
    for port, other in ports.items():
        code = code.replace(port, other)
    if block.language == "python":
        return [str(programs / "python") if programs else sys.executable, "-c", code]
    return [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", code]


def ports_instead(found: list[Block]) -> dict[str, str]:
    """A free port for every one that a block wants and somebody else listens on."""
    instead = {}
    for port in {block.marks["background"] for block in found if block.marks and "background" in block.marks}:
        with socket.socket() as probe, socket.socket() as free:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                free.bind(("127.0.0.1", 0))
                instead[port] = str(free.getsockname()[1])
    return instead


def wait_for(port: int, child: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"nothing answers on port {port}")


def environment(programs: Path | None = None) -> dict[str, str]:
    """What blocks are run in: the programs of this interpreter's environment, those of the folder `programs` before."""
    places = [str(programs)] if programs else []
    return {
        **os.environ,
        "PATH": os.pathsep.join([*places, str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUTF8": "1",
        # Models as small as these are trained by one thread as fast as by several, and the latter wait for each other
        # where other tests are at work.
        "OMP_NUM_THREADS": "1",
    }


def run_all(text: str, folder: Path, shared: Path | None = None, programs: Path | None = None) -> int:
    """Run the marked blocks of a text in `folder`; returns how many were run.

    Args:
        shared: where what shared blocks made is kept, for all processes that run pages.
        programs: see `environment`.
    """
    background: list[subprocess.Popen[str]] = []
    count = 0
    found = blocks(text)
    ports = ports_instead(found)
    try:
        for block in found:
            if block.marks is None:
                continue
            if (needs := block.marks.get("needs")) and importlib.util.find_spec(needs) is None:
                continue
            count += 1
            with made_once(block, shared, folder) as made:
                if made:
                    continue
                where = f"the block of line {block.line}"
                child = subprocess.Popen(
                    command_of(block, ports, programs),
                    cwd=folder,
                    env=environment(programs),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,
                )
                if port := block.marks.get("background"):
                    background.append(child)
                    wait_for(int(ports.get(port, port)), child, block.seconds)
                    continue
                try:
                    output, _ = child.communicate(timeout=block.seconds)
                except subprocess.TimeoutExpired:
                    background.append(child)
                    pytest.fail(f"{where} took more than {block.seconds:.0f} s")
                assert child.returncode == 0, (
                    f"{where} ended with status {child.returncode}:\n{block.code}\n{output[-4000:]}"
                )
    finally:
        for child in background:
            end_group(child)
    return count


@contextlib.contextmanager
def made_once(block: Block, shared: Path | None, folder: Path) -> Iterator[bool]:
    """Whether a shared block has been run before: what it made is in `folder` then. Else what is run inside is kept."""
    if shared is None or "shared" not in (block.marks or {}):
        yield False
        return
    kept = shared / hashlib.sha256(block.code.encode()).hexdigest()[:16]
    with FileLock(f"{kept}.lock"):
        if kept.exists():
            shutil.copytree(kept, folder / "runs", dirs_exist_ok=True)
            yield True
            return
        yield False
        shutil.copytree(folder / "runs", kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)


@dataclass(frozen=True)
class Pages:
    """The project's pages, and how they are run (see `run_all`)."""

    shared: Path
    programs: Path | None

    def run(self, page: str, folder: Path) -> None:
        """Run a page in `folder`, which gets a copy of recipes/."""
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        text = (ROOT / page).read_text(encoding="utf-8")
        assert run_all(text, folder, self.shared, self.programs), "it marks no block"


def end_group(child: subprocess.Popen[str]) -> None:
    """End a block and the programs that it started."""
    if sys.platform == "win32":
        child.kill()
    else:
        import signal

        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(timeout=10)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def commands(text: str) -> list[str]:
    """The commands of all bash and python blocks, without comments and blank lines."""
    lines = []
    for block in blocks(text):
        if block.language in ("bash", "python"):
            for line in block.code.splitlines():
                if bare := re.sub(r"(^|\s)#.*", "", line).strip():
                    lines.append(re.sub(r"\s+", " ", bare))
    return lines


def same_commands(page: str) -> None:
    """See that a page and its Chinese form show the same commands."""
    # A question or a prompt may be translated: what is in quotes does not count.
    quoted = re.compile(r"\"[^\"]*\"|'[^']*'")
    ours, theirs = (commands((ROOT / f"{page}{end}").read_text(encoding="utf-8")) for end in (".md", ".zh.md"))
    assert [quoted.sub("…", line) for line in theirs] == [quoted.sub("…", line) for line in ours]
