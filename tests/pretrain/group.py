"""Groups of real processes for tests: each calls one function, with the numbers that a launcher would give it."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

_PRELOAD = [
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "transformers.models.qwen3",
    "hanmo.pretrain.stage",
]


def together(count: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` processes at once; all must end well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)  # the libraries are imported once for all groups
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_one, args=(rank, count, port, function, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 100
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count, codes


def _one(rank: int, count: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(90, exit=True)  # a group that hangs says where
    function(*arguments)
