"""Names, texts and properties of element types, and what the look-up says when it finds none."""

import copy
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import ALL_TYPES, NARROW_TYPES, DType, Kind, dtype, float_, from_numpy, lut

EXPORTED = [getattr(dtypes, name) for name in dtypes.__all__]
CONSTANTS = [value for value in EXPORTED if isinstance(value, DType)]


def test_every_named_type_is_found_by_its_text():
    assert len(ALL_TYPES) == len({t.name for t in ALL_TYPES}) == 11 + 11 + 28 + 9
    for dt in ALL_TYPES:
        assert dtype(str(dt)) == dt and dtype(dt) is dt
        assert f"{dt}" == dt.name and repr(dt) == f"dtype('{dt}')"
    assert set(NARROW_TYPES) == {t for t in ALL_TYPES if t.bits <= 8}


def test_constants_carry_their_own_names():
    assert len(CONSTANTS) == 11 + 11 + 12 + 9
    for dt in CONSTANTS:
        assert getattr(dtypes, {"bool": "bool_"}.get(dt.name, dt.name)) is dt
        assert dt in ALL_TYPES


def test_value_equality_and_hash():
    assert float_(2, 1) == dtypes.f4e2m1 == dtype("f4e2m1") != dtypes.u4
    assert hash(lut(1, [0, 1])) == hash(lut(1, [0.0, 1.0])) and lut(1, [0, 1]) == lut(1, [-0.0, 1])
    assert lut(1, [0, 1]) != lut(1, [0, 2]) and lut(1, [0, 1]) != lut(1, [0, 1], name="bit")
    for dt in (*ALL_TYPES, lut(2, [0.1, 1, 2, 3], "mine")):
        _ = dt.max, dt.value_dtype  # cached on the object, no part of its value
        for other in (pickle.loads(pickle.dumps(dt)), copy.deepcopy(dt)):
            assert other == dt and hash(other) == hash(dt) and other.kind is dt.kind


def test_types_cannot_be_changed():
    with pytest.raises(AttributeError):
        dtypes.u4.bits = 5


def test_widths_and_kinds():
    for dt in ALL_TYPES:
        assert dt.is_integer + dt.is_float + (dt.kind is Kind.BOOL) == 1
        assert dt.is_subbyte == (dt.bits < 8)
        assert dt.code_dtype.kind == "u" and dt.code_dtype.itemsize == max(8, dt.bits) // 8
        if not dt.is_subbyte:
            assert dt.nbytes == dt.bits // 8
        assert dt.storage_bytes(3) == -(-3 * dt.bits // 8)
    assert [t.name for t in NARROW_TYPES if t.is_small_float and t.bits == 4] == [
        "f4e3m0",
        "f4e2m1",
        "f4e1m2",
    ]
    assert not dtypes.nf4.is_small_float and not dtypes.f16.is_small_float
    assert dtypes.e8m0.is_small_float and not dtypes.e8m0.is_signed
    assert dtypes.f16.has_infinity and dtypes.tf32.has_nan and dtypes.tf32.is_signed


def test_biases():
    biases = {"f3e1m1": 0, "f4e2m1": 1, "f6e3m2": 3, "f8e4m3": 7, "f8e5m2": 15, "f16": 15}
    biases |= {"bf16": 127, "tf32": 127, "f32": 127, "f64": 1023, "e8m0": 127}
    assert {name: dtype(name).bias for name in biases} == biases


def test_value_types():
    special = {"bool": "bool", "f16": "float16", "f64": "float64"}
    for dt in ALL_TYPES:
        if dt.is_integer:
            want = f"{'int' if dt.is_signed else 'uint'}{max(8, dt.bits)}"
        else:
            want = special.get(dt.name, "float32")
        assert dt.value_dtype == np.dtype(want), dt


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        *(("uint3", "u3"), ("int8", "i8"), ("int64", "i64"), ("uint16", "u16")),
        *(("half", "f16"), ("float16", "f16"), ("bfloat16", "bf16"), ("float", "f32")),
        *(("float32", "f32"), ("double", "f64"), ("float64", "f64"), ("tfloat32", "tf32")),
        *(("float8_e4m3fn", "f8e4m3"), ("float8_e5m2", "f8e5m2"), ("float8_e8m0fnu", "e8m0")),
    ],
)
def test_aliases(alias, name):
    assert dtype(alias).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("f8e4m", r"unknown element type 'f8e4m'; did you mean f8e4m3 or"),
        ("flaot16", r"did you mean float16"),
        ("F16", r"did you mean f16\?"),
        ("u9", r"did you mean u\d or"),
        ("f6e4m2", r"a sign, 4 exponent and 2 mantissa bits are 7 bits; did you mean"),
        ("f9e4m4", r"4 exponent and 4 mantissa bits are 9 bits"),
        ("float8_e4m3", r"did you mean float8_e4m3fn"),
        ("zzz", r"there are u1..u8 .*iq4nl"),
        ("lut2(1.0)", r"'lut2\(1.0\)': values: a codebook of 2 bits has 4 values, got 1"),
        ("lut1(1.0,inf)", r"values\[1\] = inf is not finite"),
        ("lut1(1.0,x)", r"could not convert string to float: 'x'"),
        ("lut9(1.0)", r"bits of a codebook must be 1 to 8, not 9"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        dtype(name)


def test_a_type_of_another_library_is_no_name():
    with pytest.raises(TypeError, match=r"name must be a str such as 'f16', not type.*numpy"):
        dtype(np.float32)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    bits=st.integers(1, 4),
    data=st.data(),
    name=st.none() | st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True),
)
def test_codebooks_read_back_exactly(bits, data, name):
    values = data.draw(st.lists(FLOAT32, min_size=2**bits, max_size=2**bits))
    made = lut(bits, values, name)
    assert dtype(str(made)) == made and str(dtype(str(made))) == str(made)
    codes = np.arange(2**bits, dtype=np.uint8)
    np.testing.assert_array_equal(made.decode(codes), np.float32(values))


def test_codebooks_round_to_float32_once_at_the_start():
    assert str(lut(1, [0.1, -0.0])) == "lut1(0.10000000149011612,0.0)"
    assert str(lut(1, [0, 1], name="bit")) == "lut1_bit(0.0,1.0)"
    assert dtype("lut1( 0, 1e0 )") == lut(1, [0, 1])
    assert [float(np.float32(v)) for v in dtypes.nf4.values] == list(dtypes.nf4.values)


def test_wrong_codebooks_and_floats():
    with pytest.raises(ValueError, match="repeat a value for codes that are not used"):
        lut(2, [-1, 0, 1])
    with pytest.raises(ValueError, match=r"values\[0\] = 1e\+39 is not finite in f32"):
        lut(1, [1e39, 0])
    with pytest.raises(ValueError, match=r"letters, digits and underscores, not 'a b'"):
        lut(1, [0, 1], name="a b")
    for e, m in ((0, 3), (4, 4), (3, -1), (8, 0)):
        with pytest.raises(ValueError, match=rf"float_\({e}, {m}\): a small float has a sign"):
            float_(e, m)


def test_numpy_types():
    for kind in (np.uint8, np.int64, np.float16, np.float64, np.bool_, np.dtype(">i4")):
        assert from_numpy(kind).value_dtype == np.dtype(kind).newbyteorder("=")
    assert from_numpy(ml_dtypes.bfloat16) == dtypes.bf16
    assert from_numpy(ml_dtypes.float8_e4m3fn) == dtypes.f8e4m3
    assert from_numpy(ml_dtypes.int4) == dtypes.i4
    for kind in (np.complex64, ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fnuz, "U3"):
        with pytest.raises(ValueError, match="has no counterpart among the element types"):
            from_numpy(np.dtype(kind))


def test_element_types_need_no_torch():
    code = "import sys, tilus.dtypes; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("False\n", "")
