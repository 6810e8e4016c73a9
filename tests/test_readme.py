"""The README is executed, what all pages link to is there, and the runner of pages (`shown`) does what it says."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path

import pytest

from shown import ROOT, Pages, blocks, commands, needs_bash, run_all, same_commands


@needs_bash
def test_it_runs(tmp_path: Path, pages: Pages) -> None:
    pages.run("README.md", tmp_path)


def test_the_chinese_page_has_the_same_commands() -> None:
    same_commands("README")


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
