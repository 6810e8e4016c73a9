"""Speaks as much of llama-server's interface as the engine asks for, and can be told to misbehave.

    llama_stand_in.py --port N --model ...

The seed of a request says what happens: 1 writes without end, slowly; 2 ends the process in the middle of an answer; 3
refuses; 4 breaks a character and a stop string apart; anything else says "好的。" and stops. Events are lines of the
file that STAND_IN_LOG names.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def event(self, content: str, count: int, stop: str = "") -> None:
        end = {"stop": True, "stop_type": stop} if stop else {"stop": False}
        data = f"data: {json.dumps({'content': content, 'tokens_predicted': count, **end})}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['LLAMA_API_KEY']}":
            return self.answer(401, {"error": {"message": "Invalid API Key"}})
        if asked["seed"] == 3:
            return self.answer(400, {"error": {"message": "no\nsuch thing"}})
        note("begin")
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            if asked["seed"] == 1:
                for count in range(1, 100_000):
                    self.event("墨", count)
                    time.sleep(0.01)
            elif asked["seed"] == 2:
                self.event("墨", 1)
                self.wfile.flush()
                os._exit(7)
            elif asked["seed"] == 4:
                for count, piece in enumerate(["墨", "\ufffd", "终", "", "止", "后"], 1):
                    self.event(piece, count)
            else:
                self.event("好的。", 2)
            self.event("", 3, "eos")
            self.wfile.write(b"0\r\n\r\n")
            note("end")
        except OSError:
            note("left")


if __name__ == "__main__":
    note(" ".join(sys.argv[1:]))
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
