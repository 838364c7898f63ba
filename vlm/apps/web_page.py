"""The page of `vlm web`: a picture, a conversation about it, and what the model sees of it."""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr  # pyrefly: ignore[missing-import] comes with the extra `web`
from PIL import Image

from vlm.apps.answers import SAY_LESS
from vlm.apps.chat import TURNS
from vlm.apps.seen import enlarged, seen
from vlm.apps.web_conversation import Conversation, Messages, Question, Tab, Turns, as_messages
from vlm.apps.web_uploads import KEPT_SECONDS
from vlm.device import enough_memory
from vlm.errors import UserError, one_line
from vlm.images import decode
from vlm.llava.model import VLM
from vlm.run.pca import pca_rgb

WAITING = 16  # questions in the queue; one is answered at a time
SESSIONS = 200  # that are remembered; Gradio takes 50 kB for each
QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": True, "show_progress": "hidden", "api_visibility": "private"}
UNQUEUED: dict[str, Any] = {**AT_ONCE, "queue": False}  # also if the queue is full
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine: Gradio's own come from Google
SEEN, TOKENS = "As the model sees it", "Its patch tokens"
CSS = """
.picture img, .pixels img { width: 100%; height: 100%; object-fit: contain; }
.pixels img { image-rendering: pixelated; }
footer { display: none !important; }
"""


def _unopened(image: gr.Image) -> gr.Image:
    """An image whose file Gradio does not open: its events get the path of what was uploaded.

    A subclass would be plainer, but for each Gradio writes a .pyi file beside the source.
    """

    def preprocess(payload: Any) -> str | None:
        return None if payload is None else payload.path

    image.preprocess = preprocess
    return image


def _read(path: str) -> Image.Image:
    """An uploaded picture. Raises: UserError if it cannot be used, or is no longer there."""
    try:
        os.utime(path)  # the pictures that nobody asks about are the first to be deleted
        return decode(Path(path).read_bytes())
    except OSError:
        raise UserError("the picture is not kept any more: send it again") from None


class Session:
    """What the page's buttons do, with one model for all visitors."""

    def __init__(self, vlm: VLM, max_new_tokens: int):
        self.vlm, self.max_new_tokens = vlm, max_new_tokens
        self.closing = threading.Event()  # set when the server stops

    def look(self, path: str | None) -> tuple[Any, Any, str, str]:
        """What the model sees of a picture, its patch tokens in colours, and a line about each."""
        if path is None:
            return None, None, SEEN, TOKENS
        try:
            with enough_memory(lambda: "while this was looked at", lambda: SAY_LESS):
                view, tokens = seen(self.vlm, _read(path))
            colours = Image.fromarray(pca_rgb(tokens))
        except (UserError, RuntimeError) as error:
            raise gr.Error(one_line(error, most=None), print_exception=False) from None
        pixels = f"{SEEN}: {view.width} x {view.height} pixels"
        patches = f"{TOKENS}, {colours.height} x {colours.width}: like colours, like features"
        return enlarged(view), enlarged(colours), pixels, patches

    def take(self, path: str | None, text: str, short: bool, tab: Tab) -> tuple[str, Tab]:
        """Note a question that is to be asked, and empty the box. An error leaves in the box what stands there."""
        text = (text or "").strip()
        if not text:
            raise gr.Error("Type a question first.", title="Nothing to ask", print_exception=False)
        if tab.conversation.waits:
            raise gr.Error("Wait for the answer, or stop it.", title="Not asked yet", print_exception=False)
        tab.conversation.asked = Question(text, path, short)
        return "", tab

    def ask(self, tab: Tab) -> Iterator[tuple[Messages, Tab, str]]:
        """Answer what was taken. Yield the conversation as it is shown, and the question if it could not be asked."""
        conversation = tab.conversation
        with closing(self._answered(conversation)) as answered:
            for turns, refused in answered:
                if tab.conversation is conversation:
                    yield as_messages(turns), tab, refused
        # Cleared, and what was yielded last perhaps came to the page after that.
        if tab.conversation is not conversation:
            yield as_messages(tab.conversation.turns), tab, ""

    def stop(self, tab: Tab) -> str:
        """End the question that was taken. It is given back if no answer has begun."""
        asked = tab.conversation.asked
        refused = asked.text if asked is not None and tab.conversation.waits and not asked.answer else ""
        tab.stop()
        return refused

    def clear(self, tab: Tab) -> tuple[Messages, Tab]:
        tab.clear()
        return [], tab

    def _answered(self, conversation: Conversation) -> Generator[tuple[Turns, str], None, None]:
        """Yield the turns with the answer as it grows, and the question if it could not be asked."""
        asked, before = conversation.asked, list(conversation.turns)
        if asked is None or asked.ended:  # while it waited for its turn
            yield before, ""
            return
        said, refused = "", ""
        try:
            yield [*before, (asked.text, "")], ""
            told = enough_memory(lambda: "while this was answered", lambda: SAY_LESS)
            with told, closing(self._pieces(asked, before)) as pieces:
                for piece in pieces:
                    if asked.ended or self.closing.is_set():
                        break
                    asked.answer += piece
                    yield [*before, (asked.text, asked.answer)], ""
            # An answer that may not stand in a prompt is not repeated.
            if self.vlm.prompts.allows(asked.answer):
                conversation.add(asked.text, asked.answer)
            said = asked.answer or ("" if asked.ended else "(no answer)")
        except (UserError, RuntimeError) as error:
            if os.environ.get("LEVLM_DEBUG") == "1":
                raise
            said, refused = f"error: {one_line(error, most=None)}", asked.text
        finally:
            asked.ended = True
        yield [*before, (asked.text, said)] if said else before, refused

    def _pieces(self, asked: Question, turns: Turns) -> Generator[str, None, None]:
        """The pieces of an answer. Raises: UserError if the picture is not kept any more, or the prompt is too long."""
        picture = None if asked.path is None else _read(asked.path)
        history = self.vlm.fitting(picture, asked.text, self.max_new_tokens, turns[-TURNS:], asked.short)
        return self.vlm.stream(picture, asked.text, self.max_new_tokens, history, asked.short)


def _small_picture(caption: str) -> tuple[gr.Image, gr.Markdown]:
    """A picture with a line under it: a label inside would cover its upper edge."""
    with gr.Column(min_width=140):
        image = gr.Image(show_label=False, label=caption, interactive=False, format="png", height=200,
                         buttons=["fullscreen"], elem_classes="pixels", min_width=120)  # fmt: skip
        return image, gr.Markdown(caption)


def build_page(session: Session, title: str, examples: list[tuple[str, str]]) -> gr.Blocks:
    """Lay out the page. examples: a picture's path and a question."""
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"## {title}")
        tab = gr.State(Tab(), time_to_live=KEPT_SECONDS)
        refused = gr.Textbox(visible="hidden")
        with gr.Row():
            with gr.Column(scale=2):
                picture = _unopened(
                    gr.Image(type="filepath", sources=["upload", "clipboard"], label="Picture", height=300,
                             buttons=["fullscreen"], placeholder="drop, paste or click", elem_classes="picture")
                )  # fmt: skip
                with gr.Row():
                    view, seen_as = _small_picture(SEEN)
                    patches, tokens_as = _small_picture(TOKENS)
            with gr.Column(scale=3):
                chat = gr.Chatbot(label="Conversation", height=420, buttons=["copy_all"], render_markdown=False,
                                  feedback_options=None, placeholder="Give a picture and ask.")  # fmt: skip
                box = gr.Textbox(label="Question", placeholder="What is in the picture?", lines=1, max_lines=4,
                                 autofocus=True)  # fmt: skip
                short = gr.Checkbox(label="Ask for a word or a phrase", value=False)
                with gr.Row():
                    send = gr.Button("Ask", variant="primary")
                    stop = gr.Button("Stop")
                    clear = gr.Button("Clear")
        if examples:
            gr.Examples([[path, question] for path, question in examples], [picture, box], label="Examples",
                        cache_examples=False, elem_id="examples")  # fmt: skip
        # The box gets plain texts alone: with each update, such as gr.skip(), Gradio would keep one more box for ever.
        taken = gr.on([send.click, box.submit], session.take, [picture, box, short, tab], [box, tab], **AT_ONCE)
        # Multiple: the page may not know yet that the answer before this one has ended.
        asked = taken.success(session.ask, tab, [chat, tab, refused], trigger_mode="multiple",
                              show_progress="minimal", **QUEUE)  # fmt: skip
        # Not `cancels`: it ends an answer wherever it stands, after pieces that come behind the emptied conversation.
        stopped = stop.click(session.stop, tab, refused, **UNQUEUED)
        for ended in (asked, stopped):
            ended.then(None, [refused, box], box, js="(refused, typed) => typed || refused")
        # Another picture, another conversation. The last is the conversation's own button.
        for afresh in (clear.click, picture.change, chat.clear):
            afresh(session.clear, tab, [chat, tab], **AT_ONCE)
        picture.change(session.look, picture, [view, patches, seen_as, tokens_as], show_progress="minimal", **QUEUE)
    page.state_session_capacity = SESSIONS
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page
