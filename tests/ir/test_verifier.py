"""Every check of the verifier has a program that fails it; findings are collected and sorted."""

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ir.random_programs import programs
from tests.samples import SAMPLES
from tilus import dtypes
from tilus.errors import Span, TilusError, TilusTypeError
from tilus.ir.expr import Apply, Const, GridIndex, Value, apply, const
from tilus.ir.inst import REGISTRY
from tilus.ir.parser import parse
from tilus.ir.passes import PIPELINE, lower
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
    While,
    Yield,
    walk,
)
from tilus.ir.target import target
from tilus.ir.types import GlobalType, PointerType, ScalarType, SharedType, TileType
from tilus.ir.verifier import verify
from tilus.layouts import local, spatial

I32, F32, BOOL = dtypes.i32, dtypes.f32, dtypes.bool_
INT, YES = ScalarType(I32), Const(True, BOOL)
TILE = TileType(F32, (8,))
Sync, Full, Neg, Arange = (REGISTRY[n] for n in ("sync", "full", "neg", "arange"))


def value(t=INT, name: str = "x") -> Value:
    return Value(t, name)


def function(*stmts, params=(), num_threads: int = 4, name: str = "k") -> Function:
    params = tuple(p if isinstance(p, Param) else Param(p) for p in params)
    return Function(name, params, Seq(stmts), num_threads)


def findings(f: Function, to=None) -> list[str]:
    with pytest.raises(TilusTypeError) as caught:
        verify(f, to)
    return [d.message for d in caught.value.diagnostics]


def check(message: str, *stmts, to=None, **more) -> None:
    found = findings(function(*stmts, **more), to)
    assert any(message in m for m in found), found


def full(result: Value | None = None, **fields) -> Assign:
    inst = Full(**{"dtype": F32, "shape": (8,), "value": const(0.0)} | fields)
    return Assign(value(TILE, "t") if result is None else result, inst)


def test_functions_and_parameters() -> None:
    check("on at least one thread", num_threads=0)
    check("'a b' is no name", name="a b")
    check("'' is no name", name="")
    check("%x is a f32[8]; a kernel takes scalars and pointers", params=[value(TILE)])
    check("%x is a global", params=[value(GlobalType(F32, 1))])
    check("%x is divisible by 0", params=[Param(value(), 0)])
    check("%x, a f32, cannot be divisible", params=[Param(value(ScalarType(F32)), 2)])
    x = value()
    check("%x is defined twice", params=[x, x])
    verify(function(params=[Param(value(PointerType(F32)), 16), Param(value(), 16)]))


def test_definitions_and_uses() -> None:
    x, y = value(), value(name="y")
    check("%x is defined twice", Let(x, const(1)), Let(x, const(1)))
    check("%x is used before it is defined", Let(y, x), Let(x, const(1)))
    check("%x is used outside its region", If(YES, Seq((Let(x, const(1)),))), Let(y, x))
    i = value(name="i")
    check("%i is used outside its region", For(i, const(2), (), (), Seq()), Let(y, i))
    check("%x is i32, its value f32", Let(x, const(1.0)))
    check("%t is f32[8], its value", Let(value(TILE, "t"), value(TILE, "u")))
    check("%x is used before", While(apply("lt", x, 1), (), (), Seq()))
    check("%x is used before", For(i, x, (), (), Seq()))
    check("%x is used before", Assign(value(TILE), Full(F32, (8,), apply("add", x, 1))))


def test_expressions() -> None:
    x, f = value(), value(ScalarType(F32), "f")

    def bad(message: str, e) -> None:
        check(message, Let(value(name="r"), e), params=[x, f])

    bad("operands differ: i32 and f32",
        Apply("add", (x, f), INT))  # fmt: skip
    bad("add of i32, i32 does not make i64", Apply("add", (x, x), ScalarType(dtypes.i64)))
    bad("add takes 2 operands, not 1", Apply("add", (x,), INT))
    bad("no scalar operation 'pow'", Apply("pow", (x, x), INT))
    bad("no scalar operation 'cast' takes 2", Apply("cast", (x, x), INT))
    bad("cast of i32 does not make i32", Apply("cast", (x,), INT))
    bad("lt of i32, i32 does not make i32", Apply("lt", (x, x), INT))
    bad("multiple_of takes", Apply("multiple_of", (x, x), INT))
    bad("an operand must be an expression, not 1", Apply("add", (x, 1), INT))  # type: ignore[arg-type]
    bad("a grid has no block_idx(3)", GridIndex("block_idx", 3))
    bad("a grid has no thread_idx(0)", GridIndex("thread_idx", 0))
    t = value(TILE, "t")
    check("a scalar is needed, not a value of type f32[8]", full(t),
          Let(value(), Apply("neg", (t,), INT)))  # fmt: skip


def test_regions() -> None:
    x, r = value(), value(name="r")
    i = value(name="i")
    check("this branch must end in a yield of 1 values", If(YES, Seq(), Seq((Yield((x,)),)), (r,)))
    one = Seq((Yield((const(1),)),))
    check("the other branch must end in a yield", If(YES, one, Seq(), (r,)))
    check("the yield has 2 values; 1 are needed",
          If(YES, Seq((Yield((const(1), const(2))),)), one, (r,)))  # fmt: skip
    check("the yield of %r, a i32, is f32",
          If(YES, Seq((Yield((const(1.0),)),)), one, (r,)))  # fmt: skip
    check("a yield outside of any branch or loop", Yield((const(1),)))
    check("a yield of no values is left out", If(YES, Seq((Yield(),))))
    check("a break outside of any loop", If(YES, Seq((Break(),))))
    check("a continue outside of any loop", Continue())
    check("a condition is a bool, not i32", If(const(1), Seq()))
    check("a condition is a bool, not i32", While(const(1), (), (), Seq()))
    check("a loop's extent is an integer, not f32", For(i, const(1.0), (), (), Seq()))
    check("%i is i32, the extent i64", For(i, const(1, dtypes.i64), (), (), Seq()))
    check("`unroll` (0) and `stages` (1)", For(i, const(1), (), (), Seq(), unroll=0))
    check("`unroll` (1) and `stages` (-1)", For(i, const(1), (), (), Seq(), stages=-1))
    check(
        "the loop's start has 0 values; 1 are needed",
        For(i, const(1), (x,), (), Seq((Yield((x,)),)), (r,)),
    )
    check("the loop's start of %x, a i32, is f32",
          For(i, const(1), (x,), (const(1.0),), Seq((Yield((x,)),)), (r,)))  # fmt: skip
    check("the loop's result has 1 values; 0 are needed",
          For(i, const(1), (x,), (const(1),), Seq((Yield((x,)),))))  # fmt: skip
    check("the loop's body must end in a yield", For(i, const(1), (x,), (const(1),), Seq(), (r,)))
    check("the break has 0 values; 1 are needed",
          For(i, const(1), (x,), (const(1),), Seq((Break(),)), (r,)))  # fmt: skip
    check("the continue of %x, a i32, is f32",
          While(YES, (x,), (const(1),), Seq((Continue((const(1.0),)),)), (r,)))  # fmt: skip
    check("this can never run", Return(), Assign(None, Sync()))
    leave = If(YES, Seq((Return(),)), Seq((If(YES, Seq((Return(),)), Seq((Return(),))),)))
    check("this can never run", leave, Assign(None, Sync()))
    verify(function(If(YES, Seq((Return(),)), Seq()), Assign(None, Sync())))


def test_only_scalars_and_tiles_are_handed_on() -> None:
    s = value(SharedType(F32, (8,)), "s")
    made = Assign(s, REGISTRY["allocate_shared"](F32, (8,)))
    r = value(s.type, "r")
    check("%r is a shared f32[8]; only scalars and register tiles are handed on",
          made, If(YES, Seq((Yield((s,)),)), Seq((Yield((s,)),)), (r,)))  # fmt: skip


def test_layouts_of_what_is_handed_on() -> None:
    a, b, r = (
        value(TILE.with_layout(x), n) for x, n in ((local(8), "a"), (spatial(8), "b"), (None, "r"))
    )
    arms = Seq((Yield((a,)),)), Seq((Yield((b,)),))
    verify(function(full(a), full(b), If(YES, *arms, (r,))))  # they are converted
    loop = For(value(name="i"), const(2), (a,), (b,), Seq((Yield((a,)),)), (value(b.type, "q"),))
    check("laid out as local(8), not spatial(8)", full(b), loop)


def test_instructions() -> None:
    t, u = value(TILE, "t"), value(TILE, "u")
    check("%u is i32; neg gives f32[8]", full(t), Assign(value(name="u"), Neg(t)))
    check("%u is f32[9]; neg gives", full(t), Assign(value(TileType(F32, (9,)), "u"), Neg(t)))
    check("%u is f32[8]; sync gives None", Assign(u, Sync()))
    check("`x` must be a register tile, not i32", Let(value(), const(1)), Assign(u, Neg(value())))
    laid = value(TILE.with_layout(local(8)), "t")
    check("%t is f32[8]", full(laid, layout=spatial(8)))
    # fields of another kind than they say
    check("full: `value` must be a number or a scalar", full(value="1"))  # type: ignore[arg-type]
    check("`shape` must be a tuple, not 'x'", full(shape="x"))  # type: ignore[arg-type]
    check("`shape` is [8]; it must be (8,)", full(shape=[8]))  # type: ignore[arg-type]
    check("`shape[0]` must be an int, not 8.0", full(shape=(8.0,)))  # type: ignore[arg-type]
    check("`dtype` is 'f32'; it must be", full(dtype="f32"))  # type: ignore[arg-type]
    check("`layout` must be a layout, not 1", full(layout=1))  # type: ignore[arg-type]
    check("`start` must be an int, not True", Assign(value(TILE), Arange(True, 4)))
    view = value(GlobalType(F32, 1), "g")
    p = value(PointerType(F32), "p")
    load = REGISTRY["load_global"](view, (const(0),), (8,), other=1)
    made = Assign(view, REGISTRY["global_view"](p, F32, (const(8),)))
    check("`other` is 1; it must be 1.0", made, Assign(t, load), params=[p])


def test_laid_out() -> None:
    to = target("generic")
    check("%t has no layout", full(), to=to)
    check(
        "%t is spread over 8 threads; the kernel has 4",
        full(value(TILE.with_layout(spatial(8)), "t")),
        to=to,
    )
    t = value(TILE.with_layout(spatial(4) * local(2)), "t")
    u = value(TILE.with_layout(local(2) * spatial(4)), "u")
    check("neg: `x` is laid out as", full(t), Assign(u, Neg(t)), to=to)
    w = value(TILE.with_layout(t.type.layout), "w")
    body = Seq((Yield((t,)),)), Seq((Yield((t,)),))
    verify(function(full(t), If(YES, *body, (w,))), to)
    r = value(u.type, "r")
    check("the yield of %r, a f32[8], is f32[8] laid out as", full(t), If(YES, *body, (r,)), to=to)


def test_findings_are_collected_sorted_and_capped() -> None:
    def at(line: int) -> Span:
        return Span("k.py", line, 4, line, 9)

    lines = [7, 3, 12, 5, 1, 2, 11, 4, 10, 9, 6, 8]
    f = function(*(Let(value(), const(1.0), span=at(n)) for n in lines))
    with pytest.raises(TilusTypeError) as caught:
        verify(f)
    said = str(caught.value)
    places = [p for p in said.split() if p.startswith("k.py")]
    assert places == [f"k.py:{n}:5" for n in range(1, 11)]
    assert said.endswith("\n\n... and 2 more")
    assert len(caught.value.diagnostics) == 12
    assert caught.value.args == ("%x is i32, its value f32",)


def test_one_finding_has_no_footer() -> None:
    f = function(Yield((const(1),)), Let(value(), const(1.0)))
    assert len(findings(f)) == 2
    with pytest.raises(TilusTypeError) as caught:
        verify(f)
    assert "more" not in str(caught.value)


# Whatever is broken in a program, the verifier says so or finds it right; it never crashes.

WRONG = (
    None, 0, -1, True, "x", 1.5, (), (0,), (const(0),), const(0), const(1.5), YES, F32, local(8),
    value(TILE), value(INT), value(PointerType(F32)), value(SharedType(F32, (4, 4))),
    value(GlobalType(F32, 2)), (value(TILE), value(TILE)), ((),), [8], float("nan"),
)  # fmt: skip


@pytest.mark.parametrize("opcode", REGISTRY)
def test_a_wrong_field_is_no_crash(opcode: str) -> None:
    s = next(s for s in SAMPLES if s.opcode == opcode)
    f = s.program(s.threads[-1])
    (at, stmt), *_ = [
        (path, x) for path, x in paths(f.body) if isinstance(x, Assign) and x.inst.opcode == opcode
    ]
    for name in [x.name for x in dataclasses.fields(stmt.inst)]:
        for wrong in WRONG:
            inst = replace(stmt.inst, **{name: wrong})
            broken = f.with_body(put(f.body, at, replace(stmt, inst=inst)))
            try:
                verify(broken)
            except TilusError:
                continue
            assert parse(str(broken)) == broken


def paths(s, path=()):
    """(where, statement) of everything inside a sequence."""
    for i, x in enumerate(s.stmts):
        yield (*path, ("stmts", i)), x
        for field in ("then", "orelse", "body"):
            if hasattr(x, field):
                yield from paths(getattr(x, field), (*path, ("stmts", i), (field, None)))


def put(node, path, new):
    """`node` with `new` at `path`."""
    if not path:
        return new
    (field, i), *rest = path
    if i is None:
        return replace(node, **{field: put(getattr(node, field), rest, new)})
    parts = list(getattr(node, field))
    parts[i] = put(parts[i], rest, new)
    return replace(node, **{field: tuple(parts)})


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(programs(), st.randoms(use_true_random=False))
def test_shuffled_statements_are_no_crash(recipe, random) -> None:
    f = recipe.build(4).made
    inside = [x for x in walk(f.body) if not isinstance(x, Seq)]
    stmts = list(f.body.stmts)
    for _ in range(3):
        i = random.randrange(len(stmts) + 1)
        stmts.insert(i, random.choice([*inside, Yield((const(1),)), Break(), Return()]))
    broken = f.with_body(Seq(tuple(stmts)))
    try:
        verify(broken)
    except TilusTypeError as e:
        assert str(e)
        return
    assert parse(str(broken)) == broken


def test_a_pass_that_breaks_a_program_is_caught() -> None:
    f = lower(SAMPLES[0].program(4))
    broken = f.with_body(Seq(f.body.stmts[::-1]))
    with pytest.raises(TilusTypeError, match="used before it is defined"):
        verify(broken, target("generic"))
    assert PIPELINE[-1].name == "insert_barriers"
