"""The figures of log.jsonl in the trackers that people use: trackio, swanlab, wandb and tensorboard, by name.

Each is its own library with its own run. Which run of a tracker belongs to a training is kept in `trackers.json` beside
the log, so that a resumed training goes on in it. A tracker is a convenience: one that fails is left out from then on,
with one warning, and the training goes on. Without an account (no key in the environment or in the library's own file)
wandb and swanlab write below the run's folder, to be sent by `wandb sync` and `swanlab sync` later.
"""

from __future__ import annotations

import netrc
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlparse

from hanmo.console import console
from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import read_json, write_json

TrackerName = Literal["trackio", "swanlab", "wandb", "tensorboard"]


class Tracker(Protocol):
    """One tracker's run."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of a step."""

    def close(self) -> None:
        """Write what is left and end the run."""


class _Trackio:
    """A local database that `trackio show` shows, or a Space where TRACKIO_SPACE_ID names one."""

    def __init__(self, place: Place) -> None:
        trackio = need("trackio", "trackers")
        # Runs are known by their names there: a training that begins anew must not go on in an earlier one's.
        self._run = trackio.init(
            project=place.project,
            name=f"{place.name}-{place.id[:6]}",
            config=place.config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


class _Swanlab:
    """A run in swanlab's cloud, or (offline) below `swanlog/` for `swanlab sync`."""

    def __init__(self, place: Place) -> None:
        swanlab = need("swanlab", "swanlab")
        folder = Path(os.environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab")
        known = "SWANLAB_API_KEY" in os.environ or (folder / ".netrc").is_file()
        self._run = swanlab.init(
            project=place.project,
            name=place.name,
            id=place.id,
            resume="allow",
            config=place.config,
            log_dir=str(place.folder / "swanlog"),
            mode=os.environ.get("SWANLAB_MODE") or ("online" if known else "offline"),
            # It would ask for a key, and record what the terminal shows.
            settings=swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}),
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    """A run at Weights & Biases, or (offline) below `wandb/` for `wandb sync`."""

    def __init__(self, place: Place) -> None:
        wandb = need("wandb", "trackers")
        host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        known = "WANDB_API_KEY" in os.environ or _in_netrc(host)
        self._run = wandb.init(
            project=place.project,
            name=place.name,
            id=place.id,
            resume="allow",
            config=place.config,
            dir=str(place.folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if known else "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )
        # By our own step: after a resume or a way back to a checkpoint, steps come a second time.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log({**figures, "step": step})

    def close(self) -> None:
        self._run.finish()


class _Tensorboard:
    """Event files below `tensorboard/`, shown by `tensorboard --logdir`."""

    def __init__(self, place: Place) -> None:
        need("tensorboard", "trackers")
        from torch.utils.tensorboard import SummaryWriter

        # Steps that will come again are dropped from what an earlier process wrote.
        purge = place.step + 1 if place.resumed else None
        self._writer = SummaryWriter(str(place.folder / "tensorboard"), purge_step=purge)

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


_KINDS: dict[str, Callable[[Place], Tracker]] = {
    "trackio": _Trackio,
    "swanlab": _Swanlab,
    "wandb": _Wandb,
    "tensorboard": _Tensorboard,
}


class Place:
    """Where and as what a training is tracked.

    Args:
        project, name: of the run; without a name, the folder's and its parent's.
        folder: the training's.
        config: its settings, shown beside the curves.
        step: that it goes on from.

    Attributes:
        id: of the tracker's run, 21 lower-case hexadecimal digits, the same for all tries of a training.
        resumed: whether an earlier try was tracked.
    """

    def __init__(self, project: str, name: str, folder: Path, config: Mapping[str, Any], step: int) -> None:
        self.project, self.folder, self.config, self.step = project, folder, dict(config), step
        path = folder.absolute()
        self.name = name or "-".join(part for part in (path.parent.name, path.name) if part)
        file = folder / "trackers.json"
        self.resumed = file.exists()
        if not self.resumed:
            write_json(file, {"id": secrets.token_hex(11)[:21]})
        self.id = str(read_json(file)["id"])


class Trackers:
    """The trackers of a run; also without any."""

    def __init__(self, names: Sequence[str] = (), place: Callable[[], Place] | None = None) -> None:
        self._open: dict[str, Tracker] = {}
        if not names or place is None:
            return
        where = place()
        for name in dict.fromkeys(names):
            tracker = self._tried(name, _KINDS[name], where)
            if tracker is not None:
                self._open[name] = tracker

    def log(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of a line of log.jsonl; those of groups get names such as `shares/forward`."""
        figures = flat(line)
        step = int(figures.pop("step"))
        if figures:
            for name, tracker in list(self._open.items()):
                self._tried(name, tracker.log, step, figures)

    def close(self) -> None:
        """End the trackers' runs."""
        for name, tracker in list(self._open.items()):
            self._tried(name, tracker.close)
        self._open.clear()

    def _tried(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except HanmoError:  # not installed: the user can mend that before anything is lost
            raise
        except (Exception, SystemExit) as error:  # some of these libraries end the process where they have no account
            self._open.pop(name, None)
            said = str(error).strip().split("\n")[0] or type(error).__name__
            console.print(f"warning: tracker {name} is left out from here on: {said}", style="yellow", markup=False)
            return None


def flat(line: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of nested mappings by their paths: {"a": {"b": 1}} -> {"a/b": 1}."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{name}"] = value
    return found


def _in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
