"""Random well-typed programs, made from the registry; each can be built for any number of threads.

What a program computes does not depend on how many threads there are, and it traps only where a
scalar divides by zero, shifts too far or breaks a promise: all else that may fail is avoided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusError
from tilus.ir.expr import Const, Expr, GridIndex, Value, apply, cast, const, kind_of, multiple_of
from tilus.ir.inst import REGISTRY, Inst
from tilus.ir.instructions.arith import Binary, Compare, Fma, Shift, Unary
from tilus.ir.program import (
    Assign,
    Break,
    Continue,
    For,
    Function,
    If,
    Let,
    Param,
    Return,
    Seq,
    Stmt,
    While,
    Yield,
)
from tilus.ir.target import default_layout, held_by_all
from tilus.ir.types import GlobalType, PointerType, ScalarType, SharedType, TileType, Type
from tilus.layouts import Layout, SharedLayout, column_spatial, local, replicated, spatial

T = TypeVar("T")

I32, I64, BOOL = dtypes.i32, dtypes.i64, dtypes.bool_
SHAPE = (8, 16)  # of every input
BLOCKS = 2
VIEWED = (dtypes.u8, dtypes.i8, dtypes.u4, I32)
TYPES = tuple(
    map(
        dtypes.dtype, ("f32", "f16", "bf16", "i32", "i8", "u8", "u4", "i3", "bool", "f8e4m3", "i64")
    )
)
SHAPES = ((8, 16), (16,), (1, 16), (8, 1), (4, 8), (2, 4, 8), (16, 8), (24,), (3, 8), (6, 4), ())


class Choices:
    """Decisions: drawn the first time, and the same ones when asked to build again."""

    def __init__(self, draw: Callable[[int], int] | None, made: list[int]) -> None:
        self.draw, self.made, self.at = draw, made, 0

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        if self.draw is not None:
            self.made.append(self.draw(n))
        self.at += 1
        return self.made[self.at - 1] % n

    def of(self, options: Sequence[T]) -> T:
        """One of several things."""
        return options[self.below(len(options))]

    def maybe(self, one_in: int = 2) -> bool:
        """Whether to do something that is done once in `one_in` times."""
        return self.below(one_in) == 1


@dataclass(frozen=True)
class Recipe:
    """A program, whatever the number of threads."""

    choices: tuple[int, ...]

    def build(self, num_threads: int) -> Maker:
        """The program for a number of threads, with what it needs to run."""
        return Maker(Choices(None, list(self.choices)), num_threads).function()


@st.composite
def programs(draw: Any) -> Recipe:
    """Random programs."""
    made: list[int] = []
    Maker(Choices(lambda n: draw(st.integers(0, n - 1)), made), 32).function()
    return Recipe(tuple(made))


@dataclass
class Scope:
    """What can be used here."""

    tiles: list[Value] = field(default_factory=list)
    scalars: list[Expr] = field(default_factory=list)
    shared: list[Value] = field(default_factory=list)

    def copy(self) -> Scope:
        return Scope(list(self.tiles), list(self.scalars), list(self.shared))


class Maker:
    """Builds one program."""

    def __init__(self, choices: Choices, num_threads: int) -> None:
        self.c, self.num_threads = choices, num_threads
        self.here = Scope()
        self.stmts: list[Stmt] = []
        self.inputs: dict[str, DType] = {}
        self.outputs: dict[str, tuple[DType, int]] = {}
        self.params: list[Param] = []
        self.views: dict[DType, Value] = {}
        self.loop: tuple[Value, ...] | None = None
        self.budget = 24
        self.made: Function | None = None

    def function(self) -> Maker:
        n = self.param("n", ScalarType(I32))
        m = self.param("m", ScalarType(I32), 4)
        self.here.scalars += [n, m, GridIndex("block_idx", 0), GridIndex("grid_dim", 1)]
        for t in TYPES:
            p = self.param(f"x_{t}", PointerType(t))
            self.inputs[p.name] = t
            view = Value(GlobalType(t, 2), f"view_{t}")
            shape = tuple(const(k) for k in SHAPE)
            self.stmts.append(Assign(view, REGISTRY["global_view"](p, t, shape)))
            self.views[t] = view
        self.some(2 + self.c.below(8), depth=0)
        for v in dict.fromkeys([*self.here.tiles[-3:]]):
            self.store(v)
        for e in self.here.scalars[-2:]:
            if kind_of(e.dtype) != "f":
                self.store(self.emit("full", dtype=I64, shape=(1,), value=e))
        body = Seq(tuple(self.stmts))
        self.made = Function("random", tuple(self.params), body, self.num_threads)
        return self

    def param(self, name: str, t: Type, divisible: int = 1) -> Value:
        v = Value(t, name)
        self.params.append(Param(v, divisible))
        return v

    def arguments(self, seed: int = 0) -> dict[str, Any]:
        """Fresh memory and scalars."""
        rng = np.random.default_rng(seed)
        args: dict[str, Any] = {"n": int(rng.integers(-3, 9)), "m": 4 * int(rng.integers(-2, 9))}
        for name, t in self.inputs.items():
            codes = rng.integers(0, 1 << min(t.bits, 63), math.prod(SHAPE), dtype=np.int64)
            if t.name in ("f32", "f16", "bf16", "f8e4m3"):
                codes = t.encode(rng.normal(0, 3, math.prod(SHAPE)))
            codes = codes & 1 if t == BOOL else codes
            args[name] = dtypes.pack(codes.astype(t.code_dtype), t.bits)
        for name, (t, count) in self.outputs.items():
            args[name] = np.zeros(t.storage_bytes(count), np.uint8)
        return args

    # statements

    def some(self, count: int, depth: int) -> None:
        """Add several statements."""
        for _ in range(count):
            if self.budget > 0:
                self.budget -= 1
                self.one(depth)

    def one(self, depth: int) -> None:
        kinds = [self.scalar, self.elementwise, self.elementwise, self.load, self.shaped]
        kinds += [
            self.shaped,
            self.make,
            self.memory,
            self.memory,
            self.across,
            self.viewed,
            self.odd,
        ]
        if depth < 3:
            kinds += [self.branch, self.loop_for, self.loop_while]
        kind = self.c.of(kinds)
        try:
            kind(depth) if kind in (self.branch, self.loop_for, self.loop_while) else kind()
        except TilusError:  # operands that do not fit: the statement is left out
            pass

    def emit(self, opcode: str, *args: Any, **fields: Any) -> Any:
        inst: Inst = REGISTRY[opcode](*args, **fields)
        t = inst.infer()
        if isinstance(t, TileType) and t.size > 512:
            raise TilusError("too large")
        result = None if t is None else Value(t, self.c.of(["a", "b", "acc", "é"]))
        self.stmts.append(Assign(result, inst))
        if isinstance(t, TileType):
            self.here.tiles.append(result)  # type: ignore[arg-type]
        return result

    def let(self, e: Expr) -> Value:
        v = Value(e.type, "s")
        self.stmts.append(Let(v, e))
        self.here.scalars.append(v)
        return v

    # scalars

    def expr(self, dtype: DType, depth: int = 2) -> Expr:
        """An expression of a type."""
        have = [e for e in self.here.scalars if e.dtype == dtype]
        if depth == 0 or self.c.maybe(3):
            if have and not self.c.maybe(4):
                return self.c.of(have)
            if dtype == BOOL:
                return Const(self.c.maybe(), BOOL)
            return Const(self.c.of([0, 1, 2, 3, 4, 7, 16, -1, -5, 2**31 - 1]), dtype)
        part = lambda t=dtype: self.expr(t, depth - 1)  # noqa: E731
        if dtype == BOOL:
            op = self.c.of(
                ["and", "or", "not", "lt", "le", "eq", "ne", "gt", "ge", "bitxor", "bitor"]
            )
            if op == "not":
                return apply("not", part())
            own = op in ("and", "or", "bitxor", "bitor")
            return apply(op, part(), part()) if own else apply(op, part(I32), part(I32))
        ops = ["add", "sub", "mul", "floordiv", "mod", "min", "max", "bitand", "bitor", "bitxor"]
        op = self.c.of(
            [*ops, "neg", "invert", "abs", "select", "cast", "shl", "shr", "multiple_of"]
        )
        if op in ("neg", "invert", "abs"):
            return apply(op, part())
        if op == "select":
            return apply(op, self.expr(BOOL, depth - 1), part(), part())
        if op == "cast":
            return cast(part(self.c.of([I32, I64, BOOL, dtypes.u8])), dtype)
        if op == "multiple_of":
            return multiple_of(apply("mul", part(), 4), self.c.of([2, 4, 8]), fold=self.c.maybe())
        if op in ("shl", "shr"):
            return apply(op, part(), apply("bitand", part(), 7))
        return apply(op, part(), part(), fold=self.c.maybe())

    def scalar(self) -> None:
        self.let(self.expr(self.c.of([I32, I32, I64, BOOL])))

    # tiles

    def tile(self, fits: Callable[[TileType], bool] = lambda t: True) -> Value:
        """A tile in scope, or a new one."""
        have = [v for v in self.here.tiles if fits(v.type)]  # type: ignore[arg-type]
        if not have:
            self.load()
            have = [v for v in self.here.tiles if fits(v.type)]  # type: ignore[arg-type]
        if not have:
            raise TilusError("no such tile")
        return self.c.of(have)

    def like(self, v: Value, dtype: DType | None = None) -> Value:
        """A tile of the same type."""
        t = v.type
        assert isinstance(t, TileType)
        return self.of_type(TileType(dtype or t.dtype, t.shape))

    def of_type(self, t: TileType) -> Value:
        have = [v for v in self.here.tiles if str(v.type) == str(t)]
        if have and not self.c.maybe(4):
            return self.c.of(have)
        value: Expr = Const(True if t.dtype == BOOL else 1, t.dtype)
        if t.dtype.is_integer and t.dtype.bits >= 32:
            value = self.expr(t.dtype if t.dtype in (I32, I64) else I32, 1)
        return self.emit("full", dtype=t.dtype, shape=t.shape, value=value, layout=self.layout(t))

    def layout(self, t: TileType, one_in: int = 3) -> Layout | None:
        """Perhaps an explicit layout."""
        choice, wanted = self.c.below(4), self.c.maybe(one_in)
        return layouts_for(t, self.num_threads)[choice] if wanted else None

    def load(self) -> None:
        t = self.c.of(TYPES)
        shape = self.c.of([s for s in SHAPES if 0 < len(s) < 3])
        offsets = (self.expr(I32, 1), const(self.c.of([0, 8, -8, 4])))
        if not t.is_subbyte and self.c.maybe(3):
            offsets = (const(self.c.below(3)), self.expr(I32, 1))
        fields: dict[str, Any] = {"layout": self.layout(TileType(t, shape))}
        if len(shape) == 2 and not t.is_subbyte and self.c.maybe(4):
            fields["dims"] = (1, 0)
        other = float(self.c.below(2))
        self.emit("load_global", self.views[t], offsets, shape, other=other, **fields)

    def make(self) -> None:
        if self.c.maybe():
            start = self.c.of([0, -3, 5])
            self.emit("arange", start, start + self.c.of([8, 16, 24]))
        else:
            self.of_type(TileType(self.c.of(TYPES), self.c.of(SHAPES)))

    def elementwise(self) -> None:
        opcode = self.c.of(ELEMENTWISE)
        cls: Any = REGISTRY[opcode]
        if opcode == "cast":
            self.emit("cast", self.tile(), self.c.of(TYPES))
        elif opcode == "where":
            a = self.tile()
            self.emit("where", self.like(a, BOOL), a, self.like(a))
        elif issubclass(cls, Fma):
            a = self.tile(lambda t: kind_of(t.dtype) == "f" and t.dtype.bits > 8)
            self.emit("fma", a, self.like(a), self.like(a))
        else:
            a = self.tile(lambda t: kind_of(t.dtype) in cls.kinds)
            if issubclass(cls, Unary):
                self.emit(opcode, a)
                return
            b = self.like(a)
            t = b.type
            if issubclass(cls, Shift):
                bound = Const(min(b.dtype.bits - 1, int(b.dtype.max)), b.dtype)
                mask = self.emit("full", dtype=b.dtype, shape=t.shape, value=bound)  # type: ignore[union-attr]
                b = self.emit("bitand", b, mask)
            elif opcode in ("floordiv", "mod"):
                one = self.emit("full", dtype=b.dtype, shape=t.shape, value=Const(1, b.dtype))  # type: ignore[union-attr]
                b = self.emit("bitor", b, one)
            self.emit(opcode, a, b)

    def shaped(self) -> None:
        v = self.tile()
        t = v.type
        assert isinstance(t, TileType)
        rank = len(t.shape)
        match self.c.of(
            ["reshape", "transpose", "broadcast", "expand", "squeeze", "slice", "concat"]
        ):
            case "reshape":
                fits = [s for s in (*SHAPES, (t.size,)) if math.prod(s) == t.size]
                self.emit("reshape", v, self.c.of(fits))
            case "transpose":
                self.emit("transpose", v)
            case "broadcast":
                self.emit("broadcast", v, tuple(4 if n == 1 else n for n in t.shape))
            case "expand":
                self.emit("expand_dims", v, self.c.below(rank + 1))
            case "squeeze":
                self.emit("squeeze", v, next((i for i, n in enumerate(t.shape) if n == 1), -1))
            case "slice":
                starts = tuple(n // 2 if self.c.maybe() else 0 for n in t.shape)
                shape = tuple(max(1, n - s) for n, s in zip(t.shape, starts, strict=True))
                self.emit("slice", v, starts, shape)
            case "concat":
                self.emit("concat", (v, self.like(v)), self.c.below(max(rank, 1)))

    def across(self) -> None:
        match self.c.of(["reduce", "scan", "dot", "lookup", "item"]):
            case "reduce":
                v = self.tile(lambda t: len(t.shape) > 0)
                op = self.c.of(["sum", "max", "min", "any", "all", "argmax"])
                self.emit("reduce", v, self.c.of([0, -1]), op, self.c.maybe())
            case "scan":
                v = self.tile(lambda t: len(t.shape) > 0)
                self.emit("scan", v, -1, self.c.of(["add", "max", "min"]), self.c.maybe())
            case "dot":
                a = self.tile(lambda t: len(t.shape) == 2)
                k = a.type.shape[1]  # type: ignore[union-attr]
                b = self.of_type(TileType(a.dtype, (k, self.c.of([8, 16]))))
                self.emit("dot", a, b)
            case "lookup":
                index = self.tile(lambda t: t.dtype == dtypes.u4)
                self.emit("lookup", index, self.of_type(TileType(self.c.of(TYPES), (16,))))
            case "item":
                v = self.tile(lambda t: t.size == 1 and t.dtype in (I32, I64, BOOL))
                self.here.scalars.append(self.emit("item", v))

    def viewed(self) -> None:
        """The same bits as another type: the outcome is the same for every number of threads."""
        v = self.tile(lambda t: t.dtype in VIEWED and len(t.shape) == 2 and t.shape[1] > 1)
        t = v.type
        assert isinstance(t, TileType)
        have = layouts_for(t, self.num_threads)[self.c.below(4)]
        if t.dtype == dtypes.u4:  # pairs of neighbours in one thread
            have = layouts_for(
                TileType(dtypes.u8, (t.shape[0], t.shape[1] // 2)), self.num_threads
            )[0]
            want, dtype = have, dtypes.u8
            have = have * local(1, 2)
        elif t.dtype == I32:
            want, dtype = have * local(1, 4), dtypes.i8
        elif self.c.maybe():
            want, dtype = have, dtypes.i8
        else:
            want, dtype = have * local(1, 2), dtypes.u4
        if self.c.maybe():
            self.emit("convert_layout", v, have)
        else:  # the layout is said of a copy
            zero = self.emit("full", dtype=t.dtype, shape=t.shape, value=Const(0, t.dtype))
            inst = REGISTRY["bitor"](v, zero)
            said = Value(TileType(t.dtype, t.shape, have), "said")
            self.stmts.append(Assign(said, inst))
            self.here.tiles.append(said)
        self.emit("view", self.here.tiles[-1], dtype, want)

    # memory

    def memory(self) -> None:
        kind = self.c.of(["allocate", "store", "store", "load", "load", "copy"])
        if kind == "allocate" or not self.here.shared:
            t = self.c.of([t for t in TYPES if t.bits in (4, 8, 16, 32)])
            shape = self.c.of([(8, 16), (2, 4, 16), (16,)])
            layout = None
            if len(shape) == 2 and self.c.maybe(3):
                layout = self.c.of(
                    [SharedLayout.column_major(8, 16), SharedLayout.row_major(8, 16)]
                )
            s = self.emit("allocate_shared", t, shape, layout)
            self.emit("store_shared", s, self.of_type(TileType(t, shape)))
            self.here.shared.append(s)
            return
        s = self.c.of(self.here.shared)
        t = s.type
        assert isinstance(t, SharedType)
        if kind == "copy":
            if len(t.shape) == 2 and t.layout is None:
                self.emit("copy_async", s, self.views[t.dtype], (self.expr(I32, 1), const(0)))
                self.emit("copy_async_commit_group")
                try:
                    self.elementwise()
                finally:
                    self.emit("copy_async_wait_group", 0)
            return
        shape, offsets, dims = t.shape, None, None
        if self.c.maybe():  # a part: one plane or some rows, at an offset that lies inside
            step = apply("bitand", self.expr(I32, 1), 1)
            if len(shape) == 3:
                shape, offsets = shape[1:], (step, const(0), const(0))
            elif len(shape) == 2:
                shape, offsets = (4, 16), (apply("mul", step, 4), const(0))
                dims = (0, 1) if self.c.maybe() else None
        if kind == "store":
            self.emit("store_shared", s, self.of_type(TileType(t.dtype, shape)), offsets, dims)
        else:
            self.emit("load_shared", s, offsets, shape, dims, self.layout(TileType(t.dtype, shape)))

    def store(self, v: Value) -> None:
        """Store to memory of its own."""
        t = v.type
        assert isinstance(t, TileType)
        p = self.param(f"out{len(self.outputs)}", PointerType(t.dtype))
        step = -(-t.size // 8) * 8  # no two blocks share a byte
        self.outputs[p.name] = t.dtype, BLOCKS * step
        strides = [step, *(math.prod(t.shape[d + 1 :]) for d in range(len(t.shape)))]
        shape = tuple(map(const, (BLOCKS, *t.shape)))
        view = self.emit("global_view", p, t.dtype, shape, tuple(map(const, strides)))
        offsets = (GridIndex("block_idx", 0), *(const(0) for _ in t.shape))
        self.emit("store_global", view, v, offsets)

    def odd(self) -> None:
        match self.c.of(["sync", "fence", "prefetch", "print", "assert"]):
            case "sync":
                self.emit("sync")
            case "fence":
                self.emit("fence")
            case "prefetch":
                self.emit("prefetch", self.views[I32], (const(0), self.expr(I32, 1)), (8, 8))
            case "print":
                self.emit("print_tensor", self.c.of([*self.here.tiles, *self.here.scalars]))
            case "assert":
                e = self.expr(BOOL, 1)
                self.emit("device_assert", apply("or", e, apply("not", e)), "it holds")

    # regions

    def inside(
        self,
        depth: int,
        args: tuple[Value, ...],
        results: tuple[Value, ...],
        loop: tuple[Value, ...] | None,
        jumps: bool,
        count: Value | None = None,
    ) -> Seq:
        """A region that yields values like `results`, or jumps."""
        outer, stmts, outer_loop = self.here, self.stmts, self.loop
        self.here, self.stmts, self.loop = outer.copy(), [], loop
        try:
            for v in args:
                (self.here.tiles if isinstance(v.type, TileType) else self.here.scalars).append(v)
            self.some(1 + self.c.below(3), depth)
            if jumps and self.c.maybe(4):
                kind = self.c.of([Continue, Break] if loop is not None else [Return])
                self.stmts.append(Return() if kind is Return else kind(self.values(loop or ())))
            elif count is not None:  # it goes on whatever the body does
                self.stmts.append(Yield((apply("add", count, 1), *self.values(results[1:]))))
            elif results:
                self.stmts.append(Yield(self.values(results)))
            return Seq(tuple(self.stmts))
        finally:
            self.here, self.stmts, self.loop = outer, stmts, outer_loop

    def values(self, like: tuple[Value, ...]) -> tuple[Expr, ...]:
        """A value for each of some types."""
        out: list[Expr] = []
        for v in like:
            if isinstance(v.type, TileType):
                x = self.of_type(TileType(v.type.dtype, v.type.shape))
                if v.type.layout is not None:
                    x = self.emit("convert_layout", x, v.type.layout)
                out.append(x)
            else:
                out.append(self.expr(v.dtype, 1))
        return tuple(out)

    def new_values(self, count: int) -> tuple[Value, ...]:
        """Values to hand on, of the types of some in scope."""
        types: list[Type] = []
        for _ in range(count):
            if self.here.tiles and self.c.maybe():
                t = self.c.of(self.here.tiles).type
                assert isinstance(t, TileType)
                types.append(t.with_layout(self.layout(t, 5)))
            else:
                types.append(ScalarType(self.c.of([I32, BOOL])))
        return tuple(Value(t, "v") for t in types)

    def add(self, s: Stmt, results: tuple[Value, ...]) -> None:
        self.stmts.append(s)
        for v in results:
            (self.here.tiles if isinstance(v.type, TileType) else self.here.scalars).append(v)

    def branch(self, depth: int) -> None:
        cond = self.expr(BOOL)
        results = self.new_values(self.c.below(3))
        then = self.inside(depth + 1, (), results, self.loop, jumps=True)
        orelse = Seq()
        if results or self.c.maybe():
            orelse = self.inside(depth + 1, (), results, self.loop, jumps=False)
        self.add(If(cond, then, orelse, results), results)

    def carried(self) -> tuple[tuple[Value, ...], tuple[Expr, ...], tuple[Value, ...]]:
        args = self.new_values(self.c.below(3))
        inits = self.values(args)
        return args, inits, tuple(Value(v.type, "r") for v in args)

    def loop_for(self, depth: int) -> None:
        args, inits, results = self.carried()
        extent = const(self.c.below(4)) if self.c.maybe() else apply("bitand", self.expr(I32, 1), 3)
        index = Value(ScalarType(I32), "i")
        body = self.inside(depth + 1, (index, *args), args, args, jumps=False)
        self.add(For(index, extent, args, inits, body, results), results)

    def loop_while(self, depth: int) -> None:
        args, inits, results = self.carried()
        count = Value(ScalarType(I32), "count")
        args, inits = (count, *args), (const(0), *inits)
        results = (Value(ScalarType(I32), "r"), *results)
        cond = apply("lt", count, 1 + self.c.below(3))
        if self.c.maybe():
            cond = apply("and", cond, self.expr(BOOL, 1))
        body = self.inside(depth + 1, args, args, None, jumps=False, count=count)
        self.add(While(cond, args, inits, body, results), results)


ELEMENTWISE = [
    opcode
    for opcode, cls in REGISTRY.items()
    if issubclass(cls, (Unary, Binary, Compare, Fma)) or opcode in ("cast", "where")
]


def layouts_for(t: TileType, num_threads: int) -> list[Layout]:
    """Four layouts of a tile: the default, one held by all, and two by columns."""
    if not t.shape:
        return [replicated(num_threads)] * 4
    spread = [1] * len(t.shape)
    left = num_threads
    for d, n in enumerate(t.shape):  # the first dimension first
        spread[d] = math.gcd(left, n)
        left //= spread[d]
    rest = [n // s for n, s in zip(t.shape, spread, strict=True)]
    whole = held_by_all(t.shape, num_threads)
    return [
        default_layout(t.shape, t.dtype.bits, num_threads),
        whole,
        replicated(left) * column_spatial(*spread) * local(*rest),
        local(*rest) * replicated(left) * spatial(*spread),
    ]
