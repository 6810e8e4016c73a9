"""The flow of a corpus's documents, or of their bytes, from sources to fates, as a picture."""

from __future__ import annotations

from typing import Any

from hanmo import charts

#: Sources that are drawn by themselves; the smaller ones are taken together.
_MOST_SOURCES = 8


def flow_of(stats: dict[str, Any], by: str = "documents") -> dict[str, Any]:
    """The flow in the statistics of a corpus (stats.json), the smaller sources taken together as "other".

    Args:
        by: "documents" or "bytes"; of bytes, what cleaning took away is a fate of its own, "cleaned".
    """
    sources = sorted(stats["sources"].items(), key=lambda item: -item[1]["read"][by])
    groups = [(name, [source]) for name, source in sources]
    if len(groups) > _MOST_SOURCES:
        rest = [source for _, source in sources[_MOST_SOURCES - 1 :]]
        groups = [*groups[: _MOST_SOURCES - 1], ("other", rest)]
    rejected = "rejected" if by == "documents" else "rejected_bytes"
    reasons = sorted(stats[rejected], key=lambda reason: -stats[rejected][reason])
    flows = []
    for name, group in groups:
        # Ribbons leave a source in the order of their ends, so that they do not cross more than they must.
        flows.append((name, "train", sum(source["train"][by] for source in group)))
        flows.append((name, "heldout_part", sum(source["heldout"][by] for source in group)))
        flows += [(name, reason, sum(source[rejected].get(reason, 0) for source in group)) for reason in reasons]
        if by == "bytes":
            left = sum(s["read"][by] - s["train"][by] - s["heldout"][by] - sum(s[rejected].values()) for s in group)
            flows.append((name, "cleaned", max(0, left)))
    return charts.flow(flows, ["train", "heldout_part", *reasons, "cleaned"])
