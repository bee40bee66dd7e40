"""What a launch costs, when there is next to nothing to run.

python       one launch of a small kernel, from Python, on one thread and on all
graph        one kernel of a replayed graph, all threads meeting after each
contended    the same while as many other processes as threads keep the processor busy
compile      a new variant of the product: from nothing, and from the disk
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tilus.kernels.device.ceilings import touch
from tilus.kernels.product import forget, matmul
from tilus.kernels.quantized import quantize_weight
from tilus.options import options
from tilus.runtime.program import Graph

KERNELS = 200  # of a graph
ROUNDS = 15
CONTENDED = 2.0  # seconds


def microseconds(run: Callable[[], object], times: int) -> float:
    """Of one run: the median of several rounds of so many."""
    run()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(times):
            run()
        found.append((time.perf_counter() - start) / times * 1e6)
    return statistics.median(found)


def measure() -> dict[str, float]:
    """All figures, in microseconds and milliseconds."""
    threads = torch.get_num_threads()
    x = torch.zeros(threads, dtype=torch.int32)
    with Graph() as graph:
        for _ in range(KERNELS):
            touch[(threads,)](x, threads)
    figures = {
        "python_one_thread_us": microseconds(lambda: touch[1](x, threads), 2000),
        "python_us": microseconds(lambda: touch[(threads,)](x, threads), 2000),
        "graph_kernel_us": microseconds(graph.replay, 20) / KERNELS,
    }
    others = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(threads)]
    for other in others:
        other.start()
    try:
        time.sleep(0.2)
        start, replays = time.perf_counter(), 0
        while time.perf_counter() < start + CONTENDED:  # a mean: what is slow is rare, and long
            graph.replay()
            replays += 1
        spent = time.perf_counter() - start
        figures["graph_kernel_contended_us"] = spent / replays / KERNELS * 1e6
    finally:
        for other in others:
            other.kill()
    return figures | _compile_times()


def _spin() -> None:
    if hasattr(os, "SCHED_OTHER"):  # or they might never let go of the processor
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    while True:
        pass


def _compile_times() -> dict[str, float]:
    weight = quantize_weight(torch.randn(64, 256), "u3", group_size=128)
    rows = torch.randn(1, 256)
    found = {}
    with tempfile.TemporaryDirectory() as folder, options.scope(cache_dir=Path(folder)):
        for name in ("compile_cold_ms", "compile_from_disk_ms"):
            forget()
            weight.plans.clear()
            start = time.perf_counter()
            matmul(rows, weight)
            found[name] = (time.perf_counter() - start) * 1e3
    return found
