"""`vlm chat`: questions about pictures, on a terminal or from a pipe."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from vlm.apps.answers import Answer, Asking
from vlm.apps.loading import open_vlm
from vlm.apps.pictures import Pictures, picture_paths, read_pictures
from vlm.apps.settings import ChatSettings
from vlm.apps.status import Status
from vlm.errors import UserError, one_line

HELP = """Type a question. Or:
  /image PATH ...   look at another picture, or at several; the conversation starts afresh
  /add PATH ...     look at one more; the conversation starts afresh
  /new              start afresh with the same picture
  /help             this text
  /quit             leave (also quit, exit, Ctrl-D); Ctrl-C stops an answer"""
TURNS = 8  # of the conversation that the model reads again; more would soon fill the context of a small model
CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")})
FAILED = 1  # the exit code if a question failed


def chat(settings: ChatSettings) -> int:
    """Answer `--question`, or the lines of stdin until it ends or says /quit; returns the exit code."""
    # Before the model: a wrong path or device is reported at once.
    with Status("reading the picture"):
        pictures = read_pictures(settings.image) if settings.image else Pictures()
    vlm = open_vlm(settings)
    if settings.question is not None:
        return _ask_once(Asking(vlm, settings), pictures, settings.question)
    terminal = sys.stdin.isatty()
    if terminal:
        print(HELP if pictures.images else HELP + "\nNo picture yet: begin with /image PATH.", file=sys.stderr)
    conversation = Conversation(Asking(vlm, settings), pictures, terminal)
    return conversation.run(_typed() if terminal else sys.stdin)


def _ask_once(asking: Asking, pictures: Pictures, question: str) -> int:
    answer = asking.answer(pictures, question, [], (lambda piece: None) if asking.settings.json else _show)
    if answer.interrupted:
        print(flush=True)
        raise KeyboardInterrupt
    if asking.settings.json:
        print(answer.as_json(), flush=True)
        return FAILED if answer.error else 0
    if answer.error is not None:
        raise UserError(answer.error)
    print(flush=True)
    _print_stats(asking, answer)
    return 0


class Conversation:
    """Lines one after another, each a command or a question. On a terminal answers appear as they are made."""

    def __init__(self, asking: Asking, pictures: Pictures, terminal: bool):
        self.asking, self.pictures, self.terminal = asking, pictures, terminal
        self.streaming = terminal and not asking.settings.json
        self.history: list[tuple[str, str]] = []
        self.failed = 0

    def run(self, lines: Iterable[str]) -> int:
        """Obey or answer each line; an error in one is told, and the next is read. Returns the exit code."""
        for line in lines:
            # Editors on Windows begin a file with a byte order mark, which is no part of its first question.
            line = line.removeprefix("\ufeff").strip()
            if line.lower() in ("/quit", "/exit", "quit", "exit"):
                break
            try:
                self._one(line)
            except UserError as error:
                self.failed += 1
                _tell(f"error: {error}")
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                _tell("stopped")
        if self.terminal or not self.failed:
            return 0
        _tell(f"{self.failed} {'line' if self.failed == 1 else 'lines'} could not be answered or obeyed")
        return FAILED

    def _one(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/help":
            _tell(HELP, fold=False)
        elif command == "/new":
            self._look_at(replace(self.pictures, failed=None))
        elif command in ("/image", "/add"):
            self._change_pictures(rest, adding=command == "/add")
        elif self.terminal and line.startswith("/") and _dropped(line):
            self._change_pictures(line, adding=False)
        elif line:
            self._ask(line)

    def _change_pictures(self, text: str, adding: bool) -> None:
        """Take the pictures that `text` names. If one cannot be read there is none, rather than an old one."""
        try:
            with Status("reading the picture"):
                new = read_pictures([text])
        except UserError as error:
            # The reason goes into the message of each question that follows.
            reason = one_line(error, most=None)
            self._look_at(Pictures(failed=reason))
            raise UserError(
                f"{reason}; there is no picture now: give /image PATH, or /new to go on without one"
            ) from None
        if adding:
            new = Pictures(self.pictures.paths + new.paths, self.pictures.images + new.images)
        self._look_at(new)
        if self.terminal:
            count = len(new.images)
            _tell(f"looking at {new.paths[0] if count == 1 else f'{count} pictures: ' + ', '.join(new.paths)}")

    def _look_at(self, pictures: Pictures) -> None:
        self.pictures, self.history = pictures, []

    def _ask(self, question: str) -> None:
        if question.startswith("/"):
            # From a pipe it may have been meant as a question, so it gets its line of output.
            answer = Answer(question, self.pictures, error=f"unknown command {question.split()[0]}: /help lists them")
        else:
            show = _show if self.streaming else lambda piece: None
            answer = self.asking.answer(self.pictures, question, self.history, show)
        if answer.interrupted and not self.terminal:
            raise KeyboardInterrupt
        self._print(answer)
        if answer.error is not None:
            self.failed += 1
        # An answer that is empty or holds control tokens cannot be repeated to the model.
        elif self.asking.vlm.prompts.allows(answer.text):
            self.history = [*self.history, (question, answer.text)][-TURNS:]

    def _print(self, answer: Answer) -> None:
        if self.asking.settings.json:
            print(answer.as_json(), flush=True)
        elif not self.streaming:
            print(answer.line(), flush=True)
        elif answer.error is None or answer.text:
            print(flush=True)
        if self.streaming and answer.error is not None:
            _tell(f"error: {answer.error}")
        if answer.interrupted:
            _tell("stopped")
        if answer.error is None:
            _print_stats(self.asking, answer)


def _show(piece: str) -> None:
    """Print a piece of an answer; a terminal gets none of the characters that would command it."""
    print(piece.translate(CONTROLS) if sys.stdout.isatty() else piece, end="", flush=True)


def _print_stats(asking: Asking, answer: Answer) -> None:
    if asking.settings.stats:
        _tell(answer.stats())


def _tell(text: str, fold: bool = True) -> None:
    """One line on stderr."""
    print(" ".join(text.split()) if fold else text, file=sys.stderr, flush=True)


def _dropped(line: str) -> bool:
    """Whether a line that begins with / is a file that was dropped into the terminal, not a command."""
    return all(Path(path).is_file() for path in picture_paths(line))


def _typed() -> Iterator[str]:
    """Lines of a terminal. Ctrl-C clears the line; a second one in a row leaves."""
    import readline  # noqa: F401  (line editing and history in input())

    interrupted = False
    while True:
        try:
            if not sys.stdout.isatty():  # input() would write the prompt among the answers
                print("> ", end="", file=sys.stderr, flush=True)
            line = input("> " if sys.stdout.isatty() else "")
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            if interrupted:
                raise
            interrupted = True
            _tell("Ctrl-C again, or Ctrl-D, leaves")
            continue
        interrupted = False
        yield line
