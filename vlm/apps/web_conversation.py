"""What has been asked and answered in a browser's tab, as the server keeps it."""

from dataclasses import dataclass, field

Turns = list[tuple[str, str]]  # questions and answers, oldest first
Messages = list[dict[str, str]]

SHOWN = 100  # turns that a conversation keeps


@dataclass
class Question:
    """A question from the moment it is sent. path: of the picture that it is about."""

    text: str
    path: str | None
    short: bool
    answer: str = ""  # so far
    ended: bool = False  # answered, stopped or cleared: nothing more is made of it


@dataclass
class Conversation:
    """Turns that the model reads again, and the question that was sent last."""

    turns: Turns = field(default_factory=list)
    asked: Question | None = None

    @property
    def waits(self) -> bool:
        """Whether a question has been sent that has not ended."""
        return self.asked is not None and not self.asked.ended

    def add(self, question: str, answer: str) -> None:
        self.turns.append((question, answer))
        del self.turns[:-SHOWN]


class Tab:
    """The conversation of one tab.

    An answer is made in another thread than the one in which Clear is obeyed. It writes to the conversation that it
    began in; Clear puts a new one in that one's place, so that nothing which comes late can get into the new one.
    """

    def __init__(self) -> None:
        self.conversation = Conversation()

    def stop(self) -> None:
        asked = self.conversation.asked
        if asked is not None:
            asked.ended = True

    def clear(self) -> None:
        self.stop()
        self.conversation = Conversation()


def as_messages(turns: Turns) -> Messages:
    """Turns as the page shows them. A question without an answer may stand at the end."""
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]
    return [message for message in messages if message["content"]]
