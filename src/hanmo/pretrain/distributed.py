"""The processes that train one model together.

They are started by `hanmo.pretrain.launch`, `torchrun` or `accelerate launch`, which tell each its number by `RANK`,
`WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE`. A process without these trains alone, and everything here is then a
plain value: no group, no communication.

Large tensors travel by the accelerator's own backend (NCCL on CUDA), the few numbers on which all agree at every step
by gloo over CPU memory, so that agreeing never waits for what an accelerator still computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hanmo import ranks
from hanmo.errors import HanmoError
from hanmo.pool import cores
from hanmo.pretrain.precision import pick_device
from hanmo.pretrain.settings import PretrainSettings

T = TypeVar("T")
#: How many groups this process has joined.
_groups = itertools.count()


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank, size: its number and how many there are.
        device: what it computes on.
        files: a group of its own for the thread that writes checkpoints: two threads must not share one.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    files: Any = None

    @property
    def first(self) -> bool:
        """Whether this process decides, prints and writes what there is one of."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """The sums over all processes; the same bits everywhere."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def agreed(self, decide: Callable[[], T], files: bool = False) -> T:
        """What `decide` returns in the first process, in all of them; a fault of it is a fault of all.

        Args:
            files: called from the thread that writes checkpoints.
        """
        return self._told([decide, *[_nothing] * (self.size - 1)][self.rank], files)[0]

    def gathered(self, find: Callable[[], T], files: bool = False) -> list[T]:
        """What `find` returns in each process; a fault in one is a fault of all."""
        return self._told(find, files)

    def _told(self, function: Callable[[], Any], files: bool) -> list[Any]:
        if self.size == 1:
            return [function()]
        try:
            mine = (True, function())
        except Exception as error:
            mine = (False, error)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self.files if files else None)
        for well, value in found:
            if not well:
                raise value
        return [value for _, value in found]

    def share(self, rows: int) -> tuple[int, int]:
        """The part [first, last) of so many rows that this process computes; parts differ by one row at most."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size


def _nothing() -> None:
    return None


@contextmanager
def joined(settings: PretrainSettings) -> Iterator[World]:
    """Join the group that this process was started in; on leaving the block it is left again.

    Raises:
        HanmoError: more processes on this machine than it has accelerators.
    """
    device = pick_device(settings.device)
    if not ranks.grouped():
        if settings.threads:
            torch.set_num_threads(settings.threads)
        yield World(device)
        return
    local, beside = ranks.local()
    if device.type != "cpu":
        count = torch.accelerator.device_count()
        if beside > count:
            raise HanmoError(f"processes: {beside} on a machine with {count} accelerators; one needs one of its own")
        device = torch.device(device.type, local)
        torch.accelerator.set_device_index(local)
    # The launchers set one thread a process; the cores of a machine are divided instead.
    torch.set_num_threads(settings.threads or max(1, cores() // beside))
    backend = (
        "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
    )
    # Torch's own splitting of graphs at DDP's buckets is for models compiled whole; ours are compiled by layer.
    torch._dynamo.config.optimize_ddp = False  # type: ignore[attr-defined]
    dist.init_process_group(
        backend,
        # Keys of an earlier group would be taken for this one's.
        store=dist.PrefixStore(f"group-{next(_groups)}", ranks.store()),
        rank=ranks.rank(),
        world_size=ranks.size(),
        device_id=device if device.type != "cpu" else None,
    )
    yield World(device, ranks.rank(), ranks.size(), dist.new_group(backend="gloo"))
    # Nobody leaves before all have done their last: who closes a connection early looks like one who died. After a
    # fault nothing is waited for, since others may be gone; the process ends and its connections with it.
    dist.barrier()
    dist.destroy_process_group()
