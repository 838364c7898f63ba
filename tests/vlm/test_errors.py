"""Files of JSON lines, torn by a kill or cut off by a download; a full disk and a refused folder."""

import errno

import pytest

from vlm.errors import UserError, run_command, writing
from vlm.files import append_jsonl, read_jsonl, write_json


def test_a_torn_last_line_is_left_out_of_our_own_files_alone(tmp_path):
    file = tmp_path / "lines.jsonl"
    for number in range(3):
        append_jsonl(file, {"n": number})
    file.write_bytes(file.read_bytes()[:-3])
    assert list(read_jsonl(file)) == [{"n": 0}, {"n": 1}]
    with pytest.raises(UserError, match=r"lines\.jsonl, line 3 is not JSON: the file was edited, cut off or damaged"):
        list(read_jsonl(file, complete=True))
    file.write_text('{"n": 0}\n{"n": 1}')  # whole, without a newline at its end
    assert list(read_jsonl(file, complete=True)) == [{"n": 0}, {"n": 1}]


def test_what_is_no_text_or_not_there(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="binary is not JSON lines"):
        list(read_jsonl(tmp_path / "binary"))
    with pytest.raises(UserError, match="none does not exist"):
        list(read_jsonl(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_jsonl(tmp_path))


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot write /dev/full \(No space left on device; [\d,]+ bytes free\)"):
        append_jsonl("/dev/full", {"n": 1})
    with pytest.raises(
        UserError, match=r"cannot write .*/file/x\.json \((Not a directory|File exists); [\d,]+ bytes free\)"
    ):
        (tmp_path / "file").write_text("")
        write_json(tmp_path / "file/x.json", {})
    with pytest.raises(KeyError), writing("x"):  # a mistake of ours
        raise KeyError("name")


def outcome(capsys, error: Exception):
    def main():
        raise error

    with pytest.raises(SystemExit) as exit:
        run_command(main)
    return exit.value.code, capsys.readouterr().err


def test_a_refused_file_is_one_line_and_a_mistake_a_traceback(capsys, monkeypatch):
    refused = PermissionError(errno.EACCES, "Permission denied", "/root/out")
    assert outcome(capsys, refused) == (2, "error: /root/out: Permission denied\n")
    for mistake in (FileNotFoundError(errno.ENOENT, "No such file", "ours"), OSError("weird"), KeyError("name")):
        with pytest.raises(type(mistake)):
            outcome(capsys, mistake)
    monkeypatch.setenv("LEVLM_DEBUG", "1")
    with pytest.raises(PermissionError):
        outcome(capsys, refused)
