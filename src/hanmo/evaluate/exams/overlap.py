"""Which items of an exam stand in a training corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hanmo.corpus.contamination import Exams, write_grams
from hanmo.errors import HanmoError
from hanmo.files import read_jsonl


def overlap(items: Mapping[str, Sequence[str]], corpora: Sequence[Path], share: float) -> dict[str, float]:
    """Items of which a single document of the corpora holds at least `share` (of their runs of 13 characters).

    Args:
        items: texts (question and options) by name. Items without a whole run cannot be told and never count.
        corpora: folders of corpus stages; their training parts are read.

    Returns:
        The largest share of each such item.

    Raises:
        HanmoError: a folder without training text.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hanmo-exams-") as folder:
        path = Path(folder) / "grams.npz"
        write_grams(items.items(), path)
        exams = Exams(path)
        for corpus in corpora:
            files = sorted((corpus / "train").glob("*.jsonl.zst"))
            if not files:
                raise HanmoError(
                    f"{corpus}: no training text (no train/*.jsonl.zst); give the folder of a corpus stage"
                )
            for file in files:
                for _, record in read_jsonl(file):
                    for name, part in exams.held(record["text"], share):
                        found[name] = max(found.get(name, 0.0), part)
    return found
