"""The tokenizer playground: how tokenizers cut a text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from hanmo.errors import HanmoError
from hanmo.studio.shelf import Missing, Shelf
from hanmo.tokenizer.opening import OpenTokenizer, open_tokenizer

#: Characters that are cut at once, and tokenizers side by side.
MOST_TEXT, MOST_SIDES = 20_000, 6
_KEPT = 8
#: Where in a stage's folder a tokenizer may be.
_PLACES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "tokenizer/tokenizer.json", "model/tokenizer.json")


class Tokenizers:
    """The tokenizers below a folder of runs, opened when they are first asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._open: OrderedDict[tuple[Path, int], OpenTokenizer] = OrderedDict()
        self._prints: dict[Path, tuple[tuple[int, int], str]] = {}
        self._lock = threading.Lock()

    def all(self) -> list[dict[str, Any]]:
        """{run, stage, name, also} of the tokenizers there are, those that stages made first.

        Copies of one tokenizer (a model carries its own along) are one entry; `also` names the stages of the others.
        """
        found: dict[str, dict[str, Any]] = {}
        places = [(run, folder, place) for run, folder in self._shelf.all_stages() if (place := self._place(folder))]
        for run, folder, place in sorted(places, key=lambda item: len(item[2].relative_to(item[1]).parts)):
            name = f"{run}/{folder.name}"
            entry = found.setdefault(self._print(place), {"run": run, "stage": folder.name, "also": []})
            if "name" in entry:
                entry["also"].append(name)
            else:
                entry["name"] = f"{self._shelf.title(run)}/{folder.name}"
        return list(found.values())

    def _place(self, folder: Path) -> Path | None:
        places = (folder / name for name in _PLACES)
        return next((place for place in places if place.is_file() and self._shelf.inside(place)), None)

    def _print(self, place: Path) -> str:
        """A fingerprint of a tokenizer's file, taken again only when it changed."""
        stat = place.stat()
        mark = (stat.st_mtime_ns, stat.st_size)
        known = self._prints.get(place)
        if known is None or known[0] != mark:
            known = self._prints[place] = (mark, xxhash.xxh3_128_hexdigest(place.read_bytes()))
        return known[1]

    def cut(self, run: str, stage: str, text: str) -> dict[str, Any]:
        """How one of them cuts a text.

        Returns:
            {form, vocabulary, tokens, characters, bytes, whole, pieces}: `whole` says whether decoding gives the text
            back; each piece is {text, tokens: [{id, name}], kind}, several tokens where a character is split.

        Raises:
            HanmoError: no tokenizer there, or one that cannot be opened.
        """
        place = self._place(self._shelf.folder(run, stage))
        if place is None:
            raise Missing(f"stage '{run}/{stage}': no tokenizer there")
        with self._lock:
            key = (place, place.stat().st_mtime_ns)
            found = self._open.pop(key, None) or open_tokenizer(place)
            self._open[key] = found
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
            encoded = found.encode(text)
            whole = found.decode(encoded.ids.tolist()) == text
        pieces = list(_pieces(found, text, encoded.ids.tolist(), encoded.starts.tolist(), encoded.ends.tolist()))
        return {
            "form": found.form,
            "vocabulary": len(found.pieces),
            "tokens": len(encoded.ids),
            "characters": len(text),
            "bytes": len(text.encode()),
            "whole": whole,
            "pieces": pieces,
        }


def _pieces(
    tokenizer: OpenTokenizer, text: str, ids: list[int], starts: list[int], ends: list[int]
) -> Iterator[dict[str, Any]]:
    """Stretches of the text with their tokens; tokens that share a character are one piece, what none has is a gap."""
    at = 0
    number = 0
    while number < len(ids):
        first, begin, end = number, starts[number], ends[number]
        number += 1
        while number < len(ids) and starts[number] < end:
            end = max(end, ends[number])
            number += 1
        if begin > at:
            yield {"text": text[at:begin], "tokens": [], "kind": "dropped"}
        begin = max(begin, at)
        tokens = [(index, tokenizer.pieces[index]) for index in ids[first:number]]
        kinds = {piece.kind for _, piece in tokens}
        kind = next((kind for kind in ("unknown", "special", "byte") if kind in kinds), "normal")
        if kind == "normal" and len(tokens) > 1:
            kind = "split"
        named = [{"id": index, "name": _named(piece.name, piece.bytes)} for index, piece in tokens]
        yield {"text": text[begin:end], "tokens": named, "kind": kind}
        at = max(at, end)
    if at < len(text):
        yield {"text": text[at:], "tokens": [], "kind": "dropped"}


def _named(name: str, content: bytes) -> str:
    """A token as a person reads it: its text, or its bytes where they are part of a character."""
    if not content:
        return name
    try:
        return content.decode()
    except UnicodeDecodeError:
        return " ".join(f"{byte:02X}" for byte in content)


def asked(body: Any) -> tuple[list[tuple[str, str]], str]:
    """(tokenizers, text) of a request's body.

    Raises:
        HanmoError: it is not {tokenizers: [{run, stage}], text}, or too much.
    """
    match body:
        case {"tokenizers": list() as sides, "text": str() as text}:
            names = [(side["run"], side["stage"]) for side in sides if _names_one(side)]
            if len(names) != len(sides):
                raise HanmoError("tokenizers: must be a list of {run, stage}")
        case _:
            raise HanmoError("send {tokenizers: [{run, stage}], text}")
    if not 1 <= len(names) <= MOST_SIDES:
        raise HanmoError(f"tokenizers: from 1 to {MOST_SIDES} at once")
    if len(text) > MOST_TEXT:
        raise HanmoError(f"text: {len(text)} characters are more than {MOST_TEXT}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise HanmoError("text: holds half of a surrogate pair, which is not a character")
    return names, text


def _names_one(side: Any) -> bool:
    return isinstance(side, dict) and all(isinstance(side.get(part), str) for part in ("run", "stage"))
