"""The audit of a corpus: one page with what was read, kept, changed and rejected, in figures and in real examples.

Figures come from stats.json, examples from the records in rejects/ and from the beginnings of training shards. Of every
reason and source the examples are those whose places have the smallest hashes: spread evenly over all records, and the
same each time. Cleaning's samples are shown where a source's statistics hold them: `changes`, a list of
{rule, where, before, after}.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from pathlib import Path
from typing import Any

import xxhash

from hanmo.console import console, human_bytes
from hanmo.corpus.flows import flow_of
from hanmo.corpus.words import AUDIT
from hanmo.errors import HanmoError
from hanmo.files import atomic_write, read_json, read_jsonl
from hanmo.pages import Words, environment

#: Characters of an example, and of a kept document.
_SHOWN = 300
#: Training shards whose first documents are shown, and how many of each.
_SHARDS, _EACH = 6, 2
#: At most so many bars in a picture of named things; the rest is taken together.
_BARS = 12


def audit(corpus: Path, out: Path, examples: int = 8, language: str = "auto") -> Path:
    """Write the page about the corpus folder `corpus` to `out`; returns `out`.

    Args:
        examples: of each reason and source.
        language: what the page begins in: "auto" (the browser's), "zh" or "en".

    Raises:
        HanmoError: no finished corpus there, or its records are torn.
    """
    if not (corpus / "stats.json").is_file():
        raise HanmoError(f"{corpus}: no stats.json; give the folder of a finished corpus stage")
    stats = read_json(corpus / "stats.json")
    if not isinstance(stats, dict) or "rejected_bytes" not in stats:
        raise HanmoError(f"{corpus / 'stats.json'}: not of this version's corpus stage; make the corpus again")
    page = render(corpus.resolve().name, stats, rejected(corpus, examples), kept(corpus), language, examples)
    with atomic_write(out) as file:
        file.write(page)
    console.print(f"audit: {out} ({human_bytes(len(page.encode()))})", markup=False, soft_wrap=True)
    return out


def rejected(corpus: Path, most: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By reason and source, at most `most` of the records in rejects/, in the order of their places."""
    found: dict[tuple[str, str], list[tuple[int, int, dict[str, Any]]]] = defaultdict(list)
    number = 0
    for path in sorted((corpus / "rejects").glob("*.jsonl.zst")):
        for _, record in read_jsonl(path):
            number += 1
            held = found[record["reason"], record["source"]]
            rank = -xxhash.xxh3_64_intdigest(f"{record['id']}\0{record['text'][:100]}".encode("utf-8", "replace"))
            if len(held) < most:
                heapq.heappush(held, (rank, number, record))
            elif rank > held[0][0]:
                heapq.heapreplace(held, (rank, number, record))
    table: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for (reason, source), held in sorted(found.items()):
        table[reason][source] = [_shown(record) for _, _, record in sorted(held, key=lambda item: item[1])]
    return table


def kept(corpus: Path) -> list[dict[str, Any]]:
    """A few documents of the training part (which is in the order of hashes, so its beginnings are a fair sample)."""
    paths = sorted((corpus / "train").glob("*.jsonl.zst"))
    found = []
    for path in paths[:: max(1, len(paths) // _SHARDS)][:_SHARDS]:
        for number, record in read_jsonl(path):
            found.append(_shown(record))
            if number >= max(_EACH, 2 * _SHARDS * _EACH // (3 * len(paths))):
                break
    return found


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    text, meta = record["text"].strip(), record.get("meta", {})
    told = [str(meta[name]) for name in ("lang", "register", "script") if name in meta]
    told += [f"{name} {meta[name]}" for name in ("quality", "perplexity") if name in meta]
    return {
        "text": text[:_SHOWN],
        "cut": len(text) > _SHOWN,
        "source": record["source"],
        "where": str(meta.get("at") or record["id"]).removeprefix(f"{record['source']}:"),
        "detail": meta.get("detail", "") or " · ".join(told),
    }


def render(
    name: str,
    stats: dict[str, Any],
    examples: dict[str, dict[str, list[dict[str, Any]]]],
    documents: list[dict[str, Any]],
    language: str,
    most: int = 8,
) -> str:
    """The page as one HTML document, with at most so many samples of what a cleaning rule changed."""
    page = environment(Path(__file__).parent / "page", Words(AUDIT))
    return page.get_template("audit.html.j2").render(
        name=name, stats=stats, language=language, examples=examples, documents=documents, **drawn(stats, most)
    )


def drawn(stats: dict[str, Any], most: int = 8) -> dict[str, Any]:
    """What a page draws of a corpus's statistics: {flows, pictures, reasons, matrix, cleaning, bad_files}.

    Args:
        most: samples of what a cleaning rule changed.
    """
    reasons = sorted(stats["rejected"], key=lambda reason: -stats["rejected"][reason])
    return {
        "flows": [
            ("flow_documents", "flow_lead", flow_of(stats)),
            ("flow_bytes", "bytes_lead", flow_of(stats, "bytes")),
        ],
        "pictures": [_bars(key, counts) for key in _PICTURES if (counts := stats["seen"].get(key))],
        "reasons": reasons,
        "matrix": _matrix(stats, reasons),
        "cleaning": _cleaning(stats, most),
        "bad_files": [line for source in stats["sources"].values() for line in source["bad_files"]],
    }


#: What is drawn of `seen`, in this order; those of numbers are drawn as histograms.
_PICTURES = ("chars", "lang", "register", "script", "perplexity", "quality")
_NUMBERS = ("chars", "perplexity", "quality")


def _bars(key: str, counts: dict[str, int]) -> dict[str, Any]:
    """One picture: {key, bars: [{label or word, value}], whole, most}; bins of numbers in order."""
    if key in _NUMBERS:
        low = sorted(counts, key=float)
        names = [bin_ if key == "quality" else f"{round(float(bin_)):,}" for bin_ in low]
        bars = [{"label": f"{name} –", "value": counts[bin_]} for name, bin_ in zip(names, low, strict=True)]
    else:
        named = sorted(counts.items(), key=lambda item: -item[1])
        bars = [{"word": f"{key}_{name}", "name": name, "value": value} for name, value in named[:_BARS]]
        if rest := sum(value for _, value in named[_BARS:]):
            bars.append({"word": "other", "name": "", "value": rest})
    return {"key": key, "bars": bars, "whole": sum(counts.values()), "most": max(counts.values())}


def _matrix(stats: dict[str, Any], reasons: list[str]) -> list[dict[str, Any]]:
    """Rows of the table of sources: {name, read, rejected, by reason}."""
    rows = []
    for name, source in stats["sources"].items():
        read = source["read"]["documents"]
        by = [source["rejected"].get(reason, 0) for reason in reasons]
        rows.append({"name": name, "read": read, "rejected": sum(by), "by": by, "licence": source.get("licence", "")})
    return sorted(rows, key=lambda row: -row["read"])


def _cleaning(stats: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """By rule: how much it changed, and samples where there are any."""
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, source in stats["sources"].items():
        for sample in source.get("changes", ()):
            samples[sample["rule"]].append({"source": name, **sample, **_difference(sample["before"], sample["after"])})
    rules = sorted({*stats["changed"], *samples}, key=lambda rule: -stats["changed"].get(rule, 0))
    documents = stats.get("changed_documents", {})
    return [
        {
            "rule": rule,
            "count": stats["changed"].get(rule, 0),
            "documents": documents.get(rule),
            "samples": samples[rule],
        }
        for rule in rules
    ]


def _difference(before: str, after: str) -> dict[str, tuple[str, str, str]]:
    """Both texts as (same, different, same)."""
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    most = min(len(before), len(after)) - start
    end = next((i for i in range(most) if before[-1 - i] != after[-1 - i]), most)
    return {
        name: (text[:start], text[start : len(text) - end], text[len(text) - end :])
        for name, text in (("was", before), ("is", after))
    }
