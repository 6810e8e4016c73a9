"""`hanmo corpus clean`: what cleaning would change in a file or folder, before and after, without making a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from hanmo.corpus.clean import Cleaner
from hanmo.corpus.cleaning.changes import Changes
from hanmo.corpus.fields import text_of
from hanmo.corpus.formats import read
from hanmo.corpus.inputs import bad_file, look
from hanmo.corpus.records import Record
from hanmo.corpus.settings import CorpusSettings
from hanmo.corpus.stream import FileFault
from hanmo.errors import HanmoError


def settings_of(path: Path, given: list[str], source: dict[str, Any]) -> CorpusSettings:
    """A corpus of one source.

    Args:
        given: settings of `clean` as KEY=VALUE; keys of groups have a dot (lines.icp=false), values are YAML.
        source: settings of the source.

    Raises:
        HanmoError: a setting that is not one, or not KEY=VALUE.
    """
    from hanmo.recipe import check_settings
    from hanmo.stages import KINDS

    clean: dict[str, Any] = {}
    for item in given:
        key, sign, text = item.partition("=")
        if not sign:
            raise HanmoError(f"--set {item}: a setting is KEY=VALUE, e.g. convert=auto")
        *groups, name = key.removeprefix("clean.").split(".")
        place = clean
        for group in groups:
            place = place.setdefault(group, {})
        try:
            place[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise HanmoError(f"--set {item}: '{text}' is no YAML value ({error})") from None
    values = {"sources": [{"path": str(path), **source}], "clean": clean}
    checked = check_settings(KINDS["corpus"], values, "corpus clean")
    assert isinstance(checked, CorpusSettings)
    return checked


def preview(settings: CorpusSettings, sample: int, documents: int) -> dict[str, Any]:
    """Clean the first documents of a corpus's sources.

    Args:
        sample: excerpts of each rule.
        documents: how many are looked at; 0: all.

    Returns:
        documents, characters before and after, `changed` and `changed_documents` by rule, and `changes` in the form of
        `cleaning.changes`.
    """
    cleaner = Cleaner(settings.clean_of(settings.sources[0]))
    changes = Changes(sample)
    changed: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    count = before = after = 0
    for where, text in islice(_documents(settings), documents or None):
        found: Counter[str] = Counter()
        changes.begin(where)
        _, was, now = cleaner(text, found, changes)
        changed.update(found)
        touched.update(found.keys())
        count, before, after = count + 1, before + was.chars, after + now.chars
    if not count:
        raise HanmoError(f"{settings.sources[0].path}: no document that can be read")
    return {
        "documents": count,
        "chars_before": before,
        "chars_after": after,
        "changed": dict(sorted(changed.items())),
        "changed_documents": dict(sorted(touched.items())),
        "changes": changes.as_list(),
    }


def _documents(settings: CorpusSettings) -> Iterator[tuple[str, str]]:
    for file in look(settings, []).files:
        if file.opened.stripe:
            continue
        try:
            for item in read(file.opened):
                text = text_of(item.fields, file.text) if isinstance(item, Record) else None
                if text:
                    yield f"{file.name}:{item.place}", text
        except FileFault as fault:
            raise bad_file(file.opened.where, fault) from None


def print_preview(found: dict[str, Any]) -> None:
    """Write the account and, rule by rule, the excerpts as diffs: what goes in red, what comes in green."""
    from rich.table import Table

    from hanmo.console import Console

    console = Console(highlight=False, soft_wrap=True)
    table = Table("rule", "amount", "documents", title=f"{found['documents']} documents")
    for rule, amount in found["changed"].items():
        table.add_row(rule, str(amount), str(found["changed_documents"][rule]))
    console.print(table)
    console.print(f"{found['chars_before']} characters before, {found['chars_after']} after")
    last = ""
    for item in found["changes"]:
        if item["rule"] != last:
            last = item["rule"]
            console.rule(last, align="left")
        console.print(f"{item['where']}", style="dim", markup=False)
        console.print(_diff(item["before"], item["after"]))


#: What cannot be seen otherwise.
_SEEN = str.maketrans({"\n": "⏎\n", "\t": "→\t", "\u3000": "□", "\xa0": "⍽", "\u200b": "∅", "\ufeff": "∅"})


def _diff(before: str, after: str):
    from rich.text import Text

    shown = Text("  ")
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            shown.append(before[a:b])
        else:
            shown.append(before[a:b].translate(_SEEN), style="red strike")
            shown.append(after[c:d].translate(_SEEN), style="bold green")
    return shown
