"""Simplification: each rule holds for random values, traps stay, and decided code goes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ir.test_analysis import worlds
from tests.ir.test_expr import INTS, edges
from tilus import dtypes
from tilus.errors import TilusError, Trap
from tilus.ir.expr import Const, Expr, Value, apply, children, kind_of, walk
from tilus.ir.interpreter import Block
from tilus.ir.parser import parse
from tilus.ir.passes.simplify import RULES, _Simplifier, read_rule, simplify
from tilus.ir.program import Function, Let, Param, Seq
from tilus.ir.target import target
from tilus.ir.types import ScalarType

BOOL = dtypes.bool_


def tree(pattern, names: dict[str, Value], dtype) -> Expr:
    """A rule's left side as an expression; TilusError where the type does not fit."""
    if isinstance(pattern, str):
        return names.setdefault(
            pattern, Value(ScalarType(BOOL if pattern == "z" else dtype), pattern)
        )
    if isinstance(pattern, tuple):
        return apply(pattern[0], *(tree(p, names, dtype) for p in pattern[1]), fold=False)
    return Const(pattern, BOOL if isinstance(pattern, bool) else dtype)


def value_of(e: Expr, now: dict[Value, int]):
    return Block(
        Function("k", (), Seq(), 1), dict(now), (0, 0, 0), (1, 1, 1), 0, 1, {}, print
    ).eval(e)


@pytest.mark.parametrize("text", RULES)
@settings(max_examples=60)
@given(st.data())
def test_rule(text: str, data) -> None:
    rule = read_rule(text)
    fitting = []
    for dtype in (*INTS, BOOL):
        names: dict[str, Value] = {}
        try:
            fitting.append((tree(rule.pattern, names, dtype), tuple(names.values())))
        except TilusError:  # no such operation on these
            continue
    e, names_used = data.draw(st.sampled_from(fitting))
    found = rule.match(e)
    assert found is not None
    new = rule.build(found, e)
    assert new.type == e.type
    now = {
        v: data.draw(edges(v.dtype) if kind_of(v.dtype) == "i" else st.booleans())
        for v in names_used
    }
    assert value_of(e, now) == value_of(new, now)


@settings(max_examples=500)
@given(worlds())
def test_expressions_keep_their_value_and_their_traps(world) -> None:
    w, e = world
    y = Value(e.type, "y")
    f = w.function().with_body(Seq((*w.lets, Let(y, e))))
    short = simplify(f, target("generic"))

    def outcome(g):
        block = Block(
            g,
            {v: w.now[v] for v in (p.value for p in w.params)},
            (3, 0, 1),
            (5, 1, 2),
            3,
            10,
            {},
            print,
        )
        try:
            block.seq(g.body)
        except Trap:
            return "trap"
        return repr(block.env[g.body.stmts[-1].var])

    assert outcome(f) == outcome(short)
    assert simplify(short, target("generic")) is short


def simple(expr: str, params: str = "%n: i32 divisible 16, %b: bool, %u: u8, %x: f32") -> str:
    f = parse(f"kernel @k({params}) threads 1 {{ let %y = {expr} print_tensor(x=%y) }}")
    (line,) = [s for s in str(simplify(f, target("generic"))).splitlines() if "let" in s]
    return line.removeprefix("  let %y = ")


@pytest.mark.parametrize(
    ("expr", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(%n + 3) - 1 + 5", "%n + 7"),
        ("(%n - 3) + 1", "%n - 2"),
        ("(%n + 2147483647) + 1", "%n - -2147483648"),
        ("(%u + 200:u8) + 100:u8", "%u + 200:u8 + 100:u8"),
        ("%n % 8", "0"),
        ("%n * 1 + 0 * %n", "%n"),
        ("%b ^ %b", "false"),
        ("%b | %b", "%b"),
        ("not (not %b) and true", "%b"),
        ("i32(%u) < 256", "true"),
        ("i32(%u) % 256", "i32(%u)"),
        ("i32(%u) // 256", "0"),
        ("select(%b, %n, %n)", "%n"),
        ("select(i32(%u) >= 0, %n, 0)", "%n"),
        ("multiple_of(%n, 8)", "%n"),
        ("multiple_of(%n, 32)", "multiple_of(%n, 32)"),
        # what may trap stays
        ("1 // %n * 0", "1 // %n * 0"),
        ("1 // 0", "1 // 0"),
        ("1 // %n - 1 // %n", "1 // %n - 1 // %n"),
        ("select(1 // %n == 0, %n, %n)", "select(1 // %n == 0, %n, %n)"),
        ("select(1 // %n == 0, 1 // %n, 1 // %n)", "select(1 // %n == 0, 1 // %n, 1 // %n)"),
        ("1 // %n == 0 and false", "1 // %n == 0 and false"),
        # floats keep their signs and NaNs
        ("%x * 0.0", "%x * 0.0"),
        ("%x - %x", "%x - %x"),
        ("%x + 0.0", "%x + 0.0"),
        ("%x == %x", "%x == %x"),
        ("0.1 + 0.2", "0.3"),
        ("1.0 / 0.0", "1.0 / 0.0"),
    ],
)  # fmt: skip
def test_expressions(expr: str, result: str) -> None:
    assert simple(expr) == result


def body_after(text: str, params: str = "%n: i32, %b: bool, %p: ptr[f32]") -> str:
    f = parse(f"kernel @k({params}) threads 4 {{\n{text}\n}}")
    lines = str(simplify(f, target("generic"))).splitlines()
    return "\n".join(line.strip() for line in lines[1:-1])


def test_branches() -> None:
    assert body_after("if true { sync() } else { fence() }") == "sync()"
    assert body_after("if 1 > 2 { sync() }") == ""
    assert body_after("if false -> (%a: i32) { yield 1 } else { yield %n } print_tensor(x=%a)") == (
        'print_tensor(x=%n, message="a")'
    )
    assert body_after("if true -> (%a: i32) { yield 1 // %n } else { yield 2 }\nsync()") == (
        "let %a = 1 // %n\nsync()"
    )
    assert body_after("if %b { return } else { if true { return } }\nsync()") == (
        "if %b {\nreturn\n} else {\nreturn\n}"
    )


def test_loops() -> None:
    assert body_after("for %i < 0 { sync() }") == ""
    assert body_after("for %i < -3 carry (%a = %n) -> (%r: i32) { yield %i } let %x = %r + 1") == (
        "let %x = %n + 1"
    )
    assert body_after("while false { sync() }") == ""
    assert body_after("while 1 == 2 carry (%a = 2) -> (%r: i32) { yield 3 } let %x = %r + 1") == (
        "let %x = 3"
    )
    assert body_after("for %i < 1 // %n - 1 // %n { sync() }").startswith("for %i <")
    assert body_after("for %i < 4 { if %i < 4 { sync() } }") == "for %i < 4 {\nsync()\n}"
    assert body_after("for %i < 4 { if true { break }\nsync() }") == "for %i < 4 {\nbreak\n}"
    assert body_after("while %b { if true { continue } else { sync() }\nfence() }") == (
        "while %b {\ncontinue\n}"
    )


def test_names_of_names() -> None:
    assert body_after("let %a = %n\nlet %b2 = %a\nlet %c = 2\nlet %d = %b2 + %c") == (
        "let %a = %n\nlet %b2 = %n\nlet %c = 2\nlet %d = %n + 2"
    )


def test_a_layout_that_was_promised_is_kept() -> None:
    """`view` depends on it, so the branch's tile may not simply take the result's place."""
    text = """%t = full(dtype=u8, shape=[8], value=3)
      if true -> (%r: u8[8] @ spatial(4)*local(2)) { yield %t } else { yield %t }
      %v = view(%r, dtype=u16, layout=spatial(4))"""
    assert body_after(text).splitlines()[-2:] == [
        "%r = convert_layout(%t, layout=#L0) : u8[8] @ #L0",
        "%v = view(%r, dtype=u16, layout=spatial(4)) : u16[4] @ spatial(4)",
    ]


def test_nothing_to_do_gives_the_same_object() -> None:
    f = parse("kernel @k(%n: i32) threads 1 { let %a = %n + 1 for %i < %a { print_tensor(x=%i) } }")
    assert simplify(f, target("generic")) is f
    assert _Simplifier(f).function(f) is f


def test_rules_drop_only_what_they_say() -> None:
    drops = {text: read_rule(text).drops for text in RULES}
    assert drops["x * 0 -> 0"] == {"x"}
    assert drops["select(z, x, x) -> x"] == {"z"}
    assert drops["x + 0 -> x"] == frozenset()


def test_rules_apply_inside_and_repeatedly() -> None:
    n = Value(ScalarType(dtypes.i32), "n")
    e: Expr = n
    for _ in range(200):
        e = apply("mul", apply("add", e, 0), 1)
    f = Function("k", (Param(n),), Seq((Let(Value(e.type, "y"), e),)), 1)
    (let,) = simplify(f, target("generic")).body.stmts
    assert let.expr is n
    assert not children(n) and list(walk(n)) == [n]
