"""The text form: every production, every error, and numbers and names that read back exactly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import ALL_TYPES, lut
from tilus.errors import TilusError, TilusNameError, TilusSyntaxError, TilusTypeError
from tilus.ir import parser, program
from tilus.ir.expr import Apply, Const, GridIndex, Value, apply, const
from tilus.ir.instructions.tiles import Full
from tilus.ir.parser import parse
from tilus.ir.program import Assign, Function, Let, Param, Seq, walk
from tilus.ir.types import ScalarType
from tilus.ir.verifier import verify

# For each production of the grammar in `ir/program.py`, text that has it.
PRODUCTIONS = {
    "Function": "",
    "Param scalar": ("%n: i32", ""),
    "Param divisible": ("%n: i32 divisible 16", ""),
    "Param pointer": ("%p: ptr[u4] divisible 128", ""),
    "Let": "let %a = 1 + 2",
    "Assign result": "%t = full(dtype=f16, shape=[4, 8], value=0.0) : f16[4,8]",
    "Assign without result": "sync()",
    "Assign to memory": "%s = allocate_shared(dtype=u3, shape=[8]) : shared u3[8]",
    "Assign to a view": (
        "%p: ptr[f32], %n: i32",
        "%g = global_view(%p, dtype=f32, shape=[%n, 4], strides=[4, 1], offset=%n)"
        " : global f32[?,?]",
    ),
    "If": ("%c: bool", "if %c {\n sync()\n}"),
    "If else": ("%c: bool", "if %c {\n} else {\n sync()\n}"),
    "If results": (
        "%c: bool, %x: i32",
        "if %c -> (%a: i32, %b: f32) {\n yield %x, 1.0\n} else {\n yield 2, inf\n}",
    ),
    "For": "for %i < 4 {\n}",
    "For marks": "for %i < 4 unroll 2 stages 3 {\n}",
    "For carried": (
        "%n: i64",
        "for %i < %n carry (%a: i32 = 0, %b = true) -> (%r: i32, %q: bool) {\n"
        " yield %a + 1, not %b\n}",
    ),
    "While": "while block_idx(0) > 3 {\n}",
    "While carried": "while %a < 9 carry (%a: i32 = 0) -> (%r: i32) {\n yield %a + 1\n}",
    "Continue": "for %i < 4 {\n if %i == 2 {\n continue\n}\n sync()\n}",
    "Continue with values": (
        "for %i < 4 carry (%a: i32 = 0) -> (%r: i32) {\n"
        " if %i == 2 {\n continue %a\n}\n yield %i\n}"
    ),
    "Break": "for %i < 4 {\n break\n}",
    "Break with values": "for %i < 4 carry (%a: i32 = 0) -> (%r: i32) {\n break 5\n}",
    "Return": "return",
    "Value": ("%n: i32", "let %a = %n"),
    "Const": "let %a = -5:i64",
    "GridIndex": "let %a = block_idx(0) * grid_dim(2)",
    "Apply": (
        "%n: i32, %m: i32",
        "let %a = select(not %n < 3 or false and true, -%n // +%m, min(%n & 7, 2) << 1 | ~%n ^ 5)",
    ),
    "Layouts": (
        "#a = spatial(8)*local(2)\n",
        "",
        "%t = full(dtype=f16, shape=[16], value=0.0, layout=#a) : f16[16] @ #a",
    ),
    "Shared layouts": "%s = allocate_shared(u8, [4, 4], layout=shared((4,4), strides=(1,5)))"
    " : shared u8[4,4] @ shared((4,4), strides=(1,5))",
    "Strings and lists": ("%n: i32", 'breakpoint(names=["n", "\\"é\\n"], values=[%n, 1.0])'),
    "Element types with values": "%t = full(lut1(-1.0,1.0), [8], value=-1.0:lut1(-1.0,1.0))",
    "Nothing": "%t = full(dtype=f16, shape=[], value=(0.0), layout=none)",
}  # fmt: skip


def text_of(case: str | tuple[str, ...]) -> str:
    aliases, params, body = ("", "", case) if isinstance(case, str) else ("", *case)[-3:]
    return f"{aliases}kernel @k({params}) threads 8 {{\n{body}\n}}\n"


@pytest.mark.parametrize("name", PRODUCTIONS)
def test_production(name: str) -> None:
    f = parse(text_of(PRODUCTIONS[name]))
    verify(f)
    again = parse(str(f))
    assert again == f
    assert str(again) == str(f)


def test_no_production_of_the_grammar_is_left_out() -> None:
    used: set[str] = set()
    for case in PRODUCTIONS.values():
        used |= {t.data for t in parser._lark().parse(text_of(case)).iter_subtrees()}
    grammar = {
        r.alias or r.origin.name for r in parser._lark().rules if not r.origin.name[0] == "_"
    }
    inlined = {r.origin.name for r in parser._lark().rules if r.options.expand1}
    left_out = grammar - used - inlined
    assert not left_out


def test_no_statement_of_the_ir_is_left_out() -> None:
    found = [s for case in PRODUCTIONS.values() for s in walk(parse(text_of(case)).body)]
    assert {type(s).__name__ for s in found} == {c.__name__ for c in program.Stmt.__subclasses__()}


# Numbers


def one(expr: str, params: str = "") -> Const | Apply | Value | GridIndex:
    (let,) = parse(text_of((params, f"let %a = {expr}"))).body.stmts
    assert isinstance(let, Let)
    return let.expr  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "value", "dtype"),
    [
        ("5", 5, "i32"),
        ("-2147483648", -(2**31), "i32"),
        ("-9223372036854775808:i64", -(2**63), "i64"),
        ("18446744073709551615:u64", 2**64 - 1, "u64"),
        ("-1:i1", -1, "i1"),
        ("true", True, "bool"),
        ("1.0", 1.0, "f32"),
        ("5:f16", 5.0, "f16"),
        ("0.1", float.fromhex("0x1.99999ap-4"), "f32"),
        ("0.1:f64", 0.1, "f64"),
        ("1e22", float.fromhex("0x1.0f0cf0p+73"), "f32"),
        ("-0.0", -0.0, "f32"),
        ("inf", math.inf, "f32"),
        ("-inf:bf16", -math.inf, "bf16"),
        ("nan:f64", math.nan, "f64"),
        ("1e-45", 2.0**-149, "f32"),
        ("70000.0:f16", math.inf, "f16"),
    ],
)
def test_numbers(text: str, value: float, dtype: str) -> None:
    c = one(text)
    assert c == Const(value, dtypes.dtype(dtype))
    assert repr(c.value) == repr(value)  # -0.0 is not 0.0; True is not 1


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.booleans(),
    st.sampled_from([2.0**k for k in range(-1074, 1024, 13)]),
)


@given(
    NUMBERS, st.sampled_from([*ALL_TYPES, lut(1, [-1.0, 1.0]), lut(2, [0, 0.1, 1e9, -3], "odd")])
)
def test_every_constant_reads_back(value, dtype) -> None:
    try:
        c = Const(value, dtype)
    except TilusError:
        return
    p = Function("k", (), Seq((Let(Value(c.type, "a"), c),)), 1)
    verify(p)
    assert parse(str(p)) == p


@given(st.floats(), st.floats(allow_nan=False))
def test_float_attributes_read_back(x: float, y: float) -> None:
    f = parse(
        "kernel @k(%p: ptr[f64]) threads 1 {\n%g = global_view(%p, dtype=f64, shape=[1])\n"
        f"%t = load_global(%g, offsets=[0], shape=[1], other={x!r})\n}}"
    )
    assert parse(str(f)) == f
    (_, load) = f.body.stmts
    assert repr(load.inst.other) == repr(x)


def test_wide_integer_attributes() -> None:
    f = parse(
        f"kernel @k() threads 1 {{ %t = arange(start={2**62}, stop={2**62 + 2}, dtype=i64) }}"
    )
    assert f.body.stmts[0].inst.start == 2**62
    assert parse(str(f)) == f


# Operators


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("%a + %b * %c", "%a + (%b * %c)"),
        ("%a - %b - %c", "(%a - %b) - %c"),
        ("-%a * %b", "(-%a) * %b"),
        ("- - %a", "-(-%a)"),
        ("~-%a", "~(-%a)"),
        ("-5 % %a", "(-5) % %a"),
        ("%a & %b | %c ^ %a", "(%a & %b) | (%c ^ %a)"),
        ("%a << %b + 1", "%a << (%b + 1)"),
        ("%a < %b and not %b == %c or true", "((%a < %b) and (not (%b == %c))) or true"),
        ("(%a < %b) == (%b < %c)", "((%a < %b)) == ((%b < %c))"),
        ("+%a", "%a"),
        ("%a %%b", "%a % %b"),
    ],
)
def test_precedence_is_pythons(text: str, same: str) -> None:
    def kernel(expr: str) -> Function:
        return parse(text_of(("%a: i32, %b: i32, %c: i32", f"let %x = {expr}")))

    assert kernel(text) == kernel(same)
    assert parse(str(kernel(text))) == kernel(text)


def test_constants_are_not_folded() -> None:
    assert str(parse(text_of("let %a = 1 + 2 * -3"))).count("1 + 2 * -3") == 1
    assert str(one("neg(-5)")) == "neg(-5:i32)"
    assert str(parse(text_of("let %a = neg(-5)"))).count("neg(-5)") == 1


# Names


def named(*names: str) -> Function:
    lets = [Let(Value(ScalarType(dtypes.i32), n), const(i)) for i, n in enumerate(names)]
    uses = [Assign(None, parser.REGISTRY["print_tensor"](x.var)) for x in lets]
    return Function("k", (), Seq((*lets, *uses)), 1)


@given(
    st.lists(
        st.sampled_from(["x", "x_1", "x_2", "x_1_1", "", "v", "é", "1", "²", "a.b", "a b", "if"])
    )
)
def test_names_that_clash(names: list[str]) -> None:
    f = named(*names)
    assert parse(str(f)) == f
    printed = [line.split()[1] for line in str(f).splitlines() if "let" in line]
    assert len(set(printed)) == len(names)


def test_first_comes_first_served() -> None:
    assert [line.split()[1] for line in str(named("x", "x", "x_1", "y")).splitlines()[1:5]] == [
        "%x", "%x_1", "%x_1_1", "%y"
    ]  # fmt: skip


def test_parameters_of_one_name() -> None:
    t = ScalarType(dtypes.i32)
    a, b = Value(t, "n"), Value(t, "n")
    f = Function("k", (Param(a), Param(b)), Seq((Let(Value(t, "d"), apply("sub", a, b)),)), 1)
    assert parse(str(f)) == f
    assert parse(str(f)) != Function(
        "k", f.params, Seq((Let(Value(t, "d"), apply("sub", b, a)),)), 1
    )


def test_comments_and_space() -> None:
    plain = parse(text_of("let %a = 1\nsync()"))
    odd = "; first\nkernel@k ( )threads 8{let%a=1 ; a % comment { \nsync ( );no newline\n}; end"
    assert parse(odd) == plain


def test_types_may_be_left_out() -> None:
    short = parse(
        """kernel @k(%p: ptr[f32], %n: i32) threads 4 {
      %g = global_view(%p, dtype=f32, shape=[%n])
      %t = load_global(%g, [0], [8])
      for %i < %n carry (%a = %t) -> (%r: f32[8]) { %b = exp(%a) yield %b }
      store_global(%g, %r, offsets=[%n - 8],)
    }""".replace(",)", ")")
    )
    assert parse(str(short)) == short
    assert ": f32[8] = %t" in str(short)
    assert str(short).count(": f32[8]\n") == 2


def test_layouts_of_results_are_kept() -> None:
    f = parse(text_of("%t = arange(start=0, stop=16) : i32[16] @ spatial(8)*local(2)"))
    assert str(f.body.stmts[0].result.type.layout) == "spatial(8)*local(2)"
    assert f.body.stmts[0].inst.layout is None
    assert parse(str(f)) == f


def test_aliases() -> None:
    long = "local(2,1)*spatial(8,4)*local(1,2)"
    body = "\n".join(
        f"%t{i} = full(dtype=f16, shape=[16,8], value=0.0, layout=LAYOUT)" for i in "12"
    )
    plain = parse(text_of(body.replace("LAYOUT", long)).replace("threads 8", "threads 32"))
    text = str(plain)
    assert text.startswith(f"#L0 = {long}\n") and text.count(long) == 1
    parts = "#in = spatial(8,4)*local(1,2)\n#out = local(2,1)*#in\n" + text_of(
        body.replace("LAYOUT", "#out")
    ).replace("threads 8", "threads 32")
    assert parse(parts) == plain


# Errors


def fails(text: str, kind: type[TilusError] = TilusError) -> str:
    with pytest.raises(kind) as caught:
        parse(text, None)
    said = str(caught.value)
    assert caught.value.span is not None, said
    return said


def body(text: str, params: str = "%n: i32, %x: f32") -> str:
    return f"kernel @k({params}) threads 8 {{\n  {text}\n}}"


def test_a_syntax_error_shows_its_place() -> None:
    assert fails(body("let %a = %n +* 2"), TilusSyntaxError).split("\n", 2)[2] == (
        "2 |   let %a = %n +* 2\n"
        "  |                ^\n"
        "  = help: expected one of #layout %value ( - [ name none number string true ~"
    )
    assert "unexpected 'unroll'" in fails(body("for %i unroll 2 { }"))
    assert "= help: expected one of <" in fails(body("for %i unroll 2 { }"))
    assert "unexpected this character" in fails(body("let %a = $"))
    assert "the text ends inside the kernel" in fails("kernel @k() threads 8 {\n  sync()\n")
    assert "unexpected 'kernel'" in fails("kernel @k() threads 8 { }\nkernel @l() threads 8 { }")
    fails("")


@pytest.mark.parametrize(
    ("line", "message", "marked"),  # "": the whole statement
    [
        ("let %a = %b", "%b is not defined here", "%b"),
        ("let %n = 1", "%n is defined twice", "%n"),
        ("let %a = %n + %x", "operands differ: i32 and f32", "%n + %x"),
        ("let %a = 3000000000", "3000000000 is not a value of i32", "3000000000"),
        ("let %a = true:i32", "True is not a value of i32", "true:i32"),
        ("let %a = 1.5:i32", "1.5 is not a value of i32", "1.5:i32"),
        ("let %a = 1:i33", "unknown element type 'i33'", "i33"),
        ("let %a = -true", "`-` does not take bool operands", "-true"),
        ("let %a = min(%n)", "min takes 2 operands, not 1", "min(%n)"),
        ("let %a = select(%n == 1, 2)", "select takes 3 operands, not 2", "select(%n == 1, 2)"),
        ("let %a = select(%n, 2, 3)", "must be a bool, not i32", "select(%n, 2, 3)"),
        ("let %a = multiple_of(%n, %n)", "constant, not i32 and i32", "multiple_of(%n, %n)"),
        ("let %a = multiple_of(%n, 0)", "not i32 and 0", "multiple_of(%n, 0)"),
        ("let %a = cast(%n)", "no scalar function is named 'cast'", "cast"),
        ("let %a = f(%n)", "no scalar function is named 'f'", "f"),
        ("let %a = exp(%n)", "instructions stand alone", "exp"),
        ("let %a = f32(%n, %n)", "f32(...) converts one scalar", "f32(%n, %n)"),
        ("let %a = nf4(%n)", "no scalar is computed in nf4", "nf4(%n)"),
        ("let %a = block_idx(3)", "an axis: 0, 1 or 2", "block_idx(3)"),
        ("let %a = block_idx(%n)", "an axis: 0, 1 or 2", "block_idx(%n)"),
        ("let %a = i32", "`i32` is not a value", "i32"),
        ('let %a = "text"', '`"text"` is not a value', '"text"'),
        ("let %a = [1]", "`[1]` is not a value", "[1]"),
        ("%a = frobnicate(%n)", "no instruction is named 'frobnicate'", "frobnicate"),
        ("%a = sync()", "sync has no result", "%a"),
        ("arange(0, 4)", "the result of arange needs a name", ""),
        ("%a = arange(0, 4, step=2)", "arange has no operand 'step'", "step=2"),
        ("%a = arange(0, 4, i32, none, 5)", "arange has no operand 4", "5"),
        ("%a = arange(start=0)", "arange: missing stop", "arange(start=0)"),
        ("%a = arange(start=0, start=1)", "'start' is given twice", "start=1"),
        ("%a = arange(0, 4, start=1)", "'start' is given twice", "arange(0, 4, start=1)"),
        ("%a = arange(%n, 4)", "an attribute must be a plain constant", "%n"),
        ("%a = arange(1:i32, 4)", "an attribute must be a plain constant", "1:i32"),
        ("%a = arange(0.5, 4)", "`start` must be an int, not 0.5", "arange(0.5, 4)"),
        ("%a = arange(0, 4, none)", "`dtype` must not be None", "arange(0, 4, none)"),
        ("%a = arange(0, 4) : i32[5]", "the result is i32[4], not i32[5]", "i32[5]"),
        (
            "%a = arange(0, 4, layout=spatial(4)) : i32[4] @ local(4)",
            "laid out as spatial(4), not as local(4)",
            "i32[4] @ local(4)",
        ),
        ("%a = arange(0, 4, layout=spatial(4,))", "unexpected ')'", ")"),
        ("%a = arange(0, 4, layout=spatial(x))", "spatial(x)", "spatial(x)"),
        ("%a = arange(0, 4, layout=#q)", "no layout is named #q", "#q"),
        ("%a = arange(0, 4, i33)", "unknown element type 'i33'", "i33"),
        ("%a = arange(0, 0)", "from 0 to 0 there is nothing", ""),
        ("%a = neg(3)", "`x` must be a tile or a view, not i32", "neg(3)"),
        ("%a = neg(%n)", "`x` must be a register tile, not i32", ""),
        ("print_tensor(%n, message=5)", "`message` must be a str", "print_tensor(%n, message=5)"),
    ],
)
def test_what_is_wrong_is_marked(line: str, message: str, marked: str) -> None:
    said = fails(body(line))
    assert message in said
    marked = marked or line
    at = body(line).splitlines()[1].rindex(marked) if marked != ")" else 2 + line.index(")")
    assert f"\n  | {' ' * at}{'^' * len(marked)}\n" in said + "\n", said


def test_what_only_the_verifier_sees() -> None:
    for line, message in (
        ("if %n { }", "a condition is a bool, not i32"),
        ("yield 1", "a yield outside of any branch or loop"),
    ):
        with pytest.raises(TilusTypeError, match=message):
            verify(parse(body(line)))


def test_params_and_threads() -> None:
    assert "a divisor is at least 1" in fails("kernel @k(%n: i32 divisible 0) threads 8 { }")
    assert "on at least one thread" in fails("kernel @k() threads 0 { }")
    assert "%n is defined twice" in fails("kernel @k(%n: i32, %n: i32) threads 8 { }")


def test_values_are_seen_only_in_their_region() -> None:
    said = fails(body("if %n == 1 { let %a = 1 }\n  let %b = %a"), TilusNameError)
    assert "%a is not defined here" in said
    assert "%i is not defined here" in fails(body("for %i < 3 { }\n  let %b = %i"))
    assert "%a is not defined here" in fails(
        body("while true carry (%a = 1) { yield %a }\nlet %b = %a")
    )
    again = parse(body("if %n == 1 { let %a = 1 } else { let %a = 2 }"))
    assert parse(str(again)) == again


def test_errors_in_a_file_name_it(tmp_path) -> None:
    path = tmp_path / "bad.tir"
    path.write_text("kernel @k() threads 8 {\n  let %é = 1\n\tlet %b = %é + %ö\n}\n", "utf-8")
    with pytest.raises(TilusNameError) as caught:
        parser.parse_file(str(path))
    assert str(caught.value).splitlines() == [
        "error: %ö is not defined here",
        f"  --> {path}:3:16",
        "3 | \tlet %b = %é + %ö",
        "  | \t              ^^",
    ]


def test_only_tiles_differ_by_layout() -> None:
    f = parse(text_of("%t = full(dtype=f16, shape=[8], value=0.0)"))
    g = parse(text_of("%t = full(dtype=f16, shape=[8], value=0.0) : f16[8] @ spatial(8)"))
    assert f != g and f == parse(str(f))
    assert isinstance(f.body.stmts[0].inst, Full)
