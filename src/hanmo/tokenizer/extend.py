"""Giving an existing tokenizer more pieces: new ids behind the old ones, and the old ids as they were.

Two kinds can be extended. In a byte-level BPE the new merges stand behind all the old ones: a text is cut as before,
and only then are tokens joined further. In a SentencePiece BPE every new piece has a score below those of the old ones,
in the order of the list it comes from, which says the same; the model file and the fast tokenizer agree to the id.

Published merges (Chinese-LLaMA and those that followed it) gave all new pieces the score 0, above every old one; with
`equal_scores` so do we, and get their model file. The fast tokenizer cannot say "the leftmost of equals", and cuts
about one line in six otherwise than the model file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json, whole_folder, write_json
from hanmo.tokenizer import load, save
from hanmo.tokenizer.forms import spm as forms
from hanmo.tokenizer.forms import spm_growing as growing
from hanmo.tokenizer.grow import Grown, learn, surely_chinese
from hanmo.tokenizer.opening import SPACE, OpenTokenizer, open_tokenizer, read_proto
from hanmo.tokenizer.texts import sample
from hanmo.tokenizer.train import byte_letters

#: What is written beside the tokenizer, and by which its folder is known.
RECORD = "extend.json"
#: Files of a Hugging Face tokenizer that are taken over as they are.
_KEPT = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
#: Keys of tokenizer_config.json that bind it to another class.
_BOUND = ("auto_map", "legacy", "sp_model_kwargs", "use_fast", "add_bos_token", "add_eos_token", "add_prefix_space")
#: Text on which the two tokenizers are compared, in strings of a million characters.
_COMPARED = 2


@dataclass(frozen=True)
class _Base:
    """The tokenizer that is extended: opened, and the parts that are written again."""

    opened: OpenTokenizer
    folder: Path | None
    proto: Any | None
    json: dict[str, Any]


def extend(
    base: Path,
    out: Path,
    *,
    corpus: Sequence[Path] = (),
    pieces: Path | None = None,
    add: int | None = None,
    sample_mb: int = 50,
    equal_scores: bool = False,
) -> dict[str, Any]:
    """Extend a tokenizer and save it in `out` as a Hugging Face folder, with tokenizer.model where the base has one.

    Args:
        base: a tokenizer that `open_tokenizer` knows: a byte-level or a SentencePiece BPE.
        corpus: corpus folders or files to learn the new pieces from.
        pieces: instead, a tokenizer whose pieces are added, or a text file with one a line.
        add: so many new tokens; by default all of `pieces`.
        sample_mb: megabytes of the corpus that are learnt from.
        equal_scores: score 0 for all new pieces of a SentencePiece model.

    Returns:
        What extend.json holds: counts of old and new tokens, those that no text can give, and characters per token on
        the corpus before and after.

    Raises:
        HanmoError: the base is of a kind that cannot be extended, the text supports fewer pieces, or `out` is in use.
    """
    if bool(corpus) == bool(pieces):
        raise HanmoError("give either --corpus, to learn pieces from, or --pieces, a list of them")
    if corpus and not add:
        raise HanmoError("--add: say how many tokens are to be learnt")
    opened = _open(base)
    if equal_scores and opened.proto is None:
        raise HanmoError(f"{base}: --equal-scores is for a SentencePiece model, and there is none")
    if pieces is not None:
        wanted = [Grown(text, 0, ()) for text in read_pieces(pieces)]
    else:
        assert add is not None
        console.print(f"learning {add} tokens behind {len(opened.opened.pieces)}")
        wanted = learn(opened.opened, sample(corpus, int(sample_mb * 1e6)), add)
    with whole_folder(out, RECORD) as folder:
        if opened.opened.form == "byte-level BPE":
            left_out = _grow_bytes(opened, wanted, add)
        else:
            left_out = _grow_pieces(opened, wanted, add, equal_scores)
        _write(opened, folder)
        record = _compare(opened.opened, folder, corpus)
        record |= {"already_there": left_out, "base": opened.opened.form, "equal_scores": equal_scores}
        if add and record["added"] < add:
            raise HanmoError(
                f"{pieces or corpus[0]}: there are only {record['added']} new pieces, not {add}; "
                "set --add to that or less, or give more text"
            )
        write_json(folder / RECORD, record)
    return record


def read_pieces(path: Path) -> list[str]:
    """The pieces of a list in their order, each once: those of a tokenizer that are whole characters, or lines.

    Raises:
        HanmoError: nothing there.
    """
    found: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".txt" else ["[UNK]"]
    except UnicodeDecodeError as error:
        raise HanmoError(f"{path}: not UTF-8 at byte {error.start}; save the list of pieces as UTF-8") from None
    if "[UNK]" not in lines:
        found = [line.removesuffix("\r") for line in lines]
    else:
        for piece in open_tokenizer(path).pieces:
            try:
                found.append(piece.bytes.decode() if piece.kind == "normal" else "")
            except UnicodeDecodeError:
                continue
    found = [text for text in dict.fromkeys(found) if text]
    if not found:
        raise HanmoError(f"{path}: no pieces there")
    return found


def _open(path: Path) -> _Base:
    opened = open_tokenizer(path)
    if opened.form not in ("byte-level BPE", "SentencePiece BPE"):
        raise HanmoError(
            f"{opened.path}: a tokenizer of the kind {opened.form} cannot be extended, only a byte-level BPE and a "
            "SentencePiece BPE (a .tiktoken file: make a folder of it with `hanmo tokenizer import` first)"
        )
    beside = opened.path.parent / "tokenizer.model"
    proto = None
    if opened.path.suffix == ".model":
        proto = read_proto(opened.path)
    elif opened.form == "SentencePiece BPE" and beside.is_file():
        proto = read_proto(beside)
    folder = opened.path.parent if (opened.path.parent / "tokenizer_config.json").is_file() else None
    if proto is not None:
        # Added tokens stand above the model's pieces: as pieces that no text can give they keep their ids in it, too.
        for index, piece in list(enumerate(opened.pieces))[len(proto.pieces) :]:
            kind = {"special": forms.CONTROL, "unused": forms.UNUSED}.get(piece.kind, forms.USER)
            growing.append(proto, piece.name or f"<unused_{index}>", 0.0, kind)
    config = read_json(opened.path) if opened.path.suffix == ".json" else {}
    return _Base(opened, folder, proto, config)


def _grow_pieces(base: _Base, wanted: Iterable[Grown], add: int | None, equal_scores: bool) -> int:
    """Add pieces to a SentencePiece BPE; returns how many were there before."""
    names = [piece.name for piece in base.opened.pieces]
    there = set(names)
    known = 0
    fresh: list[str] = []
    for one in wanted:
        name = one.text.replace(" ", SPACE)
        if name in there:
            known += 1
        elif add is None or len(fresh) < add:
            there.add(name)
            fresh.append(name)
    if base.proto is not None:
        low = growing.lowest_score(base.proto)
        for number, name in enumerate(fresh):
            growing.append(base.proto, name, 0.0 if equal_scores else low - 1 - number)
    if base.json:
        model = _fill(base)
        first = len(base.opened.pieces)
        model["vocab"] |= {name: first + number for number, name in enumerate(fresh)}
        if base.proto is not None:
            scores = {piece.piece: piece.score for piece in base.proto.pieces if piece.type == forms.NORMAL}
            model["merges"] = [list(pair) for pair in growing.merges(scores)]
        else:
            usable = {piece.name for piece in base.opened.pieces if piece.kind == "normal"} | set(fresh)
            scores = {name: -float(index) for name, index in model["vocab"].items() if name in usable}
            model["merges"] += [list(pair) for pair in growing.merges(scores, fresh)]
    return known


def _fill(base: _Base) -> dict[str, Any]:
    """The model part of a tokenizer.json with every id below the new ones taken, so that none moves.

    Added tokens above the vocabulary get their ids by counting from its end, unless the vocabulary has them itself.
    """
    model = base.json["model"]
    if model["type"] != "BPE":
        raise HanmoError(f"{base.opened.path}: its model is {model['type']}; only a BPE can be extended")
    taken = set(model["vocab"].values())
    for index, piece in enumerate(base.opened.pieces):
        if index not in taken:
            model["vocab"][piece.name or f"<unused_{index}>"] = index
    model["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return model


def _grow_bytes(base: _Base, wanted: Sequence[Grown], add: int | None) -> int:
    """Add merges to a byte-level BPE; returns how many pieces were there before."""
    model = _fill(base)
    letters = byte_letters()
    vocabulary: dict[str, int] = model["vocab"]
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    known, limit = 0, len(base.opened.pieces) + (add if add is not None else 1 << 60)
    of_added = {piece.name for piece in base.opened.pieces if piece.kind == "special"}

    def spell(piece: bytes) -> str:
        return "".join(letters[byte] for byte in piece)

    # Characters before what is made of them; what was learnt is in an order that holds already.
    for one in wanted if all(one.parts for one in wanted) else sorted(wanted, key=lambda one: len(one.text) > 1):
        name = spell(one.text.encode())
        parts = [spell(part) for part in one.parts] or _merged(name, ranks)
        if name in vocabulary and (not one.parts or len(parts) < 2):
            known += 1
            continue
        # A character of several tokens is put together from its first. The half of a few rare ones may be that of a
        # character of another script as well: what is learnt must not touch any, so these stay as they are.
        halves = [b"".join(one.parts[:count]) for count in range(2, len(one.parts))]
        if not all(map(surely_chinese, halves)):
            continue
        needed = {"".join(parts[: count + 1]) for count in range(1, len(parts))} - vocabulary.keys()
        if any(part not in vocabulary or part in of_added for part in parts) or len(vocabulary) + len(needed) > limit:
            continue
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            joint = "".join(pair)
            if pair not in ranks:
                ranks[pair] = len(ranks)
                model["merges"].append(list(pair))
            vocabulary.setdefault(joint, len(vocabulary))
            parts[:2] = [joint]
        if len(vocabulary) == limit:
            break
    return known


def _merged(name: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """What the merges make of a word."""
    parts = list(name)
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda at: ranks.get((parts[at], parts[at + 1]), len(ranks)))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _write(base: _Base, folder: Path) -> None:
    """Write the extended tokenizer as a Hugging Face folder."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if base.proto is not None:
        (folder / "tokenizer.model").write_bytes(base.proto.SerializeToString())
    backend = Tokenizer.from_str(json.dumps(base.json)) if base.json else growing.fast_tokenizer(base.proto)
    if base.folder is None:
        roles = {f"{role}_token": base.opened.pieces[index].name for role, index in base.opened.roles.items()}
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **roles)
        save(fast, folder)
        return
    config = read_json(base.folder / "tokenizer_config.json")
    if not base.json and config.get("add_bos_token") is False:
        backend.post_processor = None  # type: ignore[assignment]
    backend.save(str(folder / "tokenizer.json"))
    for name in _KEPT:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    config = {key: value for key, value in config.items() if key not in _BOUND}
    write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _compare(old: OpenTokenizer, folder: Path, corpus: Sequence[Path]) -> dict[str, Any]:
    """Check that every old id is what it was, and say what the new ones bring."""
    load(folder)
    new = open_tokenizer(folder)
    for index, piece in enumerate(old.pieces):
        if piece.kind != "unused" and new.pieces[index].name != piece.name:
            raise HanmoError(f"id {index} was {piece.name!r} and would become {new.pieces[index].name!r}; not written")
    fresh = list(enumerate(new.pieces))[len(old.pieces) :]
    record: dict[str, Any] = {
        "old_tokens": len(old.pieces),
        "tokens": len(new.pieces),
        "added": len(fresh),
        "added_not_chinese": sum(not surely_chinese(piece.bytes) for _, piece in fresh),
        "never_used": sum(new.spell(piece.bytes) != [index] for index, piece in fresh),
    }
    if corpus:
        texts = list(islice(sample(corpus, 8_000_000), _COMPARED))
        length = sum(map(len, texts))
        record["characters_per_token"] = {
            name: round(length / sum(len(one.encode(text).ids) for text in texts), 4)
            for name, one in (("before", old), ("after", new))
        }
    return record
