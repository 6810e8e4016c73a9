"""Speaks as much of vLLM's interface as the engine asks for, and can be told to misbehave.

    vllm_stand_in.py serve FOLDER --served-model-name=NAME --port=N ...

An answer repeats the prompt's last three ids and ends with id 2. The seed of a request says otherwise: 1 writes
without end, slowly; 2 ends the process in the middle of an answer; 3 breaks off with an error; 4 tells no ids; 5 ends
without the id. A schema is refused.
"""

import json
import os
import sys
import time
from http.server import ThreadingHTTPServer

from stand_in import Handler, note

#: Of the model; what /tokenize answers is for the tests to say.
STATE: dict = {"name": "", "root": "", "key": "", "ids": [], "length": 64, "gone": False}


class VllmHandler(Handler):
    def do_GET(self) -> None:
        if STATE["gone"]:
            return self.answer(503, {"error": "gone"})
        if self.path == "/health":
            return self.answer(200, {})
        models = [{"id": STATE["name"], "root": STATE["root"], "max_model_len": STATE["length"]}]
        self.answer(200, {"data": models})

    def event(self, ids: list[int] | None, finish: str | None, scores: int | None) -> None:
        choice: dict = {"index": 0, "text": "?", "finish_reason": finish, "logprobs": None}
        if ids is not None:
            choice["token_ids"] = ids
        if ids and scores is not None:
            top = [{f"token_id:{one}": -0.5, "token_id:7": -1.5} for one in ids]
            tokens = [f"token_id:{one}" for one in ids]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5] * len(ids), "top_logprobs": top}
        self.chunk(f"data: {json.dumps({'choices': [choice]})}\n\n")

    def do_POST(self) -> None:
        asked = self.asked(STATE["key"])
        if asked is None:
            return
        if self.path == "/tokenize":
            return self.answer(200, {"tokens": STATE["ids"]})
        if "structured_outputs" in asked:
            return self.answer(400, {"error": {"message": "no\nsuch grammar", "code": 400}})
        note(json.dumps(asked))
        self.begin()
        seed, scores = asked.get("seed"), asked.get("logprobs")
        try:
            if seed == 1:
                while True:
                    self.event([asked["prompt"][-1]], None, scores)
                    time.sleep(0.01)
            self.event(asked["prompt"][-3:-1] if seed != 4 else None, None, scores)
            if seed == 2:
                self.wfile.flush()
                os._exit(7)
            if seed == 3:
                self.chunk('data: {"error": {"message": "no memory", "code": 500}}\n\n')
            else:
                self.event([asked["prompt"][-1]] + [2] * (seed != 5), "stop", scores)
            self.chunk(": a comment\n\ndata: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            note(f"left {seed}")


if __name__ == "__main__":
    note(" ".join(sys.argv[1:]))
    options = dict(word[2:].split("=", 1) for word in sys.argv[3:] if "=" in word)
    STATE |= {"name": options["served-model-name"], "key": os.environ["VLLM_API_KEY"]}
    ThreadingHTTPServer(("127.0.0.1", int(options["port"])), VllmHandler).serve_forever()
