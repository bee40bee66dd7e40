"""Elementwise instructions against their NumPy definitions, on every machine this one can play."""

import itertools

import numpy as np
import pytest

from tests.codegen.inputs import equal, explain, registers, samples
from tests.codegen.jit import HERE, MACHINES, Kernels, lanes_on
from tilus import dtypes
from tilus.codegen.llvm.elementwise import binary, compare, fma, unary, where
from tilus.codegen.llvm.writer import I1, constant, element_type
from tilus.dtypes import DType, bf16, bool_, dtype, f16, f32, f64, tf32
from tilus.ir.instructions import arith

FLOATS = (f16, bf16, tf32, f32, f64)
INTEGERS = tuple(dtype(f"{sign}{bits}") for bits in (*range(1, 9), 16, 32, 64) for sign in "ui")
APPROXIMATE = ("exp", "exp2", "log", "log2", "sin", "cos", "tanh", "erf", "sigmoid")


def definitions(base) -> dict:
    """The instructions of a family by opcode, as functions of arrays."""
    found = {}
    for cls in base.__subclasses__():
        if getattr(cls, "opcode", None):
            found[cls.opcode] = cls.__new__(cls)
        found |= definitions(cls)
    return found


UNARY = definitions(arith.Unary)
COMPARE = definitions(arith.Compare)
BINARY = {op: cls for op, cls in definitions(arith.Binary).items() if op not in COMPARE}


def takes(instruction, t: DType) -> bool:
    kind = "b" if t == bool_ else "i" if t.is_integer else "f"
    return kind in instruction.kinds


def rounded(values: np.ndarray, t: DType) -> np.ndarray:
    """A result as the register of its type holds it."""
    with np.errstate(all="ignore"):
        return registers(t, t.decode(t.encode(values)))


def within(t: DType, got: np.ndarray, want: np.ndarray, steps: int) -> np.ndarray:
    """Floats at most so many representable numbers apart; zeros are equal, and so are NaNs."""
    bits = t.bits if t != tf32 else 32
    a, b = (x.view(f"u{bits // 8}").astype(np.uint64) for x in (got, want))
    sign = np.uint64(1 << (bits - 1))
    drop = np.uint64(13 if t == tf32 else 0)
    a, b = (np.where(x & sign, sign - (x & ~sign), sign + x) >> drop for x in (a, b))
    infinite = {f16: 0x7C00, bf16: 0x7F80, f64: 0x7FF << 52}.get(t, 0x7F800000)
    nan = [(x.view(f"u{bits // 8}") & ~sign.astype(x.view(f"u{bits // 8}").dtype)) > infinite
           for x in (got, want)]  # fmt: skip
    near = np.maximum(a, b) - np.minimum(a, b) <= steps
    return np.where(nan[0] | nan[1], nan[0] & nan[1], near)


def operands(t: DType, count: int) -> list[np.ndarray]:
    """Arrays of values: all combinations of a narrow type, else random and special ones."""
    values, _ = samples(t)
    if t.bits <= 4 or (t.bits <= 8 and count < 3 and t.bits % 8):
        mesh = np.meshgrid(*[values] * count, indexing="ij")
        return [m.reshape(-1) for m in mesh]
    rng = np.random.default_rng(count)
    if t.is_float:
        few = np.array([0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 3e38, -1e-45, 65504, 6e-8])
        with np.errstate(all="ignore"):
            few = dtypes.convert(few, f64, t)
    else:
        few = np.array([0, 1, 2, 3, t.max, t.max - 1, t.min], t.value_dtype)
        if t.is_signed:
            few = np.append(few, np.array([-1, -2, t.min + 1], t.value_dtype))
    mesh = [m.reshape(-1) for m in np.meshgrid(*[few] * count, indexing="ij")]
    return [np.concatenate([rng.choice(values, 4000), m]) for m in mesh]


def check(problems: list[str], name: str, right, got, want, *inputs) -> None:
    problem = explain(right, got, want, *inputs)
    if problem:
        problems.append(f"{name}: {problem}")


@pytest.mark.parametrize("machine", HERE)
def test_one_operand(machine):
    kernels, cases = Kernels(MACHINES[machine]), []
    lanes = itertools.cycle(lanes_on(machine))
    for (opcode, inst), t in itertools.product(UNARY.items(), (*FLOATS, *INTEGERS, bool_)):
        if not takes(inst, t) or (opcode in APPROXIMATE and t in (tf32, f64)):
            continue
        name = f"{opcode}.{t}"
        emit = lambda w, x, op=opcode, t=t: unary(w, op, t, x)  # noqa: E731
        kernels.add(name, [element_type(t)], element_type(t), next(lanes), emit)
        cases.append((name, opcode, inst, t))
    kernels.compile()
    assert kernels.calls <= {"sin", "cos", "memcpy"}
    problems: list[str] = []
    for name, opcode, inst, t in cases:
        values, held = samples(t)
        if opcode in ("sin", "cos"):
            few = ~(np.abs(values) > 6e4)
            values, held = values[few], held[few]
        got = kernels.run(name, held)
        want = rounded(inst.interpret(values), t)
        if opcode in APPROXIMATE:
            steps = 4 if t == f32 else 1  # f16 and bf16 are rounded from f32
            right = within(t, got, want, steps)
            if opcode == "sigmoid":  # the definition gives 0 below -88
                right |= np.abs(values) > 85
        elif t.is_float:
            right = within(t, got, want, 0)
        else:
            right = equal(got, want)
        check(problems, name, right, got, want, values)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("machine", HERE)
def test_two_operands(machine):
    kernels, cases = Kernels(MACHINES[machine]), []
    lanes = itertools.cycle(lanes_on(machine))
    skip = HERE.index(machine)
    for i, ((opcode, inst), t) in enumerate(
        itertools.product({**BINARY, **COMPARE}.items(), (*FLOATS, *INTEGERS, bool_))
    ):
        rare = t.is_integer and t.bits not in (8, 32)
        if not takes(inst, t) or (rare and (i + skip) % 3):
            continue
        name, result = f"{opcode}.{t}", bool_ if opcode in COMPARE else t
        lower = compare if opcode in COMPARE else binary
        emit = lambda w, a, b, f=lower, op=opcode, t=t: f(w, op, t, a, b)  # noqa: E731
        kernels.add(name, [element_type(t)] * 2, element_type(result), next(lanes), emit)
        cases.append((name, opcode, inst, t, result))
    kernels.compile()
    assert kernels.calls <= {"memcpy"}
    problems: list[str] = []
    for name, opcode, inst, t, result in cases:
        a, b = operands(t, 2)
        if opcode in ("shl", "shr"):
            b = (b.view(t.code_dtype) % np.array(t.bits, t.code_dtype)).view(t.value_dtype)
            b = np.minimum(b, t.value_dtype.type(t.max))
        got = kernels.run(name, registers(t, a), registers(t, b))
        if opcode in ("floordiv", "mod"):  # division by zero gives something
            a, b, got = a[b != 0], b[b != 0], got[b != 0]
        with np.errstate(all="ignore"):
            compute = inst.compute if opcode in ("shl", "shr") else inst.interpret
            want = rounded(compute(a, b), result)
        right = within(t, got, want, 0) if result.is_float else equal(got, want)
        check(problems, name, right, got, want, a, b)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("machine", HERE)
def test_division_by_constants(machine):
    kernels, cases = Kernels(MACHINES[machine]), []
    for t, divisor in itertools.product(map(dtype, ("i8", "u8", "i32", "u32", "i64")), (7, 16, -3)):
        if divisor < 0 and not t.is_signed:
            continue
        for opcode in ("floordiv", "mod"):
            name = f"{opcode}.{t}.{divisor % 100}"

            def emit(w, x, opcode=opcode, t=t, divisor=divisor):
                return binary(w, opcode, t, x, constant(x.type, divisor))

            kernels.add(name, [element_type(t)], element_type(t), 16, emit)
            cases.append((name, BINARY[opcode], t, divisor))
    kernels.compile()
    for name, inst, t, divisor in cases:
        a, _ = samples(t)
        want = inst.interpret(a, np.full_like(a, divisor))
        assert np.array_equal(kernels.run(name, a).view(t.value_dtype), want), name


def fused(t: DType, a, b, c):
    """a * b + c, f64 rounded to odd, which can be rounded again; the definition's is to nearest."""
    if t == f64:
        return arith.Fma.interpret(None, a, b, c)
    with np.errstate(all="ignore"):
        product, c = np.multiply(a, b, dtype=np.float64), c.astype(np.float64)
        total = product + c
        back = total - product
        lost = (product - (total - back)) + (c - back)
        toward = np.nextafter(total, np.copysign(np.inf, lost))
    even = total.view(np.uint64) & 1 == 0
    return np.where(even & (np.abs(lost) > 0), toward, total)


@pytest.mark.parametrize("machine", HERE)
def test_fma_and_where(machine):
    kernels = Kernels(MACHINES[machine])
    for t, lanes in zip(FLOATS, lanes_on(machine), strict=True):
        e = element_type(t)
        emit = lambda w, a, b, c, t=t: fma(w, t, a, b, c)  # noqa: E731
        kernels.add(f"fma.{t}", [e] * 3, e, lanes, emit)
    chosen = (*FLOATS, *map(dtype, ("i3", "u8", "i64", "f6e3m2", "bool")))
    for t, lanes in zip(chosen, itertools.cycle(lanes_on(machine)), strict=False):
        e = element_type(t)
        kernels.add(f"where.{t}", [I1, e, e], e, lanes, where)
    kernels.compile()
    assert kernels.calls <= {"memcpy", "fma"}
    problems: list[str] = []
    for t in FLOATS:
        a, b, c = operands(t, 3)
        if t == f64:  # exact arithmetic is slow
            few = (np.abs(a) < 1e150) & (np.abs(b) < 1e150)
            a, b, c = (x[few][-2000:] for x in (a, b, c))
        got = kernels.run(f"fma.{t}", *(registers(t, x) for x in (a, b, c)))
        want = rounded(fused(t, a, b, c), t)
        right = within(t, got, want, 0)
        check(problems, f"fma.{t}", right, got, want, a, b, c)
    for t in chosen:
        held = samples(t)[1]
        a, b = np.resize(held, 3000), np.resize(held[::-1], 3000)
        cond = np.random.default_rng(1).integers(0, 2, a.size).astype(np.uint8)
        got = kernels.run(f"where.{t}", cond, a, b)
        right = equal(got, np.where(cond, a, b))
        check(problems, f"where.{t}", right, got, np.where(cond, a, b), cond, a, b)
    assert not problems, "\n".join(problems)
