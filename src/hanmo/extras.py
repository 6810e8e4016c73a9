"""Packages that only some work needs: imported when it is done, and named with their install command where missing."""

from __future__ import annotations

import importlib
from typing import Any

from hanmo.errors import HanmoError


def need(module: str, extra: str) -> Any:
    """Import `module`, which the optional part `extra` of the package brings.

    Raises:
        HanmoError: it is not installed; the line has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise HanmoError(f'{error.name} is not installed: pip install "hanmo[{extra}]"') from None
