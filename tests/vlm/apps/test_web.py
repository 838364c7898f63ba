"""`vlm web` as other programs try it; test_web_browser.py has it in a browser. Needs Gradio."""

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import ROOT
from tiny import pictures

from vlm.apps.settings import WebSettings
from vlm.apps.web_examples import examples, find_world
from vlm.errors import UserError

GRADIO = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="pip install -e '.[web]': no gradio")


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "vlm.cli", "web", *map(str, arguments)]


def request(url: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    asked = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def upload(url: str, name: str, content: bytes) -> tuple[int, str]:
    head = f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--X--\r\n"
    return request(f"{url}/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=X")


def png(side: int) -> bytes:
    return pictures.encoded(pictures.noise(side, side))


@GRADIO
def test_only_this_page_under_its_own_name_is_answered(page):
    port = page.rpartition(":")[2]
    assert request(page)[0] == 200
    assert request(page, Host=f"localhost:{port}")[0] == 200
    assert request(page, Host="localhost:9000", Origin="http://localhost:9000")[0] == 200  # as through ssh -L
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "a@127.0.0.1", "[", ""):
        assert request(page, Host=host)[0] in (400, 403), host
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", f"http://localhost:{port}"):
        assert request(f"{page}/config", Origin=origin)[0] == 403, origin
    assert request(f"{page}/config", Sec_Fetch_Site="cross-site")[0] == 403
    assert request(page, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200  # a link to the page


@GRADIO
def test_nothing_else_of_gradio_is_reached(page):
    for path in ("proxy=http://evil.example/", "file=http://evil.example/", "file=/etc/passwd", "openapi.json",
                 "file=" + str(ROOT / "README.md"), "runs", "../monitoring"):  # fmt: skip
        assert request(f"{page}/gradio_api/{path}")[0] in (403, 404), path
    for path in ("call/ask", "component_server", "process_recording", "vibe-edit", "login"):
        assert request(f"{page}/gradio_api/{path}", b"{}")[0] == 404, path


@GRADIO
def test_an_upload_is_a_picture_of_allowed_size(page):
    status, text = upload(page, "a.png", png(30))
    assert status == 200
    stored = Path(json.loads(text)[0])
    assert stored.read_bytes() == png(30)
    folder = stored.parents[1]
    before = sorted(folder.rglob("*"))
    assert upload(page, "a.png", bytes(200_000)) == (413, "too large: 0.1 MB are allowed")
    assert upload(page, "a.png", bytes(105_000)) == (413, "too large: 0.1 MB are allowed")
    assert upload(page, "a.html", png(30))[0] == 415
    assert upload(page, "a.png", b"<html>")[0] == 415
    assert upload(page, "a.png", png(30)[:-40])[0] == 415
    bmp = b"BM" + bytes(100)
    assert upload(page, "a.bmp", bmp)[0] == upload(page, "a.png", bmp)[0] == 415
    assert request(f"{page}/gradio_api/upload", b"x")[0] == 400
    assert sorted(folder.rglob("*")) == before
    assert request(f"{page}/gradio_api/queue/join", bytes(1_100_000))[0] == 413


@GRADIO
def test_no_event_takes_a_file_that_was_not_uploaded(page, world):
    own = str(world / "gqa/images/0.jpg")
    for path in ("http://evil.example/a.png", "https://127.0.0.1/a.png", "/etc/hostname", own, "", "a\0b", 7):
        for url in (None, "http://evil.example/a.png", "data:image/png;base64,AAAA"):
            file = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
            event = json.dumps({"data": [file], "fn_index": 0, "session_hash": "s"}).encode()
            for name in ("queue/join", "run/predict"):
                status, text = request(f"{page}/gradio_api/{name}", event, Content_Type="application/json")
                assert status == 403 and text.startswith("a picture is sent as a file"), (name, file)
    assert request(f"{page}/gradio_api/queue/join", b"{")[0] == 400


@GRADIO
def test_what_a_user_gets_wrong_is_one_line(tiny_vlm, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, said in (
            ((tiny_vlm, "--port", port), f"cannot listen at --host 127.0.0.1 --port {port} (Address already in use)"),
            ((tmp_path,), f"{tmp_path} is not a VLM"),
        ):
            done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_missing_extra_is_one_line(monkeypatch, tiny_vlm):
    from vlm.apps import web

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the page needs Gradio: pip install -e '\.\[web\]'"):
        web.serve(WebSettings(str(tiny_vlm)))


def test_any_other_address_is_told_what_it_means(capsys):
    from vlm.apps import web

    for host in ("127.0.0.1", "::1", "localhost"):
        web._tell_if_open(WebSettings("vlm", host=host))
    assert capsys.readouterr().err == ""
    web._tell_if_open(WebSettings("vlm", host="0.0.0.0"))
    assert "--host 0.0.0.0 opens the page to every machine that can reach this one, without a password" in (
        capsys.readouterr().err
    )


def test_examples_are_different_pictures_of_the_world_beside_the_run(world):
    found = find_world(str(world.parent / "bridge/pretrained/vlm"), None)
    assert found == world
    images = world / "gqa/images"
    assert examples(world, 2) == [(str(images / "0.jpg"), "a0?"), (str(images / "1.jpg"), "b1?")]
    with pytest.raises(UserError, match=r"holds no gqa/testdev_balanced_questions.json"):
        find_world("vlm", str(world.parent))
