"""Asks llama.cpp, by the package xllamacpp: `python -m vlm.apps.ask_llama_cpp REQUEST ANSWER`.

This is a process of its own, because llama.cpp may end its process at a file that it cannot take. It imports nothing
heavy. REQUEST is a JSON file: `text`, `mmproj` (files), `context` (tokens), `threads`, `texts` (to tokenise), `talks`
(lists of messages to render), `chats` (lists of messages to answer greedily). ANSWER gets `tokens`, `prompts`, `chats`.
"""

from __future__ import annotations

import importlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

PACKAGE = "xllamacpp"
MAX_TOKENS = (8, 4, 2, 1)  # of an answer: the first for which the server tells of each token
LIKELIEST = 3  # tokens at each step whose log-probability is told


def main(request_file: str, answer_file: str) -> None:
    xllamacpp: Any = importlib.import_module(PACKAGE)

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

    def answered(messages: list[dict[str, Any]]) -> Any:
        """The answer. The server leaves out tokens that end within a character: then a shorter answer is asked for."""
        options = {"messages": messages, "temperature": 0, "logprobs": True, "top_logprobs": LIKELIEST}
        chat = None
        for tokens in MAX_TOKENS:
            chat = server.handle_chat_completions({**options, "max_tokens": tokens})
            if len(chat["choices"][0]["logprobs"]["content"]) == chat["usage"]["completion_tokens"]:
                break
        return chat

    answer = {
        "tokens": [
            post("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            for text in request["texts"]
        ],
        "prompts": [post("/apply-template", {"messages": talk})["prompt"] for talk in request["talks"]],
        "chats": [answered(chat) for chat in request["chats"]],
    }
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
