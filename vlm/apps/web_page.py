"""The page of `vlm web`: a picture, a conversation about it, and what the model sees of it."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr  # pyrefly: ignore[missing-import] comes with the extra `web`
from PIL import Image

from vlm.apps.pca import pca_rgb
from vlm.apps.seen import enlarged, seen
from vlm.apps.web_uploads import KEPT_SECONDS
from vlm.errors import UserError
from vlm.images import decode
from vlm.llava.model import VLM
from vlm.llms.prompt import briefly

TURNS = 8  # of the conversation that the model reads again, as `vlm chat` does
SHOWN = 100  # of the conversation that the page keeps
WAITING = 16  # questions in the queue; one is answered at a time
SESSIONS = 200  # that are remembered; Gradio takes 50 kB for each
QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": True, "show_progress": "hidden", "api_visibility": "private"}
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine: Gradio's own come from Google
SEEN, TOKENS = "As the model sees it", "Its patch tokens"
CSS = """
.picture img, .pixels img { width: 100%; height: 100%; object-fit: contain; }
.pixels img { image-rendering: pixelated; }
footer { display: none !important; }
"""
Turns = list[tuple[str, str]]  # questions and answers, oldest first
Messages = list[dict[str, str]]


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
            view, tokens = seen(self.vlm, _read(path))
            colours = Image.fromarray(pca_rgb(tokens))
        except (UserError, RuntimeError) as error:
            raise gr.Error(_one_line(error), print_exception=False) from None
        pixels = f"{SEEN}: {view.width} x {view.height} pixels"
        patches = f"{TOKENS}, {colours.height} x {colours.width}: like colours, like features"
        return enlarged(view), enlarged(colours), pixels, patches

    def ask(self, path: str | None, question: str, short: bool, turns: Turns) -> Iterator[tuple[Messages, Turns, str]]:
        """Yield the conversation, as shown and as the model will read it, and the question if it could not be asked."""
        question = (question or "").strip()
        if not question:
            gr.Info("Type a question first.")
            yield _shown(turns), turns, ""
            return
        answer = ""
        yield [*_shown(turns), _said("user", question)], turns, ""
        try:
            picture = None if path is None else _read(path)
            history = self._fitting(picture is not None, question, short, turns)
            with closing(self.vlm.stream(picture, question, self.max_new_tokens, history, short)) as pieces:
                for piece in pieces:
                    answer += piece
                    # A stopped answer stays what it was: an answer that may not stand in a prompt is not repeated.
                    kept = [*turns, (question, answer)][-SHOWN:] if self.vlm.prompts.allows(answer) else turns
                    yield _shown([*turns, (question, answer)]), kept, ""
                    if self.closing.is_set():
                        return
            if not answer:
                yield _shown([*turns, (question, "(no answer)")]), turns, ""
        except (UserError, RuntimeError) as error:
            if os.environ.get("LEVLM_DEBUG") == "1":
                raise
            yield _shown([*turns, (question, f"error: {_one_line(error)}")]), turns, question

    def _fitting(self, has_picture: bool, question: str, short: bool, turns: Turns) -> Turns:
        """The last turns that the language model has room for. Raises: UserError if the question alone is too long."""
        room = self.vlm.language_model.config.max_position_embeddings - self.max_new_tokens
        turns, worded = turns[-TURNS:], briefly if short else str
        while True:
            history = [(worded(asked), answer) for asked, answer in turns]
            tokens = len(self.vlm.prompt_ids(worded(question), int(has_picture), history=history))
            if tokens <= room:
                return turns
            if not turns:
                raise UserError(f"the question is too long: {tokens} tokens with its picture, {room} are possible")
            turns = turns[1:]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _shown(turns: Turns) -> Messages:
    return [_said(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn)]


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
        turns = gr.State([], time_to_live=KEPT_SECONDS)
        question = gr.State("")
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
        taken = gr.on(
            [send.click, box.submit], lambda text: ("", text), box, [box, question], api_name="take", **AT_ONCE
        )
        asked = taken.then(session.ask, [picture, question, short, turns], [chat, turns, refused],
                           show_progress="minimal", **QUEUE)  # fmt: skip
        asked.then(None, [refused, box], box, js="(refused, typed) => refused || typed")
        stop.click(None, cancels=[asked], **AT_ONCE)
        # Another picture, another conversation. The last is the conversation's own button.
        for afresh in (clear.click, picture.change, chat.clear):
            afresh(lambda: ([], []), None, [chat, turns], cancels=[asked], **AT_ONCE)
        picture.change(session.look, picture, [view, patches, seen_as, tokens_as], show_progress="minimal", **QUEUE)
    page.state_session_capacity = SESSIONS
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page
