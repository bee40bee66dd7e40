"""`tilus bench attention`: what it counts and prints."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tilus.kernels import bench as probes
from tilus.kernels import bench_attention
from tilus.kernels.bench_attention import Case

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--keys", "100")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "READ_BYTES", 8 << 20)
    monkeypatch.setattr(probes, "PROBE_BYTES", 1 << 20)
    monkeypatch.setattr(bench_attention, "COLD_BYTES", 1 << 20)
    monkeypatch.setattr(bench_attention, "ROUNDS", 2)


def test_operations_are_those_of_visible_keys() -> None:
    """Three queries at the end of five keys see 3, 4 and 5 of them."""
    assert Case("f32", 2, 1, 8, 5, 3).operations == 2 * 2 * 2 * 8 * (3 + 4 + 5)
    assert Case("f32", 1, 1, 1, 7, 1).operations == 4 * 7


@pytest.mark.parametrize("queries", [1, 30])
def test_cases(tilus: Run, queries: int) -> None:
    code, out, _ = tilus("bench", "attention", *SMALL, "--queries", str(queries), "--json", "-")
    assert code == 0
    bf16, i8 = json.loads(out)["cases"]
    assert (bf16["kv"], i8["kv"], i8["queries"]) == ("bf16", "i8", queries)
    assert 0 < i8["error"] < 0.02 and 0 < bf16["error"] < 0.02
    assert all(c["us"] > 0 and c["torch_us"] > 0 and c["of_stream"] > 0 for c in (bf16, i8))
    nbytes = 2 * 2 * 100 * (32 + 4)
    assert i8["gbps"] == pytest.approx(nbytes / i8["us"] / 1e3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kv", "u4"), "--kv: 'u4' is none of"),
        (("--kv-heads", "3"), "no multiple of --kv-heads"),
        (("--queries", "101"), "more than --keys"),
    ],
)
def test_options_out_of_place(tilus: Run, options: tuple[str, str], message: str) -> None:
    code, _, err = tilus("bench", "attention", *SMALL, *options)
    assert code == 2 and message in err
