"""`transformers serve` on a saved folder, asked by OpenAI's own client, as vlm/README.md shows it."""

import base64
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from tiny.llava import write_vlm
from tiny.pictures import encoded, noise

from vlm.llava.model import load

NEEDED = ("fastapi", "uvicorn", "openai")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install -e '.[serve]'")
TOKENS = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on a free port; gives its folder and address, and stops it as Ctrl-C does."""
    root = tmp_path_factory.mktemp("serving")
    folder = write_vlm(root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(root / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", command, *arguments, "--dtype", "float32"],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/health", process, root / "log")
        yield folder, url
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert "Application shutdown complete" in (root / "log").read_text()
    finally:
        process.kill()


def _wait(url, process, log):
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def ask(server):
    """Sends messages; `model` and `stream` as in OpenAI's API."""
    from openai import OpenAI

    folder, url = server
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def send(messages, model=str(folder), **options):
        return client.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS, **options)

    return send


def user(text, picture=None, url=None):
    data = url or "data:image/png;base64," + base64.b64encode(encoded(picture)).decode()
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": text}],
    }


def test_answers_are_those_of_the_model_whole_and_streamed(server, ask):
    picture = noise(24, 24)
    vlm = load(server[0], "cpu")
    expected = vlm.answer(picture, "Is it red?", TOKENS)
    messages = [user("Is it red?", picture)]
    assert ask(messages).choices[0].message.content.strip() == expected
    pieces = [part.choices[0].delta.content or "" for part in ask(messages, stream=True) if part.choices]
    assert "".join(pieces).strip() == expected
    second = [*messages, {"role": "assistant", "content": expected}, {"role": "user", "content": "Is it big?"}]
    again = vlm.answer(picture, "Is it big?", TOKENS, history=[("Is it red?", expected)])
    assert ask(second).choices[0].message.content.strip() == again


def test_the_traps_that_the_documentation_tells(server, ask, tmp_path):
    from openai import BadRequestError, InternalServerError

    folder, _ = server
    with pytest.raises(BadRequestError, match="400"):
        ask([user("Is it red?", noise(24, 24))], model=f"{folder}/")
    (tmp_path / "server side.png").write_bytes(encoded(noise(24, 24)))  # read by the server: hence loopback only
    by_path = ask([user("Is it red?", url=str(tmp_path / "server side.png"))])
    assert by_path.choices[0].message.content == ask([user("Is it red?", noise(24, 24))]).choices[0].message.content
    with pytest.raises(InternalServerError, match="500"):  # last: the server then closes the connection
        ask([user("Is it red?", url="data:image/png;base64,AAAA")])
