"""Measuring quantised products beside the machine's own limits, in one run.

    ceilings    bytes a second that all threads read at best; dot products a second, int8 and bf16
    a case      one shape, over copies of the weight that together exceed the last-level cache

A case is several rounds; each probes the limits for a moment and then times all copies, as one
replay of a `tilus.Graph` (as a decoding step runs) and by calls from Python. Shares are the median
of the rounds' own: a machine whose memory is slower for a while is so for both. Bytes are the
logical ones: n * k * bits / 8, and the scales and zero points. The rounding of the activations is
part of every product.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.kernels import peers
from tilus.kernels.device import ceilings as device
from tilus.kernels.product import compiled, matmul
from tilus.kernels.quantized import QuantizedWeight, quantize_weight
from tilus.runtime import memory
from tilus.runtime.jit import host_features
from tilus.runtime.program import CpuKernel, Graph

READ_BYTES = 512 << 20
PROBE_BYTES = 64 << 20
COLD_BYTES = 448 << 20  # what weights rotate through
ROUNDS = 9
LEAST = 10e-3  # seconds of a round, at least


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most."""

    stream_gbps: float
    int8_gops: float
    bf16_gflops: float


def seconds(run: Callable[[], object], least: float = 0.0) -> float:
    """How long a run takes: the mean of as many as fill `least` seconds."""
    start, runs = time.perf_counter(), 0
    while True:
        run()
        runs += 1
        spent = time.perf_counter() - start
        if spent >= least:
            return spent / runs


class Reader:
    """Reads memory as fast as it can, here and there in a stretch that no cache holds."""

    def __init__(self) -> None:
        self.data = memory.empty(READ_BYTES)
        self.data.fill_(1)
        self.out = torch.empty(READ_BYTES, dtype=torch.int32)
        self.start = 0
        loops = [(256, 4096), (1024, 1024), (2048, 512)]
        self.loop = loops[0]
        rates = []
        for self.loop in loops:
            rates.append(max(self.rate() for _ in range(2 * READ_BYTES // PROBE_BYTES)))
        self.loop = loops[rates.index(max(rates))]
        self.best = max(rates)

    def rate(self) -> float:
        """GB/s of one probe."""
        run, runs = self.loop
        kernel = compiled(device.read_all, {"RUN": run, "RUNS": runs})
        address = self.data.data_ptr() + self.start
        self.start = (self.start + PROBE_BYTES) % READ_BYTES
        grid = (PROBE_BYTES // (run * runs), 1, 1)
        return (
            PROBE_BYTES / seconds(lambda: kernel.launch([address, self.out.data_ptr()], grid)) / 1e9
        )


class Multiplier:
    """Multiplies what lies in registers and near memory."""

    def __init__(self, a: DType, b: DType) -> None:
        self.total = dtypes.i32 if a.is_integer else dtypes.f32
        self.types, self.x = (a, b), torch.zeros(1 << 16, dtype=torch.uint8)
        self.threads = torch.get_num_threads()
        self.out = torch.empty(self.threads * 12 * 64, dtype=torch.uint8)
        shapes = [(8, 16), (8, 32), (12, 16)]
        self.shape = shapes[0]
        rates = []
        for self.shape in shapes:
            rates.append(max(self.rate() for _ in range(8)))
        self.shape = shapes[rates.index(max(rates))]
        self.best = max(rates)

    def rate(self) -> float:
        """Giga-operations a second of one probe; a multiplication and an addition are two."""
        rows, k = self.shape
        a, b = self.types
        names = {"A": a, "B": b, "C": self.total, "ROWS": rows, "K": k}
        kernel: CpuKernel = compiled(device.multiply_all, names)
        count = 80_000 * 16 // k
        place = self.x.data_ptr()
        args = [place, place, self.out.data_ptr(), count]
        spent = seconds(lambda: kernel.launch(args, (self.threads, 1, 1)))
        return 2.0 * self.threads * count * rows * 16 * k / spent / 1e9


@lru_cache(maxsize=1)
def limits(threads: int) -> tuple[Reader, Multiplier, Multiplier]:
    """What probes the limits of so many threads: the stream, int8 dots, bf16 dots."""
    i8, bf16 = dtypes.i8, dtypes.bf16
    return Reader(), Multiplier(i8, dtypes.u8), Multiplier(bf16, bf16)


def measure_ceilings() -> Ceilings:
    """The best of several native loops each, on all threads."""
    reader, ints, floats = limits(torch.get_num_threads())
    return Ceilings(reader.best, ints.best, floats.best)


@lru_cache(maxsize=8)
def _normal(rows: int, columns: int) -> torch.Tensor:
    """The same numbers each time, so that peers can remember what they made of them."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, columns, generator=generator)


@dataclass
class Times:
    """What the rounds of a case gave, in microseconds and shares."""

    us: list[float]
    of_stream: list[float]
    of_peak: list[float]


def measure_case(
    weights: DType,
    m: int,
    n: int,
    k: int,
    group: int | None,
    limits: Ceilings,
    beside: Sequence[peers.Peer] = (),
) -> dict[str, Any]:
    """One product: times, rates, their share of the limits, both errors, and the peers' times."""
    w, x = _normal(n, k), _normal(m, k)
    q = quantize_weight(w, weights, group_size=group)
    got = matmul(x, q).double()
    exact, original = x.double() @ q.dequantize().double().T, x.double() @ w.double().T
    copies = [_copied(q) for _ in range(max(2, -(-COLD_BYTES // q.nbytes)) if m <= 64 else 2)]
    with Graph() as graph:
        for c in copies:
            matmul(x, c)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "": (graph.replay, len(copies)),
        "call": (lambda: [matmul(x, c) for c in copies], len(copies)),
    }
    for peer in beside:
        if weights.bits in peer.bits:
            calls = _calls(peer, w, x, m)
            runs[peer.name] = (lambda c=calls: [call() for call in c], len(calls))  # type: ignore[misc]
    nbytes = sum(t.nbytes for t in (q.codes, q.scales, q.zeros) if t is not None)
    times = _rounds(runs, 2.0 * m * n * k, nbytes)
    ours = times.pop("")
    us = statistics.median(ours.us)
    return {
        "weights": str(weights), "m": m, "n": n, "k": k, "group": group,
        "us": us, "us_min": min(ours.us), "us_max": max(ours.us),
        "us_call": statistics.median(times.pop("call").us),
        "gbps": nbytes / us / 1e3, "of_stream": statistics.median(ours.of_stream),
        "gflops": 2.0 * m * n * k / us / 1e3, "of_peak": statistics.median(ours.of_peak),
        "error": _relative(got, exact), "error_unquantized": _relative(got, original),
        "peers": {name: {"us": statistics.median(t.us)} for name, t in times.items()},
    }  # fmt: skip


def _rounds(
    runs: dict[str, tuple[Callable[[], object], int]], operations: float, nbytes: int
) -> dict[str, Times]:
    """All runs, one after the other, several times over, each beside a probe of the limits."""
    reader, ints, _ = limits(torch.get_num_threads())
    found = {name: Times([], [], []) for name in runs}
    for run, _ in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, (run, products) in runs.items():
            stream, peak = reader.rate(), ints.rate()
            spent = seconds(run, LEAST) / products
            stream = (stream + reader.rate()) / 2
            found[name].us.append(spent * 1e6)
            found[name].of_stream.append(nbytes / spent / 1e9 / stream)
            found[name].of_peak.append(operations / spent / 1e9 / peak)
    return found


def _calls(
    peer: peers.Peer, w: torch.Tensor, x: torch.Tensor, m: int
) -> list[Callable[[], object]]:
    """A peer's products with copies of the weight, in memory of their own each."""
    nbytes = w.numel() * max(peer.bits) // 8
    copies = max(2, -(-COLD_BYTES // nbytes)) if m <= 64 else 2
    return [peer.make(w)(x) for _ in range(copies)]


def _copied(q: QuantizedWeight) -> QuantizedWeight:
    """The same weight in other memory."""
    forms = {f: (memory.copied(x[0]), x[1]) for f, x in q.plans.items() if isinstance(x, tuple)}
    return replace(q, plans=dict(forms))


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root of the mean squared error, in units of the root of the mean square."""
    return float((got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())


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
