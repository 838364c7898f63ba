"""Which cores a process may use."""

import os

from vlm.cores import cores, cores_of_this_process


def test_cores_are_those_that_the_process_is_tied_to(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 6}, raising=False)
    assert cores() == {2, 5, 6}


def test_where_the_system_does_not_say_they_are_all_of_the_machine(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores() == {0, 1, 2}
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == {0}


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores_of_this_process() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert cores_of_this_process() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores_of_this_process() == 1
