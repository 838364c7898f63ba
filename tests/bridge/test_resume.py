"""Training that is interrupted goes on as if it had not been; changed content, locked folders and bad gradients."""

import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny.strangers import Touch, list_files, pickle_into

import bridge.loop
from bridge.data.example import Dialogue, Example
from bridge.data.mixture import Mixture
from bridge.data.patches import PatchEncoder
from bridge.digests import model_digests, questions_digest
from bridge.gradients import update
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.llava.model import load
from vlm.run.folder import locked

SETS = [[Example("1", Path("a.jpg"), "What is it?", "cat", ("cat",))]]


def test_resume_equals_an_uninterrupted_run(training, whole, tmp_path, capsys):
    out = tmp_path / "resumed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "vlm")
    shutil.rmtree(out / "checkpoints/step_12")  # as if killed after step 11; its metrics are already written
    training.run(out, "--resume", "required", "--no-cache")
    assert training.losses(out) == training.losses(whole)
    assert training.weights(out).keys() == training.weights(whole).keys()
    assert all(torch.equal(training.weights(out)[name], value) for name, value in training.weights(whole).items())

    damaged = out / "checkpoints/step_12/weights.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 16
    damaged.write_bytes(data)
    training.run(out)
    assert "step_12/weights.safetensors is missing or not what was written" in capsys.readouterr().err
    assert training.losses(out) == training.losses(whole)

    with pytest.raises(UserError, match=r"started with other settings \(lr 0.05 -> 0.02\)"):
        training.run(out, "--lr", "0.02")
    with pytest.raises(UserError, match="holds a run at step 12: give another --out"):
        training.run(out, "--resume", "never")


def test_a_checkpoint_with_pickles_is_refused_unopened(training, whole, tmp_path):
    """As an older version wrote them, or a stranger: whatever the manifest says."""
    shutil.copytree(whole, tmp_path / "old")
    folder = tmp_path / "old/checkpoints/step_12"
    (folder / "optimizer.safetensors").unlink()
    marker = tmp_path / "executed"
    pickle_into(folder / "optimizer.pt", marker)
    list_files(folder)
    with pytest.raises(UserError, match=r"step_12 was written by an older version, as pickles \(optimizer.pt\), which"):
        training.run(tmp_path / "old")
    for name in ("optimizer.safetensors", "weights.safetensors"):
        shutil.copytree(whole, tmp_path / name)
        folder = tmp_path / name / "checkpoints/step_12"
        pickle_into(folder / name, marker)
        list_files(folder)
        with pytest.raises(UserError, match=r"step_12 cannot be read \(.*\): give another --out"):
            training.run(tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()  # so it would have shown


def test_changed_content_is_named(training, whole, tmp_path):
    """The settings are the same; a file that they name is not."""
    shutil.copytree(whole, tmp_path / "run")
    file = training.root / "gqa/train_balanced_questions.json"
    original = file.read_text()
    try:
        file.write_text(original.replace("Which colour?", "Which color?", 1))
        with pytest.raises(UserError, match=r"other settings \(questions '\w{12}' -> '\w{12}'\): restore") as error:
            training.run(tmp_path / "run")
        assert str(error.value).count("->") == 1
    finally:
        file.write_text(original)
    training.run(tmp_path / "run")


def digests_of(vlm) -> dict[str, str]:
    return model_digests(vlm, PatchEncoder(vlm.model, vlm.processor.image_processor))


def test_the_digests_tell_questions_template_llm_and_dtype_apart(tiny_vlm):
    def changed(change=None, sets=SETS, votes=False, dtype=torch.float32):
        vlm = load(tiny_vlm, "cpu", dtype)
        if change:
            change(vlm)
        found = {**digests_of(vlm), "questions": questions_digest(Mixture.of(sets), votes)}
        return {name for name in found if found[name] != before[name]}

    before = digests_of(load(tiny_vlm, "cpu", torch.float32))
    before["questions"] = questions_digest(Mixture.of(SETS), False)
    assert changed() == set()
    for field, value in (("question_id", "2"), ("question", "What is that?"), ("answer", "dog")):
        assert changed(sets=[[replace(SETS[0][0], **{field: value})]]) == {"questions"}
    assert changed(sets=[[], SETS[0]]) == {"questions"}
    other = [[replace(SETS[0][0], votes=("cat", "dog"))]]
    assert changed(sets=other) == set()
    assert changed(sets=other, votes=True) == {"questions"}
    assert changed(dtype=torch.bfloat16) == {"llm_weights", "connector", "dtype", "encoder"}

    def nudge(vlm):
        vlm.model.model.language_model.layers[1].mlp.up_proj.weight[0, 0] += 1

    def reword(vlm):
        vlm.processor.chat_template = vlm.processor.chat_template.replace("26 Jul", "27 Jul")

    assert changed(nudge) == {"llm_weights"}
    assert changed(reword) == {"chat_template"}


def test_the_digests_tell_settings_and_tokenizers_of_one_weights_apart(tiny_vlm, tmp_path):
    def changed(file: str, old: str, new: str) -> set[str]:
        shutil.copytree(tiny_vlm, tmp_path / "vlm", dirs_exist_ok=True)
        (tmp_path / "vlm/levlm_manifest.json").unlink()  # it would tell that the folder was changed
        text = (tmp_path / "vlm" / file).read_text()
        assert old in text
        (tmp_path / "vlm" / file).write_text(text.replace(old, new, 1))
        found = digests_of(load(tmp_path / "vlm", "cpu", torch.float32))
        return {name for name in found if found[name] != before[name]}

    before = digests_of(load(tiny_vlm, "cpu", torch.float32))
    assert changed("config.json", '"model_type": "llava"', '"model_type": "llava"') == set()
    assert changed("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05') == {"model_config"}
    assert changed("config.json", '"rope_theta": 10000.0', '"rope_theta": 500000.0') == {"model_config"}
    assert changed("config.json", '"layer_norm_eps": 1e-06', '"layer_norm_eps": 1e-05') == {"model_config"}
    assert changed("tokenizer.json", '"~"', '"never seen"') == {"tokenizer"}


def test_a_run_that_was_begun_without_a_digest_goes_on(training, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    manifest = tmp_path / "run/checkpoints/step_12/manifest.json"
    record = read_json(manifest)
    assert {"model_config", "tokenizer"} <= record["config"].keys()
    for name in ("model_config", "tokenizer"):
        del record["config"][name]
    write_json(manifest, record)
    training.run(tmp_path / "run")
    assert training.losses(tmp_path / "run") == training.losses(whole)
    record["config"]["model_config"] = "another"
    write_json(manifest, record)
    with pytest.raises(UserError, match=r"other settings \(model_config 'another' -> '\w{12}'\): restore them, go on"):
        training.run(tmp_path / "run")


def test_a_checkpoint_without_a_recorder_goes_on(training, whole, tmp_path):
    """Until lately checkpoints did not keep how many steps in a row had no gradient."""
    shutil.copytree(whole, tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoints/step_10"
    shutil.rmtree(tmp_path / "run/checkpoints/step_12")
    (checkpoint / "recorder.json").unlink()
    manifest = read_json(checkpoint / "manifest.json")
    del manifest["files"]["recorder.json"]
    write_json(checkpoint / "manifest.json", manifest)
    training.run(tmp_path / "run")
    assert training.losses(tmp_path / "run") == training.losses(whole)


def test_sigterm_saves_the_step(training, whole, tmp_path, monkeypatch):
    real, updates = bridge.loop.update, []

    def update_then_signal(*arguments):
        norm = real(*arguments)
        updates.append(norm)
        if len(updates) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return norm

    monkeypatch.setattr(bridge.loop, "update", update_then_signal)
    with pytest.raises(SystemExit) as exit:
        training.run(tmp_path / "out")
    assert exit.value.code == 143
    monkeypatch.undo()
    saved = len(training.losses(tmp_path / "out"))
    assert saved == 4  # the ranks agree on it in the sums of the next step
    assert (tmp_path / f"out/checkpoints/step_{saved}").is_dir()
    training.run(tmp_path / "out")
    assert training.losses(tmp_path / "out") == training.losses(whole)


def test_patience_lasts_over_a_restart(training, tmp_path, monkeypatch):
    monkeypatch.setattr(bridge.loop, "update", lambda *arguments: torch.tensor(torch.nan))
    for _ in range(2):  # the second goes on from step 3, with three failures behind it
        with pytest.raises(UserError, match="no finite gradient for 5 steps up to step 4: lower --lr"):
            training.run(tmp_path / "out", "--save-every", "3")
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["step_3"]


def test_a_folder_serves_one_run_at_a_time(training, tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another run is writing"):
        training.run(tmp_path)


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_nothing_moves_without_a_finite_gradient(loss, gradient):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5, fused=True)
    weight.grad = torch.full((3,), gradient)
    update([weight], optimizer, torch.tensor(loss), clip=1.0)
    assert weight.tolist() == [1, 1, 1]
    state = optimizer.state[weight]
    assert (state["step"], state["exp_avg"].tolist(), state["exp_avg_sq"].tolist()) == (0, [0] * 3, [0] * 3)
    weight.grad = torch.full((3,), 2.0)
    norm = update([weight], optimizer, torch.tensor(1.0), clip=1.0)
    assert norm.item() == pytest.approx(12**0.5)
    assert state["step"] == 1
    assert weight[0] < 1


@pytest.mark.parametrize(("clip", "moved"), [(0.0, 4.0), (1.0, 1 / 3**0.5)])
def test_clip_0_leaves_gradients_as_they_are(clip, moved):
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.full((3,), 4.0)
    norm = update([weight], torch.optim.SGD([weight], lr=1.0, fused=True), torch.tensor(1.0), clip)
    assert norm.item() == pytest.approx(48**0.5)
    assert weight.tolist() == pytest.approx([-moved] * 3)


def test_images_of_one_name_in_two_folders_are_two(tmp_path):
    def digest(root: Path, *names: str) -> str:
        turns = (("What is it?", "a star"),)
        talks = [Dialogue(str(number), (root / name,), turns) for number, name in enumerate(names)]
        return questions_digest(Mixture.of([talks]), False)

    one = digest(tmp_path / "x", "a/1.jpg", "a/2.jpg", "b/3.jpg")
    assert one == digest(tmp_path / "moved/y", "a/1.jpg", "a/2.jpg", "b/3.jpg")
    assert one != digest(tmp_path / "x", "a/1.jpg", "b/2.jpg", "b/3.jpg")
