"""Buffers that DeepSpeed left in /dev/shm: ours, and of nobody who lives, are removed."""

import os

from vlm.apps.doctor import environment
from vlm.run.shared_memory import left_buffers, remove_left_buffers


def test_only_our_own_of_nobody_who_lives_are_removed(tmp_path, capsys, monkeypatch):
    uid = os.getuid()
    names = [f"deepspeed_allreduce_buffer_{uid}_127.0.0.1_29500_{rank}" for rank in range(3)]
    others = [f"deepspeed_allreduce_buffer_{uid + 1}_127.0.0.1_29500_0", "torch_123"]
    for name in names + others:
        (tmp_path / name).write_bytes(bytes(1_500_000))
    (tmp_path / f"deepspeed_allreduce_buffer_{uid}_link").symlink_to(tmp_path / "torch_123")
    with (tmp_path / names[2]).open("rb"):
        assert sorted(left_buffers(tmp_path)) == [tmp_path / name for name in names[:2]]
        monkeypatch.setattr(environment, "left_buffers", lambda: left_buffers(tmp_path))
        (finding,) = environment._left_buffers()
        assert finding.level == "warn" and finding.text.startswith("2 buffers of DeepSpeed runs that have ended fill ")
        remove_left_buffers(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}: removed 2 buffers, 3 MB, of DeepSpeed runs that have ended\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [names[2], *others, f"deepspeed_allreduce_buffer_{uid}_link"]
    )
    remove_left_buffers(tmp_path / "nowhere")
    assert capsys.readouterr().out == ""
