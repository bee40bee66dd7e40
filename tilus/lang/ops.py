"""The functions a kernel calls: `name = op(Instruction)`, one line each, and the few that do more.

Elementwise functions take tiles mixed with scalars and Python numbers, which become tiles; shapes
are broadcast as in NumPy. Where a Python operator exists it means the same: `a + b` is `add`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.ir import expr
from tilus.ir.builder import attribute, emit, op, require_kernel
from tilus.ir.expr import Const, Expr, GridIndex, Value, as_expr
from tilus.ir.inst import Inst, born
from tilus.ir.instructions import arith, debug, matrix, memory, reduce, sync, tiles, view
from tilus.ir.types import TileType
from tilus.lang import operators
from tilus.lang.native import check_kernel
from tilus.lang.values import Range, Unrolled, has_runtime, is_number, is_scalar, is_tile, name_type
from tilus.layouts import Layout

F = TypeVar("F", bound=Callable[..., Any])
Operand = Expr | int | float | bool


def language_function(fn: F) -> F:
    """Mark a function that takes run-time values as they are, rather than being inlined."""
    fn.__tilus_function__ = True  # type: ignore[attr-defined]
    return fn


def kernel_function(fn: F) -> F:
    """The same for a function that means nothing outside of kernel code."""

    @functools.wraps(fn)
    def call(*args: Any, **keywords: Any) -> Any:
        check_kernel()
        return fn(*args, **keywords)

    return language_function(call)  # type: ignore[return-value]


def is_kernel_function(fn: object) -> bool:
    """Whether a function is part of the kernel language."""
    return getattr(fn, "__tilus_function__", False) is True


def instruction(cls: Any) -> Callable[..., Any]:
    """The function of an instruction that takes its fields as they are."""
    return kernel_function(op(cls))


def elementwise(cls: type[Inst]) -> Callable[..., Value]:
    """The function of an elementwise instruction: operands are made alike first."""
    names = [n for n, role in cls.roles().items()]

    def call(*operands: Operand, **keywords: Operand) -> Value:
        given = dict(zip(names, operands, strict=False))
        if len(operands) + len(keywords) != len(names) or {*given, *keywords} != set(names):
            raise TilusTypeError(f"{cls.opcode} takes {len(names)} operands: {', '.join(names)}")
        given.update(keywords)
        values = [given[n] for n in names]
        need_tile(cls.opcode, values)
        return operators.elementwise(cls, values, cls.opcode)

    call.__doc__, call.__name__ = cls.__doc__, cls.opcode
    return kernel_function(call)


def need_tile(name: str, values: list[Any]) -> None:
    """Raise unless one of the operands is a tile."""
    if not any(map(is_tile, values)):
        shown = ", ".join(map(name_type, values))
        raise TilusTypeError(
            f"{name} works on register tiles, not on {shown}",
            help="`tilus.full` makes a tile of a scalar, `tilus.item` a scalar of a tile",
        )


def emitted(inst: Inst) -> Value:
    """The result of an instruction that has one."""
    result = emit(inst)
    assert result is not None
    return result


# memory

global_view = instruction(memory.GlobalView)
allocate_shared = instruction(memory.AllocateShared)
load_global = instruction(memory.LoadGlobal)
store_global = instruction(memory.StoreGlobal)
load_shared = instruction(memory.LoadShared)
store_shared = instruction(memory.StoreShared)
copy_async = instruction(memory.CopyAsync)
copy_async_commit_group = instruction(memory.CopyAsyncCommitGroup)
copy_async_wait_group = instruction(memory.CopyAsyncWaitGroup)
prefetch = instruction(memory.Prefetch)
atomic_add = instruction(memory.AtomicAdd)
item = instruction(memory.Item)
constant = instruction(tiles.Constant)

# the same elements, or bits, in another shape or layout

convert_layout = instruction(view.ConvertLayout)
reshape = instruction(view.Reshape)
transpose = instruction(view.Transpose)
broadcast = instruction(view.Broadcast)
expand_dims = instruction(view.ExpandDims)
squeeze = instruction(view.Squeeze)
slice_ = instruction(view.Slice)
concat = instruction(view.Concat)
lookup = instruction(arith.Lookup)
view_ = instruction(view.View)

# arithmetic

neg = elementwise(arith.Neg)
invert = elementwise(arith.Invert)
exp = elementwise(arith.Exp)
exp2 = elementwise(arith.Exp2)
log = elementwise(arith.Log)
log2 = elementwise(arith.Log2)
sqrt = elementwise(arith.Sqrt)
rsqrt = elementwise(arith.Rsqrt)
sin = elementwise(arith.Sin)
cos = elementwise(arith.Cos)
tanh = elementwise(arith.Tanh)
erf = elementwise(arith.Erf)
sigmoid = elementwise(arith.Sigmoid)
round_ = elementwise(arith.Round)
floor = elementwise(arith.Floor)
ceil = elementwise(arith.Ceil)
trunc = elementwise(arith.Trunc)
add = elementwise(arith.Add)
sub = elementwise(arith.Sub)
mul = elementwise(arith.Mul)
div = elementwise(arith.Div)
floordiv = elementwise(arith.FloorDiv)
mod = elementwise(arith.Mod)
bitand = elementwise(arith.BitAnd)
bitor = elementwise(arith.BitOr)
bitxor = elementwise(arith.BitXor)
shl = elementwise(arith.Shl)
shr = elementwise(arith.Shr)
eq = elementwise(arith.Eq)
ne = elementwise(arith.Ne)
lt = elementwise(arith.Lt)
le = elementwise(arith.Le)
gt = elementwise(arith.Gt)
ge = elementwise(arith.Ge)
fma = elementwise(arith.Fma)
dot = instruction(matrix.Dot)

# order, debugging

sync_ = instruction(sync.Sync)
fence = instruction(sync.Fence)
semaphore_acquire = instruction(sync.SemaphoreAcquire)
semaphore_release = instruction(sync.SemaphoreRelease)
print_tensor = instruction(debug.PrintTensor)
device_assert = instruction(debug.DeviceAssert)


@kernel_function
def full(dtype: DType | str, shape: Any, value: Operand, layout: Layout | None = None) -> Value:
    """A tile whose every element is `value`: a number that fits, or a bool or scalar, converted."""
    element = attribute("full", "dtype", dtype, DType)
    if is_number(value) and not isinstance(value, bool):
        value = operators.number(value, element, "full: ")
    extents = attribute("full", "shape", shape, tuple[int, ...])
    if not is_scalar(value) and not isinstance(value, bool):
        raise TilusTypeError(f"full: `value` must be a number or a scalar, not {name_type(value)}")
    return emitted(tiles.Full(element, extents, as_expr(value), _layout("full", layout)))


@kernel_function
def zeros(dtype: DType | str, shape: Any, layout: Layout | None = None) -> Value:
    """A tile of zeros (of False for bool)."""
    element = attribute("zeros", "dtype", dtype, DType)
    extents = attribute("zeros", "shape", shape, tuple[int, ...])
    zero = Const(False if element.name == "bool" else 0, element)
    return emitted(tiles.Full(element, extents, zero, _layout("zeros", layout)))


def _layout(name: str, x: Any) -> Layout | None:
    return attribute(name, "layout", x, Layout | None)  # type: ignore[no-any-return]


@kernel_function
def arange(
    start: int,
    stop: int | None = None,
    dtype: DType | str = dtypes.i32,
    layout: Layout | None = None,
) -> Value:
    """The integers from `start` (0 if left out) up to but without `stop`, in one dimension."""
    if stop is None:
        start, stop = 0, start
    begin, end = (attribute("arange", n, x, int) for n, x in (("start", start), ("stop", stop)))
    element = attribute("arange", "dtype", dtype, DType)
    return emitted(tiles.Arange(begin, end, element, _layout("arange", layout)))


@kernel_function
def cast(x: Operand, dtype: DType | str) -> Any:
    """`x`, a tile or a scalar, with its numbers converted to `dtype`."""
    element = attribute("cast", "dtype", dtype, DType)
    if is_tile(x):
        assert isinstance(x, Value)
        return x if x.dtype == element else emitted(arith.Cast(x, element))
    if not is_scalar(x) and not is_number(x):
        raise TilusTypeError(f"cast: `x` must be a tile or a scalar, not {name_type(x)}")
    return expr.cast(x, element)


@language_function
def multiple_of(x: Operand, n: int) -> Any:
    """The integer scalar `x`, and your promise (checked by the interpreter) that `n` divides it."""
    divisor = attribute("multiple_of", "n", n, int)
    if is_number(x) and not isinstance(x, Expr):
        if not isinstance(x, int) or divisor < 1 or x % divisor:
            raise TilusValueError(f"{x} is not a multiple of {divisor}")
        return x
    if not is_scalar(x):
        raise TilusTypeError(f"multiple_of: `x` must be an integer scalar, not {name_type(x)}")
    return expr.multiple_of(x, divisor)


def _grid_index(name: str, axis: Any) -> Expr:
    value = attribute(name, "axis", axis, int)
    if value not in (0, 1, 2):
        raise TilusValueError(f"{name}: `axis` is {value}; a grid has the axes 0, 1 and 2")
    require_kernel()
    return GridIndex(name, value)


@kernel_function
def block_idx(axis: int = 0) -> Expr:
    """Which block this is, along an axis of the grid (an i32 scalar)."""
    return _grid_index("block_idx", axis)


@kernel_function
def grid_dim(axis: int = 0) -> Expr:
    """How many blocks there are along an axis of the grid (an i32 scalar)."""
    return _grid_index("grid_dim", axis)


@language_function
def cdiv(a: Operand, b: Operand) -> Any:
    """`a / b` rounded up, of integers that are not negative."""
    return operators.binary("//", operators.binary("+", a, operators.binary("-", b, 1)), b)


@kernel_function
def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`, at compile time or on the host."""
    if not isinstance(n, int):
        raise TilusTypeError(
            f"next_power_of_2: `n` must be known at compile time, not {name_type(n)}"
        )
    return 1 << max(0, n - 1).bit_length()


# elementwise, of scalars too


@language_function
def abs_(x: Operand) -> Any:
    """|x| of a tile, scalar or number."""
    return operators.absolute(x)


def _extremum(name: str, a: Operand, b: Operand) -> Any:
    if is_tile(a) or is_tile(b):
        cls = arith.Minimum if name == "min" else arith.Maximum
        return operators.elementwise(cls, (a, b), f"{name}imum")
    return operators.extremum(name, (a, b))


@language_function
def minimum(a: Operand, b: Operand) -> Any:
    """The smaller one, elementwise; of a number and NaN in a tile, the number."""
    return _extremum("min", a, b)


@language_function
def maximum(a: Operand, b: Operand) -> Any:
    """The larger one, elementwise; of a number and NaN in a tile, the number."""
    return _extremum("max", a, b)


@kernel_function
def where(cond: Operand, a: Operand, b: Operand) -> Any:
    """`a` where the condition holds, `b` elsewhere; of scalars, one of the two."""
    if not any(map(is_tile, (cond, a, b))):
        for x in (cond, a, b):
            operators.check_operand("where", x)
        if isinstance(cond, (bool, Const)):
            return a if operators.truth(cond) else b
        return operators.scalar("select", "where", cond, a, b)
    values = [x for x in (a, b) if is_tile(x)]
    if not values:  # a tile condition chooses between two scalars
        dtype = next((x.dtype for x in (a, b) if isinstance(x, Expr)), None)
        if dtype is None:
            dtype = operators.const_type(a, b)
        assert isinstance(cond, Value) and isinstance(cond.type, TileType)
        if is_scalar(a) and is_scalar(b) and a.dtype != b.dtype:  # type: ignore[union-attr]
            raise TilusTypeError(f"operands differ: {name_type(a)} and {name_type(b)}")
        shape = cond.type.shape
        chosen = [_filled(x, dtype, shape) for x in (a, b)]
        return emitted(arith.Where(cond, *chosen))
    a, b = operators.alike([a, b], "where")
    if not is_tile(cond):
        assert isinstance(a.type, TileType)
        cond = full(dtypes.bool_, a.type.shape, cond)
    assert isinstance(cond, Value)
    if cond.dtype.name != "bool":
        raise TilusTypeError(
            f"where: `cond` must be bool, not {cond.type}",
            notes=born(cond),
            help="compare it: write `x != 0`",
        )
    shape = operators.broadcast_shape([cond, a, b])
    return emitted(arith.Where(*(operators.spread(v, shape) for v in (cond, a, b))))


def _filled(x: Any, dtype: DType, shape: tuple[int, ...]) -> Value:
    value = operators.number(x, dtype, "where: ") if is_number(x) else x
    return emitted(tiles.Full(dtype, shape, value))


# along a dimension


def _reduction(name: str, doc: str) -> Callable[..., Value]:
    def call(x: Value, dim: int, keepdims: bool = False) -> Value:
        if not is_tile(x):
            raise TilusTypeError(f"{name}: `x` must be a register tile, not {name_type(x)}")
        d = attribute(name, "dim", dim, int)
        return emitted(reduce.Reduce(x, d, name, attribute(name, "keepdims", keepdims, bool)))

    call.__doc__, call.__name__ = doc, name
    return kernel_function(call)


sum_ = _reduction("sum", "The sum along `dim`, in an unspecified order.")
max_ = _reduction("max", "The largest element along `dim`; NaN only if all are.")
min_ = _reduction("min", "The smallest element along `dim`; NaN only if all are.")
any_ = _reduction("any", "Whether some element along `dim` is true.")
all_ = _reduction("all", "Whether every element along `dim` is true.")
argmax = _reduction("argmax", "Where the first largest element along `dim` is (i32).")


def _scan(name: str, operation: str, doc: str) -> Callable[..., Value]:
    def call(x: Value, dim: int, reverse: bool = False) -> Value:
        if not is_tile(x):
            raise TilusTypeError(f"{name}: `x` must be a register tile, not {name_type(x)}")
        d = attribute(name, "dim", dim, int)
        return emitted(reduce.Scan(x, d, operation, attribute(name, "reverse", reverse, bool)))

    call.__doc__, call.__name__ = doc, name
    return kernel_function(call)


cumsum = _scan("cumsum", "add", "Running sums along `dim`.")
cumprod = _scan("cumprod", "mul", "Running products along `dim`.")
cummax = _scan("cummax", "max", "Running maxima along `dim`.")
cummin = _scan("cummin", "min", "Running minima along `dim`.")
scan = instruction(reduce.Scan)

# loops


@language_function
def range_(
    start: Any, stop: Any = None, step: Any = 1, *, unroll: int = 1, stages: int = 1
) -> Range:
    """`range` for a `for` of the kernel, with `unroll` and software-pipeline `stages`."""
    if stop is None:
        start, stop = 0, start
    for name, x in (("unroll", unroll), ("stages", stages)):
        if attribute("range", name, x, int) < 1:
            raise TilusValueError(f"range: `{name}` is {x}; it is at least 1")
    return make_range(start, stop, step, unroll, stages)


def make_range(start: Any, stop: Any, step: Any, unroll: int = 1, stages: int = 1) -> Range:
    """Bounds of a loop, checked."""
    for name, x in (("start", start), ("stop", stop), ("step", step)):
        integer = isinstance(x, int) and not isinstance(x, bool)
        if not (integer or (is_scalar(x) and expr.kind_of(x.dtype) == "i")):
            raise TilusTypeError(f"range: `{name}` must be an integer, not {name_type(x)}")
    if is_number(step) and step == 0:
        raise TilusValueError("range: `step` must not be zero")
    return Range(start, stop, step, unroll, stages)


@language_function
def static_range(start: Any, stop: Any = None, step: Any = 1) -> Unrolled:
    """`range` for a `for` that is unrolled while the kernel is translated."""
    if stop is None:
        start, stop = 0, start
    if has_runtime((start, stop, step)):
        raise TilusTypeError(
            "static_range: its bounds must be known at compile time",
            help="`tilus.range` makes a loop of the kernel",
        )
    return Unrolled(range(start, stop, step))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name.rstrip("_"): value for name, value in list(globals().items()) if is_kernel_function(value)
}
