"""The one exception that is meant for the user.

Everything a person can mend (a misspelt key, a torn file, a full disk) is raised as `HanmoError` with one line that
says where, what is wrong and how to mend it. The command line prints that line and exits with status 2; anything else
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class HanmoError(Exception):
    """A fault the user can mend; `str(error)` is one complete line."""


class Interrupted(HanmoError):
    """A signal asked the work to stop, and what was done so far is kept: the same command goes on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or an empty string when nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def chosen(what: str, name: str, known: Mapping[str, T], aliases: Mapping[str, str]) -> T:
    """The entry of a table that is called so, or by another name that it has; case does not matter.

    Args:
        what: what the table's entries are called.

    Raises:
        HanmoError: there is none; with the nearest, and all.
    """
    name = aliases.get(name.lower(), name.lower())
    if name not in known:
        raise HanmoError(f"{what} '{name}' is unknown{nearest(name, known)} (known: {', '.join(known)})")
    return known[name]


_MISPLACED = {
    errno.EISDIR: "a folder stands where a file is wanted",
    errno.ENOTDIR: "a file stands where a folder is wanted",
    errno.EEXIST: "a file stands where a folder is wanted",
}


def describe_os_error(error: Exception) -> str | None:
    """One line for the operating-system faults that are the user's to mend (disk, permissions), else None.

    Libraries written in Rust (tokenizers, safetensors) raise other exceptions with the number in their text.
    """
    number, name = (error.errno, error.filename) if isinstance(error, OSError) else (rust_number(str(error)), None)
    where = f" at {name}" if name else ""
    if number == errno.ENOSPC:
        return f"the disk is full{where}: free some space, then run the same command again (it goes on where it was)"
    if number == errno.EDQUOT:
        return f"the disk quota is used up{where}: free some space, then run the same command again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write or read{where}: choose another --out or mend the permissions"
    if number in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST) and isinstance(error, OSError):
        named = error.filename2 or error.filename
        return f"{named}: {_MISPLACED[number]}; choose another path"
    from hanmo.remote import CLIENTS, describe

    if type(error).__module__.partition(".")[0] in CLIENTS:
        return describe(error, "storage elsewhere")
    return None


def rust_number(text: str) -> int | None:
    """The errno in "No space left on device (os error 28)", None where there is none."""
    found = re.search(r"os error (\d+)", text)
    if found is None:
        return None
    # 112 is what Windows calls a full disk.
    return errno.ENOSPC if found[1] == "112" else int(found[1])
