"""Single instructions against models in Python's integers and fractions, on random operands."""

import itertools
import math
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.runtime.ptxemu import models
from tests.runtime.ptxemu.single import HEAD, apply, one_instruction
from tilus import dtypes

N = 32
EXAMPLES = settings(max_examples=20)


def words(bits=32):
    """N words, many of them small, great or of few bits."""
    top = (1 << bits) - 1
    edges = [0, 1, 2, 31, 32, 33, 63, 64, 255, 256, 1 << (bits - 1), (1 << (bits - 1)) - 1, top]
    element = st.one_of(st.sampled_from(edges), st.integers(0, top), st.integers(0, 40))
    return hnp.arrays(f"u{bits // 8}", N, elements=element.map(lambda v: v & top))


def floats(kind):
    """N floats: any bits, so that NaN, infinities and subnormals are common, or ordinary ones."""
    dtype = np.dtype(kind)
    bits = dtype.itemsize * 8
    limits = np.finfo(dtype)
    edges = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, limits.max, limits.tiny, limits.tiny / 2]
    edge = st.sampled_from([int(np.array(v, dtype).view(f"u{bits // 8}")) for v in edges])
    element = st.one_of(edge, st.integers(0, (1 << bits) - 1))
    return hnp.arrays(f"u{bits // 8}", N, elements=element).map(lambda a: a.view(dtype))


def agree(found, expected):
    """Equal floats, where any NaN is as good as another; zeros have signs."""
    found, expected = np.asarray(found), np.asarray(expected, found.dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    keep = ~np.isnan(expected)
    kind = f"u{found.dtype.itemsize}"
    np.testing.assert_array_equal(found[keep].view(kind), expected[keep].view(kind))


# Integers


@EXAMPLES
@given(words(), words(), words(), st.sampled_from(["", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]))
def test_prmt(a, b, c, mode):
    name = f"prmt.b32{f'.{mode}' if mode else ''}"
    (out,) = apply(name, ["b32"], ["b32"] * 3, a, b, c)
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    assert out.tolist() == [models.prmt(*row, mode) for row in rows]


@EXAMPLES
@given(words(), words(), words(), st.integers(0, 255))
def test_lop3(a, b, c, table):
    (out,) = apply("lop3.b32", ["b32"], ["b32"] * 3, a, b, c, tail=f", {table}")
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    assert out.tolist() == [models.lop3(*row, table) for row in rows]


@EXAMPLES
@given(words(), words(), words(), st.sampled_from("lr"), st.sampled_from(["wrap", "clamp"]))
def test_shf(a, b, c, way, mode):
    (out,) = apply(f"shf.{way}.{mode}.b32", ["b32"], ["b32"] * 3, a, b, c)
    rows = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    assert out.tolist() == [models.shf(*row, way == "l", mode == "wrap") for row in rows]


@EXAMPLES
@given(st.sampled_from([32, 64]), st.booleans(), st.data())
def test_bfe_and_bfi(bits, is_signed, data):
    a, b = data.draw(words(bits)), data.draw(words(bits))
    position, length = data.draw(words()), data.draw(words())
    t, rows = f"b{bits}", [v.tolist() for v in (a, b, position, length)]
    (out,) = apply(
        f"bfe.{'s' if is_signed else 'u'}{bits}", [t], [t, "b32", "b32"], a, position, length
    )
    picked = zip(rows[0], rows[2], rows[3], strict=True)
    assert out.tolist() == [models.bfe(*row, bits, is_signed) for row in picked]
    (out,) = apply(f"bfi.b{bits}", [t], [t, t, "b32", "b32"], a, b, position, length)
    assert out.tolist() == [models.bfi(*row, bits) for row in zip(*rows, strict=True)]


INTEGER_MODELS = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul.lo": lambda a, b, bits: a * b,
    "mul.hi": lambda a, b, bits: a * b >> bits,
    "div": lambda a, b, bits: models.c_div(a, b) if b else -1,
    "rem": lambda a, b, bits: a - b * models.c_div(a, b) if b else a,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
}


@EXAMPLES
@given(st.sampled_from(list(INTEGER_MODELS)), st.sampled_from("us"), st.data())
def test_integer_arithmetic(name, sign, data):
    bits = data.draw(st.sampled_from([16, 32, 64]))
    a, b = data.draw(words(bits)), data.draw(words(bits))
    (out,) = apply(f"{name}.{sign}{bits}", [f"b{bits}"], [f"b{bits}"] * 2, a, b)
    for x, y, found in zip(a.tolist(), b.tolist(), out.tolist(), strict=True):
        if sign == "s":
            x, y = models.signed(x, bits), models.signed(y, bits)
        assert found == INTEGER_MODELS[name](x, y, bits) % (1 << bits), (x, y)


@EXAMPLES
@given(st.sampled_from(["shl.b", "shr.u", "shr.s"]), st.sampled_from([16, 32, 64]), st.data())
def test_shifts_lose_everything_from_the_width_on(name, bits, data):
    a, by = data.draw(words(bits)), data.draw(words())
    (out,) = apply(f"{name}{bits}", [f"b{bits}"], [f"b{bits}", "b32"], a, by)
    for x, n, found in zip(a.tolist(), by.tolist(), out.tolist(), strict=True):
        n = min(n, bits)
        x = models.signed(x, bits) if name == "shr.s" else x
        assert found == (x << n if name == "shl.b" else x >> n) % (1 << bits)


@EXAMPLES
@given(st.data())
def test_mad_and_sad(data):
    a, b, c = (data.draw(words()) for _ in range(3))
    (wide,) = apply("mad.wide.s32", ["b64"], ["b32", "b32", "b64"], a, b, c.astype(np.uint64))
    (high,) = apply("mad.hi.u32", ["b32"], ["b32"] * 3, a, b, c)
    (sad,) = apply("sad.s32", ["b32"], ["b32"] * 3, a, b, c)
    for k, (x, y, z) in enumerate(zip(a.tolist(), b.tolist(), c.tolist(), strict=True)):
        sx, sy = models.signed(x), models.signed(y)
        assert int(wide[k]) == (sx * sy + z) % (1 << 64)
        assert int(high[k]) == ((x * y >> 32) + z) % (1 << 32)
        assert int(sad[k]) == (abs(sx - sy) + z) % (1 << 32)


@EXAMPLES
@given(st.sampled_from(["s", "u"]), st.sampled_from(["s", "u"]), st.data())
def test_dot_products_of_bytes(of_a, of_b, data):
    a, b, c = (data.draw(words()) for _ in range(3))
    (out,) = apply(f"dp4a.{of_a}32.{of_b}32", ["b32"], ["b32"] * 3, a, b, c)
    for k, (x, y, z) in enumerate(zip(a.tolist(), b.tolist(), c.tolist(), strict=True)):
        parts = zip(models.bytes_of(x, of_a == "s"), models.bytes_of(y, of_b == "s"), strict=True)
        assert int(out[k]) == (sum(p * q for p, q in parts) + z) % (1 << 32)


@EXAMPLES
@given(st.sampled_from([32, 64]), st.data())
def test_counting_bits(bits, data):
    a = data.draw(words(bits))
    results = {
        name: apply(f"{name}.{kind}{bits}", ["b32"], [f"b{bits}"], a)[0].tolist()
        for name, kind in {"popc": "b", "clz": "b", "bfind": "u", "bfind.shiftamt": "s"}.items()
    }
    for k, x in enumerate(a.tolist()):
        s = models.signed(x, bits)
        top = (s if s >= 0 else ~s).bit_length() - 1
        assert results["popc"][k] == x.bit_count()
        assert results["clz"][k] == bits - x.bit_length()
        assert results["bfind"][k] == (x.bit_length() - 1) % (1 << 32)
        assert results["bfind.shiftamt"][k] == (bits - 1 - top if top >= 0 else 0xFFFFFFFF)


COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@EXAMPLES
@given(st.sampled_from(list(COMPARE)), st.booleans(), st.data())
def test_float_comparisons_and_nan(name, unordered, data):
    a, b = data.draw(floats("f4")), data.draw(floats("f4"))
    q = data.draw(hnp.arrays(np.uint32, N, elements=st.integers(0, 1)))
    full = f"setp.{name}{'u' if unordered else ''}.and.f32"
    yes, no = apply(full, ["pred", "pred"], ["b32", "b32", "pred"], a, b, q)
    for x, y, c, p, opposite in zip(a.tolist(), b.tolist(), q, yes, no, strict=True):
        nan = math.isnan(x) or math.isnan(y)
        holds = unordered if nan else eval(f"x {COMPARE[name]} y")
        assert (p, opposite) == (holds and c, (not holds) and c)


# Floats


def model(t, function, *values, mode="rn"):
    """`function` of fractions, rounded once to the format."""
    rows = zip(*(v.astype(np.float64).tolist() for v in values), strict=True)
    with np.errstate(all="ignore"):
        return [models.exactly(t, function, function, row, mode) for row in rows]


DIRECTED = list(itertools.product(["f32", "f64"], ["rn", "rz", "rm", "rp"]))
OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c,
}


@settings(max_examples=60)
@given(st.sampled_from(list(OPERATIONS)), st.sampled_from(DIRECTED), st.data())
def test_rounding(name, form, data):
    t, mode = form
    count = 3 if name == "fma" else 2
    values = [data.draw(floats("f4" if t == "f32" else "f8")) for _ in range(count)]
    bits = f"b{t[1:]}"
    (out,) = apply(f"{name}.{mode}.{t}", [bits], [bits] * count, *values)
    found = out.view(values[0].dtype)
    expected = model(t, OPERATIONS[name], *values, mode=mode)
    zero = np.asarray(expected) == 0
    agree(np.abs(found[zero]), np.zeros(zero.sum()))  # the sign of exact zeros: test_signs_of_zero
    agree(found[~zero], np.asarray(expected)[~zero])


def test_signs_of_zero():
    one = np.float32([1, -1, 0, -0.0])
    for mode in ("rn", "rz", "rp"):
        (out,) = apply(
            f"add.{mode}.f32", ["b32"], ["b32"] * 2, one, np.float32([-1, 1, -0.0, -0.0])
        )
        assert np.signbit(out.view(np.float32)).tolist() == [False, False, False, True]
    (out,) = apply("add.rm.f32", ["b32"], ["b32"] * 2, one, np.float32([-1, 1, -0.0, -0.0]))
    assert np.signbit(out.view(np.float32)).tolist() == [True, True, True, True]


@EXAMPLES
@given(floats("f4"), floats("f4"), st.data())
def test_fma_where_a_tie_is_broken(a, b, data):
    """Products near ties of float32, and a third operand that decides them."""
    ulp = st.sampled_from([0.0, 2.0**-60, -(2.0**-60), 2.0**-100, 2.0**-24, -(2.0**-24)])
    a = np.float32(data.draw(hnp.arrays(np.int64, N, elements=st.integers(4096, 8191)))) / 4096
    b = np.float32(1 + 2.0**-12) * np.float32([1, -1] * (N // 2))
    c = np.float32(data.draw(hnp.arrays(np.float64, N, elements=ulp)))
    (out,) = apply("fma.rn.f32", ["b32"], ["b32"] * 3, a, b, c)
    agree(out.view(np.float32), model("f32", OPERATIONS["fma"], a, b, c))


@EXAMPLES
@given(st.sampled_from(["add", "mul", "sub"]), floats("f2"), floats("f2"))
def test_half_arithmetic(name, a, b):
    (out,) = apply(f"{name}.f16", ["b16"], ["b16"] * 2, a, b)
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        agree(out.view(np.float16), OPERATIONS[name](x, y).astype(np.float16))


def bf16_of(x):
    return dtypes.bf16.encode(np.asarray(x, np.float64))


@EXAMPLES
@given(words(16), words(16), words(16))
def test_bf16_fma_rounds_once(a, b, c):
    (out,) = apply("fma.rn.bf16", ["b16"], ["b16"] * 3, a, b, c)
    values = [dtypes.bf16.decode(v) for v in (a, b, c)]
    expected = np.asarray(model("bf16", OPERATIONS["fma"], *values), np.float32)
    found = dtypes.bf16.decode(out)
    keep = expected != 0
    agree(found[keep], expected[keep])


@EXAMPLES
@given(st.sampled_from(["f16", "f32", "f64"]), st.booleans(), st.booleans(), st.data())
def test_min_and_max(t, largest, nan, data):
    a, b = (data.draw(floats(f"f{int(t[1:]) // 8}")) for _ in range(2))
    nan = nan and t != "f64"
    name = f"{'max' if largest else 'min'}{'.NaN' if nan else ''}.{t}"
    (out,) = apply(name, [f"b{t[1:]}"], [f"b{t[1:]}"] * 2, a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    expected = models.maximum(x, y) if largest else models.minimum(x, y)
    if nan:
        expected = np.where(np.isnan(x) | np.isnan(y), np.nan, expected)
    agree(out.view(a.dtype), expected.astype(a.dtype))
    if t == "f32" and np.isnan(expected).any():
        assert set(out[np.isnan(expected)].tolist()) == {0x7FFFFFFF}


# Conversions


@EXAMPLES
@given(st.sampled_from(["f16", "bf16", "tf32"]), floats("f4"), st.data())
def test_narrowing(t, x, data):
    mode = data.draw(st.sampled_from(["rna"] if t == "tf32" else ["rn", "rz"]))
    out_type = "b32" if t == "tf32" else "b16"
    (out,) = apply(f"cvt.{mode}.{t}.f32", [out_type], ["b32"], x)
    dt = {"f16": dtypes.f16, "bf16": dtypes.bf16, "tf32": dtypes.tf32}[t]
    if mode == "rn":
        agree(dt.decode(out), dt.decode(dt.encode(x)))
    agree(dt.decode(out), model(t, lambda v: v, x, mode=mode))


@EXAMPLES
@given(st.sampled_from(["e4m3", "e5m2"]), st.booleans(), floats("f4"), floats("f4"))
def test_eight_bit_floats(t, relu, high, low):
    name = f"cvt.rn.satfinite{'.relu' if relu else ''}.{t}x2.f32"
    (out,) = apply(name, ["b16"], ["b32", "b32"], high, low)
    dt = {"e4m3": dtypes.f8e4m3, "e5m2": dtypes.f8e5m2}[t]
    for codes, x in ((out >> 8, high), (out & 255, low)):
        x = np.where(x <= 0, np.float32(0), x) if relu else x
        expected = dt.encode(np.clip(x, -float(dt.max), float(dt.max)))
        expected[np.isnan(x)] = 0x7F
        assert codes.tolist() == expected.tolist()
    (back,) = apply(f"cvt.rn.f16x2.{t}x2", ["b32"], ["b16"], out)
    agree(back.view(np.float16)[::2], dt.decode((out & 255).astype(np.uint8)))
    agree(back.view(np.float16)[1::2], dt.decode((out >> 8).astype(np.uint8)))


ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@EXAMPLES
@given(st.sampled_from(list(ROUND)), st.sampled_from("us"), st.data())
def test_floats_to_integers(mode, sign, data):
    source = data.draw(st.sampled_from(["f32", "f64"]))
    bits = data.draw(st.sampled_from([16, 32, 64]))
    scale = data.draw(st.sampled_from([1.0, 2.0**-100]))
    x = data.draw(floats(f"f{int(source[1:]) // 8}"))
    x = np.where(np.abs(x) > 1, x * x.dtype.type(scale), x)
    (out,) = apply(f"cvt.{mode}.{sign}{bits}.{source}", [f"b{bits}"], [f"b{source[1:]}"], x)
    expected = [v % (1 << bits) for v in models.to_integer(x, bits, sign == "s", ROUND[mode])]
    special = 1 << (bits - 1) if source == "f64" or bits == 64 else 0
    expected = [special if math.isnan(v) else e for v, e in zip(x, expected, strict=True)]
    assert out.tolist() == expected


@EXAMPLES
@given(st.sampled_from(["rn", "rz", "rm", "rp"]), st.sampled_from("us"), st.data())
def test_integers_to_floats(mode, sign, data):
    bits = data.draw(st.sampled_from([8, 16, 32, 64]))
    to = data.draw(st.sampled_from(["f16", "f32", "f64"]))
    x = data.draw(words(bits))
    (out,) = apply(f"cvt.{mode}.{to}.{sign}{bits}", [f"b{to[1:]}"], [f"b{bits}"], x)
    values = [models.signed(v, bits) if sign == "s" else v for v in x.tolist()]
    agree(out.view(f"f{int(to[1:]) // 8}"), [models.to(to, Fraction(v), mode) for v in values])


@EXAMPLES
@given(st.sampled_from("us"), st.sampled_from("us"), st.data())
def test_saturating_integers(to, source, data):
    wide, narrow = data.draw(st.sampled_from([(64, 32), (32, 16), (32, 8), (32, 32)]))
    x = data.draw(words(wide))
    (out,) = apply(f"cvt.sat.{to}{narrow}.{source}{wide}", [f"b{narrow}"], [f"b{wide}"], x)
    low, high = (-(1 << narrow - 1), (1 << narrow - 1) - 1) if to == "s" else (0, (1 << narrow) - 1)
    values = [models.signed(v, wide) if source == "s" else v for v in x.tolist()]
    assert out.tolist() == [min(max(v, low), high) % (1 << narrow) for v in values]


@pytest.mark.parametrize(
    ("name", "function"),
    {
        "ex2.approx.ftz.f32": np.exp2,
        "lg2.approx.f32": np.log2,
        "sin.approx.f32": np.sin,
        "cos.approx.f32": np.cos,
        "tanh.approx.f32": np.tanh,
        "rcp.approx.ftz.f32": lambda x: 1 / x,
        "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x),
        "sqrt.approx.f32": np.sqrt,
    }.items(),
)
def test_approximations_are_the_nearest_value(name, function):
    x = np.random.default_rng(1).random(N, np.float32) * 4 + np.float32(0.01)
    (out,) = apply(name, ["b32"], ["b32"], x)
    agree(out.view(np.float32), function(x.astype(np.float64)).astype(np.float32))


# Forms: everything that the tests above and the programs write is PTX for NVIDIA's assembler too

FORMS = [
    ("prmt.b32.rc16", ["b32"], ["b32"] * 3, ""),
    ("lop3.b32", ["b32"], ["b32"] * 3, ", 150"),
    ("lop3.or.b32", ["b32", "pred"], ["b32"] * 3, ", 150, 0"),
    ("shf.l.clamp.b32", ["b32"], ["b32"] * 3, ""),
    ("bfe.s64", ["b64"], ["b64", "b32", "b32"], ""),
    ("bfi.b64", ["b64"], ["b64", "b64", "b32", "b32"], ""),
    ("bmsk.clamp.b32", ["b32"], ["b32"] * 2, ""),
    ("szext.wrap.s32", ["b32"], ["b32"] * 2, ""),
    ("fns.b32", ["b32"], ["b32"] * 3, ""),
    ("mad24.lo.s32", ["b32"], ["b32"] * 3, ""),
    ("dp2a.lo.s32.u32", ["b32"], ["b32"] * 3, ""),
    ("set.lt.u32.f32", ["b32"], ["b32"] * 2, ""),
    ("set.gt.and.f32.s32", ["b32"], ["b32", "b32", "pred"], ""),
    ("setp.lt.f16x2", ["pred", "pred"], ["b32", "b32"], ""),
    ("slct.s32.f32", ["b32"], ["b32"] * 3, ""),
    ("testp.subnormal.f32", ["pred"], ["b32"], ""),
    ("copysign.f64", ["b64"], ["b64"] * 2, ""),
    ("cnot.b32", ["b32"], ["b32"], ""),
    ("min.xorsign.abs.f32", ["b32"], ["b32"] * 2, ""),
    ("max.bf16x2", ["b32"], ["b32"] * 2, ""),
    ("add.u16x2", ["b32"], ["b32"] * 2, ""),
    ("min.relu.s16x2", ["b32"], ["b32"] * 2, ""),
    ("fma.rn.relu.bf16x2", ["b32"], ["b32"] * 3, ""),
    ("fma.rn.sat.f16x2", ["b32"], ["b32"] * 3, ""),
    ("ex2.approx.f16x2", ["b32"], ["b32"], ""),
    ("tanh.approx.bf16x2", ["b32"], ["b32"], ""),
    ("cvt.rn.relu.f16x2.f32", ["b32"], ["b32"] * 2, ""),
    ("cvt.rn.bf16x2.f32", ["b32"], ["b32"] * 2, ""),
    ("cvt.rz.bf16.f32", ["b16"], ["b32"], ""),
    ("cvt.rna.tf32.f32", ["b32"], ["b32"], ""),
    ("cvt.rn.satfinite.e5m2x2.f16x2", ["b16"], ["b32"], ""),
    ("cvt.rn.relu.f16x2.e4m3x2", ["b32"], ["b16"], ""),
    ("cvt.rni.f32.f32", ["b32"], ["b32"], ""),
    ("cvt.ftz.sat.f32.f16", ["b32"], ["b16"], ""),
    ("cvt.pack.sat.s8.s32.b32", ["b32"], ["b32"] * 3, ""),
    ("cvt.pack.sat.u16.s32", ["b32"], ["b32"] * 2, ""),
    ("div.full.f32", ["b32"], ["b32"] * 2, ""),
    ("sqrt.rp.f64", ["b64"], ["b64"], ""),
    ("rcp.rz.f32", ["b32"], ["b32"], ""),
    ("max.f32", ["b32"], ["b32"] * 2, ""),
]  # fmt: skip


def values_of(t, seed):
    rng = np.random.default_rng(seed)
    if t == "pred":
        return rng.integers(0, 2, N, np.uint32)
    bits = int(t[1:])
    out = rng.integers(0, 1 << bits, N, f"u{bits // 8}")
    out[::2] %= 40
    return out


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f[0])
def test_every_form_runs(form):
    name, out, given_types, tail = form
    operands = [values_of(t, k) for k, t in enumerate(given_types)]
    results = apply(name, out, given_types, *operands, tail=tail)
    assert any(r.any() for r in results)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="there is no ptxas to ask")
def test_every_form_is_ptx(tmp_path):
    bodies = [one_instruction(*form).replace(HEAD, "") for form in FORMS]
    text = HEAD + "".join(b.replace("test(", f"test{k}(") for k, b in enumerate(bodies))
    (tmp_path / "forms.ptx").write_text(text)
    command = ["ptxas", "-arch=sm_90", "-o", "forms.cubin", "forms.ptx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
