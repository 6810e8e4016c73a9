"""What a run trains on: one tokens folder, here or at a URL, or several here, and the order of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.console import console, human_count
from hanmo.errors import HanmoError
from hanmo.pretrain.objectives.reading import FORWARD, Reading
from hanmo.pretrain.objectives.texts import is_task, task_splits, with_openings
from hanmo.pretrain.rules import batch_tokens
from hanmo.pretrain.schedule import BatchSizes
from hanmo.pretrain.settings import MixSettings, PretrainSettings
from hanmo.remote import is_remote
from hanmo.tokenizer import load
from hanmo.tokens.mix import Mix, MixSource, mix_sources
from hanmo.tokens.order import Announce, Order
from hanmo.tokens.remote import RemoteTokens
from hanmo.tokens.renumbered import Renumbered
from hanmo.tokens.shards import Split, Tokens, open_split, read_info


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
        tokenizer: the folder of the one that made the tokens.
        facts: tokens.json, with the sources of all folders; of task files what matters of it.
        order: the rows.
        heldout: the held-out split of each tokens folder by its name ("" where there is one).
        remote: what fetches training shards, where the data is at a URL.
        reading: how the model reads it.
    """

    tokenizer: Path
    facts: dict[str, Any]
    order: Order
    heldout: dict[str, Split]
    remote: RemoteTokens | None = None
    reading: Reading = FORWARD


@contextmanager
def opened(
    settings: PretrainSettings, given: Sequence[Path], out: Path, model: Path | None = None, beside: Path | None = None
) -> Iterator[Data]:
    """Open the tokens folders `given`; what is fetched of a remote one is put below `out`.

    Several folders are one: their shards behind each other, their sources named FOLDER/SOURCE. With objective: masked
    or unified documents begin with [CLS]; with masked, `given` may be task files, which are encoded by `beside`, the
    model's tokenizer. Documents stand as the model in the folder `model`, or the preset, reads them.

    Raises:
        HanmoError: no tokens there, too few of them, made with different tokenizers, or settings that do not fit them.
    """
    reading = Reading.of(settings.preset, model)
    if any(is_remote(folder) for folder in given):
        if reading != FORWARD:
            raise HanmoError(
                f"{given[0]}: backward models and those with pinyin read tokens of this machine; copy it here"
            )
        with _opened_remote(settings, given, out) as data:
            yield data
        return
    where = ", ".join(map(str, given))
    masked = settings.objective in ("masked", "unified")
    tasks = [is_task(path) for path in given]
    groups: dict[str, list[str]] = {}
    if settings.objective == "masked" and all(tasks):
        tokenizer, facts, train, heldout = _of_tasks(given, beside)
    elif masked and any(tasks):
        why = "task files and tokens folders together" if not all(tasks) else "task files are for objective: masked"
        raise HanmoError(f"{where}: {why}; make tokens of the task files' corpus")
    else:
        folders = _named(given)
        facts, train, groups = joined(folders)
        tokenizer, heldout = given[0] / "tokenizer", {n: open_split(folder, "heldout") for n, folder in folders.items()}
        if masked:
            opening = load(tokenizer).cls_token_id
            if not isinstance(opening, int):
                raise HanmoError(
                    f"{tokenizer}: objective: {settings.objective} needs a tokenizer with [CLS] (kind: wordpiece)"
                )
            train = with_openings(train, opening)
            heldout = {name: with_openings(split, opening) for name, split in heldout.items()}
    train, heldout = reading.turned(train), {name: reading.turned(split) for name, split in heldout.items()}
    pinyin = reading.readings(train, where)
    order = _ordered(settings, facts, train, _mix(settings, facts, train, groups, where), where, pinyin=pinyin)
    yield Data(tokenizer, facts, order, heldout, reading=reading)


def _of_tasks(given: Sequence[Path], tokenizer: Path | None) -> tuple[Path, dict[str, Any], Split, dict[str, Split]]:
    """(tokenizer, facts, training split, held-out splits) of task files, as those of tokens folders."""
    if tokenizer is None:
        raise HanmoError(f"{given[0]}: task files are encoded by the tokenizer in the model's folder; there is none")
    loaded = load(tokenizer)
    train, heldout = task_splits(given, loaded)
    amounts = [sum(s.amounts.get(index, (0, 0))[1] for s in train.shards) for index in range(len(train.sources))]
    facts = {
        "vocab_size": len(loaded),
        "eos_id": loaded.sep_token_id,
        "sources": train.sources,
        "train": {"by_source": [{"tokens": tokens} for tokens in amounts]},
    }
    return tokenizer, facts, train, {"": heldout} if len(heldout) else {}


@contextmanager
def _opened_remote(settings: PretrainSettings, given: Sequence[Path], out: Path) -> Iterator[Data]:
    url = str(next(folder for folder in given if is_remote(folder)))
    if settings.objective in ("masked", "unified"):
        raise HanmoError(f"{url}: objective: {settings.objective} reads tokens of this machine; copy the folder here")
    if len(given) > 1:
        raise HanmoError(f"{url}: several tokens folders must be on this machine; copy it here, or train on it alone")
    if settings.shuffle == "global":
        raise HanmoError(f"{url}: shuffle: global reads all shards at once; set shuffle: shards, or copy the folder")
    with RemoteTokens(url, out / "shards", int(settings.shard_cache_gb * 1e9)) as remote:
        facts, train = remote.info, remote.train
        mix = _mix(settings, facts, train, {}, url)
        remote.check_room(len(mix.sources) if mix else 1)
        order = _ordered(settings, facts, train, mix, url, remote.announce)
        yield Data(remote.folder / "tokenizer", facts, order, {"": open_split(remote.folder, "heldout")}, remote)


def _named(given: Sequence[Path]) -> dict[str, Path]:
    """Folders by the last parts of their paths, as few as tell them apart; one alone has no name."""
    if len(given) == 1:
        return {"": given[0]}
    paths = [folder.absolute() for folder in given]
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, given, strict=True))
    raise HanmoError(f"data: {given[0]} is given twice; raise its weight in `mix` instead")


def joined(folders: Mapping[str, Path]) -> tuple[dict[str, Any], Split, dict[str, list[str]]]:
    """(tokens.json, training split, sources of each folder) of tokens folders taken together.

    Raises:
        HanmoError: one is none, or they were made with different tokenizers.
    """
    if len(folders) == 1:
        folder = next(iter(folders.values()))
        return read_info(folder), open_split(folder, "train"), {}
    facts = {name: read_info(folder) for name, folder in folders.items()}
    first = next(iter(facts))
    for name in facts:
        if not _alike(facts[name], facts[first]):
            raise HanmoError(
                f"{folders[name]}: made with another tokenizer than {folders[first]}; make both with one: "
                f"`hanmo tokens --corpus CORPUS --tokenizer {folders[first] / 'tokenizer'} --out NEW`"
            )
    shards, sources, by_source = [], [], []
    groups: dict[str, list[str]] = {}
    for name, folder in folders.items():
        split = open_split(folder, "train")
        shards += [Renumbered(shard, len(sources)) for shard in split.shards]
        groups[name] = [f"{name}/{source}" for source in split.sources]
        sources += groups[name]
        by_source += facts[name]["train"]["by_source"]
    train = {key: sum(f["train"][key] for f in facts.values()) for key in ("tokens", "documents", "bytes")}
    together = facts[first] | {"sources": sources, "train": train | {"by_source": by_source}}
    return together, Split(shards, sources), groups


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("tokenizer", "vocab_size", "dtype", "eos_id"))


def _mix(
    settings: PretrainSettings, facts: dict[str, Any], train: Split, groups: dict[str, list[str]], where: str
) -> Mix | None:
    if settings.mix is None:
        return None
    tokens = {name: amount["tokens"] for name, amount in zip(train.sources, facts["train"]["by_source"], strict=True)}
    sources = mix_of(tokens, settings.mix, groups, where)
    return Mix(sources, settings.context, settings.seed)


def mix_of(
    tokens: Mapping[str, int], chosen: MixSettings, groups: Mapping[str, list[str]], where: str
) -> list[MixSource]:
    """`mix_sources` for several folders: a weight or a number of passes may name a source, or a folder.

    A folder's weight goes to its sources by their sizes; its number of passes is that of each of them.
    """
    short: dict[str, list[str]] = {name: [name] for name in tokens}
    for members in groups.values():
        for member in members:
            short.setdefault(member.rpartition("/")[2], []).append(member)
    meant = {name: members for name, members in short.items() if len(members) == 1} | dict(groups)

    def spread(given: Mapping[str, float], divided: bool) -> dict[str, float]:
        found: dict[str, float] = {}
        # What is named more closely counts: {law: 0.5, law/courts: 0} leaves one source of the folder out.
        for name, value in sorted(given.items(), key=lambda item: item[0] not in groups):
            members = meant.get(name, [name])
            total = sum(tokens.get(member, 0) for member in members)
            for member in members:
                share = tokens.get(member, 0) / total if divided and name in groups and total else 1.0
                found[member] = value * share
        # Empty sources of a folder got no weight above; they are no fault.
        return {name: value for name, value in found.items() if value or name in given or not divided}

    weights = spread(chosen.weights, True) if chosen.weights is not None else None
    epochs = spread(chosen.max_epochs, False) if isinstance(chosen.max_epochs, Mapping) else chosen.max_epochs
    return mix_sources(tokens, weights, epochs, chosen.temperature, where)


def _ordered(
    settings: PretrainSettings,
    facts: dict[str, Any],
    train: Split,
    mix: Mix | None,
    where: str,
    announce: Announce = lambda *_: None,
    pinyin: Tokens | None = None,
) -> Order:
    """The rows of a run, of which there are enough."""
    order = Order(
        train,
        settings.context,
        settings.seed,
        facts["eos_id"],
        shuffle=settings.shuffle,
        mix=mix,
        announce=announce,
        skip=skipped(settings),
        pinyin=pinyin,
    )
    if order.total < settings.context:
        raise HanmoError(f"{where}: {order.total} training tokens do not fill one row; lower context or add text")
    limit = order.mix.limit if order.mix else None
    sizes = BatchSizes.of(settings)
    rows = sizes.first(sizes.steps(-(-settings.tokens // settings.context)))
    if limit is not None and order.reach(rows) > limit:
        raise HanmoError(
            f"tokens: {settings.tokens} are asked for, the mix has {limit * settings.context} with every source at its "
            "max_epochs; raise max_epochs or lower tokens"
        )
    return order


def skipped(settings: PretrainSettings) -> list[tuple[int, int]]:
    """The rows that a run passes over, as stretches [first, last)."""
    rows = batch_tokens(settings) // settings.context
    stretches = [(0, settings.skip_steps)] * bool(settings.skip_steps) + list(settings.skip)
    return [(first * rows, last * rows) for first, last in stretches]


def amounts(order: Order, rows: int) -> dict[str, dict[str, float]]:
    """Of each source of a mix: tokens and passes in the first `rows` rows of a run."""
    assert order.mix
    sizes = {source.name: source.tokens for source in order.mix.sources}
    return {
        name: {"tokens": tokens, "passes": round(tokens / sizes[name], 3)} for name, tokens in order.taken(rows).items()
    }


def bytes_per_token(facts: dict[str, Any], order: Order) -> float | None:
    """Bytes of text by token of what a run reads, sources by their shares; None where the folder does not say."""
    found = facts["train"]["by_source"]
    parts = [(s.share, found[s.index]) for s in order.mix.sources] if order.mix else [(1.0, facts["train"])]
    if not all(part.get("bytes") and part["tokens"] for _, part in parts):
        return None
    return sum(share * part["bytes"] / part["tokens"] for share, part in parts)


def tell_mix(order: Order, rows: int, settings: PretrainSettings) -> None:
    """Say what the run will take of each source."""
    assert order.mix
    taken = amounts(order, rows)
    for source in order.mix.sources:
        found = taken[source.name]
        cap = f", capped at {source.cap / source.tokens:g}" if source.cap is not None else ""
        console.print(
            f"  {source.name}: share {source.share:.1%}, {human_count(int(found['tokens']))} tokens "
            f"({found['tokens'] / (rows * settings.context):.1%}), {found['passes']:.2f} passes{cap}",
            markup=False,
        )
