"""The process that renders chat templates: started as a script by `vlm.llms.rendering`, it imports nothing of ours.

Requests and answers are a length of four bytes and JSON. The environment is the one that transformers makes for chat
templates. What a template can cost is left to the system: a rendering that takes longer than `SECONDS` of processor
time is killed with the process, and memory above `BYTES` is refused, so that no loop, power or filter can get round it.
"""

import json
import signal
import struct
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO

SECONDS = 2.0
BYTES = 2**30
OUTPUT = 8_000_000  # characters that a conversation may become


def main() -> None:
    """Answer requests until the other side closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other side's, which then closes its end
    _limit_memory()
    while (request := receive(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # nobody handles its signal: it ends the process
        answer = _answer(request["template"], request["variables"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(sys.stdout.buffer, answer)


def send(file: BinaryIO, message: Any) -> None:
    data = json.dumps(message).encode()
    file.write(struct.pack("<I", len(data)) + data)
    file.flush()


def receive(file: BinaryIO) -> Any:
    """The next message, or None at the end."""
    head = file.read(4)
    if len(head) < 4:
        return None
    data = file.read(struct.unpack("<I", head)[0])
    return json.loads(data)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # not everywhere can it be limited
        pass


def _answer(template: str, variables: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(template).render(**variables)
    except MemoryError:
        return {"error": f"it takes more than {BYTES / 2**30:g} GiB of memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # whatever the template does
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    if len(text) > OUTPUT:
        return {"error": f"it makes {len(text):,} characters of a conversation"}
    return {"text": text}


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """As transformers.utils.chat_template_utils makes it, but that constants are computed while rendering alone."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the model says; it changes no text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Any) -> str:
            return caller()

    class PlainNamespace(Namespace):
        def __init__(*args: Any, **kwargs: Any) -> None:
            given = dict(*args[1:], **kwargs)
            for name in given:
                _check_name(name)
            Namespace.__init__(args[0], given)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    class PlainDict:
        def __call__(self, *args: Any, **kwargs: Any) -> dict:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict:
            return dict.fromkeys(*args)

    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"], optimized=False
    )
    environment.filters["tojson"] = tojson
    own: Any = {"raise_exception": raise_exception, "strftime_now": strftime_now}
    own |= {"dict": PlainDict(), "namespace": PlainNamespace}
    environment.globals.update(own)
    return environment


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose names are not those of libraries
    main()
