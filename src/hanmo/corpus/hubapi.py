"""What hubs are asked: which repository a name means, its revision, its card and its files.

========================================= ===========================================================================
hf:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]] the data files of one configuration, as the repository's card declares them
hf://datasets/OWNER/NAME[@REVISION]/GLOB  files by their names (as huggingface_hub and fsspec write them)
ms:… and ms://…                           the same on ModelScope
========================================= ===========================================================================

The endpoints are those that `huggingface_hub` (`HfApi.dataset_info`, `list_repo_tree`) and ModelScope's client
(`HubApi.get_dataset_files`) ask; a mirror answers the same ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx

from hanmo.corpus.hubfile import Kind, again, cause_of, client, how_to_enter
from hanmo.errors import HanmoError
from hanmo.files import front_matter

# As the hubs have them: a dot or a dash neither begins nor ends an owner or a name, and no dot follows another.
_PART = r"\w(?:(?:[\w-]|\.(?!\.))*\w)?"
_NAME = re.compile(
    rf"(?P<kind>hf|ms):(?:(?P<long>//)datasets/)?(?P<repo>{_PART}/{_PART})"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/:@]+))?(?P<rest>.*)"
)
#: Files that ModelScope lists at once.
_PAGE = 100


@dataclass(frozen=True)
class Name:
    """A corpus by name, taken apart."""

    kind: Kind
    repo: str
    revision: str = ""
    config: str = ""
    split: str = ""
    glob: str | None = None  # in the long form: which files; all where it is empty

    def __str__(self) -> str:
        at = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        if self.glob is not None:
            return f"{self.kind}://datasets/{self.repo}{at}/{self.glob}".rstrip("/")
        rest = f":{self.config}:{self.split}".rstrip(":") if self.config or self.split else ""
        return f"{self.kind}:{self.repo}{at}{rest}"

    @property
    def short(self) -> str:
        """What a source is called that the user gave no name."""
        return self.repo.split("/")[1] + (f"-{self.config}" if self.config else "")


def is_hub(path: str) -> bool:
    """Whether a source's path is a name on a hub."""
    return path.startswith(("hf:", "ms:"))


def parse(path: str) -> Name:
    """Take a name apart.

    Raises:
        HanmoError: it is of no form above.
    """
    found = _NAME.fullmatch(path)
    form = f"{path[:2]}:OWNER/NAME[@REVISION][:CONFIG[:SPLIT]] or {path[:2]}://datasets/OWNER/NAME[@REVISION]/FILES"
    if found is None:
        raise HanmoError(f"{path}: no name of a dataset; write {form}")
    kind: Kind = "hf" if found["kind"] == "hf" else "ms"
    name = Name(kind, found["repo"], unquote(found["revision"] or ""))
    rest = found["rest"]
    if found["long"]:
        if rest and not rest.startswith("/"):
            raise HanmoError(f"{path}: no name of a dataset; write {form}")
        return replace(name, glob=rest.strip("/"))
    config, _, split = rest.removeprefix(":").partition(":")
    if (rest and not rest.startswith(":")) or ":" in split:
        raise HanmoError(f"{path}: no name of a dataset; write {form}")
    return replace(name, config=config, split=split)


def endpoint_of(kind: Kind, hub: str) -> str:
    """The server that is asked: the source's `hub`, else what the environment names, else the hub itself."""
    if not hub:
        if kind == "hf":
            hub = os.environ.get("HANMO_HUB") or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        else:
            hub = os.environ.get("MODELSCOPE_DOMAIN") or "https://www.modelscope.cn"
    return (hub if "://" in hub else f"https://{hub}").rstrip("/")


# What a hub says of a repository --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Repository:
    """A repository at one revision: a commit where the hub has them, and what its card (README) says."""

    name: Name
    endpoint: str
    revision: str
    card: Mapping[str, Any]


class _Hub:
    """Questions to one hub about one repository; every fault is one line that names it."""

    def __init__(self, name: Name, endpoint: str) -> None:
        self.name, self.endpoint = name, endpoint
        self.shown = f"{name.kind}:{name.repo}"

    def get(self, url: str, **params: Any) -> httpx.Response:
        response = self.try_to_get(url, **params)
        if response.is_success:
            return response
        raise HanmoError(f"{self.shown}: {self._refusal(response)}")

    def try_to_get(self, url: str, **params: Any) -> httpx.Response:
        try:
            with client(self.name.kind) as asker:
                return again(lambda: asker.get(url, params=params or None))
        except httpx.TransportError as error:
            raise HanmoError(
                f"{self.shown}: {self.endpoint} cannot be reached ({cause_of(error)}): check the network, "
                "or name a mirror with `hub:` or HANMO_HUB, e.g. https://hf-mirror.com"
            ) from None

    def _refusal(self, response: httpx.Response) -> str:
        code, status = response.headers.get("x-error-code", ""), response.status_code
        if code == "RevisionNotFound":
            return f"no revision '{self.name.revision}' on {self.endpoint}"
        if code == "EntryNotFound":
            return f"no folder of that name in the repository on {self.endpoint}"
        if code == "GatedRepo" or status == 403:
            return f"{self.endpoint} refuses access ({status}): {how_to_enter(self.name.kind)}"
        if code == "RepoNotFound" or status in (401, 404):
            return (
                f"no such dataset on {self.endpoint} ({status}): check the spelling; if it is private, "
                f"set {'HF_TOKEN' if self.name.kind == 'hf' else 'MODELSCOPE_API_TOKEN'} to your token"
            )
        return f"{self.endpoint} answers {status}: {' '.join(response.text.split())[:120] or 'nothing more'}"

    def value(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise HanmoError(
                f"{self.shown}: {self.endpoint} gave something else than JSON for {response.url.path}: "
                "is it a hub, or a login page of the network?"
            ) from None

    def repository(self) -> Repository:
        if self.name.kind == "hf":
            return self._on_hugging_face()
        return self._on_modelscope()

    def _on_hugging_face(self) -> Repository:
        at = f"/revision/{quote(self.name.revision, safe='')}" if self.name.revision else ""
        info = self.value(self.get(f"{self.endpoint}/api/datasets/{self.name.repo}{at}"))
        from huggingface_hub import get_token

        if info.get("gated") and not get_token():
            raise HanmoError(f"{self.shown}: it is gated on {self.endpoint}: {how_to_enter('hf')}")
        return Repository(self.name, self.endpoint, str(info["sha"]), info.get("cardData") or {})

    def _on_modelscope(self) -> Repository:
        revision = self.name.revision or "master"
        url = f"{self.endpoint}/api/v1/datasets/{self.name.repo}/repo"
        readme = self.try_to_get(url, Revision=revision, FilePath="README.md")
        # A repository need not have a card; whether there is one at all, its listing says.
        if not readme.is_success and readme.status_code != 404:
            raise HanmoError(f"{self.shown}: {self._refusal(readme)}")
        card = front_matter(readme.text) if readme.is_success else {}
        return Repository(self.name, self.endpoint, revision, card)

    def tree(self, revision: str, folder: str) -> list[Entry]:
        """All files below a folder."""
        return self._tree_hf(revision, folder) if self.name.kind == "hf" else self._tree_ms(revision, folder)

    def _tree_hf(self, revision: str, folder: str) -> list[Entry]:
        url = f"{self.endpoint}/api/datasets/{self.name.repo}/tree/{quote(revision, safe='')}"
        if folder:
            url += f"/{quote(folder)}"
        response = self.get(url, recursive=True, expand=False)
        found: list[Entry] = []
        while True:
            found += [
                Entry(item["path"], int(item["size"]), 0) for item in self.value(response) if item.get("type") == "file"
            ]
            following = response.links.get("next", {}).get("url")
            if not following:
                return found
            # A mirror may hand on the hub's own address; the question goes where the first one went.
            parts = urlsplit(following)
            response = self.get(f"{self.endpoint}{parts.path}?{parts.query}")

    def _tree_ms(self, revision: str, folder: str) -> list[Entry]:
        about = self._data(self.get(f"{self.endpoint}/api/v1/datasets/{self.name.repo}"))
        url = f"{self.endpoint}/api/v1/datasets/{about['Id']}/repo/tree"
        found: list[Entry] = []
        for page in range(1, 100_000):
            asked = {"Revision": revision, "Root": folder or "/", "Recursive": "True"}
            files = self._data(self.get(url, **asked, PageNumber=page, PageSize=_PAGE)).get("Files") or []
            found += [
                Entry(item["Path"], int(item.get("Size") or 0), int(item.get("CommittedDate") or 0))
                for item in files
                if item.get("Type") != "tree"
            ]
            if len(files) < _PAGE:
                break
        return found

    def _data(self, response: httpx.Response) -> Mapping[str, Any]:
        value = self.value(response)
        if not isinstance(value, dict) or value.get("Code") != 200:
            said = value.get("Message") if isinstance(value, dict) else value
            raise HanmoError(f"{self.shown}: {self.endpoint} answers: {' '.join(str(said).split())[:160]}")
        return value.get("Data") or {}


def repository_of(name: Name, endpoint: str) -> Repository:
    """Ask for a repository's revision and card.

    Raises:
        HanmoError: the hub cannot be reached, refuses, or knows no such dataset or revision.
    """
    return _Hub(name, endpoint).repository()


@cache
def _listed(kind: Kind, repo: str, endpoint: str, revision: str, folder: str) -> tuple[Entry, ...]:
    return tuple(_Hub(Name(kind, repo, revision), endpoint).tree(revision, folder))


def tree(repository: Repository, folder: str = "") -> tuple[Entry, ...]:
    """All files below a folder; asked for once in a process, since large repositories are listed by many pages."""
    name = repository.name
    return _listed(name.kind, name.repo, repository.endpoint, repository.revision, folder)
