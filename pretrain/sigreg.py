"""SIGReg, the term that keeps embeddings from collapsing: exact, fused, the same function on any number of ranks.

Directions a_p, spacing dt = 3/16, theta_bp = dt <z_b, a_p>, knots t_k = k dt for k = 0..16, phi_k = exp(-t_k^2 / 2):

    C_kp = mean_b cos(k theta_bp)      S_kp = mean_b sin(k theta_bp)      b over the batch of ALL ranks, B rows
    SIGReg = B * mean_p sum_k w_k [ (C_kp - phi_k)^2 + S_kp^2 ]           w_k = phi_k * trapezoid weight (knot 0 is 0)
    dSIGReg / dz = G A^T,   G_bp = 1/P sum_k 2 w_k t_k [ S_kp cos(k theta_bp) - (C_kp - phi_k) sin(k theta_bp) ]

The plain formulation stores (B, P, 17) cosines, sines and their gradients. Here the harmonics are never formed. Every
k = 1..16 is 0, 7 or 14 plus or minus at most 3, so cos(k theta) and sin(k theta) are sums of products v_i u_j of

    v = 1, cos and sin of 1, 2, 3 theta        u = 1, cos and sin of 7, 14 theta

and the 35 sums over the batch of v_i u_j hold every C_kp and S_kp: one small matrix product a direction. G is the same
thing read backwards: 35 coefficients a direction, times v, times u. v and u come from ONE cosine and ONE sine by
recurrences of the form x_{a+b} = x_{a-b} + 2 s_b (...): if theta is small, as it is here, they keep the digits that
y_{k+1} = 2 cos(theta) y_k - y_{k-1} loses (gradient error 3e-7 instead of 2e-6).

The gradient is finished in the forward pass, chunk by chunk of directions; only dz [B, D] is kept for the backward.

Sources: LeJEPA (arXiv 2511.08544) for SIGReg, LeVLJEPA (arXiv 2607.00784) for its use here.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from vlm import distributed
from vlm.device import sent

KNOTS, SPACING = 16, 3 / 16
V_COUNT, U_COUNT = 7, 5
V_ROWS, U_ROWS = slice(0, 7), slice(6, 11)  # of the rows of `_harmonics`; they share the one of ones
SUMS = 2 * KNOTS + 1  # of a direction: B (C_k - phi_k), B S_k and B
# The directions are worked on in chunks, whose harmonics stay in the CPU's cache, inside larger blocks, whose angles
# one matrix product makes. Sizes are in elements, directions times samples; a GPU has one size for both.
CHUNK_ELEMENTS = 1 << 15  # ~16 rows of so many live in the cache at a time
BLOCK_ELEMENTS = 1 << 19
GPU_ELEMENTS = 1 << 22  # there launches cost more than memory
SEGMENT_SAMPLES = 1024  # summed before phi is subtracted: longer float32 sums lose digits of the small C - phi
MAX_THREADS = 8  # each has buffers and a dz of its own


def random_directions(
    dim: int,
    count: int,
    seed: int,
    step: int,
    modality: str | int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Directions uniform on the sphere: dtype[dim, count] with unit columns, a pure function of (seed, step, modality).

    `modality` is "image", "text" or a view's index. The numbers are drawn on the CPU, so that every rank and every kind
    of device gets the same ones: characteristic functions may be averaged over ranks only along equal directions.
    """
    digest = hashlib.sha256(f"sigreg {int(seed)} {int(step)} {modality}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    directions = torch.randn(dim, count, generator=generator, dtype=torch.float32, device="cpu")
    directions = directions.to(torch.promote_types(dtype, torch.float32))
    directions /= directions.square().sum(0).sqrt_()  # vector_norm along the first axis is 10 times slower
    directions, target = directions.to(dtype), torch.device(device or "cpu")
    if target.type == "cuda":
        directions = directions.pin_memory()  # a copy from pageable memory would wait for the GPU
    return sent(directions, target)


def sigreg(z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """SIGReg of the global batch along `directions`: float32[] (float64[] if z is float64), equal on every rank.

    z: [B, D], this rank's rows, any float dtype; B may differ between ranks. directions: [D, P], unit columns, equal on
    every rank (`random_directions`). Computed in full float32 whatever autocast and TF32 settings say.

    Under data parallelism that AVERAGES gradients over ranks (DDP, DeepSpeed) the parameters get the gradient of the
    global statistic: dz carries the factor world_size that the average takes away. No gradient reaches `directions`;
    there is no second derivative. Collective: every rank calls it; one all-reduce of [P, 33].

    Raises: ValueError if the shapes do not fit.
    """
    if z.ndim != 2 or directions.ndim != 2 or z.shape[1] != directions.shape[0]:
        given = f"{tuple(z.shape)}, {tuple(directions.shape)}"
        raise ValueError(f"sigreg needs z [B, D] and directions [D, P], got {given}")
    z = z if z.dtype == torch.float64 else z.float()
    with torch.autocast(z.device.type, enabled=False), _full_float32():
        return _SIGReg.apply(z, directions.detach().to(z.dtype))


def knots_and_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """The knots t_k and their weights w_k in the formula above, k = 1..16, float64[16] each; knot 0 adds nothing.

    The trapezoid rule from -t_16 to t_16 counts every knot twice but the last: w_k = 2 dt phi_k, half for k = 16.
    """
    knots = SPACING * torch.arange(1, KNOTS + 1, dtype=torch.float64, device="cpu")
    weights = 2 * SPACING * torch.exp(-knots.square() / 2)
    weights[-1] /= 2
    return knots, weights


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32 or bfloat16 inside float32 matrix products: they would cost three digits here."""
    backend: Any = torch.backends.cuda.matmul
    try:
        before, off = torch.get_float32_matmul_precision(), "highest"
        switch: Callable[[str], None] = torch.set_float32_matmul_precision
    except RuntimeError:  # it was set through `fp32_precision` (torch >= 2.9), after which the older calls refuse
        before, off, switch = backend.fp32_precision, "ieee", partial(setattr, backend, "fp32_precision")
    if before == off:
        yield
        return
    switch(off)
    try:
        yield
    finally:
        switch(before)


class _SIGReg(torch.autograd.Function):
    """The value, whose gradient is computed with it and kept: dz [B, D] is all that the backward pass needs."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        sums = z.new_zeros(directions.shape[1], SUMS)  # [P, 33], of this rank's rows until they are reduced
        dz = torch.zeros_like(z) if ctx.needs_input_grad[0] else None
        several = distributed.active()  # the gradient needs every rank's sums: then the harmonics are computed twice
        _sweep_in_threads(z, directions, sums, None if several else dz)
        if several:
            sums = distributed.all_sum(sums)
            if dz is not None:
                _sweep_in_threads(z, directions, sums, dz, have_sums=True)
        samples = sums[0, -1]  # B of all ranks
        if dz is not None:
            dz *= distributed.world_size() / (directions.shape[1] * samples)
        ctx.save_for_backward(dz)
        # B^2 ((C - phi)^2 + S^2) is in sums squared: weighted and summed over k, then the mean over p, times B / B^2.
        weight = _constants(z.dtype, z.device)[2]
        return (sums.square() @ weight).mean() / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyrefly: ignore[bad-override] once_differentiable is untyped
        (gradient,), (dz,) = gradients, ctx.saved_tensors
        return gradient * dz, None


def _sweep_in_threads(
    z: torch.Tensor, directions: torch.Tensor, sums: torch.Tensor, dz: torch.Tensor | None, have_sums: bool = False
) -> None:
    """`_sweep` with the directions shared out between CPU threads: its many small steps gain nothing from OpenMP."""
    threads = min(torch.get_num_threads(), MAX_THREADS) if z.device.type == "cpu" else 1
    if threads == 1:
        return _sweep(z, directions, sums, dz, have_sums)

    def sweep(own_directions: torch.Tensor, own_sums: torch.Tensor) -> torch.Tensor | None:
        own_dz = None if dz is None else torch.zeros_like(z)
        with torch.no_grad():  # a setting of each thread
            _sweep(z, own_directions, own_sums, own_dz, have_sums)
        return own_dz

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # what new threads start with
    try:
        with ThreadPoolExecutor(threads) as pool:
            # `sums` is cut into views, which the threads fill; each dz is a sum over its thread's directions.
            parts = directions.tensor_split(threads, dim=1), sums.tensor_split(threads)
            for part_dz in pool.map(sweep, *parts):
                if dz is not None and part_dz is not None:
                    dz += part_dz
    finally:
        torch.set_num_threads(before)


def _sweep(
    z: torch.Tensor, directions: torch.Tensor, sums: torch.Tensor, dz: torch.Tensor | None, have_sums: bool = False
) -> None:
    """Go over the directions once: add to sums [P, 33] unless `have_sums`; add to dz [B, D] if it is given.

    sums: B (C_k - phi_k) for k = 1..16, B S_k for k = 1..16, and B. dz: B P G A^T, for the B of `sums`.
    """
    batch, count, on_cpu = len(z), directions.shape[1], z.device.type == "cpu"
    chunk = (CHUNK_ELEMENTS if on_cpu else GPU_ELEMENTS) // max(1, batch)
    block = max(256, BLOCK_ELEMENTS // max(1, batch)) if on_cpu else chunk
    chunk, block = max(1, min(chunk, count)), max(1, min(block, count))
    to_sums, to_coefficients, _ = _constants(z.dtype, z.device)
    # Buffers, used again and again: the allocator would cost more than the arithmetic.
    theta = z.new_empty(block, batch)
    rows = z.new_empty(V_COUNT + U_COUNT - 1, chunk, batch)
    work = z.new_empty(chunk, U_COUNT, batch)
    products = z.new_empty(chunk, V_COUNT, U_COUNT)
    for start in range(0, count, block):
        along = directions[:, start : start + block].T  # [block, D]
        angles = theta[: len(along)]  # [block, B]
        torch.addmm(angles, along, z.T, beta=0, alpha=SPACING, out=angles)
        for angle, total in zip(angles.split(chunk), sums[start : start + block].split(chunk)):
            # angle: [chunk, B], total: [chunk, 33]; the last chunk and block may be smaller
            harmonics, w, vu = rows[:, : len(angle)], work[: len(angle)], products[: len(angle)]
            _harmonics(angle, harmonics, w)
            v = harmonics[V_ROWS].transpose(0, 1)  # [chunk, 7, B]
            u = harmonics[U_ROWS].transpose(0, 1)  # [chunk, 5, B]
            if not have_sums:
                for v_part, u_part in zip(v.split(SEGMENT_SAMPLES, dim=2), u.split(SEGMENT_SAMPLES, dim=2)):
                    torch.bmm(v_part, u_part.transpose(1, 2), out=vu)  # sums over the samples of v_i u_j: [chunk, 7, 5]
                    total.addmm_(vu.flatten(1), to_sums)  # [chunk, 35] @ [35, 33]
            if dz is not None:
                # The same backwards: G_b = sum_ij g_ij v_i u_j, over i by bmm and then over j.
                coefficients = (total @ to_coefficients).view(-1, U_COUNT, V_COUNT)
                torch.bmm(coefficients, v, out=w)  # [chunk, 5, B]
                # angle has been read: G [chunk, B] takes its place, the sum over j of w_j u_j, where u_0 = 1
                torch.addcmul(w[:, 0], w[:, 1], u[:, 1], out=angle)
                for j in range(2, U_COUNT):
                    angle.addcmul_(w[:, j], u[:, j])
        if dz is not None:
            dz.addmm_(angles.T, along)  # [B, block] @ [block, D]; `angles` holds G by now


def _harmonics(angle: torch.Tensor, rows: torch.Tensor, work: torch.Tensor) -> None:
    """angle [p, B] -> rows [11, p, B]: s3 c3 s2 c2 s1 c1 1 s7 c7 s14 c14, with s2 and s14 halved; work [p, >= 2, B].

    c_{a+b} = c_{a-b} - 2 s_a s_b and s_{a+b} = s_{a-b} + 2 c_a s_b; s_2a / 2 = s_a c_a. `work` holds c_4 and a quarter
    of s_4. The factors 2 that the halves and the quarter lack are in `value`.
    """
    s3, c3, s2, c2, s1, c1, one, s7, c7, s14, c14 = rows
    s4, c4 = work[:, 0], work[:, 1]
    add = torch.addcmul  # add(x, y, z, value=f, out=r): r = x + f y z
    one.fill_(1)
    torch.sin(angle, out=s1)
    torch.cos(angle, out=c1)
    torch.mul(s1, c1, out=s2)
    add(one, s1, s1, value=-2, out=c2)  # c_2 = c_0 - 2 s_1 s_1
    add(s1, c2, s1, value=2, out=s3)  # s_3 = s_1 + 2 c_2 s_1
    add(c1, s2, s1, value=-4, out=c3)  # c_3 = c_1 - 2 s_2 s_1
    torch.mul(s2, c2, out=s4)
    add(one, s2, s2, value=-8, out=c4)  # c_4 = c_0 - 2 s_2 s_2
    add(s1, c4, s3, value=2, out=s7)  # s_7 = s_1 + 2 c_4 s_3
    add(c1, s4, s3, value=-8, out=c7)  # c_7 = c_1 - 2 s_4 s_3
    torch.mul(s7, c7, out=s14)
    add(one, s7, s7, value=-2, out=c14)  # c_14 = c_0 - 2 s_7 s_7


@lru_cache(maxsize=8)
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(to_sums [35, 33], to_coefficients [33, 35], weight [33]): 35 products -> 33 `sums` -> 35 coefficients of G.

    The 35 products v_i u_j and the 35 harmonics 1, cos k theta, sin k theta (k <= 17) span the same space, so 35
    equally spaced angles give the change of basis; its entries are small integers.
    """
    angle = torch.arange(35, dtype=torch.float64, device="cpu") * (2 * torch.pi / 35)
    rows, work = angle.new_empty(V_COUNT + U_COUNT - 1, 1, 35), angle.new_empty(1, U_COUNT, 35)
    _harmonics(angle[None], rows, work)
    products = torch.einsum("ib,jb->bij", rows[V_ROWS, 0], rows[U_ROWS, 0]).flatten(1)  # [35 angles, 35 products]
    phase = angle[:, None] * torch.arange(1, KNOTS + 1, device="cpu")  # k theta: [35 angles, 16]
    waves = torch.cat([phase.cos(), phase.sin(), angle.new_ones(35, 1)], 1)  # [35 angles, 33]: what the sums are of
    to_waves = torch.linalg.solve(products, waves).round()  # products @ to_waves = waves, [35, 33]
    cos, sin, one = to_waves.T.split([KNOTS, KNOTS, 1])  # [16, 35], [16, 35], [1, 35]

    knots, weight = knots_and_weights()
    phi = torch.exp(-knots.square() / 2)[:, None]
    to_sums = torch.cat([cos - phi * one, sin, one]).T
    # The gradient's formula: C_k - phi_k goes with -sin(k theta), S_k with cos(k theta), each times 2 w_k t_k.
    slope = (2 * weight * knots)[:, None]
    by_v_u = torch.cat([-slope * sin, slope * cos, 0 * one]).view(SUMS, V_COUNT, U_COUNT)
    to_coefficients = by_v_u.transpose(1, 2).reshape(SUMS, -1)
    of_sums = torch.cat([weight, weight, weight.new_zeros(1)])

    def ready(constant: torch.Tensor) -> torch.Tensor:
        return constant.to(device=device, dtype=dtype).contiguous()

    return ready(to_sums), ready(to_coefficients), ready(of_sums)
