"""Measuring quantised products beside the machine's own limits, in one run.

    ceilings    bytes a second that all threads read at best; dot products a second, int8 and bf16
    a case      one shape: calls over copies of the weight that together exceed the last-level
                cache, several rounds; the median round counts, with its spread

Bytes are the logical ones: n * k * bits / 8, and the scales. A call is the whole public one, the
rounding of the activations included.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.kernels.device import ceilings as device
from tilus.kernels.quantized import QuantizedWeight, compiled, matmul, quantize_weight
from tilus.runtime.cpu import CpuKernel, host_features

READ_BYTES = 1 << 30
COLD_BYTES = 448 << 20  # what weights of one-row cases rotate through
WARM_BYTES = 48 << 20
ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most."""

    stream_gbps: float
    int8_gops: float
    bf16_gflops: float


def seconds(run: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Times of several runs after one that is not counted, in increasing order."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)


def measure_ceilings() -> Ceilings:
    """The best of several native loops each, on all threads."""
    return Ceilings(_stream(), _peak(dtypes.i8, dtypes.u8), _peak(dtypes.bf16, dtypes.bf16))


def _stream() -> float:
    data = torch.randint(0, 255, (READ_BYTES,), dtype=torch.uint8)
    best = 0.0
    for run, runs in ((256, 4096), (1024, 1024), (2048, 512)):
        kernel = compiled(device.read_all, {"RUN": run, "RUNS": runs})
        blocks = READ_BYTES // (run * runs)
        out = torch.empty(blocks, dtype=torch.int32)
        args = [data.data_ptr(), out.data_ptr()]
        times = seconds(lambda k=kernel, a=args, n=blocks: k.launch(a, (n, 1, 1)), 5)  # type: ignore[misc]
        best = max(best, READ_BYTES / times[0] / 1e9)
    return best


def _peak(a: DType, b: DType) -> float:
    total = dtypes.i32 if a.is_integer else dtypes.f32
    x = torch.zeros(1 << 16, dtype=torch.uint8)
    blocks, count, best = torch.get_num_threads(), 20_000, 0.0
    for rows, k in ((8, 16), (8, 32), (12, 16)):
        names = {"A": a, "B": b, "C": total, "ROWS": rows, "K": k}
        kernel = compiled(device.multiply_all, names)
        out = torch.empty(blocks * rows * 16 * 4, dtype=torch.uint8)
        args = [x.data_ptr(), x.data_ptr(), out.data_ptr(), count]
        times = _launches(kernel, args, blocks)
        best = max(best, 2.0 * blocks * count * rows * 16 * k / times[0] / 1e9)
    return best


def _launches(kernel: CpuKernel, args: Sequence[Any], blocks: int) -> list[float]:
    return seconds(lambda: kernel.launch(args, (blocks, 1, 1)), 5)


def measure_case(
    weights: DType, m: int, n: int, k: int, group: int | None, limits: Ceilings
) -> dict[str, Any]:
    """One product: times, rates, their share of the limits, and both errors."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(n, k, generator=generator)
    x = torch.randn(m, k, generator=generator)
    q = quantize_weight(w, weights, group_size=group)
    got = matmul(x, q).double()
    exact, original = x.double() @ q.dequantize().double().T, x.double() @ w.double().T
    room = COLD_BYTES if m <= 4 else WARM_BYTES
    copies = [_copied(q) for _ in range(max(2, -(-room // q.nbytes)))]

    def round_() -> None:
        for c in copies:
            matmul(x, c)

    times = [t / len(copies) * 1e6 for t in seconds(round_)]
    us = statistics.median(times)
    operations, nbytes = 2.0 * m * n * k, n * k * weights.bits / 8 + q.scales.nbytes
    gbps, gflops = nbytes / us / 1e3, operations / us / 1e3
    return {
        "weights": str(weights), "m": m, "n": n, "k": k, "group": group,
        "us": us, "us_min": times[0], "us_max": times[-1],
        "gbps": gbps, "of_stream": gbps / limits.stream_gbps,
        "gflops": gflops, "of_peak": gflops / limits.int8_gops,
        "error": _relative(got, exact), "error_unquantized": _relative(got, original),
        "peers": _peers(x, w, n, k),
    }  # fmt: skip


def _copied(q: QuantizedWeight) -> QuantizedWeight:
    """The same weight in other memory."""
    packed = {form: data.clone() for form, data in q._packed.items()}
    return replace(q, _packed=packed)


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root of the mean squared error, in units of the root of the mean square."""
    return float((got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())


def _peers(x: torch.Tensor, w: torch.Tensor, n: int, k: int) -> dict[str, dict[str, float]]:
    """torch's bf16 product of the same shape, on weights that rotate too."""
    copies = [w.bfloat16() for _ in range(max(2, -(-WARM_BYTES // (n * k * 2))))]
    half = x.bfloat16()

    def round_() -> None:
        for c in copies:
            torch.nn.functional.linear(half, c)

    times = seconds(round_, 3)
    return {"torch_bf16": {"us": times[len(times) // 2] / len(copies) * 1e6}}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    features = ("avx2", "avx512f", "avx512vnni", "avx512vbmi", "avx512bf16")
    return {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "features": [f for f in features if f in host_features()],
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
