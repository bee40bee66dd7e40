"""What is said to be known of scalars holds, whatever they are at run time."""

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.ir.test_expr import edges
from tilus import dtypes
from tilus.errors import TilusError, Trap
from tilus.ir.analysis import Analysis, Facts
from tilus.ir.expr import (
    OPS,
    Const,
    Expr,
    GridIndex,
    Value,
    apply,
    cast,
    const,
    kind_of,
    multiple_of,
)
from tilus.ir.interpreter import Block
from tilus.ir.parser import parse
from tilus.ir.program import For, Function, Let, Param, Seq, walk
from tilus.ir.types import ScalarType

DTYPES = tuple(map(dtypes.dtype, ("i8", "u8", "i32", "u32", "i64", "bool", "f32")))


class World:
    """Values in scope, and what they happen to be."""

    def __init__(self) -> None:
        self.params: list[Param] = []
        self.lets: list[Let] = []
        self.now: dict[Value, int | float | bool] = {}

    def function(self) -> Function:
        return Function("k", tuple(self.params), Seq(tuple(self.lets)), 1)

    def block(self) -> Block:
        return Block(self.function(), dict(self.now), (3, 0, 1), (5, 1, 2), 3, 10, {}, print)


@st.composite
def worlds(draw) -> tuple[World, Expr]:
    """Parameters with values, `let`s of them, and an expression."""
    w = World()
    for dtype in DTYPES:
        for _ in range(draw(st.integers(0, 1)) + (dtype == dtypes.i32)):
            divisible = draw(st.sampled_from([1, 1, 2, 6, 16])) if kind_of(dtype) == "i" else 1
            v = Value(ScalarType(dtype), "p")
            if kind_of(dtype) == "i":
                x = draw(edges(dtype))
                now: int | float | bool = x - x % divisible
                if not dtype.min <= now <= dtype.max:
                    now = 0
            else:
                now = draw(st.booleans()) if kind_of(dtype) == "b" else draw(st.floats(width=32))
            w.params.append(Param(v, divisible))
            w.now[v] = now

    def leaf(dtype) -> Expr:
        have = [v for v in w.now if v.dtype == dtype]
        if dtype == dtypes.i32 and draw(st.integers(0, 4)) == 0:
            return GridIndex(
                draw(st.sampled_from(["block_idx", "grid_dim"])), draw(st.integers(0, 2))
            )
        if have and draw(st.booleans()):
            return draw(st.sampled_from(have))
        if kind_of(dtype) == "i":
            return Const(draw(edges(dtype)), dtype)
        return Const(draw(st.booleans()) if kind_of(dtype) == "b" else 1.5, dtype)

    def tree(dtype, depth: int) -> Expr:
        if depth == 0:
            return leaf(dtype)
        kind = kind_of(dtype)
        ops = [n for n, o in OPS.items() if kind in o.kinds or (kind == "b" and o.result == "bool")]
        op = draw(st.sampled_from(ops))
        try:
            if op == "cast":
                return cast(tree(draw(st.sampled_from(DTYPES)), depth - 1), dtype)
            if op == "multiple_of":
                return multiple_of(tree(dtype, depth - 1), draw(st.sampled_from([1, 2, 3, 8])))
            if op == "select":
                return apply(
                    op, tree(dtypes.bool_, depth - 1), *(tree(dtype, depth - 1) for _ in "ab")
                )
            of = dtype
            if OPS[op].result == "bool":
                of = draw(st.sampled_from([d for d in DTYPES if kind_of(d) in OPS[op].kinds]))
            return apply(op, *(tree(of, depth - 1) for _ in range(OPS[op].arity)))
        except TilusError:  # a constant division by zero, say
            return leaf(dtype)

    for _ in range(draw(st.integers(0, 2))):
        e = tree(draw(st.sampled_from(DTYPES[:6])), draw(st.integers(0, 2)))
        v = Value(e.type, "l")
        try:
            w.now[v] = w.block().eval(e)
        except Trap:
            continue
        w.lets.append(Let(v, e))
    return w, tree(draw(st.sampled_from(DTYPES[:6])), draw(st.integers(1, 3)))


@settings(max_examples=500)
@given(worlds())
def test_facts_hold(world) -> None:
    w, e = world
    facts = Analysis(w.function())
    known = facts.facts(e)
    try:
        now = int(w.block().eval(e))
    except Trap:
        assert facts.can_trap(e)
        return
    assert known.low <= now <= known.high
    assert now % known.divisor == 0 if known.divisor else now == 0
    terms, rest = facts.linear(e)
    if kind_of(e.dtype) == "i":
        total = rest + sum(n * int(w.block().eval(t)) for t, n in terms.items())
        assert (total - now) % (1 << e.dtype.bits) == 0


@pytest.mark.parametrize(
    ("expr", "facts"),
    [
        ("5", Facts(5, 5, 5)),
        ("0", Facts(0, 0, 0)),
        ("%n", Facts(-(2**31), 2**31 - 1, 16)),
        ("%n + 8", Facts(-(2**31), 2**31 - 1, 8)),
        ("%n * 3", Facts(-(2**31), 2**31 - 1, 16)),  # 48 divides it only where nothing wraps
        ("%b * 3", Facts(0, 765, 3)),
        ("%b % 7", Facts(0, 6, 1)),
        ("%b % 300", Facts(0, 255, 1)),
        ("%b // -16", Facts(-16, 0, 1)),
        ("%n % 16", Facts(0, 0, 0)),
        ("%n % 24", Facts(0, 23, 8)),
        ("-%b", Facts(-255, 0, 1)),
        ("abs(%b - 100)", Facts(0, 155, 1)),
        ("min(%b, 7)", Facts(0, 7, 1)),
        ("%b << 4", Facts(0, 4080, 16)),
        ("%n >> 2", Facts(-(2**29), 2**29 - 1, 4)),
        ("multiple_of(%b, 6)", Facts(0, 255, 6)),
        ("select(%c, %n, %n + 4)", Facts(-(2**31), 2**31 - 1, 4)),
        ("block_idx(0)", Facts(0, 2**31 - 1, 1)),
        ("grid_dim(0)", Facts(1, 2**31 - 1, 1)),
        ("%b < 256", Facts(1, 1, 1)),
        ("%b > 255", Facts(0, 0, 0)),
        ("%b == %n", Facts(0, 1, 1)),
        ("bool(%b + 1)", Facts(1, 1, 1)),
        ("i32(bool(%n))", Facts(0, 1, 1)),
        ("%i * 4", Facts(0, 36, 4)),
        ("%j", Facts(0, 0, 0)),
    ],
)
def test_known_facts(expr: str, facts: Facts) -> None:
    f = parse(
        f"""kernel @k(%n: i32 divisible 16, %u: u8, %c: bool) threads 1 {{
      let %b = i32(u16(%u))
      for %i < 10 {{ for %j < %b - 255 {{ let %x = {expr} }} }}
    }}""".replace("i32(u16(%u))", "i32(%u)")
    )
    (x,) = [s.expr for s in walk(f.body) if isinstance(s, Let) and s.var.name == "x"]
    found = Analysis(f).facts(x)
    assert (found.low, found.high) == (facts.low, facts.high)
    assert found == facts or found.constant is not None


def test_differences() -> None:
    f = parse("""kernel @k(%n: i32, %m: i32) threads 1 {
      let %a = %n * 4 + %m
      let %b = (%n + 1) * 4 + multiple_of(%m, 2)
      let %c = %m * %n
      let %d = %m * %n + 5
      let %e = %n
    }""")
    facts = Analysis(f)
    a, b, c, d, e = (s.var for s in f.body.stmts)
    assert facts.difference(b, a) == 4
    assert facts.difference(d, c) == 5
    assert facts.difference(a, a) == 0
    assert facts.difference(a, c) is None
    assert facts.difference(const(7), const(9)) == -2
    assert facts.unfolded(e) is f.params[0].value
    assert facts.inputs(b) == {p.value for p in f.params}


@settings(max_examples=120)
@given(st.data())
def test_is_inside(data) -> None:
    """What is said to lie inside does, for all indices of the loop and the grid."""
    n, m, i = (Value(ScalarType(dtypes.i32), x) for x in "nmi")

    def times(e: Expr, factor: int) -> Expr:
        return apply("mul", e, factor)

    q, a, b = (data.draw(st.sampled_from(s)) for s in ([1, 2, 4], [0, 1, 4, 8], [0, 1, 8]))
    whole = apply("add", apply("add", times(n, data.draw(st.integers(0, 2))), m), 2)
    steps = apply("floordiv", whole, q) if data.draw(st.booleans()) else whole
    loop = For(i, steps, (), (), Seq())
    facts = Analysis(Function("k", (Param(n), Param(m, 4)), Seq((loop,)), 1))
    block = GridIndex("block_idx", 0)
    offset = apply("add", apply("add", times(i, a), times(block, b)), data.draw(st.integers(-1, 3)))
    room = times(whole, a // q) if a % q == 0 and data.draw(st.booleans()) else times(steps, a)
    room = apply("add", room, times(GridIndex("grid_dim", 0), b))
    extent = apply("add", room, data.draw(st.integers(-12, 4)))
    length = data.draw(st.integers(1, 8))
    if not facts.is_inside(offset, length, extent):
        return
    event("inside")
    for _ in range(20):
        now = {n: data.draw(st.integers(-5, 20)), m: 4 * data.draw(st.integers(-2, 5))}
        grid = data.draw(st.integers(1, 4))
        f = Function("k", (), Seq(), 1)
        for b in range(grid):
            for k in range(Block(f, now, (b, 0, 0), (grid, 1, 1), b, grid, {}, print).eval(steps)):
                block = Block(f, now | {i: k}, (b, 0, 0), (grid, 1, 1), b, grid, {}, print)
                assert 0 <= block.eval(offset) <= block.eval(extent) - length


def test_known_insides() -> None:
    f = parse("""kernel @k(%n: i32 divisible 16) threads 1 {
      for %i < %n // 16 { let %a = %i * 16 }
      let %b = block_idx(0) * 8
    }""")
    facts = Analysis(f)
    n, a, b = f.params[0].value, *(s.var for s in walk(f.body) if isinstance(s, Let))
    assert facts.is_inside(a, 16, n)
    assert not facts.is_inside(a, 17, n)
    assert facts.is_inside(b, 8, apply("mul", GridIndex("grid_dim", 0), 8))
    assert not facts.is_inside(b, 8, n)
    assert not facts.is_inside(apply("sub", a, 1), 1, n)


def test_a_minimum_bounds_a_loop() -> None:
    f = parse("""kernel @k(%n: i32) threads 1 {
      let %first = block_idx(0) * 4
      let %count = min(%n - %first, 4)
      for %i < %count { let %a = %first + %i }
    }""")
    facts = Analysis(f)
    a = next(s.var for s in walk(f.body) if isinstance(s, Let) and s.var.name == "a")
    assert facts.is_inside(a, 1, f.params[0].value)
    assert not facts.is_inside(a, 2, f.params[0].value)
    assert facts.is_inside(a, 1, apply("mul", GridIndex("grid_dim", 0), 4))


def test_loops() -> None:
    f = parse("kernel @k(%n: i64) threads 1 { for %i < %n { } for %j < 0 { } for %k < -5 { } }")
    facts = Analysis(f)
    i, j, k = (s.index for s in f.body.stmts if isinstance(s, For))
    assert facts.facts(i) == Facts(0, 2**63 - 2)
    assert facts.facts(j).constant == facts.facts(k).constant == 0


@pytest.mark.parametrize(
    ("expr", "traps"),
    [
        ("%n // 2", False),
        ("%n // %n", True),
        ("%n % (%u + 1)", False),
        ("%n % %u", True),
        ("%n << 63", False),
        ("%n << 64", True),
        ("%n >> %u", True),
        ("%n >> %u % 64", False),
        ("%x / 2.0", False),
        ("%x / %x", True),
        ("multiple_of(%n, 4)", False),
        ("multiple_of(%n, 16)", True),
        ("1 + 2 * (%n // %n)", True),
        ("false and 1 // %n == 1", True),
    ],
)
def test_what_can_trap(expr: str, traps: bool) -> None:
    f = parse(f"""kernel @k(%n: i32 divisible 4, %v: u8, %x: f32) threads 1 {{
      let %u = i32(%v)
      let %y = {expr}
    }}""")
    assert Analysis(f).can_trap(f.body.stmts[1].expr) is traps
