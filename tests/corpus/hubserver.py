"""A hub on this machine: a real HTTP server that speaks the endpoints of Hugging Face and ModelScope that we ask.

The answers have the form that huggingface_hub (`HfApi.dataset_info`, `list_repo_tree`, `RepoFile`) and ModelScope's
client (`HubApi.get_dataset_files`, `get_dataset_file_url`) parse. It can also behave badly, as networks do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_server import served

SHA = "5c0ffee" + "0" * 33
OLDER = "01de4" + "0" * 35


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    repo: str = "owner/name"
    card: dict[str, Any] = field(default_factory=dict)
    head: str = SHA  # the commit of main
    gated: Any = False
    needs_token: str = ""  # files only for who has this token
    busy: int = 0  # so many first requests are answered with 503
    tear: int = 0  # a body breaks off after so many bytes...
    tears: int = 10**9  # ...so many times
    ranges: bool = True
    page: int = 1000  # entries that are listed at once
    elsewhere: bool = False  # files are handed on to another host
    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def paths(self, part: str = "") -> list[str]:
        return [path for path, _ in self.asked if part in path]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    with served(_Handler, hub=hub) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if hub.busy:
            hub.busy -= 1
            return self._answer(503, b"busy", **{"Retry-After": "0"})
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if path.startswith(("/api/datasets/", "/api/models/")):
            self._hugging_face(path.split("/", 3)[3], query)
        elif "/resolve/" in path:
            self._resolve(path)
        elif path.startswith("/cdn/"):
            self._body(hub.files[path.removeprefix("/cdn/")])
        elif path.startswith("/api/v1/models/"):
            self._modelscope_model(path.removeprefix("/api/v1/models/"), query)
        elif path.startswith("/api/v1/datasets/"):
            self._modelscope(path.removeprefix("/api/v1/datasets/"), query)
        else:
            self._answer(404, b"nothing here")

    # Hugging Face

    def _hugging_face(self, path: str, query: dict[str, str]) -> None:
        hub = self.hub
        if not path.startswith(hub.repo):
            return self._refuse(401, "RepoNotFound")
        rest = path.removeprefix(hub.repo).strip("/")
        if rest.startswith("tree/"):
            return self._tree(rest.removeprefix("tree/"), query)
        revision = rest.removeprefix("revision/") or "main"
        if revision not in ("main", hub.head, OLDER):
            return self._refuse(404, "RevisionNotFound")
        sha = hub.head if revision == "main" else revision
        siblings = [{"rfilename": name} for name in hub.files]
        self._json({"id": hub.repo, "sha": sha, "gated": hub.gated, "cardData": hub.card, "siblings": siblings})

    def _tree(self, rest: str, query: dict[str, str]) -> None:
        hub = self.hub
        revision, _, folder = rest.partition("/")
        if revision not in (hub.head, OLDER):
            return self._refuse(404, "RevisionNotFound")
        names = sorted(name for name in hub.files if not folder or name.startswith(f"{folder}/"))
        if not names:
            return self._refuse(404, "EntryNotFound")
        start = int(query.get("cursor", "0"))
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"}] if start == 0 else []
        entries += [
            {"type": "file", "oid": hashlib.sha1(hub.files[n]).hexdigest(), "size": len(hub.files[n]), "path": n}
            for n in names[start : start + hub.page]
        ]
        more = {}
        if start + hub.page < len(names):
            # As a mirror does that passes the hub's own address on.
            own = f"https://huggingface.co/api/datasets/{hub.repo}/tree/{revision}?recursive=true"
            more["Link"] = f'<{own}&cursor={start + hub.page}>; rel="next"'
        self._json(entries, **more)

    def _resolve(self, path: str) -> None:
        hub = self.hub
        _, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if hub.needs_token and self.headers.get("authorization") != f"Bearer {hub.needs_token}":
            return self._refuse(403, "GatedRepo")
        if name not in hub.files or revision not in (hub.head, OLDER):
            return self._refuse(404, "EntryNotFound")
        if hub.elsewhere:
            port = urlsplit(hub.url).port
            return self._answer(302, b"", Location=f"http://localhost:{port}/cdn/{name}", ETag='"linked"')
        self._body(hub.files[name])

    # ModelScope

    def _modelscope_model(self, path: str, query: dict[str, str]) -> None:
        hub = self.hub
        if not path.startswith(hub.repo):
            return self._answer(404, b'{"Code":10010205001,"Message":"the model is not found"}')
        if path == f"{hub.repo}/repo/files":
            files = [
                {"Path": n, "Name": n, "Type": "blob", "Size": len(d), "Sha256": hashlib.sha256(d).hexdigest()}
                for n, d in sorted(hub.files.items())
            ]
            return self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        if path == f"{hub.repo}/repo" and query["FilePath"] in hub.files:
            return self._body(hub.files[query["FilePath"]])
        self._json({"Code": 200, "Success": True, "Data": {"Id": 1, "Path": hub.repo, "Name": hub.repo}})

    def _modelscope(self, path: str, query: dict[str, str]) -> None:
        hub = self.hub
        if path == hub.repo:
            return self._json({"Code": 200, "Data": {"Id": 77, "Type": 1}, "Message": "success"})
        if path == "77/repo/tree":
            start = (int(query["PageNumber"]) - 1) * int(query["PageSize"])
            files: list[dict[str, Any]] = [{"Path": "data", "Type": "tree", "Size": 0}]
            files += [
                {"Path": name, "Type": "blob", "Size": len(data), "CommittedDate": 1700000000}
                for name, data in sorted(hub.files.items())
            ]
            return self._json({"Code": 200, "Data": {"Files": files[start : start + int(query["PageSize"])]}})
        if path == f"{hub.repo}/repo" and query["FilePath"] in hub.files:
            if hub.needs_token and self.headers.get("cookie") != f"m_session_id={hub.needs_token}":
                return self._answer(403, b'{"Code":10010205003,"Message":"no permission"}')
            return self._body(hub.files[query["FilePath"]])
        self._answer(404, b'{"Code":10010205001,"Message":"the dataset is not found"}')

    # What all answers are made of

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, json.dumps({"error": code}).encode(), **{"X-Error-Code": code})

    def _json(self, value: Any, **headers: str) -> None:
        self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})

    def _body(self, data: bytes) -> None:
        hub = self.hub
        status, start, end = 200, 0, len(data)
        asked = self.headers.get("range", "")
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes", "X-Repo-Commit": hub.head}
        if asked and hub.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            status, start, end = 206, int(first), min(len(data), int(last) + 1 if last else len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._answer(status, data[start:end], tear=True, **headers)

    def _answer(self, status: int, body: bytes, *, tear: bool = False, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if tear and self.hub.tear and self.hub.tears > 0 and len(body) > self.hub.tear:
            self.hub.tears -= 1
            self.wfile.write(body[: self.hub.tear])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)
