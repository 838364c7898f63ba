"""What a device is sent, and what is told when it has no memory left."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm import device
from vlm.device import enough_memory, reason, sent
from vlm.errors import UserError, memory_ran_out, run_command

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.12 GiB is "
    "free. Process 7 has 3.10 GiB memory in use. If reserved but unallocated memory is large try setting PYTORCH_..."
)
MPS = (
    "MPS backend out of memory (MPS allocated: 17.50 GiB, max allowed: 18.13 GiB). Tried to allocate 256.00 MiB on "
    "private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit (may cause system failure)."
)
CPU = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."
RAN_OUT = {
    torch.OutOfMemoryError(CUDA): "CUDA out of memory. Tried to allocate 2.00 GiB",
    RuntimeError(MPS): (
        "MPS backend out of memory (MPS allocated: 17.50 GiB, max allowed: 18.13 GiB). Tried to allocate 256.00 MiB on "
        "private pool"
    ),
    RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"): "CUDA error: out of memory",
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"): None,
    RuntimeError(CPU): CPU.rstrip("."),
    MemoryError(): "MemoryError",
}


class Spied(torch.Tensor):
    def to(self, *arguments, **options):
        return arguments, options


@pytest.mark.parametrize(("kind", "waits"), [("cuda:1", False), ("mps", True), ("cpu", True)])
def test_only_cuda_copies_while_the_processor_goes_on(kind, waits):
    target = torch.device(kind)
    assert sent(torch.ones(2).as_subclass(Spied), target) == ((target,), {"non_blocking": not waits})


@pytest.mark.parametrize("error", RAN_OUT, ids=lambda error: str(error)[:20])
def test_memory_that_ran_out_is_one_line_in_every_command(error, capsys, monkeypatch):
    assert memory_ran_out(error)
    expected = RAN_OUT[error] or str(error)
    assert reason(error) == expected

    def run():
        with enough_memory(lambda: "in step 7", lambda: "give --less"):
            raise error

    with pytest.raises(UserError) as told:
        run()
    assert str(told.value) == f"out of memory in step 7 ({expected}): give --less"

    def command():  # in which nothing more is known
        raise error

    with pytest.raises(SystemExit) as end:
        run_command(command)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: out of memory (") and said.count("\n") == 1
    monkeypatch.setenv("LEVLM_DEBUG", "1")
    with pytest.raises(type(error)):
        run_command(command)


def test_other_errors_pass():
    for error in (RuntimeError("CUDA error: an illegal memory access was encountered"), ValueError("out of memory")):
        with pytest.raises(type(error)) as passed, enough_memory(lambda: "x", lambda: "y"):
            raise error
        assert passed.value is error


def both_run_out(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    device.LAST_WORDS = 0
    try:
        with enough_memory(lambda: "in step 7", lambda: "give --less"):
            raise torch.OutOfMemoryError(CUDA)
    except (UserError, SystemExit) as error:
        (folder / f"{rank}").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


def test_of_two_ranks_one_tells(tmp_path):
    mp.spawn(both_run_out, args=(tmp_path,), nprocs=2)
    said = sorted((tmp_path / rank).read_text() for rank in "01")
    assert said == ["2", "out of memory in step 7 (CUDA out of memory. Tried to allocate 2.00 GiB): give --less"]
