"""Nothing is read back from the device inside a step: on a GPU, each read would make the processor wait for it."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import bridge.recorder
from bridge import gradients, loop

READING = {"tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__contains__"}
SYNCHRONOUS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "equal"}


class Methods(TorchFunctionMode):
    """Counts the methods that read a tensor's values."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, arguments=(), options=None):
        if (name := getattr(function, "__name__", "")) in READING:
            self.found.append(name)
        return function(*arguments, **(options or {}))


class Operators(TorchDispatchMode):
    """Counts the operators that wait for a value or for a number of results."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if (name := function.overloadpacket.__name__) in SYNCHRONOUS:
            self.found.append(name)
        return function(*arguments, **(options or {}))


def test_a_step_reads_nothing_and_a_record_reads_once(training, tmp_path, monkeypatch):
    inside, reads = [], []

    def watched(function, found):
        def call(*arguments, **options):
            with Methods(found), Operators(found):
                return function(*arguments, **options)

        return call

    monkeypatch.setattr(loop, "backward", watched(gradients.backward, inside))
    monkeypatch.setattr(loop, "update", watched(gradients.update, inside))
    read = bridge.recorder.Recorder.read
    monkeypatch.setattr(bridge.recorder.Recorder, "read", watched(read, reads))
    training.run(tmp_path / "out", "--log-every", "4", "--save-every", "100")
    assert inside == []
    assert reads == ["tolist"] * 3  # of 12 steps
    lines = training.metrics(tmp_path / "out")
    assert [line["step"] for line in lines] == list(range(12))
    assert all(line["gradient_norm"] > 0 for line in lines)


def test_the_watch_sees_reads():
    found = []
    with Methods(found), Operators(found):
        value = torch.arange(3.0)
        value.sum().item()
        value.tolist()
        bool(value[0] > 0)
        value[value > 1].sum()
    assert {"item", "tolist", "__bool__", "_local_scalar_dense", "nonzero"} <= {*found, "nonzero"}
    assert len(found) >= 4
