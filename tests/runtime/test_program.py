"""Launches, programs of several and recorded graphs, with and without an OpenMP runtime."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import tilus
from tilus import i32
from tilus.errors import TilusNotImplementedError, TilusValueError, Trap
from tilus.kernels import matmul, quantize_weight
from tilus.runtime import program


@tilus.jit
def add_one(x: tilus.ptr[i32], y: tilus.ptr[i32], n: i32, BLOCK: tilus.constexpr):
    """y = x + 1."""
    at = tilus.block_idx(0) * BLOCK
    X = tilus.global_view(x, i32, (n,))
    Y = tilus.global_view(y, i32, (n,))
    tilus.store_global(Y, tilus.load_global(X, (at,), (BLOCK,)) + 1, (at,))


@tilus.jit
def small_only(x: tilus.ptr[i32], n: i32):
    """Fails if n is not below 10."""
    tilus.device_assert(n < 10, "n is large")
    X = tilus.global_view(x, i32, (1,))
    tilus.store_global(X, tilus.load_global(X, (0,), (1,)) + n, (0,))


@pytest.fixture(params=["openmp", "python"], autouse=True)
def team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "python":
        monkeypatch.setattr(program, "openmp", lambda: None)
    program._team.cache_clear()
    yield
    program._team.cache_clear()


def test_graph_runs_in_order_and_again() -> None:
    x = torch.arange(1000, dtype=torch.int32)
    first = x.clone()
    a, b = torch.zeros_like(x), torch.zeros_like(x)
    with tilus.Graph() as graph:
        add_one[(8,)](x, a, 1000, BLOCK=128)
        add_one[(8,)](a, b, 1000, BLOCK=128)  # needs what all threads made of a
        add_one[(0,)](a, b, 1000, BLOCK=128)
        add_one[(8,)](b, x, 1000, BLOCK=128)
    assert len(graph) == 3 and torch.equal(x, first) and not a.any()
    for i in range(1, 200):
        graph.replay()
        assert torch.equal(x, first + 3 * i)


def test_graph_keeps_its_memory() -> None:
    torch.manual_seed(0)
    weight = quantize_weight(torch.randn(48, 64), "u3", group_size=32)
    x = torch.randn(2, 64)
    with tilus.Graph() as graph:
        y = matmul(x, weight, torch.ones(48))
    want = matmul(x, weight, torch.ones(48))
    trash = [torch.full((2048,), 7.0) for _ in range(50)]
    graph.replay()
    assert torch.equal(y, want) and trash
    x.mul_(-2)
    graph.replay()
    assert torch.equal(y, matmul(x, weight, torch.ones(48)))


def test_fault_of_a_graph_names_its_kernel() -> None:
    x = torch.zeros(1, dtype=torch.int32)
    with tilus.Graph() as graph:
        small_only[1](x, 3)
        small_only[1](x, 30)
    for _ in range(2):
        with pytest.raises(Trap, match="n is large"):
            graph.replay()
    small_only[1](x, 4)
    with pytest.raises(Trap, match="n is large"):
        small_only[1](x, 10)


def test_recordings_do_not_nest_and_end() -> None:
    graph = tilus.Graph()
    graph.replay()
    with graph:
        with pytest.raises(TilusValueError, match="do not nest"), tilus.Graph():
            pass
        with pytest.raises(TilusValueError, match="still being recorded"):
            graph.replay()
    with pytest.raises(RuntimeError, match="planned"), graph:
        raise RuntimeError("planned")
    x = torch.zeros(16, dtype=torch.int32)
    add_one[1](x, x, 16, BLOCK=16)
    assert (x == 1).all()


def test_interpreted_launches_are_not_recorded() -> None:
    x = torch.zeros(16, dtype=torch.int32)
    with tilus.Graph(), pytest.raises(TilusNotImplementedError, match="is interpreted"):
        add_one[1](x, x, 16, BLOCK=16, num_warps=1)


def test_another_thread_does_not_record() -> None:
    x = torch.zeros(16, dtype=torch.int32)
    with tilus.Graph() as graph:
        other = threading.Thread(target=lambda: add_one[1](x, x, 16, BLOCK=16))
        other.start()
        other.join()
    assert len(graph) == 0 and (x == 1).all()


def test_launches_from_many_threads() -> None:
    x = torch.arange(4096, dtype=torch.int32)
    outs = [torch.zeros_like(x) for _ in range(4)]

    def work(out: torch.Tensor) -> None:
        for _ in range(50):
            add_one[(32,)](x, out, 4096, BLOCK=128)

    threads = [threading.Thread(target=work, args=(out,)) for out in outs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(out, x + 1) for out in outs)
