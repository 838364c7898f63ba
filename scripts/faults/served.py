"""A client of `vlm web`, which asks as the page in a browser does."""

import http.client
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from faults.fault import demand

API = "/gradio_api"
JSON, FORM = {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=X"}


@dataclass(frozen=True)
class Page:
    """address: host:port. process: the server's id. temporary: the folder that it writes to."""

    address: str
    process: int
    temporary: Path

    def request(self, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> tuple[int, bytes]:
        """Status and content of an answer. The path is sent as it is written."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.putrequest(method, path, skip_host="Host" in (headers or {}))
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def upload(self, picture: bytes, name: str = "a.png", length: int | None = None) -> tuple[int, bytes]:
        """length: what the request says that it has, if that is a lie."""
        head = f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = head + picture + b"\r\n--X--\r\n"
        lie = {"Content-Length": str(length)} if length is not None else {}
        return self.request("POST", f"{API}/upload", body, {**FORM, **lie})

    def show(self, session: str, picture: bytes) -> dict[str, Any]:
        """Upload a picture and let the model look at it -> what events call it."""
        status, text = self.upload(picture)
        demand(status == 200, f"an upload is answered {status}: {text[:100]!r}")
        shown = {"path": json.loads(text)[0], "meta": {"_type": "gradio.FileData"}}
        self.event(session, "look", [shown])
        return shown

    def ask(self, session: str, picture: dict[str, Any], question: str) -> None:
        self.event(session, "take", [picture, question, False, None])
        answer = self.event(session, "ask", [None])
        demand(question in json.dumps(answer), f"{question} is not answered: {answer}")
        demand("error:" not in json.dumps(answer), f"the answer is {answer}")

    def event(self, session: str, name: str, data: list[Any]) -> Any:
        """What an event of the page gives."""
        job = {"data": data, "fn_index": self._events[name], "session_hash": session}
        status, text = self.request("POST", f"{API}/queue/join", json.dumps(job).encode(), JSON)
        demand(status == 200, f"{name} is answered {status}: {text[:100]!r}")
        _, stream = self.request("GET", f"{API}/queue/data?session_hash={session}")
        messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
        done = next((message for message in messages if message["msg"] == "process_completed"), None)
        demand(bool(done and done["success"]), f"{name} fails: {messages[-1:]}")
        return done["output"] if done else None

    @cached_property
    def _events(self) -> dict[str, int]:
        return {
            event["api_name"]: event["id"] for event in json.loads(self.request("GET", "/config")[1])["dependencies"]
        }

    def resident(self) -> int:
        """Bytes of memory that the server has."""
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def files(self) -> int:
        return sum(path.is_file() for path in self.temporary.rglob("*"))
