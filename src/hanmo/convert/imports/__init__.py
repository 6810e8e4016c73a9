"""Checkpoints of other projects as Hugging Face folders of stock classes: `hanmo convert import`.

`source` opens what is there and runs none of it, `recognise` says by names, shapes and configuration keys what it is,
a module a family maps it, `plan` holds the mapping against the class, `write` makes the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hanmo.console import console, human_count
from hanmo.files import whole_folder

#: The record of an import beside its model; it also marks the folder as one that a later import may replace.
RECORD = "import.json"
#: Names that the terminal shows; all of them are in the record.
_SHOWN = 4


def import_model(
    path: Path, out: Path, config: Path | None = None, tokenizer: Path | None = None, strict: bool = True
) -> dict[str, Any]:
    """Read the checkpoint at `path` and write a folder that plain `from_pretrained` reads.

    Args:
        path: a file of weights, or a folder with one set of them.
        out: the folder to make: weights as safetensors in the type they have, configuration, generation settings, the
            tokenizer where there is one, and `import.json`.
        config: the model's configuration (JSON or YAML) where none lies beside the weights.
        tokenizer: a tokenizer (file or folder) where none lies beside the weights.
        strict: refuse a checkpoint with weights that the class has no place for, or without some that it wants.
            Otherwise the former are left out and the latter are drawn when the model is loaded; both are recorded.

    Returns:
        What `import.json` holds: kind, class, parameters, and by name what was left out.

    Raises:
        HanmoError: nothing there, torn, of no known kind, or not wholly mappable.
    """
    from hanmo.convert.imports.plan import check
    from hanmo.convert.imports.recognise import recognise
    from hanmo.convert.imports.source import open_source
    from hanmo.convert.imports.write import write

    source = open_source(path, config)
    plan = recognise(source)
    missing = check(plan, source, strict)
    with whole_folder(out, RECORD) as folder:
        record = write(plan, source, missing, folder, tokenizer)
    _report(record)
    return record


def _report(record: dict[str, Any]) -> None:
    console.print(
        f"{record['kind']} -> {record['class']}, {human_count(record['parameters'])} parameters, {record['dtype']}",
        markup=False,
    )
    for title, names in (
        ("not mapped, left out", record["unmapped"]),
        ("missing, drawn when loaded", record["missing"]),
        ("not part of the class, left out", record["unused"]),
        ("configuration keys without effect here", record["config_unused"]),
    ):
        if names:
            more = f", ... ({len(names)} in {RECORD})" if len(names) > _SHOWN else ""
            console.print(f"  {title}: {', '.join(names[:_SHOWN])}{more}", markup=False, soft_wrap=True)
    for note in record["notes"]:
        console.print(f"  {note}", markup=False, soft_wrap=True)


def describe(record: dict[str, Any]) -> str:
    """The record's facts in a line of JSON, for the command's stdout; lists of names as their lengths."""
    return json.dumps({k: len(v) if isinstance(v, list) else v for k, v in record.items()}, ensure_ascii=False)
