"""Conversions, table look-ups and dense bytes, on every machine this one can play."""

import itertools
import random

import numpy as np
import pytest

from tests.codegen.inputs import TYPES, equal, explain, registers, samples, short
from tests.codegen.jit import HERE, ICELAKE, MACHINES, Kernels, lanes_on
from tilus import dtypes
from tilus.codegen.llvm.convert import cast, lookup, pack, unpack, unpack_interleaved
from tilus.codegen.llvm.writer import I8, element_type
from tilus.dtypes import DType, bf16, f16, f32, f64, tf32

PAIRS = 30  # random ones of each kind on each machine


def pairs(machine: str) -> list[tuple[DType, DType]]:
    """Every type from and to f32, some from and to other wide types, and some at random."""
    rng = random.Random(machine)
    wide = [f16, bf16, f64, dtypes.i32, dtypes.i64, dtypes.u64, dtypes.i16, tf32]
    found = [(t, f32) for t in TYPES] + [(f32, t) for t in TYPES]
    for _ in range(PAIRS):
        a, b, c, d = rng.choices(TYPES, k=4)
        found += [(a, rng.choice(wide)), (rng.choice(wide), b), (c, d)]
    return [pair for pair in dict.fromkeys(found) if pair[0] != pair[1]]


@pytest.mark.parametrize("machine", HERE)
def test_casts_are_bit_exact(machine):
    kernels = Kernels(MACHINES[machine])
    todo = []
    for (src, dst), lanes in zip(pairs(machine), itertools.cycle(lanes_on(machine)), strict=False):
        name = f"{short(src)}.{short(dst)}.{lanes}"
        emit = lambda w, x, src=src, dst=dst: cast(w, src, dst, x)  # noqa: E731
        kernels.add(name, [element_type(src)], element_type(dst), lanes, emit)
        todo.append((name, src, dst))
    kernels.compile()
    assert kernels.calls <= {"memcpy", "memset"}
    problems = []
    for name, src, dst in todo:
        values, held = samples(src)
        got = kernels.run(name, held)
        with np.errstate(all="ignore"):
            want = registers(dst, dtypes.convert(values, src, dst))
        problem = explain(equal(got, want), got, want, values)
        if problem:
            problems.append(f"{name}: {problem}")
    assert not problems, "\n".join(problems)


def test_a_cast_to_the_same_type_is_nothing():
    kernels = Kernels(MACHINES["sse2"])
    kernels.add("same", ["i8"], "i8", 4, lambda w, x: cast(w, dtypes.f8e4m3, dtypes.f8e4m3, x))
    assert kernels.compile().run("same", np.arange(256, dtype=np.uint8)).tolist() == [*range(256)]


@pytest.mark.parametrize("machine", HERE)
def test_lookup(machine):
    rng = np.random.default_rng(3)
    kernels, tables = Kernels(MACHINES[machine]), {}
    for bits, lanes in itertools.product(range(1, 9), (64, 13, 20)):
        table = rng.integers(0, 256, 1 << bits).tolist()
        if bits == 8 and lanes == 64:  # signed: the second half differs by the sign
            table[128:] = [e ^ 0x80 for e in table[:128]]
        if bits == 7 and lanes == 20:
            table[:16] = [0] * 16
        name = f"lookup{bits}.{lanes}"
        emit = lambda w, x, t=table, b=bits: lookup(w, x, t, b)  # noqa: E731
        kernels.add(name, [I8], I8, lanes, emit)
        tables[name] = np.array(table, np.uint8)
    kernels.compile()
    for name, table in tables.items():
        codes = rng.integers(0, table.size, 1000).astype(np.uint8)
        assert np.array_equal(kernels.run(name, codes), table[codes]), name


@pytest.mark.parametrize("machine", HERE)
def test_unpack_and_pack(machine):
    kernels = Kernels(MACHINES[machine])
    shapes = list(itertools.product(range(1, 9), (64, 13, 16, 40, 128)))
    for bits, lanes in shapes:
        size = (bits * lanes + 7) // 8
        spare = 3 if lanes == 40 else 0  # more bytes than needed
        into = lambda w, x, b=bits, n=lanes: unpack(w, x, b, n)  # noqa: E731
        back = lambda w, x, b=bits: pack(w, x, b)  # noqa: E731
        kernels.add(f"unpack{bits}.{lanes}", [I8], I8, 0, into, (size + spare, lanes))
        kernels.add(f"pack{bits}.{lanes}", [I8], I8, 0, back, (lanes, size))
    kernels.compile()
    rng = np.random.default_rng(4)
    for bits, lanes in shapes:
        size, blocks = (bits * lanes + 7) // 8, 9
        codes = rng.integers(0, 1 << bits, (blocks, lanes)).astype(np.uint8)
        packed = np.stack([dtypes.pack(row, bits) for row in codes])
        assert np.array_equal(kernels.run(f"pack{bits}.{lanes}", codes), packed.reshape(-1))
        if lanes == 40:
            packed = np.pad(packed, ((0, 0), (0, 3)), constant_values=0xA5)
        got = kernels.run(f"unpack{bits}.{lanes}", np.ascontiguousarray(packed))
        assert np.array_equal(got, codes.reshape(-1)), (bits, lanes)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_unpack_interleaved(bits):
    kernels = Kernels(MACHINES[HERE[0]])
    count = 8 // bits
    for r in range(count):
        emit = lambda w, x, r=r: unpack_interleaved(w, x, bits)[r]  # noqa: E731
        kernels.add(f"residue{r}", [I8], I8, 32, emit)
    kernels.compile()
    data = np.random.default_rng(5).integers(0, 256, 256).astype(np.uint8)
    codes = dtypes.unpack(data, bits, data.size * count).reshape(-1, count)
    for r in range(count):
        assert np.array_equal(kernels.run(f"residue{r}", data), codes[:, r])


@pytest.mark.parametrize("bits", range(1, 8))
def test_three_instructions_unpack_any_width(bits):
    kernels = Kernels(ICELAKE)
    kernels.add("u", [I8], I8, 64, lambda w, x: unpack(w, x, bits, 64))  # 64 bytes are read
    names = [line.split()[0] for line in kernels.compile(load=False).instructions("u")]
    kinds = ("vperm", "vpshufb", "vpmovzx", "vpmulti", "vpand")
    spread, *rest = [name for name in names if name.startswith(kinds)]
    assert spread in ("vpermb", "vpshufb", "vpmovzxbq", "vpmovzxwq")
    assert rest == ["vpmultishiftqb", "vpandq"]


def test_odd_requests_are_refused():
    kernels = Kernels(MACHINES["sse2"])
    for bits, lanes in ((9, 1), (0, 1), (3, 9)):
        with pytest.raises(ValueError, match="codes of"):
            kernels.add("u", [I8], I8, 0, lambda w, x, b=bits, n=lanes: unpack(w, x, b, n), (3, 8))
    with pytest.raises(ValueError, match="codes of 3 bits"):
        kernels.add("i", [I8], I8, 8, lambda w, x: unpack_interleaved(w, x, 3)[0])
    with pytest.raises(ValueError, match="16 entries"):
        kernels.add("l", [I8], I8, 8, lambda w, x: lookup(w, x, [1, 2], 4))
