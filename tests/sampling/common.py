"""What a sample is, how its inputs are made, and how results are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.ir.parser import parse
from tilus.ir.program import Function

Array = np.ndarray[Any, np.dtype[Any]]
Values = dict[str, Any]
BOOL = dtypes.bool_


@dataclass(frozen=True)
class Near:
    """A result whose error is measured against `scale` (a sum: the sum of the absolute values)."""

    values: Array
    scale: Array


@dataclass(frozen=True)
class Buffer:
    """Memory behind a pointer parameter: packed elements, and how they are made."""

    dtype: DType
    shape: tuple[int, ...]
    make: Callable[[np.random.Generator, DType, tuple[int, ...]], Array] | None = None


@dataclass
class Case:
    """Arguments for one run of a sample."""

    sample: Sample
    args: dict[str, Any]
    values: Values  # before the run

    def check(self) -> None:
        """Compare all memory with what it must be now."""
        __tracebackhide__ = True
        wanted = self.sample.reference(**self.values)
        for name, buffer in self.sample.buffers.items():
            got = unpacked(self.args[name], buffer)
            if name in wanted:
                close(got, wanted[name], buffer.dtype, self.sample.ulps, f"%{name}")
            else:
                close(got, self.values[name], buffer.dtype, 0, f"%{name}, an input")


@dataclass(frozen=True)
class Sample:
    """A kernel, and what it must do. In `text`, THREADS stands for the number of threads."""

    opcode: str
    variant: str
    text: str
    buffers: dict[str, Buffer]
    reference: Callable[..., Values]  # of all arguments' values, by name: what memory then holds
    scalars: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1, 32, 128)
    ulps: float = 0  # of the output's type; 0: exact
    prints: str = ""

    @property
    def name(self) -> str:
        """What tests and golden files call it."""
        return f"{self.opcode}-{self.variant}" if self.variant else self.opcode

    def program(self, num_threads: int) -> Function:
        """The kernel for a number of threads."""
        return parsed(self.text.replace("THREADS", str(num_threads)))

    def case(self, seed: int = 0) -> Case:
        """Fresh arguments."""
        rng = np.random.default_rng(seed)
        args: dict[str, Any] = dict(self.scalars)
        values: Values = dict(self.scalars)
        for name, b in self.buffers.items():
            made = np.zeros(b.shape) if b.make is None else b.make(rng, b.dtype, b.shape)
            codes = b.dtype.encode(made if b.dtype.is_float else made.astype(b.dtype.value_dtype))
            args[name] = aligned(dtypes.pack(codes.reshape(-1), b.dtype.bits))
            values[name] = unpacked(args[name], b)
        return Case(self, args, values)


parsed = lru_cache(maxsize=None)(parse)  # programs never change


def aligned(data: Array, to: int = 256) -> Array:
    """A copy that begins at a multiple of `to` bytes."""
    room = np.zeros(data.size + to, np.uint8)
    start = -room.ctypes.data % to
    room[start : start + data.size] = data
    return room[start : start + data.size]


def unpacked(data: Array, b: Buffer) -> Array:
    """The values in packed memory."""
    codes = dtypes.unpack(data, b.dtype.bits, prod(b.shape))
    return b.dtype.decode(codes).reshape(b.shape)


def close(got: Array, want: Array | Near, dtype: DType, ulps: float, what: str) -> None:
    """Fail unless values are what they must be: exactly, or within `ulps` of the type."""
    __tracebackhide__ = True
    scale = want.scale if isinstance(want, Near) else np.abs(np.asarray(want, np.float64))
    want = want.values if isinstance(want, Near) else np.asarray(want)
    assert got.shape == want.shape, f"{what} is of shape {got.shape}, not {want.shape}"
    if not dtype.is_float or not ulps:
        same = (got == want) | ((got != got) & (want != want))
        assert same.all(), f"{what}: {got[~same][:5]} must be {want[~same][:5]}"
        return
    with np.errstate(all="ignore"):
        rounded = dtypes.convert(want.astype(np.float64), dtypes.f64, dtype).astype(np.float64)
        least = 2.0 ** (1 - dtype.bias)
        step = (
            ulps * 2.0**-dtype.mantissa_bits * np.maximum(np.where(scale < 1e308, scale, 0), least)
        )
        near = np.abs(got.astype(np.float64) - want) <= step
    near |= (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    assert near.all(), f"{what}: {got[~near][:5]} must be {rounded[~near][:5]}"


# Inputs


def numbers(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Values of the whole type, its edges among them."""
    if dtype.name == "bool":
        return rng.integers(0, 2, shape)
    if dtype.is_integer:
        low, high = int(dtype.min), int(dtype.max)
        x = rng.integers(low, high, shape, dtype=dtype.value_dtype, endpoint=True)
        edges: list[Any] = [low, high, 0, *([1, -1] if low < -1 else [])]
    else:
        x = rng.normal(0, 2, shape)
        edges = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, np.inf, -np.inf, np.nan, 1e-6]
    x.reshape(-1)[: len(edges)] = np.array(edges[: x.size], x.dtype)
    return x


def ordinary(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Small numbers, none of them special."""
    if dtype.is_float:
        return rng.normal(0, 1, shape)
    low, high = max(int(dtype.min), -50), min(int(dtype.max), 50)
    return rng.integers(low, high, shape, endpoint=True)


def nonzero(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """The whole type but 0."""
    x = numbers(rng, dtype, shape)
    return np.where(x == 0, np.ones_like(x) if dtype.max > 0 else -np.ones_like(x), x)


def counts(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Shift counts: 0 to bits - 1, as far as the type goes."""
    return rng.integers(0, min(dtype.bits - 1, int(dtype.max)), shape, endpoint=True)


def increasing(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    """0, 1, 2, ..., wrapped where the type ends."""
    return (np.arange(prod(shape)) % (1 << min(dtype.bits, 11))).reshape(shape)


# References


def wrapped(x: Any, dtype: DType) -> Array:
    """Python's integers, brought into the type's range."""
    low, span = int(dtype.min), 1 << dtype.bits
    wrap = np.frompyfunc(lambda n: (int(n) - low) % span + low, 1, 1)
    return wrap(x).astype(dtype.value_dtype)


def python(fn: Callable[..., Any], dtype: DType) -> Callable[..., Array]:
    """An integer function, in Python's arithmetic."""
    ufunc = np.frompyfunc(fn, fn.__code__.co_argcount if hasattr(fn, "__code__") else 2, 1)
    return lambda *xs: wrapped(ufunc(*(x.astype(object) for x in xs)), dtype)


TORCH = {
    dtypes.f16: torch.float16,
    dtypes.bf16: torch.bfloat16,
    dtypes.f32: torch.float32,
    dtypes.f64: torch.float64,
}


def native(fn: Callable[..., Any], dtype: DType) -> Callable[..., Array]:
    """torch's function in the type itself: for what is rounded correctly."""

    def call(*xs: Array) -> Array:
        out = fn(*(torch.from_numpy(np.array(x)).to(TORCH[dtype]) for x in xs))
        return out.to(torch.float64).numpy() if out.dtype.is_floating_point else out.numpy()

    return call


def precise(fn: Callable[..., Any]) -> Callable[..., Array]:
    """torch's function in f64: for what may be off by some units in the last place."""
    return native(fn, dtypes.f64)


def kernel(params: str, body: str, name: str = "sample") -> str:
    """A kernel's text."""
    lines = "\n".join("  " + line.strip() for line in body.strip().splitlines())
    return f"kernel @{name}({params}) threads THREADS {{\n{lines}\n}}\n"


def total(x: Array, dim: int) -> Near:
    x = x.astype(np.float64)
    return Near(x.sum(dim), np.abs(x).sum(dim))
