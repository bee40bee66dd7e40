"""Scalar expressions: types, constants, and Python's arithmetic wrapped to a width."""

import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.errors import TilusError, TilusTypeError, TilusValueError
from tilus.ir import expr
from tilus.ir.expr import OPS, Apply, Const, GridIndex, Value, apply, cast, const, multiple_of
from tilus.ir.types import PointerType, ScalarType, TileType

INTS = tuple(map(dtypes.dtype, ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "i4", "u3")))
I8, I32, I64, F32 = (dtypes.dtype(n) for n in ("i8", "i32", "i64", "f32"))


def edges(dtype) -> st.SearchStrategy[int]:
    """Values of an integer type, the ones at its ends first."""
    low, high = int(dtype.min), int(dtype.max)
    near = {v for v in (low, low + 1, -2, -1, 0, 1, 2, 3, 7, high - 1, high) if low <= v <= high}
    return st.sampled_from(sorted(near)) | st.integers(low, high)


PYTHON = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv,
    "mod": operator.mod, "bitand": operator.and_, "bitor": operator.or_, "bitxor": operator.xor,
    "shl": operator.lshift, "shr": operator.rshift, "min": min, "max": max,
    "neg": operator.neg, "invert": operator.invert, "abs": abs,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip


@given(st.data())
def test_integers_mean_what_python_means_wrapped(data) -> None:
    op = data.draw(st.sampled_from(sorted(PYTHON)))
    dtype = data.draw(st.sampled_from(INTS))
    xs = [data.draw(edges(dtype)) for _ in range(OPS[op].arity)]
    if op in ("shl", "shr"):
        xs[1] = data.draw(st.integers(0, min(63, int(dtype.max))))
    if op in ("floordiv", "mod") and xs[1] == 0:
        with pytest.raises(TilusValueError, match="by zero"):
            apply(op, *(Const(x, dtype) for x in xs))
        return
    got = apply(op, *(Const(x, dtype) for x in xs))
    assert isinstance(got, Const)
    want = PYTHON[op](*xs)
    if OPS[op].result == "bool":
        assert got == Const(want, dtypes.bool_)
    else:
        span = 1 << dtype.bits
        assert got == Const((want - int(dtype.min)) % span + int(dtype.min), dtype)


@pytest.mark.parametrize(
    ("a", "op", "b", "dtype", "result"),
    [
        (-7, "floordiv", 2, I32, -4),
        (-7, "mod", 2, I32, 1),
        (7, "mod", -2, I32, -1),
        (-(2**31), "floordiv", -1, I32, -(2**31)),
        (-128, "abs", None, I8, -128),
        (-128, "neg", None, I8, -128),
        (1, "shl", 31, I32, -(2**31)),
        (1, "shl", 40, I32, 0),
        (-1, "shr", 63, I64, -1),
    ],
)
def test_known_results(a, op, b, dtype, result) -> None:
    args = [Const(x, dtype) for x in (a, b) if x is not None]
    assert apply(op, *args) == Const(result, dtype)


def test_shifts_that_mean_nothing() -> None:
    for count in (-1, 64):
        with pytest.raises(TilusValueError, match="allowed are 0 to 63"):
            apply("shl", const(1), const(count))


@given(st.floats(), st.floats(), st.sampled_from(["add", "sub", "mul", "div", "min", "max"]))
def test_floats_round_once_to_their_type(x: float, y: float, op: str) -> None:
    f16 = dtypes.f16
    a, b = Const(x, f16), Const(y, f16)
    if op == "div" and b.value == 0:
        with pytest.raises(TilusValueError, match="float division by zero"):
            apply(op, a, b)
        return
    got = apply(op, a, b)
    exact = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
    want = (exact | {"min": min, "max": max})[op](a.value, b.value)
    assert got == Const(want, f16)


def test_constants_are_values_of_their_type() -> None:
    assert Const(0.1, F32).value == float.fromhex("0x1.99999ap-4")
    assert Const(0.1, F32) == Const(float.fromhex("0x1.99999ap-4"), F32)
    assert Const(0.1, dtypes.f64).value == 0.1
    assert Const(1e9, dtypes.f16).value == math.inf
    assert Const(1e9, dtypes.f8e4m3).value == 448
    assert Const(5.0, I32).value == 5 and isinstance(Const(5.0, I32).value, int)
    assert Const(0.0, F32) != Const(-0.0, F32)
    assert Const(math.nan, F32) == Const(math.nan, F32)
    assert Const(1, I32) != Const(1, I64) and Const(1, I32) != Const(True, dtypes.bool_)
    for value, dtype in (
        (1.5, I32),
        (128, I8),
        (-1, dtypes.u8),
        (True, I32),
        (1, dtypes.bool_),
        (math.inf, I32),
    ):
        with pytest.raises(TilusValueError, match="is not a value of"):
            Const(value, dtype)


def test_numbers_without_a_type() -> None:
    assert [const(x).dtype.name for x in (True, 1, 2**31, -(2**31), 1.0)] == [
        "bool", "i32", "i64", "i32", "f32"
    ]  # fmt: skip


def value(dtype) -> Value:
    return Value(ScalarType(dtypes.dtype(dtype)), "x")


@pytest.mark.parametrize(
    ("a", "b", "joined"),
    [("i8", "i32", "i32"), ("u16", "u64", "u64"), ("f16", "f32", "f32"), ("bf16", "f64", "f64")],
)
def test_widths_of_one_kind_widen(a, b, joined) -> None:
    for x, y in ((value(a), value(b)), (value(b), value(a))):
        e = apply("add", x, y)
        assert e.dtype.name == joined
        assert expr.check(e) is None
        assert any(isinstance(p, Apply) and p.op == "cast" for p in e.args)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("add", ("i32", "u32"), "operands differ: i32 and u32"),
        ("add", ("i32", "f32"), "operands differ: i32 and f32"),
        ("add", ("f16", "bf16"), "operands differ: f16 and bf16"),
        ("add", ("bool", "bool"), "`+` does not take bool operands"),
        ("div", ("i32", "i32"), "`/` does not take i32 operands"),
        ("and", ("i32", "i32"), "`and` does not take i32 operands"),
        ("bitand", ("f32", "f32"), "`&` does not take f32 operands"),
        ("shl", ("i32", "f32"), "does not take f32 operands"),
        ("select", ("i32", "i32", "i32"), "must be a bool, not i32"),
        ("neg", ("i32", "i32"), "neg takes 1 operands, not 2"),
    ],
)
def test_operands_that_do_not_fit(op, args, message) -> None:
    with pytest.raises(TilusTypeError, match=message.replace("+", r"\+")):
        apply(op, *map(value, args))


def test_python_numbers_take_the_other_operands_type() -> None:
    assert apply("add", value("u8"), 3).args[1] == Const(3, dtypes.u8)
    assert apply("mul", 2, value("f16")).args[0] == Const(2.0, dtypes.f16)
    assert apply("shl", value("i64"), 3).args[1] == Const(3, dtypes.i64)
    with pytest.raises(TilusTypeError, match="300 is not a value of u8"):
        apply("add", value("u8"), 300)
    with pytest.raises(TilusTypeError, match=r"1\.5 is not a value of i32"):
        apply("add", value("i32"), 1.5)


def test_only_scalars_take_part() -> None:
    tile, pointer = Value(TileType(F32, (8,))), Value(PointerType(F32))
    for x in (tile, pointer):
        for make in (
            lambda x: apply("add", x, 1),
            lambda x: cast(x, I32),
            lambda x: multiple_of(x, 4),
            lambda x: apply("select", Const(True, dtypes.bool_), x, x),
        ):
            with pytest.raises(TilusTypeError):
                make(x)
    with pytest.raises(TilusTypeError, match="no truth at compile time"):
        bool(value("bool"))


def test_multiple_of() -> None:
    assert multiple_of(value("i32"), 4).args[1] == const(4)
    assert multiple_of(12, 4) == const(12)
    with pytest.raises(TilusValueError, match="13 is not a multiple of 4"):
        multiple_of(13, 4)
    for n in (0, -4, True, 1.5):
        with pytest.raises(TilusTypeError, match="a positive constant"):
            multiple_of(value("i32"), n)
    with pytest.raises(TilusError):
        multiple_of(value("i8"), 1000)


@given(st.data())
def test_casts_fold_as_the_instruction_converts(data) -> None:
    dtype = data.draw(st.sampled_from([*INTS, F32, dtypes.f16, dtypes.bool_, dtypes.f8e4m3]))
    x = data.draw(st.floats(width=32))
    got = cast(Const(x, F32), dtype)
    assert isinstance(got, Const)
    if dtype.is_integer:
        low, high = int(dtype.min), int(dtype.max)
        want = 0 if x != x else low if x < low else high if x > high else int(x)
    elif dtype == dtypes.bool_:
        want = x != 0
    else:
        want = Const(x, dtype).value
    assert got == Const(want, dtype)


def test_select_of_a_constant() -> None:
    x = value("i32")
    assert apply("select", Const(True, dtypes.bool_), x, 1) is x
    assert apply("select", Const(False, dtypes.bool_), x, 1) == const(1)
    kept = apply("select", Const(True, dtypes.bool_), x, 1, fold=False)
    assert isinstance(kept, Apply)


def test_values_are_themselves() -> None:
    x, y = value("i32"), value("i32")
    assert x != y and apply("add", x, 1) == apply("add", x, 1) != apply("add", y, 1)
    assert GridIndex("block_idx", 0) == GridIndex("block_idx", 0) != GridIndex("grid_dim", 0)
    assert expr.substitute(apply("add", x, 1), lambda v: v) is not None
    e = apply("add", apply("mul", x, 2), y)
    assert expr.substitute(e, lambda v: v) is e
    assert expr.substitute(e, lambda v: y if v is x else v) == apply("add", apply("mul", y, 2), y)
