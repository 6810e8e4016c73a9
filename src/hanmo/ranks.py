"""Commands that were started several times at once, by `torchrun` or `accelerate launch`.

`torchrun --nproc-per-node 4 -m hanmo run recipe.yaml` starts four of us. The first is the runner: it plans, locks,
writes `stage.json` and alone does the stages that one process does. Of a stage that is trained by all, it tells the
others by the launcher's key-value store, and each starts its own child for it. So nothing is decided twice.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from hanmo.console import console

#: What the launchers tell their processes; a stage that one process does must not see it.
_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK")
_TOLD += ("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "HANMO_GROUP")
#: How long the others wait for what the first does alone.
_PATIENCE = timedelta(days=365)


def grouped() -> bool:
    """Whether this process is one of several that were started together."""
    return size() > 1


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0")) if grouped() else 0


def size() -> int:
    """How many were started, on all machines together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local() -> tuple[int, int]:
    """The number of this process on its machine, and how many were started there."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def following() -> bool:
    """Whether another process decides."""
    return rank() > 0


@functools.cache
def store() -> Any:
    """The launcher's key-value store, with keys that no earlier try and no other stage has used."""
    from torch.distributed import PrefixStore, TCPStore

    # Without an agent of torch's that keeps the store, the first runner does; children only use it.
    mine = rank() == 0 and "HANMO_GROUP" not in os.environ and not _agent()
    server = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=mine,
        wait_for_workers=False,
        use_libuv=sys.platform != "win32",  # torch is built without it there, and refuses it
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"hanmo/{os.environ.get('HANMO_GROUP', 'run')}/{attempt}", server)


def _agent() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def first_to_tell() -> bool:
    """Whether no other process has told of a fault yet: of one fault that all have, one line is enough."""
    if not grouped():
        return True
    try:
        return store().add("told", 1) == 1
    except Exception:  # the store went with the process that kept it: better told twice than not at all
        return True


def left_by_another(error: Exception) -> bool:
    """Whether an exception says that another process of the group is gone.

    Returns after a moment in which that process's own end has been seen: it is the one that counts.
    """
    from torch.distributed import DistError

    text = str(error)
    if not isinstance(error, DistError) and not any(word in text for word in ("gloo", "Gloo", "NCCL", "Connection")):
        return False
    time.sleep(1)
    return True


def alone() -> dict[str, str]:
    """The environment for a stage that one process does."""
    if not grouped():
        return dict(os.environ)
    told = ("TORCHELASTIC_", "ACCELERATE_")
    kept = {name: value for name, value in os.environ.items() if name not in _TOLD and not name.startswith(told)}
    if kept.get("OMP_NUM_THREADS") == "1":  # the launchers' own, for many processes on one machine
        del kept["OMP_NUM_THREADS"]
    return kept


def together(name: str) -> dict[str, str]:
    """The environment for this process's child of a stage that all do."""
    return {**os.environ, "HANMO_GROUP": name} if grouped() else dict(os.environ)


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """In the first process: what happens inside is told to the others, its end included."""
    if not grouped() or following():
        yield
        return
    well = False
    try:
        yield
        well = True
    finally:
        tell({"end": well})
        if not _agent():  # the store ends with us: see that all have read it
            deadline = time.monotonic() + 10
            while store().add("ends", 0) < size() - 1 and time.monotonic() < deadline:
                time.sleep(0.05)
            store().delete_key("ends")


#: How many messages this process has sent or read.
_messages = itertools.count()


def tell(what: dict[str, Any]) -> int:
    """Tell the others what comes next; returns the message's number."""
    number = next(_messages)
    store().set(f"next-{number}", json.dumps(what))
    return number


def heard() -> Iterator[dict[str, Any]]:
    """In the others: what the first tells, one after the other, up to its end.

    Raises:
        SystemExit: the first ended with a fault, which it has told.
    """
    console.quiet = True
    for number in _messages:
        store().wait([f"next-{number}"], _PATIENCE)
        what = json.loads(store().get(f"next-{number}"))
        if "end" in what:
            store().add("ends", 1)
            if not what["end"]:
                raise SystemExit(2)
            return
        yield {**what, "number": number}
