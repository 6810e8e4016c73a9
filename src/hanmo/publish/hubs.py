"""Hugging Face and ModelScope, by their own clients: a repository is made where there is none, and a folder goes up."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanmo.corpus.hubfile import Kind
from hanmo.errors import HanmoError
from hanmo.extras import need

_TARGET = re.compile(r"(?P<kind>hf|ms):(?P<repo>[\w][\w.-]*/[\w][\w.-]*)")
#: Where to: the variables that the hubs' own clients read.
_ENDPOINTS = {
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
    "ms": ("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
}
_HOW = {
    "hf": "set HF_TOKEN to a token that may write (huggingface.co/settings/tokens), or run `hf auth login`",
    "ms": "set MODELSCOPE_API_TOKEN to your token (modelscope.cn/my/myaccesstoken)",
}


@dataclass(frozen=True)
class Target:
    """A repository of models on a hub; `endpoint` is the hub's address."""

    kind: Kind
    repo: str
    endpoint: str

    @classmethod
    def of(cls, text: str) -> Target:
        """That of `hf:OWNER/NAME` or `ms:OWNER/NAME`; another server by HF_ENDPOINT or MODELSCOPE_ENDPOINT."""
        found = _TARGET.fullmatch(text)
        if not found:
            raise HanmoError(f"{text}: give hf:OWNER/NAME (Hugging Face) or ms:OWNER/NAME (ModelScope)")
        kind: Kind = "hf" if found["kind"] == "hf" else "ms"
        variable, usual = _ENDPOINTS[kind]
        return cls(kind, found["repo"], (os.environ.get(variable) or usual).rstrip("/"))

    def __str__(self) -> str:
        return f"{self.kind}:{self.repo}"

    def send(self, folder: Path, *, private: bool, licence: str, message: str) -> str:
        """Upload a folder as one commit (ModelScope: one or a few); returns the page's address.

        Files that are there already with the same content are not sent again.

        Raises:
            HanmoError: the hub cannot be reached, or refuses: a missing or wrong token, a name of somebody else.
        """
        send = self._to_hugging_face if self.kind == "hf" else self._to_modelscope
        try:
            return send(folder, private, licence, message)
        except HanmoError:
            raise
        except Exception as error:
            raise HanmoError(f"{self}: {self._said(error)}") from error

    def _to_hugging_face(self, folder: Path, private: bool, licence: str, message: str) -> str:
        from huggingface_hub import HfApi

        hub = HfApi(endpoint=self.endpoint)
        hub.create_repo(self.repo, private=private, exist_ok=True)
        hub.upload_folder(repo_id=self.repo, folder_path=folder, commit_message=message)
        return f"{self.endpoint}/{self.repo}"

    def _to_modelscope(self, folder: Path, private: bool, licence: str, message: str) -> str:
        client = need("modelscope_hub", "publish")
        hub = client.HubApi(endpoint=self.endpoint, token=os.environ.get("MODELSCOPE_API_TOKEN"))
        if not hub.repo_exists(self.repo, "model"):
            hub.create_repo(self.repo, "model", visibility="private" if private else "public", license=licence or None)
        with contextlib.redirect_stdout(sys.stderr):  # it prints a report
            hub.upload_folder(self.repo, "model", folder, commit_message=message, use_cache=False)
        return f"{self.endpoint}/models/{self.repo}"

    def _said(self, error: Exception) -> str:
        """What went wrong, in one line, with how to mend it where a token is what is missing."""
        status: Any = getattr(getattr(error, "response", None), "status_code", None)
        status = status or getattr(error, "status_code", None)
        text = " ".join(str(error).split()) or type(error).__name__
        if status in (401, 403) or "oken" in type(error).__name__ or "Authentication" in type(error).__name__:
            return f"refused by {self.endpoint} ({text[:160]}): {_HOW[self.kind]}"
        return f"{self.endpoint}: {text[:300]}"
