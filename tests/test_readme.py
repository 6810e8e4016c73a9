"""The README and the pages of docs/ that show commands are executed, and what they link to is there.

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

import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:^<!-- test:(?P<marks>[^\n]*?)-->[ \t]*\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ \t]*$", re.M | re.S
)
MARKS = {"append", "timeout", "needs", "background", "shared"}
#: The tutorials of the site, in two languages.
TUTORIALS = ("first-model", "own-corpus", "own-tokenizer", "domain", "clue", "deploy", "many-gpus", "one-card")
#: What shared blocks made, by their code.
SHARED: dict[str, Path] = {}


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


def command_of(block: Block, ports: dict[str, str]) -> list[str]:
    """What runs the block; `ports` are to be replaced."""
    code = block.code.rstrip()
    if extra := (block.marks or {}).get("append"):
        code = f"{code} {extra}"
    for port, other in ports.items():
        code = code.replace(port, other)
    if block.language == "python":
        return [sys.executable, "-c", code]
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


def run_all(text: str, folder: Path) -> int:
    """Run the marked blocks of a text in `folder`; returns how many were run."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUTF8": "1",
        # Models as small as these are trained by one thread as fast as by several, and the latter wait for each other
        # where other tests are at work.
        "OMP_NUM_THREADS": "1",
    }
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
            if made := SHARED.get(block.code):
                shutil.copytree(made, folder / "runs", dirs_exist_ok=True)
                continue
            where = f"the block of line {block.line}"
            child = subprocess.Popen(
                command_of(block, ports),
                cwd=folder,
                env=environment,
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
            if "shared" in block.marks:
                kept = folder.with_name(f"{folder.name}-shared-{len(SHARED)}")
                SHARED[block.code] = Path(shutil.copytree(folder / "runs", kept))
    finally:
        for child in background:
            end_group(child)
    return count


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


@needs_bash
@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/corpus.md",
        "docs/tokenizers.md",
        "docs/training.md",
        "docs/continuing.md",
        "docs/importing.md",
        "docs/exporting.md",
        "docs/evaluating.md",
        "docs/understanding.md",
        "docs/tuning.md",
        "docs/publishing.md",
        "docs/serving.md",
        *(f"docs/tutorials/{name}.md" for name in TUTORIALS),
    ],
)
def test_the_pages_run(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    assert run_all((ROOT / page).read_text(encoding="utf-8"), tmp_path), "it marks no block"


def commands(text: str) -> list[str]:
    """The commands of all bash and python blocks, without comments and blank lines."""
    lines = []
    for block in blocks(text):
        if block.language in ("bash", "python"):
            for line in block.code.splitlines():
                if bare := re.sub(r"(^|\s)#.*", "", line).strip():
                    lines.append(re.sub(r"\s+", " ", bare))
    return lines


@pytest.mark.parametrize("page", ["README", *(f"docs/tutorials/{name}" for name in TUTORIALS)])
def test_the_chinese_page_has_the_same_commands(page: str) -> None:
    chinese = ROOT / f"{page}.zh.md"
    ours = commands((ROOT / f"{page}.md").read_text(encoding="utf-8"))
    # A question or a prompt may be translated: what is in quotes does not count.
    quoted = re.compile(r"\"[^\"]*\"|'[^']*'")
    theirs = commands(chinese.read_text(encoding="utf-8"))
    assert [quoted.sub("…", line) for line in theirs] == [quoted.sub("…", line) for line in ours]


def test_no_tutorial_is_forgotten() -> None:
    assert {path.name.split(".")[0] for path in (ROOT / "docs" / "tutorials").iterdir()} == set(TUTORIALS)


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    local = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert not [target for target in local if target and not (path.parent / target).exists()]


# --- the runner itself ------------------------------------------------------------------------------------------------

EXAMPLE = """\
# Title
```bash
exit 1   # not marked
```

<!-- test: -->
```bash
echo one > a.txt  # a comment
echo two >> a.txt
```
<!-- test: append="three four" timeout=20 -->
```bash
echo \\
  zero
printf '%s\\n' >> a.txt
```
<!-- test: needs=no_such_module -->
```bash
exit 1
```
<!-- test: -->
```python
from pathlib import Path
assert Path("a.txt").read_text().split() == ["one", "two", "three", "four"]
```
```text
not code
```
"""


def test_blocks_are_found() -> None:
    found = blocks(EXAMPLE)
    assert [block.language for block in found] == ["bash", "bash", "bash", "bash", "python", "text"]
    assert [block.marks for block in found[:3]] == [None, {}, {"append": "three four", "timeout": "20"}]
    assert [block.line for block in found[:2]] == [3, 8]
    assert commands(EXAMPLE)[:3] == ["exit 1", "echo one > a.txt", "echo two >> a.txt"]


@needs_bash
def test_blocks_run_in_order_in_one_folder(tmp_path: Path) -> None:
    assert run_all(EXAMPLE, tmp_path) == 3


@needs_bash
@pytest.mark.parametrize("code", ["false\ntrue", "false | true", "echo $NOT_THERE_AT_ALL"])
def test_a_failing_line_fails_the_block(tmp_path: Path, code: str) -> None:
    with pytest.raises(AssertionError, match="the block of line 3 ended with status 1"):
        run_all(f"<!-- test: -->\n```bash\n{code}\n```\n", tmp_path)


@needs_bash
def test_a_block_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="took more than 1 s"):
        run_all("<!-- test: timeout=1 -->\n```bash\nsleep 60\n```\n", tmp_path)
    assert time.monotonic() - began < 20


@needs_bash
@pytest.mark.skipif(sys.platform == "win32", reason="process groups are of POSIX")
def test_a_server_runs_beside_the_next_blocks(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = f"""\
<!-- test: background={port} -->
```bash
exec python -m http.server --bind 127.0.0.1 {port}
```
<!-- test: -->
```python
import urllib.request
assert urllib.request.urlopen("http://127.0.0.1:{port}/").status == 200
```
"""
    assert run_all(text, tmp_path) == 2
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    with socket.create_server(("127.0.0.1", port)):
        assert run_all(text, tmp_path) == 2


@pytest.mark.parametrize("mark", ["timeout", "speed=9"])
def test_a_misspelt_mark_is_an_error(mark: str) -> None:
    with pytest.raises(AssertionError, match="line 1: "):
        blocks(f"<!-- test: {mark} -->\n```bash\ntrue\n```\n")
