"""Chat templates are programs of strangers: they run in a process of their own, which the system keeps in bounds.

Importing this module makes transformers' `apply_chat_template` render there as well, whoever calls it.
"""

import atexit
import os
import subprocess
import sys
import threading
from typing import Any

from jinja2 import TemplateError, nodes
from transformers.utils import chat_template_utils

from vlm.errors import UserError, one_line
from vlm.llms import renderer

LONGEST = 200_000  # characters of a template; published ones have up to 25,000


class BadTemplate(UserError):
    """A chat template that cannot be rendered."""


def render(template: str, variables: dict[str, Any]) -> str:
    """What a template makes of plain `variables`.

    Raises: BadTemplate if it is too long or broken, raises an error, leaves the sandbox, or takes too much time or
    memory.
    """
    _check_length(template)
    answer = _process.asked({"template": template, "variables": variables})
    if "error" in answer:
        raise _broken(answer["error"])
    return answer["text"]


def _check_length(template: str) -> None:
    if len(template) > LONGEST:
        raise _broken(f"it has {len(template):,} characters, of which at most {LONGEST:,} are read")


def _broken(reason: str | Exception) -> BadTemplate:
    text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {one_line(reason)}"
    return BadTemplate(f"the chat template cannot be used ({text}): give a model with another one")


class _Process:
    """The renderer of this process, started when it is first needed, and again if a template has ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen | None = None

    def asked(self, request: dict) -> dict:
        with self._lock:
            if self._running is None:
                self._running = subprocess.Popen(
                    [sys.executable, renderer.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
            reading: Any = self._running.stdout
            writing: Any = self._running.stdin
            try:
                renderer.send(writing, request)
                answer = renderer.receive(reading)
            except (OSError, ValueError):  # it has ended, perhaps inside an answer
                answer = None
            except BaseException:  # Ctrl-C: an answer that nobody waits for must not be the next one's
                self.close()
                raise
            if answer is None:
                self.close()
                limits = f"{renderer.SECONDS:g} s of processor time or {renderer.BYTES / 2**30:g} GiB"
                return {"error": f"it takes more than {limits} for a conversation"}
            return answer

    def close(self) -> None:
        """End the renderer."""
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None

    def forget(self) -> None:
        """After a fork: the renderer answers the other process."""
        self._lock, self._running = threading.Lock(), None


_process = _Process()
atexit.register(_process.close)
os.register_at_fork(after_in_child=_process.forget)


class _Parsing:
    """The environment of a template, by whose syntax tree transformers learns which variables and texts it has."""

    def __init__(self, template: str):
        self._template = template

    def parse(self, text: str) -> nodes.Node:
        """A flat tree of the template's texts and variables: in whole ones jinja computes constants when it looks."""
        environment = _compile("").environment
        try:
            whole = environment.parse(text)
            found = list(whole.find_all((nodes.TemplateData, nodes.Const, nodes.Name)))
        except (TemplateError, RecursionError) as error:
            raise _broken(error) from None
        set_inside = {node.name for node in found if isinstance(node, nodes.Name) and node.ctx != "load"}
        kept: list[Any] = [
            node
            for node in found
            if isinstance(node, nodes.TemplateData)
            or (isinstance(node, nodes.Const) and isinstance(node.value, str))
            or (isinstance(node, nodes.Name) and node.name not in set_inside)
        ]
        return nodes.Template([nodes.Output(kept)], lineno=1).set_environment(environment)

    def __getattr__(self, name: str) -> Any:
        return getattr(_compile(self._template).environment, name)


class _Bounded:
    """What transformers takes for a compiled template. Text is rendered as above.

    All else, such as the masks of what a model said, is left to transformers' own, which compiles it in this process.
    """

    def __init__(self, template: str):
        _check_length(template)
        self._template, self.environment = template, _Parsing(template)

    def render(self, **variables: Any) -> str:
        return render(self._template, variables)

    def __getattr__(self, name: str) -> Any:
        return getattr(_compile(self._template), name)


_transformers: Any = chat_template_utils
_compile = _transformers._compile_jinja_template
_transformers._compile_jinja_template = _Bounded
