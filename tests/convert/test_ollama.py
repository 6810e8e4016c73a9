"""Folders for Ollama: what the Modelfile says, and that its template says what training saw."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hanmo.cli import cli
from hanmo.convert import convert_gguf
from hanmo.convert.ollama import TEMPLATE, write_ollama
from hanmo.convert.trials import conversations
from hanmo.errors import HanmoError
from hanmo.tokenizer import load
from hanmo.tokenizer.chat import ChatFormat

GO = """package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content string }
func main() {
    var given struct { Template string; Messages []Message }
    if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil { panic(err) }
    found := template.Must(template.New("").Parse(given.Template))
    if err := found.Execute(os.Stdout, map[string]any{"Messages": given.Messages}); err != nil { panic(err) }
}
"""


def test_a_folder_holds_the_file_and_what_a_conversation_needs(tiny_model_dir: Path, tmp_path: Path) -> None:
    given = ["convert", "ollama", str(tiny_model_dir), "--out", str(tmp_path / "out"), "--system", "你叫翰墨。"]
    done = CliRunner().invoke(cli, given, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["template"] == "chat" and "ollama create" in done.stderr
    config = json.loads((tiny_model_dir / "config.json").read_text(encoding="utf-8"))
    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith(f'FROM ./{Path(found["file"]).name}\nTEMPLATE """{TEMPLATE}"""\nSYSTEM """你叫翰墨。"""\n')
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert f"PARAMETER num_ctx {config['max_position_embeddings']}\n" in text
    assert Path(found["file"]).read_bytes()[:4] == b"GGUF"


def test_a_file_is_taken_as_it_is(tiny_model_dir: Path, tmp_path: Path) -> None:
    convert_gguf(tiny_model_dir, tmp_path / "mine.gguf", "f16")
    for _ in range(2):  # the second time over the first
        found = write_ollama(tmp_path / "mine.gguf", tmp_path / "out")
    assert Path(found["file"]).read_bytes() == (tmp_path / "mine.gguf").read_bytes()
    assert "FROM ./mine.gguf\n" in (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("jinja", "kind"), [("", "plain"), ("{% for m in messages %}[INST]{{ m.content }}{% endfor %}", "by Ollama")]
)
def test_other_templates_are_not_passed_off_as_ours(
    tiny_model_dir: Path, tmp_path: Path, jinja: str, kind: str
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    if jinja:
        (folder / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    assert write_ollama(folder, tmp_path / "out")["template"] == kind
    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert ("TEMPLATE" in text) == (kind == "plain") and "PARAMETER stop" not in text


def test_what_cannot_be_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(HanmoError, match="did you mean 'q8_0'"):
        write_ollama(tiny_model_dir, tmp_path / "out", "q8_O")
    with pytest.raises(HanmoError, match="cannot hold"):
        write_ollama(tiny_model_dir, tmp_path / "out", system='"""')
    with pytest.raises(HanmoError, match="no such file"):
        write_ollama(tmp_path / "none.gguf", tmp_path / "out")


@pytest.mark.skipif(not shutil.which("go"), reason="Go, whose templates Ollama's are, is not installed")
def test_the_template_says_what_training_saw(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO, encoding="utf-8")
    subprocess.run(["go", "build", "-o", "render", "main.go"], cwd=tmp_path, check=True)
    form: Any = ChatFormat(load(tiny_model_dir))
    for messages in conversations():
        if messages[-1]["role"] == "assistant":
            continue
        capital = [{"Role": m["role"], "Content": m["content"]} for m in messages]
        asked = json.dumps({"Template": TEMPLATE, "Messages": capital})
        said = subprocess.run([tmp_path / "render"], input=asked, capture_output=True, text=True, check=True)
        assert said.stdout == form.render(messages, add_generation_prompt=True)
