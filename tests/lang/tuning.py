"""Kernels to be tuned, and what the tests of tuning share."""

import torch

import tilus
from tilus import Config, f32, i32, ptr
from tilus.runtime import cache

N = 1000
PLUS = 1.0


def blocks(p):
    return (tilus.cdiv(p["n"], p["BLOCK"]),)


def tuned(kernel, *configs, **keywords):
    """A kernel tuned anew: nothing is known of it in this process."""
    return tilus.autotune(configs, **keywords)(kernel)


@tilus.jit
def work(x: ptr[f32], y: ptr[f32], n: i32, WORK: tilus.constexpr):
    """y = x + 1, done WORK times."""
    X, Y = tilus.global_view(x, f32, (n,)), tilus.global_view(y, f32, (n,))
    at = tilus.block_idx() * 256
    for _ in range(WORK):
        tilus.store_global(Y, tilus.load_global(X, at, 256) + 1.0, at)


@tilus.jit
def plus(x: ptr[f32], y: ptr[f32], n: i32, PLUS: tilus.constexpr, WORK: tilus.constexpr = 1):
    """y = x + PLUS, done WORK times."""
    X, Y = tilus.global_view(x, f32, (n,)), tilus.global_view(y, f32, (n,))
    at = tilus.block_idx() * 256
    for _ in range(WORK):
        tilus.store_global(Y, tilus.load_global(X, at, 256) + PLUS, at)


@tilus.jit
def add(x: ptr[f32], n: i32, BLOCK: tilus.constexpr):
    """x += PLUS, in place."""
    X = tilus.global_view(x, f32, (n,))
    at = tilus.block_idx() * BLOCK
    tilus.store_global(X, tilus.load_global(X, at, BLOCK) + PLUS, at)


QUICK, SLOW = Config(WORK=1), Config(WORK=20_000)  # 13 ns each time
SMALL, LARGE = Config(BLOCK=64), Config(BLOCK=256)


def choices(folder):
    """The choices on disk; the other entries are code."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return [p for p in files if p.read_bytes()[len(cache.MAGIC) + 32 :].isdigit()]


def launch(kernel, n=N, **keywords):
    """Run a `work` or a `plus`, whatever its config, and check what it left."""
    x, y = torch.randn(n), torch.zeros(n)
    kernel[tilus.cdiv(n, 256)](x, y, n, **keywords)
    assert torch.equal(y, x + keywords.get("PLUS", 1.0))


@tilus.jit
def keyword_only(
    x: ptr[f32], n: i32, a: i32 = 0, b: i32 = 0, c: i32 = 0, *, BLOCK: tilus.constexpr
):
    """x += 1, in place."""
    X = tilus.global_view(x, f32, (n,))
    at = tilus.block_idx() * BLOCK
    tilus.store_global(X, tilus.load_global(X, at, BLOCK) + 1.0, at)
