"""Autotuning: what is left out, whose memory is touched, and what is remembered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tilus
from tests.lang import tuning
from tests.lang.tuning import (
    LARGE,
    QUICK,
    SLOW,
    SMALL,
    N,
    add,
    blocks,
    choices,
    launch,
    plus,
    tuned,
    work,
)
from tilus import Config, dtypes, f32, i32, ptr, u4
from tilus.errors import TilusTypeError, Trap
from tilus.lang.autotune import _difference, _Trial
from tilus.layouts import local, spatial
from tilus.options import options
from tilus.runtime import cache

ROOT = Path(__file__).resolve().parents[2]


# --- what is left out ---


def test_a_wrong_config_is_left_out_however_fast(folder):
    configs = Config(WORK=20_000, PLUS=1.0), Config(WORK=1, PLUS=1.5)
    kernel = tuned(plus, *configs, cost=lambda a: a["PLUS"])
    x, y = torch.zeros(N), torch.zeros(N)
    with pytest.warns(RuntimeWarning) as caught:
        kernel[4](x, y, N)
    assert y.tolist() == [1.0] * N
    assert kernel.best == {(): kernel.configs[0]}
    (warning,) = caught
    assert str(warning.message) == (
        "autotune of `plus`: Config(WORK=1, PLUS=1.5) is left out: its `y` is not that of "
        "Config(WORK=20000, PLUS=1.0): 1000 of 1000 elements differ, by up to 0.5"
    )
    assert warning.filename == __file__


@tilus.jit
def total(x: ptr[f32], y: ptr[f32], n: i32, BLOCK: tilus.constexpr):
    X, sums = tilus.global_view(x, f32, (n,)), tilus.zeros(f32, (BLOCK,))
    for i in range(0, n, BLOCK):
        sums = sums + tilus.load_global(X, i, BLOCK)
    tilus.store_global(tilus.global_view(y, f32, (1,)), tilus.sum(sums, 0, keepdims=True), 0)


def test_rounding_is_no_difference(folder):
    x, y = torch.rand(100_000), torch.zeros(1)
    results = set()
    configs = [Config(BLOCK=b) for b in (2, 64, 1024)]
    for config in configs:
        total[1](x, y, 100_000, **config.keywords)
        results.add(y.item())
    assert len(results) > 1
    tuned(total, *configs)[1](x, y, 100_000)  # a warning would be an error
    assert y.item() in results


@tilus.jit
def in_a_layout(x: ptr[f32], n: i32, LAYOUT: tilus.constexpr):
    X = tilus.global_view(x, f32, (n,))
    tilus.store_global(X, tilus.load_global(X, 0, 64, layout=LAYOUT) + 1.0, 0)


@pytest.mark.parametrize("on", [True, False])
def test_what_does_not_compile_is_left_out(folder, on):
    x = torch.zeros(128)
    with options.scope(autotune=on):
        kernel = tuned(add, Config(BLOCK=0), Config(BLOCK=64), Config(BLOCK=-1))
        kernel[lambda p: 2](x, 128)
        assert kernel.best == {(): Config(BLOCK=64)}
        spread = Config(LAYOUT=spatial(8) * local(8))  # fine until one thread is to hold it
        laid_out = tuned(in_a_layout, spread, Config(LAYOUT=local(64)), top=1)
        laid_out[1](x, 128)
        assert laid_out.best == {(): Config(LAYOUT=local(64))}
    assert x.tolist() == [2.0] * 64 + [1.0] * 64


def test_nothing_compiles(folder):
    kernel = tuned(add, Config(BLOCK=0), Config(BLOCK=-1))
    with pytest.raises(TilusTypeError, match=r"is 0; a tile's extents are at least 1") as e:
        kernel[lambda p: 1](torch.zeros(4), 4)
    assert e.value.__notes__ == [
        "autotune of `add`: this is Config(BLOCK=0)'s error; "
        "tried: Config(BLOCK=0), Config(BLOCK=-1)"
    ]
    assert not kernel.best and not choices(folder)


@tilus.jit
def limited(x: ptr[f32], n: i32, BLOCK: tilus.constexpr):
    assert n <= BLOCK, "more than a block"
    X = tilus.global_view(x, f32, (n,))
    tilus.store_global(X, tilus.load_global(X, 0, BLOCK) + 1.0, 0)


def test_what_fails_when_it_runs_is_left_out(folder):
    kernel = tuned(limited, SMALL, LARGE)
    x = torch.zeros(100)
    with pytest.warns(RuntimeWarning, match=r"BLOCK=64\) is left out: its run fails: .*more than"):
        kernel[1](x, 100)
    assert x.tolist() == [1.0] * 100 and kernel.best == {(): LARGE}


def test_what_always_fails_is_no_choice(folder):
    kernel = tuned(limited, SMALL, LARGE)
    with pytest.raises(Trap, match="more than a block"):
        kernel[1](torch.zeros(300), 300)
    assert not kernel.best and not choices(folder)


ONE = np.ones(100, np.float32)


@pytest.mark.parametrize(
    ("dtype", "values", "others", "found"),
    [
        (f32, ONE, ONE * 1.0001, None),
        (f32, ONE, ONE * 1.001, "100 of 100 elements differ, by up to 0.001"),
        (f32, ONE, np.where(np.arange(100) == 7, 1.5, ONE), "1 of 100 elements differ"),
        (f32, np.r_[ONE, 1e-9], np.r_[ONE, 0.0], None),
        (f32, np.r_[ONE, np.nan, np.inf], np.r_[ONE * 1.0001, np.nan, np.inf], None),
        (f32, np.r_[ONE, np.inf], np.r_[ONE, 1.0], "1 of 101"),
        (f32, ONE, np.where(np.arange(100) == 7, np.nan, ONE), "1 of 100"),
        (f32, ONE * np.inf, ONE * -np.inf, "100 of 100"),
        (f32, ONE * 0, ONE * -0.0, None),
        (dtypes.f64, ONE, ONE * (1 + 1e-6), "100 of 100"),
        (dtypes.f16, ONE, ONE * 1.03, None),
        (dtypes.f16, ONE, ONE * 1.07, "100 of 100"),
        (dtypes.bf16, ONE, ONE * 1.1, None),
        (dtypes.f6e3m2, ONE, ONE * 1.25, None),
        (dtypes.f6e3m2, ONE, ONE * 4, "100 of 100"),
        (i32, ONE * 1e6, ONE * 1e6 + 1, "100 of 100 elements differ, by up to 1"),
        (dtypes.u3, ONE[:96], ONE[:96] * 2, "96 of 96"),
        (dtypes.nf4, ONE, -ONE, "100 of 100 elements differ, by up to 2"),
    ],
)  # fmt: skip
def test_differences(dtype, values, others, found):
    def memory(x):
        codes = dtype.encode(np.asarray(x).astype(dtype.value_dtype))
        return dtypes.pack(codes, dtype.bits)

    got = _difference(memory(others), memory(values), dtype)
    assert got is None if found is None else got.startswith(found)


@tilus.jit
def as_bytes(x: ptr[tilus.u8], y: ptr[tilus.u8], TYPE: tilus.constexpr, SPLIT: tilus.constexpr):
    t = tilus.load_global(tilus.global_view(x, TYPE, (1000,)), 0, 1000)
    half = tilus.sum(t[:SPLIT], 0, keepdims=True) + tilus.sum(t[SPLIT:], 0, keepdims=True)
    tilus.store_global(tilus.global_view(y, TYPE, (1,)), half, 0)


def test_memory_is_compared_as_what_the_kernel_sees_in_it(folder):
    kernel = tuned(as_bytes, Config(SPLIT=1), Config(SPLIT=500), Config(SPLIT=900))
    for seed in range(3):
        torch.manual_seed(seed)
        x, y = torch.rand(1000), torch.zeros(1)
        kernel.best.clear()
        kernel._measured.clear()
        kernel[1](x.view(torch.uint8), y.view(torch.uint8), f32)
        assert abs(y - x.sum()) < 1e-2


# --- whose memory is touched ---


def test_tuning_leaves_what_one_run_leaves(folder, measured):
    kernel = tuned(add, SMALL, LARGE, Config(BLOCK=512))
    x = torch.arange(N, dtype=torch.float32)
    kernel[blocks](x, N)
    assert measured and torch.equal(x, torch.arange(N) + 1.0)


@tilus.jit
def rows(x: ptr[f32], y: ptr[f32], n: i32, stride: i32, BLOCK: tilus.constexpr):
    """y = 2 y + x, [n, 8] in rows of `stride`."""
    X = tilus.global_view(x, f32, (n, 8), strides=(stride, 1))
    Y = tilus.global_view(y, f32, (n, 8), strides=(stride, 1))
    at = (tilus.block_idx() * BLOCK, 0)
    t = tilus.load_global(X, at, (BLOCK, 8)) + tilus.load_global(Y, at, (BLOCK, 8)) * 2.0
    tilus.store_global(Y, t, at)


@pytest.mark.parametrize("kind", ["torch", "numpy", "same", "mixed"])
def test_strided_and_shared_memory(folder, kind):
    base = np.random.default_rng(0).standard_normal((100, 20)).astype(np.float32)
    want = base.copy()
    x, y = (base[10:60, 1:9], base[10:60, 9:17])
    if kind == "same":
        y = x
    expected = want[10:60, 9:17] if kind != "same" else want[10:60, 1:9]
    expected[:] = want[10:60, 1:9] + 2 * expected
    if kind == "torch":
        x = torch.from_numpy(base)[10:60, 1:9]
    if kind in ("torch", "mixed"):
        y = torch.from_numpy(base)[10:60, 9:17]
    configs = [Config(BLOCK=b) for b in (1, 16, 64)]
    kernel = tuned(rows, *configs)
    kernel[blocks](x, y, 50, 20)
    np.testing.assert_array_equal(base, want)
    assert kernel.best


def test_copies_are_made_as_the_tensors_lie(folder):
    base = torch.arange(64, dtype=torch.float32)
    packed = tilus.Tensor.from_codes(torch.arange(15, dtype=torch.uint8), u4)
    tensors = {
        "slice": base[3:40],
        "later": base[39:],
        "matrix": base.view(8, 8).T[1:4, ::2],
        "numpy": np.arange(20, dtype=np.int16)[18:2:-3],
        "packed": packed,
        "half": torch.arange(8).bfloat16(),
    }

    @tilus.jit
    def dummy(
        slice: ptr[f32],
        later: ptr[f32],
        matrix: ptr[f32],
        numpy: ptr[tilus.i16],
        packed: ptr[u4],
        half: ptr[tilus.bf16],
        empty: ptr[f32],
        BLOCK: tilus.constexpr,
    ):
        pass

    kernel = tuned(dummy, SMALL)
    empty = torch.empty(0)
    (candidate,) = kernel._candidates(1, (*tensors.values(), empty), {})
    trial = _Trial(kernel, 1, candidate)
    assert "empty" not in trial.copies
    for name, x in tensors.items():
        copy = trial.copies[name]
        if isinstance(x, tilus.Tensor):
            assert copy.equal(x)
            x, copy = x.storage, copy.storage
        there = [t.data_ptr() if hasattr(t, "data_ptr") else t.ctypes.data for t in (x, copy)]
        assert there[0] != there[1] and (there[0] - there[1]) % 64 == 0
        assert x.tolist() == copy.tolist() and x.dtype == copy.dtype
        strides = [t.stride() if hasattr(t, "stride") else t.strides for t in (x, copy)]
        assert strides[0] == strides[1]
    trial.copies["slice"][36] = -1.0  # is later[0], and in the matrix
    assert trial.copies["later"][0] == -1.0
    assert base[39] == 39.0


def test_each_run_begins_with_the_callers_values(folder):
    """x is read and written: after 2000 doublings it would be infinite."""
    seen = []

    @tilus.jit
    def doubled(x: ptr[f32], n: i32, BLOCK: tilus.constexpr):
        X = tilus.global_view(x, f32, (n,))
        at = tilus.block_idx() * BLOCK
        tilus.store_global(X, tilus.load_global(X, at, BLOCK) * 2.0, at)

    kernel = tuned(doubled, SMALL, LARGE)
    x = torch.ones(300)
    real = _Trial.call

    def call(self, c):
        ready = real(self, c)
        seen.append(self.copies["x"].tolist() == [1.0] * 300)
        return ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Trial, "call", call)
        kernel[blocks](x, 300)
    assert len(seen) >= 5 and all(seen)
    assert x.tolist() == [2.0] * 300


# --- what is remembered ---


def test_the_disk_remembers(folder, measured):
    launch(tuned(work, SLOW, QUICK))
    (entry,) = choices(folder)
    again = tuned(work, SLOW, QUICK)
    launch(again)
    assert again.best == {(): QUICK}
    assert measured == ["work"] and choices(folder) == [entry]
    with options.scope(always_compile=True):
        launch(tuned(work, SLOW, QUICK))
    assert len(measured) == 2


SCRIPT = """
import sys, torch, tilus
from tilus import Config, f32, i32, ptr
from tilus.lang.autotune import Autotuned

@tilus.autotune([Config(BLOCK=4), Config(BLOCK=512)], key="n")
@tilus.jit
def add(x: ptr[f32], n: i32, BLOCK: tilus.constexpr):
    X = tilus.global_view(x, f32, (n,))
    at = tilus.block_idx() * BLOCK
    tilus.store_global(X, tilus.load_global(X, at, BLOCK) + 1.0, at)

fastest = Autotuned._fastest
def shown(self, *args):
    print("measuring")
    return fastest(self, *args)
Autotuned._fastest = shown
torch.set_num_threads(1)
x = torch.zeros(100_000)
add[lambda p: tilus.cdiv(p["n"], p["BLOCK"])](x, len(x))
print(add.best, x.unique().tolist())
"""


def test_another_process_remembers(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("TILUS_AUTOTUNE", "1")
    monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, str(tmp_path / "script.py")]
    outputs = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    choice = "{(100000,): Config(BLOCK=512)} [1.0]\n"
    assert outputs == [f"measuring\n{choice}", choice]


@pytest.mark.parametrize("damage", ["cut", "flipped", "senseless", "out of range"])
def test_a_damaged_entry_is_made_again(folder, measured, damage):
    launch(tuned(work, SLOW, QUICK))
    (entry,) = choices(folder)
    whole = entry.read_bytes()
    if damage in ("cut", "flipped"):
        entry.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + b"0")
    else:
        cache.write(entry.name, b"fast" if damage == "senseless" else b"2")
    kernel = tuned(work, SLOW, QUICK)
    launch(kernel)
    assert kernel.best == {(): QUICK} and len(measured) == 2
    assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_written_to(folder, measured):
    (folder / "file").write_text("not a folder")
    cache._warn.cache_clear()
    with options.scope(cache_dir=folder / "file"):
        with pytest.warns(RuntimeWarning, match="cannot be kept in"):
            launch(tuned(work, SLOW, QUICK))
        kernel = tuned(work, SLOW, QUICK)
        launch(kernel)
        launch(kernel)
    assert kernel.best == {(): QUICK} and len(measured) == 2


def test_what_a_choice_on_disk_depends_on(folder, measured, monkeypatch):
    def names(kernel=add, configs=(SMALL, LARGE), n=100, **keywords):
        kernel = tuned(kernel, *configs, key="n", **keywords)
        kernel[blocks](torch.zeros(n), n)
        return len(choices(folder))

    assert names() == 1 and names() == 1
    assert names(n=200) == 2
    assert names(configs=(LARGE, SMALL)) == 3
    assert names(configs=(SMALL, LARGE, Config(BLOCK=128))) == 4
    assert names(top=2) == 5
    with options.scope(cpu_features="avx2"):
        assert names() == 6
    monkeypatch.setattr(tuning, "PLUS", 2.0)  # changes the kernel
    assert names() == 7
    assert names(configs=[Config(BLOCK=b, num_threads=1) for b in (64, 256)]) == 7
    monkeypatch.setattr(cache, "source_hash", lambda: "another version")
    assert names() == 8
    assert len(measured) == 8


def test_a_kernel_that_changes_is_traced_again(folder, monkeypatch):
    kernel = tuned(add, SMALL, LARGE, key="n")
    x = torch.zeros(8)
    kernel[blocks](x, 8)
    monkeypatch.setattr(tuning, "PLUS", 5.0)
    kernel[blocks](x, 8)
    kernel[blocks](x, 7)
    assert x.tolist() == [11.0] * 7 + [6.0]
    traced = kernel._traced({"BLOCK": 64}, 1)
    assert "5.0" in str(traced)
