"""What `inspection` found, for a person at a terminal."""

from __future__ import annotations

from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hanmo.console import Console, human_bytes, human_count

#: Groups and faulty files that are shown; `--json` has all.
_GROUPS, _FAULTS = 12, 10


def show(found: dict[str, Any]) -> None:
    """Print a report of `inspection.inspect` to the standard output."""
    out = Console(highlight=False)
    out.print(Text(f"{', '.join(found['paths'])}: {found['files']} files, {human_bytes(found['bytes'])}", style="bold"))
    groups = sorted(found["groups"], key=lambda group: -group["bytes"])
    for group in groups[:_GROUPS]:
        out.print()
        _show_group(out, group)
    if len(groups) > _GROUPS:
        out.print(f"\n… and {len(groups) - _GROUPS} more kinds of file; --json shows all", markup=False)
    if found["left_out"]:
        listed = ", ".join(f"{count} {ending}" for ending, count in list(found["left_out"].items())[:8])
        out.print(f"\nLeft out, since no reader is known by their ending: {listed}", markup=False, soft_wrap=True)
    for note in found["notes"][:_FAULTS]:
        out.print(note, markup=False, soft_wrap=True)
    for fault in found["faults"][:_FAULTS]:
        out.print(Text(f"faulty  {fault['file']}: {fault['fault']}", style="red"), soft_wrap=True)
    if len(found["faults"]) > _FAULTS:
        out.print(f"… and {len(found['faults']) - _FAULTS} more faulty files; --json shows all", markup=False)
    if found["recipe"]:
        head = "A recipe that makes a corpus of it (save it as corpus.yaml, then `hanmo run corpus.yaml`):"
        out.print(f"\n{head}\n", markup=False, soft_wrap=True)
        out.print(found["recipe"], markup=False, soft_wrap=True)
        if out_of_it := [name for group in groups if not group["text"] for name in group["names"]]:
            listed = ", ".join(out_of_it[:8]) + (", …" if len(out_of_it) > 8 else "")
            out.print(f"Not in it, since no field holds plain text: {listed}", markup=False, soft_wrap=True)
    else:
        out.print("\nNothing of it can be a corpus as it is: no text field was found.", markup=False)


def _show_group(out: Console, group: dict[str, Any]) -> None:
    what = group["format"] + group["compression"] + (f", one document a {group['split']}" if group["split"] else "")
    names = ", ".join(group["names"][:3]) + (", …" if group["files"] > 3 else "")
    encodings = ", ".join(group["encodings"])
    documents = human_count(group["documents"]) if group["documents"] >= 10_000 else str(group["documents"])
    counts = f"{'' if group['exact'] else 'about '}{documents} {'documents' if group['text'] else 'records'}"
    if "chars" in group:
        counts += f", {human_count(group['chars'])} characters"
    head = f"{what}: {group['files']} file{'s' if group['files'] > 1 else ''}, {human_bytes(group['bytes'])}, {counts}"
    out.print(Text(head + (f", {encodings}" if encodings else ""), style="bold cyan"), soft_wrap=True)
    out.print(Text(f"  {names}", style="dim"), soft_wrap=True)
    if group["format"] not in ("txt", "md"):
        _show_fields(out, group)
    taken = " + ".join(group["text"]) or "none"
    out.print(f"  text from: {taken} ({group['why']})", markup=False, soft_wrap=True)
    if group["bad"]:
        first = group["bad_examples"][0]
        out.print(
            Text(f"  unreadable: {group['bad']} records, first {first['where']}: {first['detail']}", style="red"),
            soft_wrap=True,
        )
    if "scripts" not in group:
        return
    shares = ", ".join(f"{script} {share:.1%}" for script, share in group["scripts"].items() if share >= 0.005)
    lengths = group["lengths"]
    out.print(f"  {group['language']}: {shares}", markup=False, soft_wrap=True)
    out.print(
        f"  characters a document: {lengths['min']:,} to {lengths['max']:,}, the middle one {lengths['median']:,} "
        f"(of the first {group['records']})",
        markup=False,
        soft_wrap=True,
    )
    cleaning = group["cleaning"]
    if cleaning["changed"]:
        changed = ", ".join(f"{rule} {count}" for rule, count in cleaning["changed"].items())
        out.print(f"  cleaning would change characters: {changed}", markup=False, soft_wrap=True)
    if cleaning["rejected"]:
        rejected = ", ".join(f"{count} {reason}" for reason, count in cleaning["rejected"].items())
        out.print(f"  of {group['records']}, filters would reject: {rejected}", markup=False, soft_wrap=True)
    for suspicion in group["suspicious"]:
        out.print(Text(f"  ! {suspicion}", style="yellow"), soft_wrap=True)
    for sample in group["samples"]:
        _show_sample(out, sample)


def _show_fields(out: Console, group: dict[str, Any]) -> None:
    table = Table("field", "type", "filled", "chars", "example", box=None, header_style="dim")
    for item in group["fields"][:12]:
        mark = "* " if item["name"] in group["text"] else "  "
        chars = "" if item["mean_chars"] is None else f"{item['mean_chars']:,}"
        cells = (mark + item["name"], " or ".join(item["types"]), f"{item['filled']:.0%}", chars, item["example"][:50])
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    out.print(Padding(table, (0, 0, 0, 2)))
    if len(group["fields"]) > 12:
        out.print(f"    … and {len(group['fields']) - 12} more fields", markup=False)


def _show_sample(out: Console, sample: dict[str, Any]) -> None:
    changed = ", ".join(f"{rule} {count}" for rule, count in sample["changed"].items())
    head = f"  {sample['where']} ({sample['chars']:,} characters{f'; cleaning: {changed}' if changed else ''})"
    out.print(Text(head, style="dim"), soft_wrap=True)
    before, after = (Text(_one_line(sample[key]), overflow="ellipsis", no_wrap=True) for key in ("before", "after"))
    if before == after:
        out.print(Padding(after, (0, 0, 0, 4)))
    else:
        out.print(Padding(Text("before ", style="dim") + before, (0, 0, 0, 4)), no_wrap=True, overflow="ellipsis")
        out.print(Padding(Text("after  ", style="dim") + after, (0, 0, 0, 4)), no_wrap=True, overflow="ellipsis")


def _one_line(text: str) -> str:
    """White space and control characters made visible, so that what cleaning does can be seen."""
    shown = text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥").replace("\u3000", "□").replace("\u200b", "·")
    return "".join(char if char.isprintable() else "�" for char in shown)[:160]
