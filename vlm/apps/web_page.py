"""The page of `vlm web`: a picture, a conversation about it, and what the model sees of it."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr  # pyrefly: ignore[missing-import] comes with the extra `web`

from vlm.apps.pca import pca_rgb
from vlm.apps.seen import enlarged, seen
from vlm.errors import UserError
from vlm.images import load_image
from vlm.llava.model import VLM

TURNS = 8  # of the conversation that the model reads again, as `vlm chat` does
WAITING = 16  # questions in the queue; one is answered at a time
KEPT_SECONDS = 3600  # of uploaded pictures
QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": True, "show_progress": "hidden", "api_visibility": "private"}
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine: Gradio's own come from Google
CSS = """
.pixels img { image-rendering: pixelated; }
footer { display: none !important; }
"""
Turns = list[tuple[str, str]]  # questions and answers, oldest first
Messages = list[dict[str, str]]


class Picture(gr.Image):
    """An image whose file Gradio neither opens nor fetches: it gives the path of what was uploaded."""

    is_template = True  # the browser shows it as a gr.Image

    def preprocess(self, payload: Any) -> str | None:
        if payload is not None and not payload.path:
            raise gr.Error("send the picture as a file", print_exception=False)
        return None if payload is None else payload.path

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        _refuse_url(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        _refuse_url(url_or_file_path)
        return super().move_resource_to_block_cache(url_or_file_path)


def _refuse_url(path: Any) -> None:
    if "://" in str(path):
        raise gr.Error("pictures are not fetched from addresses: send the file", print_exception=False)


class Session:
    """What the page's buttons do, with one model for all visitors."""

    def __init__(self, vlm: VLM, max_new_tokens: int):
        self.vlm, self.max_new_tokens = vlm, max_new_tokens
        self.closing = threading.Event()  # set when the server stops

    def look(self, path: str | None) -> tuple[Any, Any]:
        """What the model sees of a picture, and its patch tokens in colours."""
        if path is None:
            return gr.Image(value=None, label="As the model sees it"), gr.Image(value=None, label="Its patch tokens")
        try:
            view, tokens = seen(self.vlm, load_image(path))
            colours = pca_rgb(tokens)
        except (UserError, RuntimeError) as error:
            raise gr.Error(_one_line(error), print_exception=False) from None
        rows, columns = colours.shape[:2]
        return (
            gr.Image(value=enlarged(view), label=f"As the model sees it: {view.width} x {view.height} pixels"),
            gr.Image(value=colours.repeat(-(-384 // rows), 0).repeat(-(-384 // columns), 1),
                     label=f"Its {rows} x {columns} patch tokens: like colours, like features"),
        )  # fmt: skip

    def ask(
        self, path: str | None, question: str, short: bool, turns: Turns
    ) -> Iterator[tuple[Messages, Turns, str | dict]]:
        """Yield the conversation, as shown and as the model will read it, and the text in the question's box."""
        question = (question or "").strip()
        if not question:
            gr.Info("Type a question first.")
            yield _shown(turns), turns, ""
            return
        answer = ""
        yield [*_shown(turns), _said("user", question)], turns, ""
        try:
            picture = None if path is None else load_image(path)
            history = self._fitting(picture is not None, question, turns)
            with closing(self.vlm.stream(picture, question, self.max_new_tokens, history, short)) as pieces:
                for piece in pieces:
                    answer += piece
                    # A stopped answer stays what it was: an answer that may not stand in a prompt is not repeated.
                    kept = [*turns, (question, answer)] if self.vlm.prompts.allows(answer) else turns
                    yield _shown([*turns, (question, answer)]), kept, gr.skip()
                    if self.closing.is_set():
                        return
            if not answer:
                yield _shown([*turns, (question, "(no answer)")]), turns, gr.skip()
        except (UserError, RuntimeError) as error:
            if os.environ.get("LEVLM_DEBUG") == "1":
                raise
            yield _shown([*turns, (question, f"error: {_one_line(error)}")]), turns, question

    def _fitting(self, has_picture: bool, question: str, turns: Turns) -> Turns:
        """The last turns that the language model has room for. Raises: UserError if the question alone is too long."""
        room = self.vlm.language_model.config.max_position_embeddings - self.max_new_tokens
        turns = turns[-TURNS:]
        while True:
            tokens = len(self.vlm.prompt_ids(question, int(has_picture), history=turns))
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


def build_page(session: Session, title: str, examples: list[tuple[str, str]]) -> gr.Blocks:
    """Lay out the page. examples: a picture's path and a question."""
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as page:
        gr.Markdown(f"## {title}")
        turns = gr.State([], time_to_live=KEPT_SECONDS)
        with gr.Row():
            with gr.Column(scale=2):
                picture = Picture(type="filepath", sources=["upload", "clipboard"], label="Picture", height=300,
                                  buttons=["fullscreen"], placeholder="drop, paste or click")  # fmt: skip
                with gr.Row():
                    view, patches = (
                        gr.Image(label=label, interactive=False, format="png", height=220, buttons=["fullscreen"],
                                 elem_classes="pixels", min_width=120)
                        for label in ("As the model sees it", "Its patch tokens")
                    )  # fmt: skip
            with gr.Column(scale=3):
                chat = gr.Chatbot(label="Conversation", height=420, buttons=["copy"], render_markdown=False,
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
                        cache_examples=False)  # fmt: skip
        asked = gr.on([send.click, box.submit], session.ask, [picture, box, short, turns], [chat, turns, box],
                      show_progress="minimal", **QUEUE)  # fmt: skip
        stop.click(None, cancels=[asked], **AT_ONCE)
        clear.click(lambda: ([], []), None, [chat, turns], cancels=[asked], **AT_ONCE)
        # Another picture, another conversation.
        picture.change(lambda: ([], []), None, [chat, turns], cancels=[asked], **AT_ONCE)
        picture.change(session.look, picture, [view, patches], show_progress="minimal", **QUEUE)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page
