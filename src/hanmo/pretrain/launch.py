"""The process of a stage that trains: `python -m hanmo.pretrain.launch OUT`.

With one process to train in it becomes that process. With several it is torch's elastic agent over them (what
`torchrun` runs), each a `hanmo.child`: it passes signals on and ends all when one fails. After a death that is nobody's
fault (a kill, a lost machine part) the group is started anew and goes on from the newest checkpoint. Under a `torchrun`
of the user's there is an agent already, and this is one of its processes.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from hanmo import child, ranks
from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.files import read_json
from hanmo.remote import as_path, home_of

#: Deaths without a new checkpoint between them after which a group is given up.
RESTARTS = 3
#: Exit statuses of a process that are an outcome, and no reason to try again: a defect, a fault, a stop.
_FINAL = (1, 2, child.STOPPED)
#: Signals that the agent passes on.
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def main(out: Path) -> int:
    """Run the stage described in `out` in as many processes as its settings say; returns the exit status."""
    if ranks.grouped():
        return child.main(out)
    settings = read_json(out / "stage.json")["settings"]
    try:
        count = processes(settings["processes"], settings["device"])
    except HanmoError as error:
        return child.fail(str(error))
    return child.main(out) if count == 1 else _group(out, count, settings["threads"])


def processes(asked: int, device: str) -> int:
    """How many processes to train in: as many as asked, or (0) one for every accelerator of this machine.

    Raises:
        HanmoError: more than it has accelerators.
    """
    import torch

    from hanmo.pretrain.precision import pick_device

    chosen = pick_device(device)
    if chosen.type == "cpu":
        return asked or 1
    there = torch.accelerator.device_count()
    if asked > there:
        raise HanmoError(f"processes: {asked} are asked for, and there are {there} accelerators; lower it or 0 for all")
    # A device that is named by its number ("cuda:1") is one.
    return asked or (there if chosen.index is None else 1)


def _group(out: Path, count: int, threads: int) -> int:
    """Run the stage in a group of processes until it is done, fails or is stopped."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from hanmo.pool import cores
    from hanmo.run import GRACE

    child.die_with_parent()
    # Its own words on failures are pages; ours are the lines that the processes print.
    logging.disable(logging.WARNING)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(threads or max(1, cores() // count))
    if sys.platform == "win32":
        os.environ["USE_LIBUV"] = "0"  # torch is built without it there, and refuses it
    # The agent kills what has not ended some time after a signal; the runner's patience is to end first.
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(2 * GRACE)
    deaths, newest = 0, _newest(out)
    while True:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=f"hanmo-{os.getpid()}-{deaths}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            signals_to_handle=_SIGNALS,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "hanmo.child", str(out))
            return 0
        except SignalException:
            return child.STOPPED
        except ChildFailedError as error:
            found = {failure.exitcode for failure in error.failures.values()}
        for status in _FINAL:
            if status in found:
                return status
        deaths = 1 if _newest(out) != newest else deaths + 1
        newest = _newest(out)
        words = ", ".join(f"signal {-status}" if status < 0 else f"status {status}" for status in sorted(found))
        if deaths > RESTARTS:
            console.print(f"[yellow]a process of {count} died again ({words}); giving up[/]")
            return 137
        console.print(f"[yellow]a process of {count} died ({words}); all start again from the newest checkpoint[/]")


def _newest(out: Path) -> str:
    return max((path.name for path in (home_of(out) / "checkpoints").glob("step-*")), default="")


if __name__ == "__main__":
    sys.exit(main(as_path(sys.argv[1])))
