"""Native sampling against the reference, and against the distribution it is to have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tilus
from tilus import f64, i32, u64
from tilus.errors import TilusTypeError
from tilus.kernels import reference
from tilus.kernels.device import cpu_sampling as device
from tilus.kernels.product import compiled
from tilus.kernels.sampling import sample

CLOSE = 1e-6  # of the total: so near to a boundary, rounding may decide
INF = math.inf


def placed(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Seeds and positions for some rows."""
    make = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (rows,), generator=make), torch.arange(rows)


def normal(rows: int, size: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed + 1000 * size)
    return torch.randn(rows, size, generator=make) * spread


def as_stored(*numbers: float) -> list[torch.Tensor]:
    """Temperature, top_k, top_p and min_p as the kernel sees them."""
    heat, keep, mass, floor = numbers
    return [torch.tensor(heat), torch.tensor(int(keep)), torch.tensor(mass), torch.tensor(floor)]


def differing(
    monkeypatch: pytest.MonkeyPatch,
    x: torch.Tensor,
    numbers: tuple[float, float, float, float],
    seed: int = 0,
) -> int:
    """How many choices are not the reference's; those must lie at a boundary, as computed there."""
    rows = len(x)
    at = placed(rows, seed)
    got, want = sample(x, *numbers, *at), reference.sample(x, *as_stored(*numbers), *at)
    wrong = torch.nonzero(got != want).flatten()
    allowed: list[set[int]] = [set() for _ in wrong]
    draw: Callable[[int, int], float] = reference.uniform
    heat, keep, mass, floor = numbers
    if len(wrong):
        nudges = (1 - CLOSE, 1.0, 1 + CLOSE)
        for p, m, shift in itertools.product(nudges, nudges, (-CLOSE, 0.0, CLOSE)):
            with monkeypatch.context() as patch:
                patch.setattr(reference, "uniform", lambda s, i, d=shift: draw(s, i) + d)
                some = [s[wrong] for s in at]
                near = reference.sample(x[wrong], heat, keep, mass * p, floor * m, *some)
            for found, token in zip(allowed, near.tolist(), strict=True):
                found.add(token)
    for row, found in zip(wrong.tolist(), allowed, strict=True):
        assert got[row].item() in found, f"row {row}: {got[row]}, not {want[row]}"
    return len(wrong)


SETTINGS = [
    (0.0, 0, 1.0, 0.0),
    (0.0, 3, 0.5, 0.1),
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.5, 1, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.0, 0, 1.0, 0.05),
    (0.8, 40, 0.95, 0.02),
    (2.0, 300, 0.5, 0.0),
    (1.0, 10**6, 0.3, 0.0),
    (1.0, 0, 0.0, 0.0),
    (1.0, 0, 1e-7, 0.0),
    (1.0, 0, 0.9999999, 0.0),
    (1.0, 0, 1.0, 1.0),
]


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 1000, 5003])
@pytest.mark.parametrize("numbers", SETTINGS)
def test_random_rows(
    monkeypatch: pytest.MonkeyPatch, size: int, numbers: tuple[float, float, float, float]
) -> None:
    count = differing(monkeypatch, normal(20, size, 3.0), numbers)
    ties = normal(20, size, 3.0, seed=1).round()
    assert count + differing(monkeypatch, ties, numbers, seed=1) <= 1


@pytest.mark.parametrize(
    "numbers", [(1.0, 0, 1.0, 0.0), (1.0, 20_000, 0.8, 0.0), (0.8, 50, 0.9, 0)]
)
def test_large_vocabulary(
    monkeypatch: pytest.MonkeyPatch, numbers: tuple[float, float, float, float]
) -> None:
    x = torch.cat([normal(3, 40_001, 2.0), normal(2, 40_001, 2.0, seed=1).round()])
    assert differing(monkeypatch, x, numbers) <= 1


@given(data=st.data())
@settings(max_examples=60)
def test_any_settings(data: st.DataObject) -> None:
    size, seed = data.draw(st.integers(1, 700)), data.draw(st.integers(0, 2**30))
    step = data.draw(st.sampled_from([0.0, 0.125, 1.0, 4.0]))
    x = normal(6, size, data.draw(st.sampled_from([0.01, 1.0, 10.0])), seed)
    x = (x / step).round() * step if step else x
    hidden = data.draw(st.floats(0, 0.9))
    x[:, 1:][torch.rand(6, size - 1, generator=torch.Generator().manual_seed(seed)) < hidden] = -INF
    numbers = (
        data.draw(st.one_of(st.just(0.0), st.floats(0.05, 20))),
        data.draw(st.integers(0, size + 5)),
        data.draw(st.one_of(st.just(1.0), st.floats(0, 1))),
        data.draw(st.one_of(st.just(0.0), st.floats(0, 1))),
    )
    with pytest.MonkeyPatch.context() as patch:
        differing(patch, x, numbers, seed)


def test_equal_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0.0, -7.5, 3e38, -3e38):
        x = torch.full((40, 1000), value)
        for numbers in ((1.0, 0, 1.0, 0.0), (1.0, 300, 1.0, 0.0), (1.0, 0, 0.2563, 0.0)):
            assert differing(monkeypatch, x, numbers) <= 1
        zero = torch.zeros(40, dtype=torch.int64)
        assert torch.equal(sample(x, 0.0, 0, 1.0, 0.0, *placed(40)), zero)
        assert torch.equal(sample(x, 1.0, 0, 0.0, 0.0, *placed(40)), zero)
        assert sample(x, 1.0, 300, 1.0, 0.0, *placed(40)).max() < 300
    signs = torch.tensor([[-1.0, -0.0, 0.0, -0.0]]).repeat(40, 1)
    assert differing(monkeypatch, signs, (1.0, 2, 1.0, 0.0)) == 0
    assert sample(signs, 0.0, 0, 1.0, 0.0, *placed(40)).tolist() == [1] * 40


def test_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.full((6, 600), -INF)
    x[0, 300] = -3e38
    x[1, ::7] = 3e38
    x[2] = torch.linspace(-3, 3, 600) * 1e38
    x[3] = normal(1, 600)[0] * 1e-40
    x[4, 255:257] = 5.0
    x[5, 599], x[5, 3] = 88.0, -1e30
    for numbers in SETTINGS:
        for heat in (numbers[0], 1e-30, 1e30, 1e38):
            differing(monkeypatch, x, (heat, *numbers[1:]))


def test_differences_beyond_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (torch.linspace(-3, 3, 50) * 1e38).repeat(200, 1)
    assert differing(monkeypatch, x, (1e38, 0, 1.0, 0.0)) == 0
    assert 0 <= sample(x, 1e38, 0, 1.0, 0.0, *placed(200)).min() < 20  # 3.7e38 below the largest


def test_the_next_one_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in range(3, 12):
        x = torch.arange(float(size)).repeat(50, 1)
        assert differing(monkeypatch, x, (100.0, size - 1, 1.0, 0.0)) == 0
        assert sample(x, 100.0, size - 1, 1.0, 0.0, *placed(50)).min() > 0


def test_rows_without_an_answer() -> None:
    x = normal(7, 515)
    x[1, 514], x[2, 0], x[3], x[4, 256] = math.nan, INF, -INF, -math.nan
    x[5] = math.nan
    for heat, keep, mass in ((0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 9, 0.5)):
        got = sample(x, heat, keep, mass, 0.0, *placed(7))
        assert (got[1:6] == -1).all() and got[0] >= 0 and got[6] >= 0


def test_distribution() -> None:
    rows, row = 20_000, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -2.0, 2.0, 1.5])
    x = row.repeat(rows, 1)
    for numbers, kept in (
        ((0.7, 0, 1.0, 0.0), range(8)),
        ((1.3, 3, 1.0, 0.0), (2, 6, 7)),
        ((1.3, 1, 1.0, 0.0), (2,)),
        ((1.0, 0, 0.9, 0.0), (2, 6, 7, 4, 0)),
        ((1.0, 0, 1.0, 0.3), (2, 6, 7, 4)),
    ):
        weights = torch.zeros(8, dtype=torch.float64)
        weights[list(kept)] = torch.exp(row[list(kept)].double() / numbers[0])
        expected = rows * weights / weights.sum()
        got = sample(x, *numbers, torch.full((rows,), 17), torch.arange(rows)).bincount(minlength=8)
        assert (got[weights == 0] == 0).all()
        excess = (got - expected).square() / expected.clamp_min(1e-9)
        assert excess[weights > 0].sum() < 40  # of at most 7 degrees of freedom: p = 1e-6


@tilus.jit(num_threads=1)
def draws(seed: tilus.ptr[u64], position: tilus.ptr[u64], out: tilus.ptr[f64], rows: i32):
    row = tilus.block_idx(0)
    at = [device.number_tile(p, rows, row) for p in (seed, position)]
    tilus.store_global(tilus.global_view(out, f64, (rows,)), device.uniform(*at), (row,))


WORDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 2**32, -(2**63)]))


@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20))
def test_random_numbers(pairs: list[tuple[int, int]]) -> None:
    seed, position = torch.tensor(pairs).T.contiguous()
    out = torch.empty(len(pairs), dtype=torch.float64)
    tensors = (seed, position, out)
    args = [*(t.data_ptr() for t in tensors), len(pairs)]
    compiled(draws, {}).launch(args, (len(pairs), 1, 1), tensors)
    assert out.tolist() == [reference.uniform(s, i) for s, i in pairs]


def mixed(rows: int) -> tuple[torch.Tensor, ...]:
    """Settings that differ from row to row."""
    some = [SETTINGS[i % len(SETTINGS)] for i in range(rows)]
    columns = list(zip(*some, strict=True))
    return (
        torch.tensor(columns[0]), torch.tensor(columns[1]),
        torch.tensor(columns[2]), torch.tensor(columns[3]),
    )  # fmt: skip


def test_rows_and_threads_do_not_matter() -> None:
    rows = 2 * len(SETTINGS)
    x, tensors = normal(rows, 20_000, 2.0), (*mixed(rows), *placed(rows))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = sample(x, *tensors)
        torch.set_num_threads(3)
        got = sample(x, *tensors)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got, want)
    for r in range(rows):
        alone = sample(x[r : r + 1], *(t[r : r + 1] for t in tensors))
        assert alone.item() == want[r].item()


def test_graph_reads_tensors_when_replayed() -> None:
    rows = len(SETTINGS)
    x, out = normal(rows, 700), torch.empty(rows, dtype=torch.int64)
    tensors: tuple[torch.Tensor, ...] = (*mixed(rows), *placed(rows))
    with tilus.Graph() as graph:
        assert sample(x, *tensors, out) is out
    for turn in range(3):
        x.copy_(normal(rows, 700, seed=turn))
        for t in tensors:
            t.copy_(t.roll(1))
        tensors[-1].add_(1)
        graph.replay()
        assert torch.equal(out, reference.sample(x, *tensors))


def test_errors() -> None:
    x, (seed, position) = normal(2, 8), placed(2)
    good: dict[str, Any] = {
        "logits": x, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "seed": seed, "position": position,
    }  # fmt: skip
    for name, bad in (
        ("logits", x.double()),
        ("logits", x[:, ::2]),
        ("logits", x[0]),
        ("logits", x[:, :0]),
        ("temperature", torch.ones(3)),
        ("temperature", torch.ones(2, dtype=torch.float64)),
        ("top_k", torch.ones(2)),
        ("top_p", torch.ones(2, 1)),
        ("min_p", torch.ones(2, dtype=torch.int64)),
        ("seed", seed.int()),
        ("position", position[:1]),
        ("out", torch.empty(2)),
    ):
        with pytest.raises(TilusTypeError, match=f"`{name}` is"):
            sample(**{**good, name: bad})
    empty = torch.empty(0, dtype=torch.int64)
    assert len(sample(x[:0], 1.0, 0, 1.0, 0.0, empty, empty)) == 0
