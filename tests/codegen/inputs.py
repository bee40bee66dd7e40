"""Values of every element type to try functions on, and how they lie in registers."""

import functools

import numpy as np

from tilus import dtypes
from tilus.codegen.llvm.writer import element_type
from tilus.dtypes import ALL_TYPES, NARROW_TYPES, DType, Kind, lut

_LEVELS = np.random.default_rng(11).standard_normal(256) * 30
CODEBOOKS = (
    lut(2, [1, 0, -1, 0], "ternary"),
    lut(3, [1e30, 3.0, -1e-30, 0.0, -7.5, 3.0, 1e-30, -1e30], "wild"),
    lut(5, _LEVELS[:32], "five"),
    lut(6, np.sort(_LEVELS[:64]), "six"),
    lut(8, _LEVELS, "eight"),
)
TYPES = (*ALL_TYPES, *CODEBOOKS)
DENSE = 2000  # random codes, and random numbers, of types of more than 16 bits


def short(dtype: DType) -> str:
    """A name that a function may have."""
    return str(dtype).partition("(")[0]


def held_as_code(dtype: DType) -> bool:
    """Whether a register holds the code of a value rather than the value."""
    return dtype.kind is not Kind.BOOL and not dtype.is_integer and element_type(dtype)[0] in "ib"


def registers(dtype: DType, values: np.ndarray) -> np.ndarray:
    """Values as registers hold them; where that is codes, NaN and infinity may become others."""
    if held_as_code(dtype):
        return dtype.encode(values)
    return values.astype(np.uint8) if dtype.kind is Kind.BOOL else values


@functools.cache
def samples(dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """(values, registers): all of a type of at most 16 bits; else grids, edges, random ones."""
    if dtype.kind is Kind.BOOL:
        values = np.array([False, True])
        return values, registers(dtype, values)
    if dtype.bits <= 16:
        codes = np.arange(1 << dtype.bits, dtype=dtype.code_dtype)
        values = dtype.decode(codes)
        return values, codes if held_as_code(dtype) else values
    values = _integers(dtype) if dtype.is_integer else _floats(dtype)
    return values, registers(dtype, values)


def _random_codes(dtype: DType) -> np.ndarray:
    rng = np.random.default_rng(dtype.bits)
    return rng.integers(0, 1 << dtype.bits, DENSE, dtype=np.uint64).astype(dtype.code_dtype)


def _integers(dtype: DType) -> np.ndarray:
    """Random ones of every size, and the neighbours of the powers of two and their negatives."""
    codes = _random_codes(dtype)
    shifts = (np.arange(DENSE) % dtype.bits).astype(codes.dtype)
    edges = [s * ((1 << k) + d) for k in range(dtype.bits) for d in (-1, 0, 1) for s in (1, -1)]
    wrapped = np.array([e & ((1 << dtype.bits) - 1) for e in edges], dtype.code_dtype)
    small = codes >> shifts
    return np.concatenate([codes, small, ~small, wrapped]).view(dtype.value_dtype)


def _floats(dtype: DType) -> np.ndarray:
    """All values of all narrow types, the middles between them, integers; and their neighbours."""
    grid = np.unique(
        np.concatenate(
            [
                t.decode(np.arange(1 << t.bits, dtype=np.uint8)).astype(np.float64)
                for t in (*NARROW_TYPES, *CODEBOOKS)
                if t.kind is not Kind.BOOL
            ]
        )
    )
    rng = np.random.default_rng(dtype.bits)
    with np.errstate(all="ignore"):
        middles = (grid[1:] + grid[:-1]) / 2
        halves = [2.0**k + d for k in range(66) for d in (-1, -0.5, 0, 0.5, 1)]
        spread = rng.standard_normal(DENSE) * np.exp2(rng.uniform(-30, 30, DENSE))
        half = dtypes.f16.decode(rng.integers(0, 1 << 16, DENSE, dtype=np.uint16))
        ties = half.astype(np.float64) * (1 + 2.0**-11)
        special = [np.nan, np.inf, -np.inf, 0.0, -0.0]
        pieces = [grid, middles, halves, np.negative(halves), spread, ties, special]
        exact = dtypes.convert(np.concatenate(pieces), dtypes.f64, dtype)
        mask = 0xFFFFE000 if dtype == dtypes.tf32 else -1
        random = dtype.decode(_random_codes(dtype) & np.array(mask).astype(dtype.code_dtype))
        near = [random, exact]
        if dtype != dtypes.tf32:
            near += [np.nextafter(exact, dtype.value_dtype.type(s * np.inf)) for s in (1, -1)]
    return np.concatenate(near)


def equal(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Where bits agree, or both are NaN of f16, f32 or f64."""
    if want.dtype.kind != "f":
        return got == want.view(got.dtype)
    bits = np.dtype(f"u{want.dtype.itemsize}")
    return (got.view(bits) == want.view(bits)) | (np.isnan(got) & np.isnan(want))


def explain(right: np.ndarray, got: np.ndarray, want: np.ndarray, *inputs: np.ndarray) -> str:
    """The first few wrong results; empty if there are none."""
    wrong = np.flatnonzero(~right)
    lines = [f"{wrong.size} of {right.size} are wrong"] if wrong.size else []
    for i in wrong[:5]:
        given = ", ".join(repr(x[i]) for x in inputs)
        lines.append(f"  {given} gives {got[i]!r}, not {want[i]!r}")
    return "\n".join(lines)
