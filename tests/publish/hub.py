"""A hub that takes models: a real HTTP server with the endpoints that the clients of both hubs send a folder to.

The answers have the form that `huggingface_hub` (`create_repo`, `upload_folder`) and `modelscope_hub` (the same) read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import served


@dataclass
class Hub:
    """What the server holds, and what it was asked; only who has the token may write."""

    token: str = "secret"
    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0  # bytes of blobs
    commits: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    with served(_Handler, hub=hub) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _may(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {self.hub.token}"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/v1/models/"):
            repo = "/".join(path.split("/")[4:6])
            if repo not in self.hub.repos:
                self._answer({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
            elif path.endswith("/repo/files"):
                listed = [
                    {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": ""}
                    for name, data in self.hub.files.items()
                ]
                self._answer({"Code": 200, "Success": True, "Data": {"Files": listed}})
            else:
                self._answer({"Code": 200, "Success": True, "Data": {"Id": 1, "Path": repo, "Name": repo}})
            return
        self._answer({"error": "not found"}, 404)

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.blobs[self.path.rsplit("/", 1)[1]] = data
        self.hub.sent += len(data)
        self._answer({"Code": 200, "Success": True, "Data": {}})

    def do_POST(self) -> None:
        body = self._body()
        if not self._may():
            self._answer({"error": "Invalid username or password.", "Code": 401, "Message": "no token"}, 401)
            return
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            known = repo in self.hub.repos
            self.hub.repos.setdefault(repo, asked)
            self._answer({"url": f"{self.hub.url}/{repo}", "name": repo}, 409 if known else 200)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".gguf")) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            self._answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = []
            for one in json.loads(body)["objects"]:
                known = one["oid"] in self.hub.blobs
                upload = {} if known else {"actions": {"upload": {"href": f"{self.hub.url}/blob/{one['oid']}"}}}
                objects.append({"oid": one["oid"], "size": one["size"], **upload})
            answer = {"transfer": "basic", "objects": objects}
            ms = path.startswith("/api/v1")
            self._answer({"Code": 200, "Success": True, "Data": answer} if ms else answer)
        elif "/commit/" in path and path.startswith("/api/models/"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "header":
                    self.hub.commits.append(item["value"]["summary"])
                elif item["key"] == "file":
                    self.hub.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                elif item["key"] == "lfsFile":
                    self.hub.files[item["value"]["path"]] = self.hub.blobs[item["value"]["oid"]]
            url = f"{self.hub.url}/{path.split('/commit/')[0].removeprefix('/api/models/')}/commit/c0ffee"
            self._answer({"success": True, "commitOid": "c0ffee" + "0" * 34, "commitUrl": url, "hookOutput": ""})
        elif path == "/api/v1/models":
            asked = json.loads(body)
            self.hub.repos[f"{asked['Path']}/{asked['Name']}"] = asked
            self._answer({"Code": 200, "Success": True, "Data": {"Id": 1}})
        elif "/commit/" in path:
            asked = json.loads(body)
            self.hub.commits.append(asked["commit_message"])
            for one in asked["actions"]:
                data = base64.b64decode(one["content"]) if one["type"] == "normal" else self.hub.blobs[one["sha256"]]
                self.hub.files[one["path"]] = data
            self._answer({"Code": 200, "Success": True, "Data": {"oid": "c0ffee"}})
        else:
            self._answer({"error": f"unknown {path}"}, 404)

    def log_message(self, *args: object) -> None:
        pass
