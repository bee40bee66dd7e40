"""`view`: the bits of each thread, read as other elements; what is legal, and replicas."""

from math import lcm

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.layouts.strategies import layouts, partners
from tilus import dtypes
from tilus.dtypes import pack, unpack
from tilus.errors import TilusTypeError, Trap
from tilus.ir.expr import Value
from tilus.ir.instructions.view import View
from tilus.ir.interpreter import run
from tilus.ir.machine import RegisterTile, index_table
from tilus.ir.parser import parse
from tilus.ir.passes import lower
from tilus.ir.types import TileType
from tilus.layouts import Layout, local, replicated, spatial

TYPES = tuple(
    map(dtypes.dtype, ("u1", "i2", "u3", "f4e2m1", "u5", "f6e3m2", "i7", "u8", "f16", "i32", "f64"))
)


def view(dtype, layout: Layout, to, want: Layout) -> View:
    return View(Value(TileType(dtype, layout.shape, layout)), to, want)


def held(codes: np.ndarray, bits: int) -> list[int]:
    """Each thread's registers as one number, first slot lowest."""
    return [sum(int(c) << (bits * s) for s, c in enumerate(row)) for row in codes]


@given(st.data())
def test_bits_stay_where_they_are(data) -> None:
    dtype, to = data.draw(st.sampled_from(TYPES)), data.draw(st.sampled_from(TYPES))
    have = data.draw(layouts(replicas=False, max_modes=3))
    step = lcm(dtype.bits, to.bits)
    have = (
        have * local(*[1] * (have.rank - 1), step // dtype.bits)
        if have.rank
        else local(step // dtype.bits)
    )
    slots = have.num_slots * dtype.bits // to.bits
    want = data.draw(st.permutations([spatial(have.num_threads), local(slots)]))
    result = want[0] * want[1]
    assume(have.num_threads * have.num_slots <= 2048)
    inst = view(dtype, have, to, result)
    assert inst.infer() == TileType(to, result.shape, result)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = (have.num_threads, have.num_slots)
    codes = rng.integers(0, 1 << min(dtype.bits, 63), shape, dtype=np.int64).astype(
        dtype.code_dtype
    )
    out = inst.interpret(None, RegisterTile(dtype, have, codes))  # type: ignore[arg-type]
    assert held(out.codes, to.bits) == held(codes, dtype.bits)
    assert out.codes.dtype == to.code_dtype and out.layout == result
    back = view(to, result, dtype, have).interpret(None, out)  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.codes, codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("threads", [1, 32])
def test_loaded_bytes_are_packed_codes(bits: int, threads: int) -> None:
    """A thread that loads `bits` bytes holds 8 codes, as `pack` put them there."""
    n = 8 * threads * 2
    codes = np.random.default_rng(bits).integers(0, 1 << bits, n).astype(np.uint8)
    text = f"""kernel @k(%x: ptr[u8], %y: ptr[i32]) threads {threads} {{
      %X = global_view(%x, dtype=u8, shape=[{n * bits // 8}])
      %Y = global_view(%y, dtype=i32, shape=[{n}])
      %r = load_global(%X, offsets=[0], shape=[{n * bits // 8}], layout=RUNS*local({bits}))
      %v = view(%r, dtype=u{bits}, layout=RUNS*local(8))
      %c = cast(%v, dtype=i32)
      store_global(%Y, %c, offsets=[0])
    }}"""
    out = np.zeros(n * 4, np.uint8)
    f = lower(parse(text.replace("RUNS", f"local(2)*spatial({threads})")))
    run(f, [pack(codes, bits), out], (1,))
    np.testing.assert_array_equal(out.view(np.int32), codes)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, n), codes)


A = spatial(4) * local(6)
PAIRS = spatial(2) * replicated(2) * local(6)
ALL = replicated(4) * local(6)


@pytest.mark.parametrize(
    ("have", "dtype", "want", "to", "said"),
    [
        (A, "u8", spatial(8) * local(6), "u8", "spread over 4 threads, `layout` over 8"),
        (A, "u8", spatial(4) * local(5), "u8", "48 bits of `x` (6 x u8), and 40 bits"),
        (A, "u8", spatial(4) * local(16), "u4", "and 64 bits of the result (16 x u4)"),
        (A, "u8", PAIRS, "u8", "hold different bits"),
        (A, "u8", ALL, "u8", "hold different bits"),
        (PAIRS, "u8", ALL, "u8", "hold different bits"),
        (PAIRS, "u8", replicated(2) * spatial(2) * local(6), "u8", "different bits"),
    ],
)  # fmt: skip
def test_what_is_not_legal(have, dtype, want, to, said) -> None:
    with pytest.raises(TilusTypeError) as caught:
        view(dtypes.dtype(dtype), have, dtypes.dtype(to), want).infer()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (A, spatial(4) * local(6)),
        (A, local(2) * spatial(4) * local(3)),
        (ALL, spatial(4) * local(6)),
        (ALL, replicated(2) * spatial(2) * local(6)),
        (PAIRS, local(6) * spatial(4)),
        (PAIRS, PAIRS),
    ],
)
def test_what_is_legal(have, want) -> None:
    u8 = dtypes.u8
    inst = view(u8, have, u8, want)
    assert inst.infer().layout == want
    codes = np.arange(have.size, dtype=np.uint8)[index_table(have)]
    out = inst.interpret(None, RegisterTile(u8, have, codes))  # type: ignore[arg-type]
    assert out.logical_codes().shape == want.shape  # replicas agree
    assert held(out.codes, 8) == held(codes, 8)


@given(st.data())
def test_legal_views_have_replicas_that_agree(data) -> None:
    have, want = data.draw(partners())
    if want.num_slots < have.num_slots:
        have, want = want, have
    assume(want.num_slots % have.num_slots == 0 and have.num_threads * want.num_slots <= 1024)
    have = have * local(*[1] * (have.rank - 1), want.num_slots // have.num_slots)
    inst = view(dtypes.u16, have, dtypes.u16, want)
    codes = np.arange(have.size, dtype=np.uint16)[index_table(have)]
    try:
        inst.infer()
    except TilusTypeError:
        with pytest.raises(Trap, match="another value than its replicas"):
            RegisterTile(dtypes.u16, want, codes).logical_codes()
        return
    out = inst.interpret(None, RegisterTile(dtypes.u16, have, codes))  # type: ignore[arg-type]
    out.logical_codes()


USE = "\n%w = cast(%v, dtype=i32)\nprint_tensor(%w)\n}"


def test_the_layout_must_be_said() -> None:
    text = """kernel @k(%x: ptr[u8]) threads 4 {
      %X = global_view(%x, dtype=u8, shape=[8])
      %t = load_global(%X, offsets=[0], shape=[8])
      %v = view(%t, dtype=u4, layout=spatial(4)*local(4))
    }"""
    with pytest.raises(TilusTypeError) as caught:
        parse(text, "k.tir")
    assert caught.value.first.message == (
        "view: the layout of `x` is open, and the result depends on it"
    )
    assert [(str(s), note) for s, note in caught.value.first.notes] == [
        ("k.tir:3:7", "this is u8[8]")
    ]
    said = text.replace(
        "shape=[8])\n      %v", "shape=[8]) : u8[8] @ spatial(4)*local(2)\n      %v"
    )
    assert "@ spatial(4)*local(2)" in str(lower(parse(said.replace("\n    }", USE))))
