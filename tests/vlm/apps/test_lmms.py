"""The lmms-eval plug-in: stock wording in batches gives the answers of `VLM.answer`.

lmms-eval itself is not installed here (it brings decord, wandb, opencv and some forty others): its base class and its
manifest are stood in for by the few lines that the plug-in uses.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from vlm.errors import UserError
from vlm.llava.model import load

SHORT = "Answer the question using a single word or phrase."
QUESTIONS = ["Is it?", "What is the color of the thing on the left of the picture, please?", "Is there a star?", "Red?"]


class Lmms:
    """As lmms_eval.api.model.lmms."""

    rank = 0

    def __init__(self):
        self.cache_hook, self.task_dict = SimpleNamespace(add_partial=lambda *_: None), {}


@dataclass
class Manifest:
    """As lmms_eval.models.registry_v2.ModelManifest."""

    model_id: str
    simple_class_path: str


@pytest.fixture
def plugin(monkeypatch):
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    registry = SimpleNamespace(ModelManifest=Manifest)
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    monkeypatch.setattr(sys.modules["lmms_eval.api.model"], "lmms", Lmms, raising=False)
    monkeypatch.delitem(sys.modules, "vlm.apps.lmms", raising=False)
    yield importlib.import_module("vlm.apps.lmms")
    sys.modules.pop("vlm.apps.lmms", None)


def requests(questions, settings, show=lambda doc: [doc["image"]]):
    return [SimpleNamespace(args=(f"{question}\n{SHORT}", settings, show, number, "gqa", "testdev"))
            for number, question in enumerate(questions)]  # fmt: skip


def test_the_entry_point_names_the_plug_in(plugin):
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '[project.entry-points."lmms_eval.models"]\nlevlm = "vlm.apps.lmms:manifest"\n' in text
    manifest = plugin.manifest()
    module, name = manifest.simple_class_path.rsplit(".", 1)
    assert (manifest.model_id, module, getattr(plugin, name)) == ("levlm", plugin.__name__, plugin.LeVLM)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_batches_give_the_answers_of_the_vlm(plugin, saved, family, picture):
    docs = [{"image": picture.rotate(90 * number).resize((20 + 9 * number, 30))} for number in range(4)]
    ours = load(saved / family, "cpu", torch.float32)
    expected = [
        ours.answer(doc["image"], f"{question}\n{SHORT}", max_new_tokens=5) for doc, question in zip(docs, QUESTIONS)
    ]
    assert len(set(expected)) > 1
    model = plugin.LeVLM(str(saved / family), device="cpu", precision="fp32", batch_size="3")
    model.task_dict = {"gqa": {"testdev": docs}}
    settings = {"max_new_tokens": 5, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    assert model.generate_until(requests(QUESTIONS, settings)) == expected
    until = expected[0][1:3] or "x"
    cut = model.generate_until(requests(QUESTIONS, {**settings, "until": [until]}))
    assert cut == [answer.split(until)[0].strip() for answer in expected]
    blind = [ours.answer(None, f"{question}\n{SHORT}", max_new_tokens=5) for question in QUESTIONS]
    assert model.generate_until(requests(QUESTIONS, settings, lambda doc: [])) == blind


def test_more_or_fewer_placeholders_than_pictures(plugin, saved, picture):
    ours, pictures = load(saved / "qwen2", "cpu", torch.float32), [picture, picture.rotate(90)]
    asking = plugin.StringPrompts(str(saved / "qwen2"), "cpu", "fp32")
    found = asking.answers(
        ["<image> Is it red?", "Does <image> equal <image>?", "What does <image> mean?", "Say <image> <image>"],
        [pictures, pictures, [], pictures[:1]], {"max_new_tokens": 5},
    )  # fmt: skip
    assert found == [
        ours.answer(pictures, "<image>\n<image> Is it red?", 5),
        ours.answer(pictures, "Does <image> equal <image>?", 5),
        ours.answer(None, "What does <image> mean?", 5),
        ours.answer(picture, "Say <image> <image>", 5),
    ]
    assert len(set(found)) == 4


def test_what_it_cannot_answer_is_refused(plugin, saved):
    with pytest.raises(UserError, match="--batch_size auto: give a number above 0"):
        plugin.LeVLM(str(saved / "qwen2"), batch_size="auto")
    model = plugin.LeVLM(str(saved / "qwen2"), device="cpu")
    model.task_dict = {"gqa": {"testdev": [{"image": "film.mp4"}]}}
    with pytest.raises(UserError, match="the task gqa shows videos or sounds"):
        model.generate_until(requests(["What?"], {}))
