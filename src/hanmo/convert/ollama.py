"""A folder that Ollama makes a model of: one GGUF file and its Modelfile.

Ollama renders a conversation by a template of its own kind (Go's text/template), not by the Jinja template in the file.
A Modelfile gets ours where the model's Jinja template says the same for conversations of every form we try; where it
says something else, none is written: Ollama then looks whether it knows the file's template.

Form: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf

from hanmo.convert.gguf import convert_gguf
from hanmo.convert.settings import FORMATS, unknown_format
from hanmo.errors import HanmoError
from hanmo.files import atomic_write
from hanmo.models import hub
from hanmo.models.folder import resolve, title
from hanmo.serve.sampling import Sampling
from hanmo.tokenizer.chat import TURN_END, TURN_START

#: The one chat format in Go's template language, the head of the answer included.
TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
#: Without turns: what was typed, to be continued.
PLAIN = "{{ .Prompt }}"
_TRIED: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "你好"}],
    [{"role": "system", "content": "简短。"}, {"role": "user", "content": " 两行\n文字 "}],
    [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二"},
        {"role": "user", "content": "三"},
    ],
)


def write_ollama(model: Path, out: Path, form: str = "q8_0", system: str = "") -> dict[str, Any]:
    """Fill `out` with NAME.gguf and Modelfile.

    Args:
        model: a model folder, a stage's, a name on a hub, or a .gguf file, which is then taken as it is.
        form: the format to convert to, a key of `FORMATS`.
        system: what every conversation begins with; "" for nothing.

    Returns:
        {"file", "modelfile", "template": "chat", "plain" or "by Ollama", "context"}.

    Raises:
        HanmoError: an unknown format, a model that llama.cpp does not know, text that a Modelfile cannot hold.
    """
    if form not in FORMATS:
        raise HanmoError(unknown_format(form))
    if '"""' in system:
        raise HanmoError('--system: a Modelfile cannot hold """; leave it out')
    model = hub.local(model)
    out.mkdir(parents=True, exist_ok=True)
    if model.suffix == ".gguf":
        if not model.is_file():
            raise HanmoError(f"{model}: no such file")
        file = out / model.name
        if not file.exists() or not file.samefile(model):
            file.unlink(missing_ok=True)
            _linked(model, file)
    else:
        folder = resolve(model)
        name = title(folder)
        file = convert_gguf(folder, out / f"{name}-{form}.gguf", form, name=name).path
    facts = _facts(file)
    template, kind = _template(facts["template"])
    lines = [f"FROM ./{file.name}"]
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    if kind == "chat":
        lines += [f'PARAMETER stop "{mark}"' for mark in (TURN_START, TURN_END)]
    usual = Sampling()
    lines += [
        f"PARAMETER num_ctx {facts['context']}",
        f"PARAMETER temperature {usual.temperature}",
        f"PARAMETER top_p {usual.top_p}",
        f"PARAMETER top_k {usual.top_k}",
        f"PARAMETER repeat_penalty {usual.repetition_penalty}",
    ]
    if facts["license"]:
        lines.append(f'LICENSE """{facts["license"]}"""')
    with atomic_write(out / "Modelfile") as text:
        text.write("\n".join(lines) + "\n")
    return {"file": str(file), "modelfile": str(out / "Modelfile"), "template": kind, "context": facts["context"]}


def _linked(source: Path, target: Path) -> None:
    """The same file at another place, without a second copy of it where the disk allows that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _facts(path: Path) -> dict[str, Any]:
    """What a file says of itself: context, chat template ("" where it has none), licence."""
    reader = gguf.GGUFReader(path)

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    architecture = value("general.architecture")
    return {
        "context": int(value(f"{architecture}.context_length") or 2048),
        "template": value("tokenizer.chat_template") or "",
        "license": value("general.license"),
    }


def _template(jinja: str) -> tuple[str | None, str]:
    """(the template in Go's language or None, what it is)."""
    if not jinja:
        return PLAIN, "plain"
    return (TEMPLATE, "chat") if _says_ours(jinja, _TRIED) else (None, "by Ollama")


def _says_ours(jinja: str, conversations: Sequence[list[dict[str, str]]]) -> bool:
    """Whether a Jinja template renders conversations as `TEMPLATE` does."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(jinja)
        for messages in conversations:
            ours = "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)
            said = template.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
            if said != f"{ours}{TURN_START}assistant\n":
                return False
    except (TemplateError, TypeError, ValueError, KeyError):
        return False
    return True
