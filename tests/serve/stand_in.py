"""What the stand-ins for server programs share: they note what happens, in the file that STAND_IN_LOG names."""

import json
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path


def note(line: str) -> None:
    with Path(os.environ["STAND_IN_LOG"]).open("a") as file:
        file.write(line + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def asked(self, key: str) -> dict | None:
        """The request's body; None, and an answer that says so, where the key is wrong."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] == f"Bearer {key}":
            return body
        self.answer(401, {"error": {"message": "Invalid API Key"}})
        return None

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
