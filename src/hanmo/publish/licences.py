"""Whether what a model was trained on lets it be published: texts, records and the model it began as.

This is a list to be worked through, not legal advice: what has a free licence passes; what has terms, forbids
commercial use or adaptations, or names no licence at all is to be looked at by a person, who then says so by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from hanmo import lineage
from hanmo.corpus.catalog import entries
from hanmo.errors import HanmoError, nearest
from hanmo.files import front_matter
from hanmo.plan.presets import bases

#: Stages whose inputs, but for models, are files of people: records, preferences, labelled tasks.
_TUNING = ("sft", "reward", "dpo", "grpo", "understand")
_UNKNOWN = re.compile(r"^(|unknown\b.*|none( named)?|not stated|\?)$", re.I)
#: By what the catalogue of corpora says of publishing a model.
_CATALOGUE = {
    "yes": "",
    "no": "does not let a model of it be published, says the catalogue",
    "terms": "has terms, says the catalogue",
    "unknown": "may not let a model of it be published: the catalogue does not know",
}
#: What licences say, in the order in which it counts; `cc-by-nc-sa` forbids before it asks to share alike.
_RULES = (
    (
        re.compile(r"\bnc\b|non.?commercial|research only|academic|not to be passed on", re.I),
        "forbids commercial use",
    ),
    (re.compile(r"\bnd\b|no.?deriv", re.I), "forbids adaptations"),
    (re.compile(r"\bsa\b|share.?alike|gfdl|gpl", re.I), "asks for the same licence where text is passed on"),
    (
        re.compile(
            r"apache|\bmit\b|\bbsd\b|\bcc0\b|\bcc.by.?\d|\bcc.by$|odc.by|public domain|unlicense|\bisc\b|mulan"
            rf"|^{lineage.MADE_HERE}$",
            re.I,
        ),
        "",
    ),
)


@dataclass(frozen=True)
class Source:
    """Something a model was made of: its licence, and why a person must look at it ("" where nobody must)."""

    kind: str  # text, records or model
    name: str
    licence: str
    objection: str


def sources(model: Path, stated: Mapping[str, str] | None = None) -> list[Source]:
    """All that is known to stand behind a model folder, by the manifests of the stages that made it.

    Args:
        model: a model folder or that of a stage.
        stated: name -> licence, for what names none itself.

    Raises:
        HanmoError: `stated` names what is not behind the model.
    """
    stages = lineage.lineage(model)
    found = [("text", name, str(one["licence"])) for name, one in lineage.texts(stages).items()]
    found += [("records", path.name, "") for path in _records(stages)]
    base = lineage.base_of(stages)
    if base is not None:
        found.append(("model", base.name, _licence_of(base)))
    stated = stated or {}
    for name in stated:
        _known(name, [name for _, name, _ in found], "--states")
    said = [(kind, name, stated.get(name, licence)) for kind, name, licence in found]
    return [Source(kind, name, licence, objection(name, licence)) for kind, name, licence in said]


def objection(name: str, licence: str) -> str:
    """Why a source must be looked at before a model made of it is published; "" where its licence is a free one."""
    if _UNKNOWN.match(licence.strip()):
        return "names no licence"
    says = next((says for pattern, says in _RULES if pattern.search(licence)), "has terms of its own")
    entry = entries().get(name)
    return says or (_CATALOGUE[entry.publishing] if entry is not None else "")


def check(found: Collection[Source], accepted: Collection[str], licence: str) -> None:
    """Raise where something nobody has accepted stands against publishing, or nothing is known at all.

    Args:
        found: what `sources` found.
        accepted: names of sources whose terms a person has read and meets.
        licence: that of the model.

    Raises:
        HanmoError: with every open source, its objection and the words that mend it.
    """
    for name in accepted:
        _known(name, [source.name for source in found], "--accept")
    own = re.compile(r"\bnc\b|non.?commercial", re.I).search(licence)
    open_ = [
        source
        for source in found
        if source.objection
        and source.name not in accepted
        and not (own and source.objection == "forbids commercial use")
    ]
    if open_:
        said = "; ".join(f"{one.kind} {one.name} {one.objection}" for one in open_)
        unknown = [one.name for one in open_ if one.objection == "names no licence"]
        mend = f"--states {unknown[0]}=LICENCE" if unknown else f"--accept {open_[0].name}"
        more = " (where you know it), or --accept NAME" if unknown else ""
        raise HanmoError(f"not published: {said}. Read their terms, then give {mend}{more}")


def _known(name: str, names: Collection[str], option: str) -> None:
    if name not in names:
        raise HanmoError(
            f"{option} {name}: nothing of that name is behind this model{nearest(name, names)} "
            f"(known: {', '.join(names) or 'nothing'})"
        )


def _records(stages: list[lineage.Made]) -> list[Path]:
    """The files of records, preferences and tasks that no stage of ours made, once each."""
    found: dict[Path, None] = {}
    for stage in stages:
        if stage.do not in _TUNING:
            continue
        for role, paths in stage.manifest.get("inputs", {}).items():
            if role not in ("model", "reward"):
                places = (Path(text) for text in paths)
                found.update({place: None for place in places if lineage.made_by(lineage.beside(stage, place)) is None})
    return list(found)


def _licence_of(base: lineage.Base) -> str:
    """That in the card of a base model's folder, or of the table of public models."""
    card = base.folder / "README.md"
    stated = front_matter(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else {}
    if stated.get("license"):
        return str(stated["license"])
    known = {entry["name"].partition("/")[2].lower(): entry["licence"] for entry in bases()}
    return known.get(base.name.rpartition("/")[2].lower(), "")
