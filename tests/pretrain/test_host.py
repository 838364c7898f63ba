"""What keeps the host out of the device's way: compiled towers, work ahead of the step, DeepSpeed's settings."""

import json
import os
from collections import Counter

import pytest
import torch

from pretrain import zero
from pretrain.compiling import compile_towers, several_shapes
from pretrain.config import from_preset
from pretrain.data import workers
from pretrain.directions import DirectionsAhead
from pretrain.model import Pretrainer, encoder_config
from pretrain.sigreg import random_directions
from pretrain.waits import LoaderLimit, Waits
from vlm.encoders.levljepa import new_encoder
from vlm.errors import UserError


def test_directions_drawn_ahead_are_those_of_the_step():
    draw = DirectionsAhead()
    for step in (0, 1, 2, 7, 8):  # 7: another start
        for key in ("image", 0, "text"):
            ahead = draw(6, 40, 3, step, key, torch.device("cpu"))
            assert torch.equal(ahead, random_directions(6, 40, 3, step, key))


def loss_and_gradients(compiled, inputs):
    sizes = dict(vision_layers=2, text_layers=1, vision_width=16, text_width=16, image_size=16, patch_size=8)
    model = Pretrainer(new_encoder(encoder_config(from_preset("tiny", **sizes), 300), seed=0))
    names = [name for name, _ in model.named_parameters()]
    if compiled:
        compile_towers(model.encoder, backend="eager")
        assert [name for name, _ in model.named_parameters()] == names
    e = model(*inputs)
    loss = (e.to_text - e.z_t).square().mean() + (e.to_image - e.z_v).square().mean()
    loss.backward()
    return loss, [parameter.grad for parameter in model.parameters()]


def test_compiled_towers_compute_the_same():
    """torch's tracer without its code generator, whose kernels round otherwise and take minutes to build."""
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(64) % 9 + 1  # two groups of captions, of another length each
    inputs = pixels, torch.arange(64 * 9).view(64, 9) % 300, lengths
    (plain, gradients), (compiled, same) = loss_and_gradients(False, inputs), loss_and_gradients(True, inputs)
    assert plain.item() == compiled.item() and all(torch.equal(a, b) for a, b in zip(gradients, same))


def graphs_called(shapes_vary):
    """The graphs that the first step on 20 images, 8 at a time, calls forward, and those that it computes again."""
    torch._dynamo.reset()
    called = []

    def backend(graph, _):
        def call(*inputs):
            called.append(id(graph))
            return graph(*inputs)

        return call

    sizes = dict(vision_layers=2, text_layers=1, vision_width=16, text_width=16, image_size=16, patch_size=8)
    model = Pretrainer(new_encoder(encoder_config(from_preset("tiny", **sizes), 300), seed=0), micro_batch_size=8)
    compile_towers(model.encoder, shapes_vary, backend)
    pixels = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
    e = model(pixels, torch.arange(20 * 9).view(20, 9) % 300, torch.arange(20) % 9 + 1)
    forward = list(called)
    e.z_v.sum().add(e.z_t.sum()).backward()
    return Counter(forward), Counter(called[len(forward) :])


def test_a_piece_is_computed_again_by_the_graph_of_its_forward_pass():
    forward, again = graphs_called(several_shapes(20, 8))
    assert forward == again and forward.total() == 9  # 3 pieces through 2 vision blocks and a text block
    assert not several_shapes(20, 0) and not several_shapes(20, 10) and not several_shapes(8, 8)
    assert several_shapes(20, 0, several_crops=True)


def settings(tmp_path, content, **changes):
    file = tmp_path / "ds.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return zero.zero_config(from_preset("tiny", deepspeed=str(file), zero=1, **changes), 2)


def test_a_file_of_deepspeed_settings_is_merged(tmp_path):
    merged = settings(tmp_path, {"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": True})
    assert merged["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 7, "overlap_comm": False}
    assert (merged["wall_clock_breakdown"], merged["train_batch_size"]) == (True, 32)
    assert merged["timers"] == {"throughput": {"enabled": False}}
    timed = {"timers": {"throughput": {"synchronized": False}}}
    assert settings(tmp_path, timed)["timers"] == timed["timers"]
    changed = settings(tmp_path, {"zero_optimization": {"overlap_comm": True}})
    assert changed["zero_optimization"]["overlap_comm"] is True
    assert settings(tmp_path, {}, reduce_dtype="bf16")["communication_data_type"] == "bf16"
    assert settings(tmp_path, {"comms_logger": {"enabled": True}})["comms_logger"] == {"enabled": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_batch_size": "auto"}, "train_batch_size is decided by --batch-size: take it out"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage is decided by --zero"),
        ({"bf16": {"enabled": True}}, "bf16 is decided by --dtype"),
        ({"gradient_allreduce_op": "sum"}, "gradient_allreduce_op is decided by this command alone"),
        ({"zero_optimisation": {}}, "zero_optimisation is decided by this command alone"),
        ({"zero_optimization": {"bucket": 5}}, "zero_optimization.bucket: Extra inputs are not permitted"),
        ({"zero_optimization": {"reduce_bucket_size": "x"}}, "zero_optimization.reduce_bucket_size: Input should be"),
        ({"flops_profiler": 3}, "ds.json: flops_profiler is 3: give a JSON object$"),
        ({"comms_logger": True}, "comms_logger is true: give a JSON object$"),
        ({"zero_optimization": None}, "zero_optimization is null: give a JSON object$"),
        ({"timers": {"throughput": 3}}, "timers.throughput is 3: give a JSON object$"),
        ({"wall_clock_breakdown": "x"}, 'wall_clock_breakdown is "x": give true or false$'),
        ({"log_level": 3}, 'log_level is 3: give a string, such as "info"$'),
        ({"comms_logger": {"enable": True}}, "ds.json: comms_logger.enable: Extra inputs are not permitted"),
        ({"timers": {"throughput": {"enabled": "x"}}}, "timers.throughput.enabled: Input should be a valid boolean"),
        ([], "give a JSON object of DeepSpeed's settings"),
        ("{", "is not valid JSON"),
    ],
)
def test_what_is_decided_elsewhere_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        settings(tmp_path, content)
    with pytest.raises(UserError, match="--compile: ZeRO 3"):
        from_preset("tiny", compile=True, zero=3)


@pytest.mark.parametrize(("local_rank", "gpu"), [(None, 0), ("3", 3)])
def test_a_launcher_that_names_no_local_rank_gets_the_first_gpu(monkeypatch, local_rank, gpu):
    """As `vlm.distributed.join_processes` has it; no process group is made here."""
    taken, groups = [], []
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)  # so that nothing is set up
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(zero.get_accelerator(), "device_name", lambda *_: "cuda")
    monkeypatch.setattr(zero.get_accelerator(), "set_device", taken.append)
    monkeypatch.setattr(zero.deepspeed, "init_distributed", lambda **given: groups.append(given["dist_backend"]))
    monkeypatch.setattr(zero, "remove_left_buffers", lambda: None)
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):  # to be put back afterwards
        monkeypatch.setattr(zero.distributed_c10d, name, getattr(zero.distributed_c10d, name))
    zero.start_processes()
    assert (taken, groups) == ([gpu], ["nccl"])


def test_workers_share_the_cores_of_their_machine(monkeypatch):
    base = from_preset("base", batch_size=64)
    monkeypatch.setattr(workers, "SHARED", workers.Path("/nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(32)), raising=False)
    host = workers.socket.gethostname()

    def count(*affinities, elsewhere=0):
        hosts = [(host, set(cores)) for cores in affinities] + [("other", {0})] * elsewhere
        monkeypatch.setattr(workers, "all_items", lambda items: hosts)
        return workers.loader_workers(base)

    assert count(range(32)) == 31 and count(*[range(32)] * 8, elsewhere=8) == 3
    assert count(range(8), range(8, 16)) == 7  # each tied to cores of its own
    assert count({0}) == 1
    monkeypatch.setattr(workers, "all_items", lambda items: items)
    assert workers.loader_workers(from_preset("tiny")) == 0  # what the preset says


def test_shared_memory_holds_two_batches_a_worker():
    base, plus = from_preset("base"), from_preset("base", objective="levljepa-plus")
    assert workers.batch_bytes(base, 8) == 512 * 3 * 224 * 224
    assert workers.batch_bytes(plus, 8) == 512 * 3 * (2 * 224**2 + 4 * 96**2)
    workers.check_shared_memory(4, each=10, free=40)
    with pytest.raises(UserError, match=r"4 loader workers a process .* has 2.5 GB free: give --workers 2, or"):
        workers.check_shared_memory(4, each=10**9, free=25 * 10**8)
    with pytest.raises(UserError, match="give --workers 0, which loads in the process itself, or enlarge"):
        workers.check_shared_memory(4, each=10**9, free=10**8)


def test_waits_are_told_once_with_the_workers_that_would_keep_up():
    waits = Waits([{}, {}, {}], torch.device("cpu"))
    assert len(list(waits)) == 3 and all(0 <= wait < 0.1 for wait in waits.seconds())
    assert waits.seconds() == [] and waits.idle() is None
    limit = LoaderLimit(workers=4, processes=2)
    assert limit.notice(10, 90, 100) is None  # workers start
    assert limit.notice(30, 60, 100) is None  # too few steps
    assert limit.notice(30, 60, 100) == (
        "the loader is the limit: steps wait 60% of the time for data; --workers 10 would keep up (now 4), with 22 "
        "cores for the 2 process(es) of this machine"
    )
    assert limit.notice(60, 60, 100) is None
    own = LoaderLimit(workers=0, processes=1)
    assert [own.notice(60, waited, 100) for waited in (50, 10)] == [None, None]
    assert "--workers 2 would keep up (now 0), with 3 cores" in (own.notice(60, 55, 100) or "")


class Event:
    """A CUDA event by a clock that the test sets; a begin comes 2 ms after the end before it."""

    now = 0.0

    def __init__(self, enable_timing):
        self.time = 0.0

    def record(self):
        self.time = Event.now

    def elapsed_time(self, later):
        return later.time - self.time


def test_the_device_idles_between_the_end_of_a_step_and_the_begin_of_the_next(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)

    def batches():
        for _ in range(6):
            Event.now += 2  # the loader is late
            yield {}

    waits, shares = Waits(batches(), torch.device("cuda")), []
    for step, _ in enumerate(waits):
        Event.now += 8
        if step in (0, 3, 4):  # within the step, as metrics are read
            shares.append(waits.idle())
    assert shares == [None, pytest.approx(0.2), pytest.approx(0.2)]
