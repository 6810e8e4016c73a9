"""What a run trains on: the tokens folder, here or at a URL, and the order of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.console import console, human_count
from hanmo.errors import HanmoError
from hanmo.pretrain.schedule import BatchSizes
from hanmo.pretrain.settings import PretrainSettings
from hanmo.remote import is_remote
from hanmo.tokens.mix import Mix, mix_sources
from hanmo.tokens.order import Order
from hanmo.tokens.remote import RemoteTokens
from hanmo.tokens.shards import Split, open_split, read_info


@dataclass(frozen=True)
class Data:
    """An opened tokens folder.

    Attributes:
        folder: with tokens.json, the tokenizer and the held-out split.
        facts: tokens.json.
        remote: what fetches training shards, where the data is at a URL.
    """

    folder: Path
    facts: dict[str, Any]
    order: Order
    remote: RemoteTokens | None = None


@contextmanager
def opened(settings: PretrainSettings, given: Path, out: Path) -> Iterator[Data]:
    """Open the tokens folder `given`; what is fetched of a remote one is put below `out`.

    Raises:
        HanmoError: no tokens there, too few of them, or settings that do not fit them.
    """
    url = str(given) if is_remote(given) else None
    if url is None:
        facts, train = read_info(given), open_split(given, "train")
        mix = _mix(settings, facts, train, str(given))
        order = Order(train, settings.context, settings.seed, facts["eos_id"], shuffle=settings.shuffle, mix=mix)
        _check(order, settings, str(given))
        yield Data(given, facts, order)
        return
    if settings.shuffle == "global":
        raise HanmoError(f"{url}: shuffle: global reads all shards at once; set shuffle: shards, or copy the folder")
    with RemoteTokens(url, out / "shards", int(settings.shard_cache_gb * 1e9)) as remote:
        facts, train = remote.info, remote.train
        mix = _mix(settings, facts, train, url)
        remote.check_room(len(mix.sources) if mix else 1)
        order = Order(
            train, settings.context, settings.seed, facts["eos_id"], shuffle="shards", mix=mix, announce=remote.announce
        )
        _check(order, settings, url)
        yield Data(remote.folder, facts, order, remote)


def _mix(settings: PretrainSettings, facts: dict[str, Any], train: Split, where: str) -> Mix | None:
    if settings.mix is None:
        return None
    tokens = {name: amount["tokens"] for name, amount in zip(train.sources, facts["train"]["by_source"], strict=True)}
    chosen = settings.mix
    sources = mix_sources(tokens, chosen.weights, chosen.max_epochs, chosen.temperature, where)
    return Mix(sources, settings.context, settings.seed)


def _check(order: Order, settings: PretrainSettings, where: str) -> None:
    if order.total < settings.context:
        raise HanmoError(f"{where}: {order.total} training tokens do not fill one row; lower context or add text")
    limit = order.mix.limit if order.mix else None
    sizes = BatchSizes.of(settings)
    rows = sizes.first(sizes.steps(-(-settings.tokens // settings.context)))
    if limit is not None and rows > limit:
        raise HanmoError(
            f"tokens: {settings.tokens} are asked for, the mix has {limit * settings.context} with every source at its "
            "max_epochs; raise max_epochs or lower tokens"
        )


def amounts(mix: Mix, rows: int) -> dict[str, dict[str, float]]:
    """Of each source: tokens and passes in the first `rows` rows."""
    sizes = {source.name: source.tokens for source in mix.sources}
    return {
        name: {"tokens": tokens, "passes": round(tokens / sizes[name], 3)} for name, tokens in mix.taken(rows).items()
    }


def bytes_per_token(facts: dict[str, Any], order: Order) -> float | None:
    """Bytes of text by token of what a run reads, sources by their shares; None where the folder does not say."""
    found = facts["train"]["by_source"]
    parts = [(s.share, found[s.index]) for s in order.mix.sources] if order.mix else [(1.0, facts["train"])]
    if not all(part.get("bytes") and part["tokens"] for _, part in parts):
        return None
    return sum(share * part["bytes"] / part["tokens"] for share, part in parts)


def tell_mix(mix: Mix, rows: int, settings: PretrainSettings) -> None:
    """Say what the run will take of each source."""
    for source in mix.sources:
        found = amounts(mix, rows)[source.name]
        cap = f", capped at {source.cap / source.tokens:g}" if source.cap is not None else ""
        console.print(
            f"  {source.name}: share {source.share:.1%}, {human_count(int(found['tokens']))} tokens "
            f"({found['tokens'] / (rows * settings.context):.1%}), {found['passes']:.2f} passes{cap}",
            markup=False,
        )
