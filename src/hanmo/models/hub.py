"""Public models by name: `hf:OWNER/NAME[@REVISION]` on Hugging Face, `ms:OWNER/NAME[@REVISION]` on ModelScope.

Wherever a model's folder is asked for such a name will do: `hanmo.models.folder.resolve` and `local` take both.
The hubs' own clients fetch them, into their own caches (HF_HOME, MODELSCOPE_CACHE): a connection that breaks is taken
up where it broke, files that an earlier try has fetched whole are not fetched again, and a model that is there whole is
taken without a network where there is none. Fetched are configuration, tokenizer, safetensors weights, card and
licence, and nothing that would have to be unpickled or executed.

A branch moves. The revision that a stage found first is kept with its results, and taken again as long as the recipe
names none: a commit on Hugging Face; of ModelScope's files their sizes and hashes, so that a change there is a new
input.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hanmo.console import console
from hanmo.corpus.hubapi import Name, endpoint_of, is_hub, parse
from hanmo.corpus.hubfile import how_to_enter
from hanmo.errors import HanmoError
from hanmo.extras import need
from hanmo.files import fingerprint_json

#: Inputs of stages that may be such a name.
ROLES = ("model", "teacher", "reward", "tokenizer")
#: Files that a model is made of; they lie at the top of its repository.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "LICENSE*"]
_LEFT_OUT = ["*/*"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def named(path: Path | str) -> bool:
    """Whether an input is a model's name on a hub."""
    return is_hub(str(path))


def repository(path: Path | str) -> str:
    """What the fingerprints of a name's model begin with, whatever their revision."""
    name = _parsed(str(path))
    return f"{name.kind}:{name.repo}@"


def repository_of(mark: str) -> str:
    """OWNER/NAME in a fingerprint that `fetched` made; "" in any other."""
    return mark[3:].partition("@")[0] if named(mark) else ""


def local(path: Path | str) -> Path:
    """Where a model lies: `path` itself, or the folder of one given by name, which a process looks for once.

    Raises:
        HanmoError: see `fetched`.
    """
    return _once(str(path)) if named(path) else Path(path)


@cache
def _once(name: str) -> Path:
    return fetched(name)[0]


def repository_at(folder: Path) -> str:
    """OWNER/NAME of the repository that a folder of the hubs' caches is a snapshot of; "" for any other folder."""
    if folder.parent.name != "snapshots":
        return ""
    owner, found, name = folder.parent.parent.name.removeprefix("models--").partition("--")
    return f"{owner}/{name}" if found else ""


def fetched(path: Path | str, before: str = "") -> tuple[Path, str]:
    """The folder that holds a model given by name, fetched where it is not there yet.

    Args:
        path: the name.
        before: the fingerprint that an earlier try got for it, whose commit is taken again; "" for none.

    Returns:
        (folder, fingerprint: name, revision and, where that may move, the files' state).

    Raises:
        HanmoError: no name of a model, no such one, no access, no network, or no safetensors weights there.
    """
    name = _parsed(str(path))
    shown = f"{name.kind}:{name.repo}"
    if name.kind == "hf":
        kept = before.removeprefix(f"{shown}@")
        revision = name.revision or (kept if _COMMIT.fullmatch(kept) else "main")
        folder = _from_hugging_face(name, revision)
        mark = f"{shown}@{folder.name}"
    else:
        revision = name.revision or "master"
        folder, state = _from_modelscope(name, revision, before.partition(f"{shown}@{revision}+")[2])
        mark = f"{shown}@{revision}+{state}"
    if not (folder / "config.json").is_file():
        raise HanmoError(f"{shown}: no model there (its repository has no config.json)")
    if not any(folder.glob("*.safetensors")):
        raise HanmoError(
            f"{shown}: no safetensors weights at revision {revision}; other forms are not loaded by name: fetch them "
            "and use `hanmo import`"
        )
    console.print(f"{shown}: revision {mark.partition('@')[2]}, in {folder}", markup=False, soft_wrap=True)
    return folder, mark


def _parsed(text: str) -> Name:
    form = f"{text[:2]}:OWNER/NAME[@REVISION]"
    try:
        name = parse(text)
    except HanmoError:
        raise HanmoError(f"{text}: no name of a model; write {form}") from None
    if name.config or name.split or name.glob is not None:
        raise HanmoError(f"{text}: a dataset's name; a model's is {form}")
    return name


def _from_hugging_face(name: Name, revision: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    shown, endpoint = f"hf:{name.repo}", endpoint_of("hf", "")
    try:
        found = snapshot_download(
            name.repo, revision=revision, endpoint=endpoint, allow_patterns=_WANTED, ignore_patterns=_LEFT_OUT
        )
    except errors.GatedRepoError:
        raise HanmoError(f"{shown}: it is gated on {endpoint}: {how_to_enter('hf')}") from None
    except errors.RevisionNotFoundError:
        raise HanmoError(f"{shown}: no revision '{revision}' on {endpoint}") from None
    except errors.RepositoryNotFoundError:
        raise HanmoError(
            f"{shown}: no such model on {endpoint}: check the spelling; if it is private, set HF_TOKEN to your token"
        ) from None
    except Exception as error:
        raise HanmoError(f"{shown}: {_unreachable(endpoint, error)}") from None
    return Path(found)


def _from_modelscope(name: Name, revision: str, before: str) -> tuple[Path, str]:
    client = need("modelscope_hub", "publish")
    shown, endpoint = f"ms:{name.repo}", endpoint_of("ms", "")
    hub = client.HubApi(endpoint=endpoint, token=os.environ.get("MODELSCOPE_API_TOKEN"))
    chosen: dict[str, Any] = {"revision": revision, "allow_patterns": _WANTED, "ignore_patterns": _LEFT_OUT}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it may print a report
            files = hub.list_repo_files(name.repo, "model", revision=revision)
            folder = hub.download_repo(name.repo, "model", **chosen)
    except Exception as error:
        if before and isinstance(error, ConnectionError):
            # It was whole when a stage took it; what is there now cannot be asked.
            with contextlib.suppress(client.errors.CacheError):
                return Path(hub.download_repo(name.repo, "model", local_files_only=True, **chosen)), before
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status_code", None)
        if status in (401, 403):
            raise HanmoError(f"{shown}: {endpoint} refuses access ({status}): {how_to_enter('ms')}") from None
        if status == 404 or "NotExist" in type(error).__name__:
            raise HanmoError(f"{shown}: no such model, or no revision '{revision}', on {endpoint}") from None
        raise HanmoError(f"{shown}: {_unreachable(endpoint, error)}") from None
    return Path(folder), fingerprint_json(sorted((file.path, file.size, file.sha256) for file in files))


def _unreachable(endpoint: str, error: Exception) -> str:
    """What is said where the client tried and could not, and the cache does not hold all of it."""
    cause = error.__cause__ or error.__context__ or error
    said = " ".join(str(cause).split())[:200] or type(cause).__name__
    return (
        f"{endpoint} does not give it, and it is not whole in the cache ({said}): the same command goes on once the "
        "network is there; HANMO_HUB or HF_ENDPOINT names a mirror"
    )
