"""The chat in the terminal, in a process of its own: through pipes, and on a pseudo-terminal with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanmo.errors import HanmoError
from hanmo.serve.typed import _History

pytestmark = pytest.mark.usefixtures("warm_stages")

#: Where the scripted engine lies.
TESTS = Path(__file__).resolve().parents[1]
TALK = """
import sys
sys.path.insert(0, {here!r})
from scripted_engine import ScriptedEngine
from pathlib import Path
from hanmo.errors import HanmoError
from hanmo.serve.plugins import Frame
from hanmo.serve.sampling import Sampling
from hanmo.serve.terminal import chat_loop

def find(message):
    if message == "lost":
        raise HanmoError("nothing answers")
    return message.upper()

def script(prompt):
    question = prompt.splitlines()[-1]
    if question == "long":
        return b"x" * 100000
    if question == "fail":
        raise HanmoError("out of memory")
    return ("[" + "|".join(prompt.splitlines()) + "]").encode()

chat_loop(
    ScriptedEngine(script, delay={delay}, context={context}),
    system={system!a},
    sampling=Sampling(),
    frame=Frame({prefix!a}, "", {{"found": find}} if {prefix!a} else ()),
    history={history!a} and Path({history!a}),
)
"""


def command(
    delay: float = 0.0, context: int = 200_000, system: str | None = None, prefix: str = "", history: Path | str = ""
) -> list[str]:
    given = {"delay": delay, "context": context, "system": system, "prefix": prefix, "history": str(history)}
    return [sys.executable, "-c", TALK.format(here=str(TESTS), **given)]


def piped(lines: list[str], **options) -> tuple[list[str], str]:
    # LANG=C and an ASCII locale: Chinese must come through all the same.
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = "".join(f"{line}\n" for line in lines).encode()
    done = subprocess.run(command(**options), input=text, capture_output=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines(), done.stderr.decode()


def test_a_piped_conversation_remembers_obeys_and_ends():
    out, notes = piped(["你好", "", "再说", "/reset", "第三", "/exit", "never"], system="短")
    assert out == ["[短|你好]", "[短|你好|[短|你好]|再说]", "[短|第三]"]
    assert "forgotten" in notes


def test_settings_are_listed_changed_and_misspellings_answered():
    _, notes = piped(["/set", "/set temperature 0.3", "/set temprature 1", "/set top_p 7", "/rest", "/help"])
    assert "temperature = 0.7" in notes and "temperature = 0.3" in notes and "stop = off" in notes
    assert "did you mean 'temperature'" in notes and "out of range" in notes
    assert "did you mean '/reset'" in notes and "Ctrl-D" in notes


def test_a_failure_ends_the_answer_and_not_the_chat():
    out, notes = piped(["fail", "你好"])
    assert out[-1] == "[你好]" and "out of memory" in notes


def test_the_oldest_turns_are_dropped_with_a_note():
    out, notes = piped(["a" * 30, "b" * 30, "c" * 30], context=140)
    assert out[0] == f"[{'a' * 30}]" and out[-1] == f"[{'c' * 30}]"
    assert "forgotten" in notes
    _, notes = piped(["x" * 200], context=140)
    assert "context is 140" in notes


def test_messages_of_several_lines_and_what_stands_around_each():
    lines = ["one\\", "two", '"""', "/a", "", "b", '"""', "lost", "c", '"""', "open"]
    out, notes = piped(lines, prefix="{found}: ")
    first = "[ONE|TWO: one|two]"
    second = f"[ONE|TWO: one|two|{first}|/A||B: /a||b]"
    assert out[:2] == [first, second]
    assert "plugin 'found': nothing answers" in notes
    assert out[2].endswith("|C: c]") and "lost" not in out[2]  # what was not sent is not remembered
    assert out[3].endswith("|OPEN: open]")
    _, notes = piped(["/set beams 4"])
    assert "no beam search" in notes


def test_the_history_is_private_trimmed_and_checked(tmp_path):
    path = tmp_path / "deep" / "history"
    assert _History(path).past == []
    past = _History(path)
    past.add("一\n二")
    past.add(" ")
    assert path.read_text(encoding="utf-8") == '"一\\n二"\n' and path.stat().st_mode & 0o077 == 0
    assert _History(path).past == ["一\n二"]
    path.write_text("".join(f'"{number}"\n' for number in range(1501)))
    assert len(_History(path).past) == len(_History(path).past) == 1000
    path.write_text('"a"\n{}\n')
    with pytest.raises(HanmoError, match=r"history:2: no history of a chat"):
        _History(path)


def test_a_real_model_through_the_public_function(tiny_gguf):
    code = "import sys; from hanmo.serve import Sampling, chat; chat(sys.argv[1], sampling=Sampling(max_tokens=9))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_gguf)], input="你好\n".encode(), capture_output=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.decode().strip() and not done.stderr


class Terminal:
    """A child on a pseudo-terminal."""

    def __init__(self, arguments: list[str]) -> None:
        import fcntl
        import pty
        import termios

        def own_terminal() -> None:
            # What runs these tests may ignore Ctrl-C, and a program that is started so ignores it, too.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._master, slave = pty.openpty()
        self.child = subprocess.Popen(
            arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=own_terminal,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.seen = b""

    def wait_for(self, text: str, seconds: float = 30) -> None:
        import select

        end = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; seen: {self.seen[-500:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 4096)
                except OSError:
                    assert text.encode() in self.seen, self.seen[-500:]
        self.seen = self.seen[self.seen.index(text.encode()) + len(text.encode()) :]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_control_c_stops_an_answer_and_control_d_the_program(tmp_path):
    history = tmp_path / "history"
    history.write_text('"before"\n')
    terminal = Terminal(command(delay=0.005, history=history))
    try:
        terminal.wait_for("> ")
        terminal.type("long\n")
        terminal.wait_for("xxxxx")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for("> ")
        # readline writes the prompt before it listens; a signal between the two waits for the next key.
        time.sleep(0.5)
        terminal.type("half a line\x03")
        terminal.wait_for("Ctrl-D leaves")
        terminal.wait_for("> ")
        terminal.type("你好\n")
        terminal.wait_for("|你好]")
        terminal.wait_for("> ")
        terminal.type('"""\na\nb\n"""\n')
        terminal.wait_for("|a|b]")
        terminal.wait_for("> ")
        assert [json.loads(line) for line in history.read_bytes().splitlines()] == ["before", "long", "你好", "a\nb"]
        time.sleep(0.2)
        terminal.type("\x1b[A\x1b[A\n")  # the arrow key, twice
        terminal.wait_for("|你好]")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.child.wait(10) == 0
    finally:
        terminal.child.kill()
        terminal.child.wait()
