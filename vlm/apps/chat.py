"""`vlm chat`: questions about a picture, on a terminal or from a pipe; answers appear as they are made."""

import io
import sys
from collections.abc import Iterable, Iterator

from PIL import Image

from vlm.errors import UserError
from vlm.images import load_image
from vlm.llava.model import VLM, load
from vlm.llms.prompt import History

HELP = """Type a question. Or:
  /image PATH   look at another picture; the conversation starts afresh
  /new          start afresh with the same picture
  /help         this text
  /quit         leave (also Ctrl-D)"""

TURNS = 8  # of the conversation that the model reads again; more would soon fill the context of a small model


def chat(folder: str, image_file: str | None, question: str | None, max_new_tokens: int) -> None:
    """Answer `question` and return, or answer the lines of stdin until it ends or says /quit."""
    image = load_image(image_file) if image_file else None  # before the model: a wrong path is reported at once
    vlm = load(folder)
    if question is not None:
        _say(vlm, image, question, max_new_tokens, [])
        return
    terminal = sys.stdin.isatty()
    if terminal:
        print(HELP if image else HELP + "\nNo picture yet: begin with /image PATH.", file=sys.stderr)
    converse(vlm, image, _typed() if terminal else _piped(), max_new_tokens)


def converse(vlm: VLM, image: Image.Image | None, lines: Iterable[str], max_new_tokens: int) -> None:
    """Obey or answer each line. An error in one line is printed on stderr, and the next line is read."""
    history: list[tuple[str, str]] = []
    for line in lines:
        command, _, rest = line.strip().partition(" ")
        try:
            if command == "/quit":
                return
            elif command == "/help":
                print(HELP, file=sys.stderr)
            elif command == "/new":
                history = []
            elif command == "/image":
                image, history = load_image(rest.strip()), []
            elif command.startswith("/"):
                raise UserError(f"unknown command {command}: /help lists them")
            elif command:
                question = line.strip()
                answer = _say(vlm, image, question, max_new_tokens, history)
                # An answer that is empty or holds control tokens cannot be repeated to the model.
                if vlm.prompts.allows(answer):
                    history = [*history, (question, answer)][-TURNS:]
        except UserError as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)


def _say(vlm: VLM, image: Image.Image | None, question: str, max_new_tokens: int, history: History) -> str:
    pieces = vlm.stream(image, question, max_new_tokens, history)
    answer = ""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            answer += piece
    finally:
        print(flush=True)
    return answer


def _typed() -> Iterator[str]:
    import readline  # noqa: F401  (line editing and history in input())

    while True:
        try:
            yield input("> ")
        except EOFError:
            print(file=sys.stderr)
            return


def _piped() -> Iterator[str]:
    """Lines of a pipe; bytes that are not UTF-8 become replacement characters."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    yield from sys.stdin
