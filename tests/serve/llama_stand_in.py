"""Speaks as much of llama-server's interface as the engine asks for, and can be told to misbehave.

    llama_stand_in.py --port N --model ...

The seed of a request says what happens: 1 writes without end, slowly; 2 ends the process in the middle of an answer; 3
refuses; 4 breaks a character and a stop string apart; anything else says "好的。" and stops.
"""

import json
import os
import sys
import time
from http.server import ThreadingHTTPServer

from stand_in import Handler, note


class LlamaHandler(Handler):
    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def event(self, content: str, count: int, stop: str = "") -> None:
        end = {"stop": True, "stop_type": stop} if stop else {"stop": False}
        self.chunk(f"data: {json.dumps({'content': content, 'tokens_predicted': count, **end})}\n\n")

    def do_POST(self) -> None:
        asked = self.asked(os.environ["LLAMA_API_KEY"])
        if asked is None:
            return
        if asked["seed"] == 3:
            return self.answer(400, {"error": {"message": "no\nsuch thing"}})
        note("begin")
        self.begin()
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
    ThreadingHTTPServer(("127.0.0.1", port), LlamaHandler).serve_forever()
