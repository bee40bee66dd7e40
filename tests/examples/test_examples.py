"""Every example runs, is right, and compiles to what it is meant to show."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import examples
from examples.lowbit_matmul import TILE_K, TILE_M, TILE_N, lowbit_matmul
from examples.matmul import matmul
from tilus.dtypes import NARROW_TYPES, DType
from tilus.errors import Trap
from tilus.ir.instructions.memory import LoadGlobal
from tilus.ir.instructions.sync import Sync
from tilus.ir.instructions.view import ConvertLayout
from tilus.ir.interpreter import run
from tilus.ir.parser import parse
from tilus.ir.passes import PIPELINE, lower, run_passes
from tilus.ir.program import Assign, Function, Seq, Stmt, walk
from tilus.ir.rewrite import Rewriter
from tilus.ir.target import target
from tilus.kernels import weight_layout
from tilus.options import options

NAMES = examples.kernels()
MATMUL = {"BM": 32, "BN": 32, "BK": 32}


@pytest.mark.parametrize("interpreted", [False, True], ids=["native", "interpreted"])
@pytest.mark.parametrize("name", NAMES)
def test_runs_and_agrees_with_its_reference(name: str, interpreted: bool) -> None:
    torch.manual_seed(0)
    with options.scope(interpret=interpreted):
        checks = list(importlib.import_module(f"examples.{name}").main())
    assert checks
    assert [c for c in checks if not c.passed] == []


def kernels() -> list[Function]:
    """The examples' kernels as the front end gives them."""
    found = [matmul.trace(MATMUL)]
    layout = weight_layout("generic", NARROW_TYPES[2], (64, 64), rows=16, num_threads=32)
    found.append(lowbit_matmul.trace({"weights": layout, "GROUP": 64, "BM": 16}, num_threads=32))
    for name, constants in (
        ("vector_add", {"BLOCK": 256}),
        ("softmax", {"ROWS": 4, "COLUMNS": 64}),
        ("layer_norm", {"COLUMNS": 128}),
    ):
        found.append(getattr(importlib.import_module(f"examples.{name}"), name).trace(constants))
    return found


@pytest.mark.parametrize("f", kernels(), ids=lambda f: f.name)
def test_text_reads_back_after_every_pass(f: Function) -> None:
    assert parse(str(f)) == f
    for p in PIPELINE:
        f = run_passes(f, target("generic"), PIPELINE, after=p.name)
        assert parse(str(f)) == f


@pytest.mark.parametrize("dtype", NARROW_TYPES, ids=str)
def test_weights_of_any_width_are_loaded_16_bytes_at_a_time(dtype: DType) -> None:
    layout = weight_layout("generic", dtype, (TILE_K, TILE_N), rows=TILE_M, num_threads=32)
    constants = {"weights": layout, "GROUP": TILE_K, "BM": TILE_M}
    f = lower(lowbit_matmul.trace(constants, 32, {"w": 16, "n": 16, "k": 16}))
    loads = [s.inst for s in walk(f.body) if isinstance(s, Assign)]
    widths = [i.vector for i in loads if isinstance(i, LoadGlobal) and i.src.name == "W"]
    assert widths == [16]


def test_no_conversion_is_inserted_in_the_products() -> None:
    for f in kernels()[:2]:
        body = lower(f).body
        assert not any(
            isinstance(s, Assign) and isinstance(s.inst, ConvertLayout) for s in walk(body)
        )


class _Without(Rewriter):
    """A program without its `nth` barrier."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def statement(self, s: Stmt) -> Stmt:
        if isinstance(s, Assign) and isinstance(s.inst, Sync):
            self.left -= 1
            if self.left == -1:
                return Seq()
        return self.inside(s)


def test_each_inserted_barrier_is_needed() -> None:
    f = lower(matmul.trace(MATMUL))
    barriers = sum(isinstance(s, Assign) and isinstance(s.inst, Sync) for s in walk(f.body))
    assert barriers == 2
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64)).astype(np.float16) for _ in range(2))
    args = [a, b, np.zeros((64, 64), np.float16), 64, 64, 64]
    run(f, args, (2, 2))
    for n in range(barriers):
        with pytest.raises(Trap, match=r"race: thread \d+ .* shared memory"):
            run(_Without(n).function(f), args, (2, 2))
