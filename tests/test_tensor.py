"""Tensors of packed elements: the same codes and values as the element types, shapes, errors."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilus import dtypes
from tilus.dtypes import ALL_TYPES, NARROW_TYPES, dtype
from tilus.tensor import Tensor, from_torch, to_torch

SHAPES = [(), (0,), (1,), (3, 5), (2, 0, 3), (2, 3, 4)]
NATIVE = [t for t in ALL_TYPES if to_torch(t) is not None]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_codes(dt, shape, seed=0):
    codes = np.random.default_rng(seed).integers(0, 2**dt.bits, shape, np.uint64, endpoint=False)
    return torch.from_numpy(np.asarray(codes.astype(dt.code_dtype)))


def assert_same(a, b):
    """Bit for bit, of one torch type."""
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.numel():
        bits_a, bits_b = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        assert torch.equal(bits_a, bits_b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dt", NARROW_TYPES, ids=str)
def test_codes_round_trip(dt, shape):
    codes = random_codes(dt, shape)
    made = Tensor.from_codes(codes, dt)
    assert (made.dtype, made.shape, made.numel) == (dt, shape, codes.numel())
    assert made.nbytes == made.storage.numel() == (codes.numel() * dt.bits + 7) // 8
    assert made.device == torch.device("cpu")
    assert_same(made.codes(), codes)
    wider = codes.to(torch.int64).T if len(shape) == 2 else codes.to(torch.int64)
    assert_same(Tensor.from_codes(wider, dt).codes().T if len(shape) == 2 else made.codes(), codes)


@pytest.mark.parametrize("dt", [t for t in ALL_TYPES if t.bits > 8], ids=str)
def test_codes_of_wide_types_round_trip(dt):
    codes = random_codes(dt, (3, 5))
    assert_same(Tensor.from_codes(codes, dt).codes(), codes)


@pytest.mark.parametrize("dt", ALL_TYPES, ids=str)
def test_values_are_those_of_the_element_type(dt):
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 7)) * 5)
    for kind in FLOATS:
        given = x.to(kind)
        made = Tensor.from_float(given, dt)
        source = from_torch(kind)
        exact = given.double().numpy().astype(source.value_dtype)
        want = dtypes.convert(exact, source, dt)
        assert made.codes().numpy().tolist() == dt.encode(want).tolist()
        for out in FLOATS:
            rounded = dtypes.convert(want, dt, from_torch(out))
            assert made.to_float(out).dtype == out
            np.testing.assert_array_equal(made.to_float(out).double().numpy(), rounded)


def test_values_known_by_heart():
    x = torch.tensor([0.2, 0.25, -2.6, 1e9, float("nan")])
    assert Tensor.from_float(x, dtypes.f4e2m1).to_float().tolist() == [0.0, 0.0, -3.0, 6.0, 0.0]
    assert Tensor.from_float(x[:4], dtypes.i4).to_float().tolist() == [0, 0, -2, 7]
    assert Tensor.from_float(x[:3], dtypes.f4e2m1).storage.tolist() == [0x00, 0x0D]
    once = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert Tensor.from_float(once, dtypes.bf16).to_float().tolist() == [1 + 2**-7]
    assert Tensor.from_float(once, dtypes.f64).to_float(torch.bfloat16).tolist() == [1 + 2**-7]
    big = Tensor.from_codes(torch.tensor([2**62 + 2**54 + 1]), dtypes.i64)
    assert big.to_float(torch.bfloat16).tolist() == [2.0**62 + 2.0**55]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dt", NATIVE, ids=str)
def test_torch_tensors_are_taken_and_given_without_a_copy(dt, shape):
    codes = random_codes(dt, shape) & 1 if dt is dtypes.bool_ else random_codes(dt, shape)
    x = codes.reshape(-1).view(to_torch(dt)).reshape(shape)
    made = Tensor.from_torch(x)
    assert (made.dtype, made.shape) == (dt, shape)
    assert made.storage.data_ptr() == x.data_ptr()
    assert_same(made.codes(), codes)
    assert_same(made.to_torch(), x)
    assert made.to_torch().data_ptr() == x.data_ptr()


def test_a_single_element_of_any_stride():
    x = torch.arange(6.0)[1::3][:1]
    assert x.stride() == (3,) and x.is_contiguous()
    assert Tensor.from_torch(x).to_torch().tolist() == [1.0]
    byte = torch.arange(6, dtype=torch.uint8)[1::3][:1]
    assert Tensor(dtypes.i8, (1,), byte).to_torch().tolist() == [1]


def test_torch_types_of_the_element_types():
    assert len(NATIVE) == len({to_torch(t) for t in NATIVE}) == 16
    for dt in NATIVE:
        assert from_torch(to_torch(dt)) == dt
        assert to_torch(dt).itemsize == dt.nbytes
        assert dtype(str(to_torch(dt)).removeprefix("torch.")) == dt
    assert to_torch(dtypes.tf32) is None and to_torch(dtypes.f4e2m1) is None


def test_transposed_and_differentiable_inputs():
    x = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    assert Tensor.from_torch(x).to_torch().tolist() == x.tolist()
    assert Tensor.from_float(x, dtypes.u3).codes().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not Tensor.from_torch(x).to_float().requires_grad


def test_what_is_given_out_does_not_alias():
    made = Tensor.from_torch(torch.ones(4))
    made.to_float().zero_()
    made.codes().zero_()
    assert made.to_float().tolist() == [1, 1, 1, 1]


@given(bits=st.integers(1, 8), other=st.integers(1, 8), rows=st.integers(0, 3), k=st.integers(0, 4))
def test_view_keeps_the_bits(bits, other, rows, k):
    codes = random_codes(dtype(f"u{bits}"), (rows, k * other))
    made = Tensor.from_codes(codes, dtype(f"u{bits}"))
    seen = made.view(dtype(f"i{other}"))
    assert seen.shape == (rows, k * bits) and seen.storage is made.storage
    number = sum(int(c) << (i * bits) for i, c in enumerate(codes.reshape(-1)))
    again = sum(int(c) << (i * other) for i, c in enumerate(seen.codes().reshape(-1)))
    assert number == again


def test_view_of_one_element_and_of_rows_that_do_not_divide():
    one = Tensor.from_codes(torch.tensor(9), dtypes.u4)
    assert one.view(dtypes.i4).to_float().item() == -7
    with pytest.raises(ValueError, match=r"a row of u4\[\] has 4 bits and cannot be viewed as u2"):
        one.view(dtypes.u2)
    with pytest.raises(ValueError, match=r"a row of u4\[8, 2\] has 8 bits .* as u3 of 3 bits"):
        Tensor.from_codes(torch.zeros(8, 2, dtype=torch.uint8), dtypes.u4).view(dtypes.u3)


def test_equal():
    def of(storage, dt=dtypes.u3, shape=(3,)):
        return Tensor(dt, shape, torch.tensor(storage, dtype=torch.uint8))

    a = of([0b11010001, 0])  # codes 1, 2, 3 and 7 bits of padding
    assert a.equal(a.clone()) and a.equal(of([0b11010001, 0b11111110]))
    assert not a.equal(of([0b11010001, 1])) and not a.equal(of([0b11010000, 0]))
    assert not a.equal(a.view(dtypes.i3)) and not a.equal(of([0b11010001, 0], shape=(3, 1)))
    assert of([], shape=(0,)).equal(of([], shape=(0,)))


def test_copies():
    a = Tensor.from_codes(torch.tensor([1, 2, 3]), dtypes.f3e1m1)
    assert a.to("cpu").storage is a.storage
    for b in (a.clone(), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert b.equal(a) and b.storage.data_ptr() != a.storage.data_ptr()


def test_repr():
    x = torch.tensor([[0.1, -0.6], [2.0, 7.0]])
    assert repr(Tensor.from_float(x, dtypes.nf4)) == (
        "Tensor(nf4[2, 2], 2 bytes, cpu: 0.0795803, -0.525073, 1, 1)"
    )
    many = Tensor.from_codes(torch.arange(9), dtypes.i4)
    assert repr(many) == "Tensor(i4[9], 5 bytes, cpu: 0, 1, 2, 3, 4, 5, ...)"
    assert repr(Tensor.from_torch(torch.zeros(0, 3))) == "Tensor(f32[0, 3], 0 bytes, cpu)"
    assert repr(Tensor.from_torch(torch.tensor(True))) == "Tensor(bool[], 1 bytes, cpu: True)"


BYTES = torch.zeros(8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Tensor(dtypes.u3, (4,), BYTES),
            ValueError,
            r"storage has 8 bytes, but u3\[4\] packs 4 elements of 3 bits into 2",
        ),
        (
            lambda: Tensor(dtypes.u3, (4,), BYTES.float()),
            TypeError,
            "uint8 tensor, not torch.float",
        ),
        (lambda: Tensor(dtypes.u3, (4,), [1, 2]), TypeError, "a torch.uint8 tensor, not list"),
        (lambda: Tensor(dtypes.u8, (2, 4), BYTES.view(2, 4)), ValueError, "one-dimensional"),
        (lambda: Tensor(dtypes.u8, (4,), BYTES[::2]), ValueError, r"contiguous, not \[4\]"),
        (lambda: Tensor(dtypes.u8, (-1,), BYTES), ValueError, r"negative extents: \[-1\]"),
        (lambda: Tensor("u8", (8,), BYTES), TypeError, r"dtype must be .* not 'u8'.*dtypes.dtype"),
        (lambda: Tensor(torch.uint8, (8,), BYTES), TypeError, "not torch.uint8; .*from_torch"),
        (lambda: Tensor.from_float(BYTES, dtypes.u3), TypeError, "x must be a floating-point ten"),
        (lambda: Tensor.from_float([1.0], dtypes.u3), TypeError, "x must be a torch.Tensor, not l"),
        (lambda: Tensor.from_codes(torch.zeros(3), dtypes.u3), TypeError, "codes must be an integ"),
        (
            lambda: Tensor.from_codes(torch.tensor([3, 8]), dtypes.f3e1m1),
            ValueError,
            "codes of f3e1m1 are 0 to 7, but codes has values from 3 to 8",
        ),
        (lambda: Tensor.from_codes(torch.tensor([-1, 3]), dtypes.u64), ValueError, "from -1 to 3"),
        (lambda: Tensor.from_torch(torch.zeros(1, dtype=torch.complex64)), ValueError, "complex64"),
        (
            lambda: Tensor.from_torch(np.zeros(3)),
            TypeError,
            "x must be a torch.Tensor, not ndarray",
        ),
        (
            lambda: Tensor.from_torch(BYTES).to_float(torch.int32),
            TypeError,
            "dtype must be a float",
        ),
        (lambda: Tensor(dtypes.u4, (16,), BYTES).to_torch(), TypeError, "codes of u4; use `to_flo"),
        (
            lambda: Tensor(dtypes.f32, (1,), BYTES[1:5]).to_torch(),
            ValueError,
            r"multiple of 4 bytes, as torch needs for torch.float32; use `clone\(\)`",
        ),
        (lambda: from_torch(torch.float4_e2m1fn_x2), ValueError, "view the tensor as torch.uint8"),
        (lambda: from_torch(BYTES), TypeError, r"for a tensor use `Tensor.from_torch`"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["u3", "f6e3m2", "nf4", "bf16", "i64"])
def test_on_a_gpu(name):
    x = torch.randn(5, 7)
    here = Tensor.from_float(x, dtype(name))
    there = Tensor.from_float(x.cuda(), dtype(name))
    assert there.device.type == "cuda" and there.codes().is_cuda and there.to_float().is_cuda
    assert there.equal(here) and here.equal(there) and here.to("cuda").equal(there)
    assert_same(there.to_float().cpu(), here.to_float())
    assert_same(there.to("cpu").codes(), here.codes())
    assert "cuda" in repr(there)
