"""What the buttons of `vlm web` do, in any order of the server's threads; test_web_browser.py presses them."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("gradio", reason="pip install -e '.[web]': no gradio")

import gradio as gr

from vlm.apps.web_conversation import SHOWN, Tab, as_messages
from vlm.apps.web_page import TURNS, Session


class Scripted:
    """Stands in for a VLM: answers "yes it is" in three pieces, and has room for one earlier turn."""

    def __init__(self):
        self.pieces, self.histories, self.offered, self.closed = ["yes", " it", " is"], [], [], 0
        self.prompts = SimpleNamespace(allows=lambda text: "<" not in text and text != "")

    def fitting(self, image, question, max_new_tokens, history, short=False) -> list:
        self.offered.append(history)
        return history[-1:]

    def stream(self, image, question, max_new_tokens, history, short) -> Iterator[str]:
        self.histories.append(history)
        try:
            yield from self.pieces
        finally:
            self.closed += 1


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def session(model) -> Any:
    return Session(model, 8)


def texts(messages: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


def sent(session: Session, tab: Tab, question: str) -> Iterator[tuple[list[str], str]]:
    """The conversation as it is shown while a question is answered, and what comes back to the box."""
    assert session.take(None, question, False, tab) == ("", tab)
    return ((texts(messages), back) for messages, _, back in session.ask(tab))


def test_an_answer_grows_and_is_the_history_of_the_next(session, model):
    tab = Tab()
    assert list(sent(session, tab, " Red? ")) == [
        (["Red?"], ""), (["Red?", "yes"], ""), (["Red?", "yes it"], ""), (["Red?", "yes it is"], ""),
        (["Red?", "yes it is"], ""),
    ]  # fmt: skip
    assert list(sent(session, tab, "Blue?"))[-1] == (["Red?", "yes it is", "Blue?", "yes it is"], "")
    assert model.histories == [[], [("Red?", "yes it is")]]


def test_the_model_itself_says_how_much_of_the_conversation_it_reads(session, model):
    tab = Tab()
    for number in range(SHOWN + 2):
        list(sent(session, tab, f"{number}?"))
    assert [len(turns) for turns in model.offered] == [*range(TURNS), *[TURNS] * (SHOWN + 2 - TURNS)]
    assert model.histories[-1] == [(f"{SHOWN}?", "yes it is")]
    assert len(tab.conversation.turns) == SHOWN and tab.conversation.turns[0][0] == "2?"


@pytest.mark.parametrize("pieces", range(5))
def test_what_is_cleared_stays_so_whatever_comes_late(session, model, pieces):
    tab = Tab()
    list(sent(session, tab, "Red?"))
    answer = sent(session, tab, "Blue?")
    for _ in range(pieces):
        next(answer)
    assert session.clear(tab) == ([], tab)
    # The last word is the new conversation's, also if the answer had just ended.
    assert list(answer) == [([], "")] and tab.conversation.turns == []
    assert model.closed == len(model.histories)
    list(sent(session, tab, "Green?"))
    assert model.histories[-1] == []


def test_a_question_sent_during_an_answer_stays_in_the_box(session):
    tab = Tab()
    answer = sent(session, tab, "Red?")
    next(answer)
    with pytest.raises(gr.Error, match="Wait for the answer, or stop it"):
        session.take(None, "Blue?", False, tab)
    assert list(answer)[-1] == (["Red?", "yes it is"], "")
    assert list(sent(session, tab, "Blue?"))[-1][0][2:] == ["Blue?", "yes it is"]
    with pytest.raises(gr.Error, match="Type a question first"):
        session.take(None, " ", False, tab)


def test_a_question_that_is_stopped_while_it_waits_for_its_turn_is_given_back(session, model):
    tab = Tab()
    waiting = sent(session, tab, "Red?")
    assert session.stop(tab) == "Red?" and session.stop(tab) == ""
    following = sent(session, tab, "Blue?")
    # Two turns come, and one question is left.
    assert list(waiting)[-1] == (["Blue?", "yes it is"], "")
    assert list(following) == [(["Blue?", "yes it is"], "")]
    assert len(model.histories) == 1


def test_what_was_said_before_a_stop_is_kept_if_anything_was(session, model):
    tab = Tab()
    early = sent(session, tab, "Red?")
    next(early)
    assert session.stop(tab) == "Red?"
    assert list(early) == [([], "")] and tab.conversation.turns == []
    later = sent(session, tab, "Blue?")
    next(later), next(later)
    assert session.stop(tab) == ""
    assert list(later) == [(["Blue?", "yes"], "")] and tab.conversation.turns == [("Blue?", "yes")]
    assert model.closed == 2


@pytest.mark.parametrize(("pieces", "said"), [([], "(no answer)"), (["<end>"], "<end>")])
def test_an_answer_that_may_not_stand_in_a_prompt_is_shown_once(session, model, pieces, said):
    tab = Tab()
    model.pieces = pieces
    assert list(sent(session, tab, "Red?"))[-1] == (["Red?", said], "")
    assert tab.conversation.turns == []


def test_an_error_gives_the_question_back_and_the_next_can_be_asked(session, tmp_path):
    tab = Tab()
    session.take(str(tmp_path / "gone.png"), "Red?", False, tab)
    messages, _, back = list(session.ask(tab))[-1]
    assert texts(messages) == ["Red?", "error: the picture is not kept any more: send it again"] and back == "Red?"
    assert list(sent(session, tab, "Blue?"))[-1] == (["Blue?", "yes it is"], "")


def test_a_server_that_closes_ends_the_answer(session, model):
    answer = sent(session, Tab(), "Red?")
    next(answer)
    session.closing.set()
    list(answer)
    assert model.closed == 1


def test_conversations_of_two_tabs_are_two(session):
    one, other = Tab(), Tab()
    answer = sent(session, one, "Red?")
    next(answer)
    session.clear(other), session.stop(other)
    assert list(answer)[-1] == (["Red?", "yes it is"], "") and other.conversation.turns == []


def test_a_question_without_an_answer_is_shown_alone():
    assert texts(as_messages([("Red?", "yes"), ("Blue?", "")])) == ["Red?", "yes", "Blue?"]


def test_a_page_whose_device_has_no_memory_left_says_so_and_lives_on(session, model, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")

    tab = Tab()
    with monkeypatch.context() as full:
        full.setattr(model, "stream", run_out)
        *_, (conversation, back) = sent(session, tab, "Red?")
    assert conversation[-1].startswith("error: out of memory while this was answered (CUDA out of memory. Tried to ")
    assert conversation[-1].endswith("or close what else uses the device") and back == "Red?"
    assert list(sent(session, tab, "Red?"))[-1] == (["Red?", "yes it is"], "")
    monkeypatch.setattr("vlm.apps.web_page._read", run_out)
    with pytest.raises(gr.Error, match="out of memory while this was looked at"):
        session.look("a.png")
