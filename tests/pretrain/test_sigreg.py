"""SIGReg against its definition term by term: values, gradients, precision, chunks, threads and ranks."""

import math
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from pretrain import sigreg as module
from pretrain.sigreg import random_directions, sigreg


def definition(z, directions):
    """SIGReg term by term, differentiated by autograd."""
    x = z @ directions
    statistic = 0
    for k in range(17):
        t = 3 * k / 16
        phi = math.exp(-(t**2) / 2)
        weight = phi * (3 / 16 if k in (0, 16) else 6 / 16)
        statistic = statistic + weight * ((torch.cos(t * x).mean(0) - phi) ** 2 + torch.sin(t * x).mean(0) ** 2)
    return (len(z) * statistic).mean()


def value_and_gradient(function, z, directions):
    z = z.detach().requires_grad_()
    value = function(z, directions)
    value.backward()
    return value.detach(), z.grad


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_float64_is_the_definition(scale):
    z = scale * normal(37, 12)
    directions = random_directions(12, 50, 0, 0, "image", dtype=torch.float64)
    value, gradient = value_and_gradient(sigreg, z, directions)
    expected_value, expected_gradient = value_and_gradient(definition, z, directions)
    assert value.dtype == gradient.dtype == torch.float64
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-12)
    assert relative(gradient, expected_gradient) < 1e-11


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_float32_error(scale):
    z, directions = scale * normal(256, 64, dtype=torch.float32), random_directions(64, 512, 0, 0, "image")
    value, gradient = value_and_gradient(sigreg, z, directions)
    exact_value, exact_gradient = value_and_gradient(definition, z.double(), directions.double())
    assert value.dtype == torch.float32
    assert abs(value.item() / exact_value.item() - 1) < 3e-6
    assert relative(gradient, exact_gradient) < 2e-6


def test_one_point_at_the_origin():
    # C_k = 1 and S_k = 0 along every direction, so the value is sum_k w_k (1 - phi_k)^2
    assert sigreg(torch.zeros(1, 3), random_directions(3, 8, 0, 0, "text")).item() == pytest.approx(0.402048, abs=1e-6)


def test_chunks_do_not_change_the_result(monkeypatch):
    z, directions = normal(9, 5), random_directions(5, 600, 0, 0, "image", dtype=torch.float64)
    expected = value_and_gradient(sigreg, z, directions)
    monkeypatch.setattr(module, "SEGMENT_SAMPLES", 4)
    for chunk in (1, 7 * len(z)):  # 1 and 7 directions in blocks of 256, 256 and 88
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1)
        value, gradient = value_and_gradient(sigreg, z, directions)
        assert value.item() == pytest.approx(expected[0].item(), rel=1e-13)
        assert relative(gradient, expected[1]) < 1e-13


def test_threads_do_not_change_the_result():
    z, directions = normal(9, 5), random_directions(5, 600, 0, 0, "image", dtype=torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(sigreg, z, directions))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    (value, gradient), (threaded_value, threaded_gradient) = results
    assert threaded_value.item() == pytest.approx(value.item(), rel=1e-13)
    assert relative(threaded_gradient, gradient) < 1e-13


def test_float32_inside_autocast_and_from_bfloat16():
    z, directions = normal(64, 16, dtype=torch.float32), random_directions(16, 128, 0, 0, "image")
    value, gradient = value_and_gradient(sigreg, z, directions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sigreg(z, directions)
    assert inside.dtype == torch.float32 and inside.item() == value.item()
    assert value_and_gradient(sigreg, z.bfloat16(), directions)[1].dtype == torch.bfloat16
    assert sigreg(z.bfloat16(), directions).item() == sigreg(z.bfloat16().float(), directions).item()
    assert gradient.dtype == torch.float32


def test_tf32_is_off_inside_and_back_on_after(monkeypatch):
    inside = []
    sweep = module._sweep

    def spy(*arguments):
        inside.append(torch.get_float32_matmul_precision())
        sweep(*arguments)

    monkeypatch.setattr(module, "_sweep", spy)
    before = torch.get_float32_matmul_precision()
    for setting in ("high", "highest"):
        torch.set_float32_matmul_precision(setting)
        try:
            sigreg(torch.zeros(2, 3), random_directions(3, 4, 0, 0, "image"))
            assert torch.get_float32_matmul_precision() == setting
        finally:
            torch.set_float32_matmul_precision(before)
    assert set(inside) == {"highest"}


def test_collapse_raises_the_statistic():
    directions = random_directions(32, 1024, 0, 0, "image")
    z = normal(512, 32, dtype=torch.float32)
    half, constant = z.clone(), z[:1].expand(512, 32)
    half[:, 16:] = 0
    healthy, half, constant = (sigreg(x, directions).item() for x in (z, half, constant))
    assert healthy == pytest.approx(1.05, abs=0.15)  # normal samples expect sum_k w_k (1 - phi_k^2) = 1.0525
    assert half > 3 * healthy and constant > 100 * healthy


def test_directions_are_a_function_of_seed_step_and_modality():
    first = random_directions(4, 6, seed=3, step=7, modality="image")
    assert first.shape == (4, 6) and first.dtype == torch.float32
    torch.testing.assert_close(first[:, 0], torch.tensor([-0.095539, 0.815150, 0.033512, -0.570333]), atol=1e-5, rtol=0)
    torch.manual_seed(0)
    assert torch.equal(first, random_directions(4, 6, seed=3, step=7, modality="image"))
    others = [(4, 7, "image"), (3, 8, "image"), (3, 7, "text"), (3, 7, 0), (3, 7, 1)]
    draws = [first] + [random_directions(4, 6, *key) for key in others]
    assert len({tuple(d.flatten().tolist()) for d in draws}) == len(draws)
    for dtype, error in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        norms = random_directions(30, 50, 0, 0, "text", dtype=dtype).norm(dim=0)
        torch.testing.assert_close(norms, torch.ones(50, dtype=dtype), atol=error, rtol=0)


def test_no_second_derivative():
    z = normal(4, 3).requires_grad_()
    value = sigreg(z, random_directions(3, 8, 0, 0, "image", dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.square(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(4, 3\), \(5, 8\)"):
        sigreg(torch.zeros(4, 3), torch.zeros(5, 8))


ROWS = {2: (5, 11), 4: (0, 1, 6, 9)}  # of each rank: unequal, 16 in all


def problem():
    return normal(16, 10), normal(10, 6, seed=1), random_directions(6, 40, 0, 0, "image", dtype=torch.float64)


def run_ranks(rank, folder):
    """Every rank in a world of 4, then ranks 0 and 1 in a world of 2: value and DDP-averaged weight gradient."""
    torch.set_num_threads(1)
    x, weight, directions = problem()
    for world in (4, 2):
        if rank >= world:
            break
        dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
        all_reduce, calls = dist.all_reduce, []
        dist.all_reduce = lambda tensor, calls=calls, reduce=all_reduce: (calls.append(tensor.shape), reduce(tensor))
        local_weight = weight.clone().requires_grad_()
        value = sigreg(x.split(ROWS[world])[rank] @ local_weight, directions)
        value.backward()
        dist.all_reduce = all_reduce
        dist.all_reduce(local_weight.grad)
        result = {"value": value.detach(), "gradient": local_weight.grad / world, "calls": len(calls)}
        torch.save(result, f"{folder}/{world}-{rank}.pt")
        dist.destroy_process_group()


def test_ranks_with_unequal_batches_agree_with_one_process(tmp_path):
    # by path: pytest's importlib mode leaves this module without a name that a spawned process could import
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(4)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0, 0, 0]
    x, weight, directions = problem()
    weight.requires_grad_()
    value = sigreg(x @ weight, directions)
    value.backward()
    for world in (2, 4):
        results = [torch.load(tmp_path / f"{world}-{rank}.pt") for rank in range(world)]
        for result in results:
            assert result["value"].item() == pytest.approx(value.item(), rel=1e-12)
            assert relative(result["gradient"], weight.grad) < 1e-12
            assert result["calls"] == 1


if __name__ == "__main__":
    run_ranks(int(sys.argv[1]), sys.argv[2])
