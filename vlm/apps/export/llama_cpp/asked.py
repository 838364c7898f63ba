"""Asks llama.cpp, by the package xllamacpp: `python -m vlm.apps.export.llama_cpp.asked REQUEST ANSWER`.

This is a process of its own, because llama.cpp ends its process at a file that it cannot take. It imports nothing heavy.
REQUEST is a JSON file: `text`, `mmproj` (files), `context` (tokens), `threads`, `texts` (to tokenise), `talks` (lists of
messages to render) and `chats` (lists of messages to answer greedily). ANSWER gets `tokens`, `prompts` and `chats`.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

MAX_TOKENS = 8  # of an answer
LIKELIEST = 3  # tokens at each step whose log-probability is told


def main(request_file: str, answer_file: str) -> None:
    import xllamacpp

    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = request["text"], request["mmproj"]
    params.n_ctx, params.n_parallel, params.warmup, params.port = request["context"], 1, False, 0
    params.n_gpu_layers, params.mmproj_use_gpu = 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
    server = xllamacpp.Server(params)

    def post(path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(urllib.request.Request(server.listening_address + path, data, headers)) as response:
            return json.load(response)

    greedy = {"max_tokens": MAX_TOKENS, "temperature": 0, "logprobs": True, "top_logprobs": LIKELIEST}
    answer = {
        "tokens": [
            post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            for text in request["texts"]
        ],
        "prompts": [post("/apply-template", {"messages": talk})["prompt"] for talk in request["talks"]],
        "chats": [server.handle_chat_completions({"messages": chat, **greedy}) for chat in request["chats"]],
    }
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
