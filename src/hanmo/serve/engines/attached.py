"""A server program that somebody else runs: asked, looked after, and left alone when we end."""

from __future__ import annotations

import contextlib
import logging
import threading
from urllib.parse import urlsplit

from hanmo.errors import HanmoError
from hanmo.serve.engines.asking import Server
from hanmo.serve.engines.base import EngineDown

_log = logging.getLogger("hanmo.serve")
#: Between two looks at whether it is there, seconds: as long as it is, and as long as it is not.
_LOOKS = 5.0, 0.5


class AttachedServer(Server):
    """A running server.

    Args:
        name: what it is called in messages.
        url: where it is, without the path of an endpoint.
        key: what it wants to be told, empty if nothing.

    Raises:
        HanmoError: no such address, or nobody answers there.
    """

    def __init__(self, name: str, url: str, key: str) -> None:
        super().__init__(name)
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise HanmoError(f"{name}: '{url}' is no address such as http://127.0.0.1:8000")
        self._url, self._key = url.rstrip("/").removesuffix("/v1"), key
        self._ready = threading.Event()
        self._closing, self._wake = threading.Event(), threading.Event()
        try:
            self.get("/health")
        except (OSError, HanmoError) as error:
            raise HanmoError(f"{name}: nobody answers at {url} ({error or 'too late'}); is it running?") from None
        self._ready.set()
        self._keeper = threading.Thread(target=self._watch, name=f"watch over {name}", daemon=True)
        self._keeper.start()

    @property
    def address(self) -> tuple[str, str]:
        return self._url, self._key

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    def _watch(self) -> None:
        while True:
            self._wake.wait(_LOOKS[0] if self.ready else _LOOKS[1])
            if self._closing.is_set():
                return
            there = False
            with contextlib.suppress(OSError, HanmoError):
                self.get("/health")
                there = True
            if there != self.ready:
                _log.warning("%s at %s %s", self.name, self._url, "is there again" if there else "is gone")
            (self._ready.set if there else self._ready.clear)()
            self._wake.clear()  # behind the look, which may have set it

    def _down(self) -> EngineDown:
        self._ready.clear()  # whoever comes next need not find out again
        self._wake.set()
        return EngineDown(f"{self.name} at {self._url} does not answer; try again in a moment")

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        self._keeper.join()
