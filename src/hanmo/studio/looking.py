"""What the studio tells of a stage: its corpus, its tokenizer, its exams, its model card, its rejected documents.

Rooms gather it for their own pages already; here it is only cut to what one look needs. That the files are there, and
are no links to elsewhere, `Shelf.showing` has seen.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hanmo.corpus.audit import drawn, kept
from hanmo.corpus.flows import flow_of
from hanmo.errors import HanmoError
from hanmo.evaluate import collect
from hanmo.files import read_json, read_jsonl
from hanmo.studio.shelf import Missing

#: Examples of a reason; characters of a rejected document, of a model card.
_EXAMPLES, _SHOWN, _CARD = 8, 2000, 200_000
#: Rejected documents of one answer, and the seconds that looking for them may take.
_PAGE, _PATIENCE = 10, 2.0


def corpus(folder: Path) -> dict[str, Any]:
    """The account of a corpus stage, what is drawn of it, examples, and beginnings of documents that were kept."""
    stats = read_json(folder / "stats.json")
    try:
        found = collect.corpus(folder, _EXAMPLES)
    except (KeyError, TypeError, AttributeError):
        raise Missing(f"{folder.name}: its statistics are not those of a corpus of this version") from None
    try:
        found |= drawn(stats)
    except KeyError:  # an older version counted less: where its documents went is known
        flows = [("flow_documents", "flow_lead", flow_of(stats))]
        found |= {"flows": flows, "pictures": [], "cleaning": [], "bad_files": []}
    found["reasons"] = sorted(stats["rejected"].items(), key=lambda item: -item[1])
    try:
        found["kept"] = kept(folder)
    except HanmoError:
        found["kept"] = []
    return found


def rejects(folder: Path, reason: str, skip: int) -> dict[str, Any]:
    """Documents rejected for a reason: {documents, next}; `next` is where to go on, None at the end.

    Looking stops after some seconds: `next` then leads on with what was found so far.
    """
    end = time.monotonic() + _PATIENCE
    found: list[dict[str, Any]] = []
    number = 0
    for path in sorted((folder / "rejects").glob("*.jsonl.zst")):
        for _, record in read_jsonl(path):
            number += 1
            if number <= skip or record.get("reason") != reason:
                continue
            text, meta = str(record.get("text", "")), record.get("meta") or {}
            found.append(
                {
                    "text": text[:_SHOWN],
                    "cut": len(text) > _SHOWN,
                    "source": record.get("source", ""),
                    "detail": meta.get("detail", ""),
                    "where": str(meta.get("at") or record.get("id", "")),
                }
            )
            if len(found) == _PAGE or time.monotonic() > end:
                return {"documents": found, "next": number}
    return {"documents": found, "next": None}


def tokenizer(folder: Path) -> dict[str, Any]:
    """Facts of a vocabulary."""
    return collect.tokenizer_facts(folder)


def exam(folder: Path) -> dict[str, Any]:
    """What an eval stage found, with some questions and replies."""
    try:
        return collect.evaluation(folder)
    except (KeyError, TypeError, IndexError):
        raise Missing(f"{folder.name}: its eval.json is not of this version") from None


def card(folder: Path) -> dict[str, str]:
    """The model card: {text}, Markdown with its metadata at the head."""
    return {"text": (folder / "model" / "README.md").read_text(encoding="utf-8", errors="replace")[:_CARD]}
