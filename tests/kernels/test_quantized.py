"""Quantised products: every type, group, scale, zero point and ragged shape against plain torch."""

from __future__ import annotations

import pytest
import torch

from tilus import dtypes
from tilus.dtypes import NARROW_TYPES, DType
from tilus.errors import TilusTypeError, TilusValueError
from tilus.kernels.embedding import embedding
from tilus.kernels.integers import integer_form
from tilus.kernels.ops import raw
from tilus.kernels.panels import Plane
from tilus.kernels.product import matmul, prepare
from tilus.kernels.quantized import quantize_weight
from tilus.options import options
from tilus.runtime.jit import host_features

WEIGHTS = [t for t in NARROW_TYPES if integer_form(t) and t != dtypes.bool_]


def rounded(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """Activations as 8-bit integers mean them: a scale for each row and chunk of k."""
    rows, k = x.shape
    padded = torch.nn.functional.pad(x.float(), (0, -k % chunk)).reshape(rows, -1, chunk)
    peak = padded.abs().amax(2, keepdim=True)
    codes = torch.round(padded * torch.where(peak > 0, 127 / peak, 0.0))
    return (codes.double() * (peak / 127)).reshape(rows, -1)[:, :k]


def check(m: int, n: int, k: int, dtype: DType | str, group: int | None, **options) -> None:
    generator = torch.Generator().manual_seed(m * n + k)
    x = torch.randn(m, k, generator=generator)
    weight = quantize_weight(
        torch.randn(n, k, generator=generator), dtype, group_size=group, **options
    )
    chunk = min(max(group, 32), 256) if group else min(256, -(-k // 32) * 32)
    want = rounded(x, chunk) @ weight.dequantize().double().T
    sizes = rounded(x, chunk).abs() @ weight.dequantize().double().abs().T
    got = matmul(x, weight)
    slack = 2e-4 if weight.dtype.values else 1e-6  # a codebook of reals is rounded to 15 bits
    assert ((got - want).abs() <= slack * sizes + 1e-6).all()
    for row in {0, m - 1}:
        assert torch.equal(matmul(x[row : row + 1], weight)[0], got[row])


@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_every_type(dtype: DType) -> None:
    check(3, 20, 128, dtype, 64)


EXACT = [t for t in NARROW_TYPES if t not in (dtypes.bool_, dtypes.e8m0)]


def check_exact(m: int, n: int, k: int, dtype: DType | str, group: int | None) -> None:
    generator = torch.Generator().manual_seed(m * n + k)
    x = torch.randn(m, k, generator=generator)
    weight = quantize_weight(torch.randn(n, k, generator=generator), dtype, group_size=group)
    dense = weight.dequantize().double().T
    got = matmul(x, weight, activations="exact")
    sizes = x.double().abs() @ dense.abs()
    assert ((got - x.double() @ dense).abs() <= k * 2.0**-24 * sizes + 1e-30).all()
    assert torch.equal(matmul(x[:1], weight, activations="exact")[0], got[0])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_every_type_with_exact_activations(dtype: DType) -> None:
    check_exact(3, 20, 128, dtype, 64)


@pytest.mark.parametrize("group", [16, 32, 256, None])
def test_groups_with_exact_activations(group: int | None) -> None:
    check_exact(9, 33, 512, "u3", group)
    check_exact(2, 7, 512, "f6e3m2", group)


@pytest.mark.parametrize("dtype", ["f8e4m3", "f7e4m2"])
def test_wide_types_are_multiplied_exactly(dtype: str) -> None:
    """No integers stand for them: x is rounded to bf16 at most, weights not at all."""
    weight = quantize_weight(torch.randn(16, 64), dtype, group_size=32)
    x = torch.randn(3, 64).bfloat16().float()
    want = matmul(x, weight, activations="exact")
    torch.testing.assert_close(matmul(x, weight), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u4", "u8", "i3", "f6e3m2", "f8e4m3", "f8e5m2", "nf4"])
def test_exact_products_of_bf16(dtype: str) -> None:
    """Products of bf16 are exact in f32: only sums round (and the result, to bf16)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(11, 256, generator=generator).bfloat16()
    weight = quantize_weight(torch.randn(33, 256, generator=generator), dtype, group_size=64)
    dense = weight.dequantize().double().T
    got = matmul(x, weight, activations="exact")
    want = x.double() @ dense
    sizes = x.double().abs() @ dense.abs()
    assert ((got.double() - want).abs() <= 2.0**-8 * want.abs() + 256 * 2.0**-24 * sizes).all()


@pytest.mark.parametrize("activations", ["int8", "exact"])
@pytest.mark.parametrize("group", [32, 128, None])
def test_float_zero_points(group: int | None, activations: str) -> None:
    generator = torch.Generator().manual_seed(2)
    original = torch.randn(19, 256, generator=generator) + 5.0  # no group reaches 0
    weight = quantize_weight(original, "u3", group_size=group, zero_point="float")
    assert weight.zeros is not None and weight.zeros.dtype == dtypes.f16
    plain = quantize_weight(original, "u3", group_size=group)
    error = (weight.dequantize() - original).norm()
    assert error < (plain.dequantize() - original).norm()
    for kind in (torch.float32, torch.bfloat16):
        x = torch.randn(9, 256, generator=generator).to(kind)
        exact = rounded(x, min(max(group or 256, 32), 256)) if activations == "int8" else x.double()
        want = exact @ weight.dequantize().double().T
        slack = 2e-5 if kind == torch.float32 else 2e-2
        got = matmul(x, weight, activations=activations).double()
        assert ((got - want).abs() <= slack * want.abs().max()).all()


@pytest.mark.parametrize("group", [16, 32, 64, 128, 256, None])
@pytest.mark.parametrize("dtype", ["u4", "i3"])
def test_groups(dtype: str, group: int | None) -> None:
    check(9, 33, 512, dtype, group)


@pytest.mark.parametrize("scale", ["f16", "bf16", "f32", "e8m0", "f8e4m3"])
def test_scale_types(scale: str) -> None:
    check(2, 16, 64, "i4", 32, scale_dtype=scale)
    check(2, 16, 64, "u4", None, scale_dtype=scale)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 16), (17, 5, 48), (64, 16, 32), (70, 31, 96)])
def test_shapes(m: int, n: int, k: int) -> None:
    check(m, n, k, "u5", 16)
    check(m, n, k, "i2", None)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_activation_types_bias_and_leading_dimensions(kind: torch.dtype) -> None:
    weight = quantize_weight(torch.randn(24, 64), "u4", group_size=32)
    x, bias = torch.randn(2, 3, 64).to(kind), torch.randn(24)
    want = matmul(x.float(), weight).reshape(2, 3, 24) + bias
    got = matmul(x, weight, bias)
    assert got.dtype == kind and got.shape == (2, 3, 24)
    torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=1e-2)
    assert matmul(x[:0], weight).shape == (0, 3, 24)


def test_nan_stays_nan() -> None:
    weight = quantize_weight(torch.randn(16, 64), "u4", group_size=32)
    x = torch.randn(3, 64)
    x[1, 5], x[2, 40] = torch.nan, torch.inf
    y = matmul(x, weight)
    assert torch.isfinite(y[0]).all() and torch.isnan(y[1:]).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_extreme_codes_are_exact(bits: int) -> None:
    weight = torch.tensor([[1.0], [0.0]]).expand(2, 256)
    q = quantize_weight(weight.contiguous(), f"u{bits}", group_size=128)
    x = torch.full((1, 256), 127.0)
    assert matmul(x, q)[0].tolist() == (x.double() @ q.dequantize().double().T)[0].tolist()


@pytest.mark.parametrize("dtype", WEIGHTS, ids=str)
def test_integer_parts_give_the_value(dtype: DType) -> None:
    form = integer_form(dtype)
    assert form is not None
    codes = torch.arange(1 << dtype.bits, dtype=torch.uint8)
    values = dtype.decode(codes.numpy()).astype(float)
    total = 0.0
    for part in form.parts:
        stored = [(int(c) ^ form.flip) for c in codes]
        byte = torch.tensor(
            [part.table[s] if part.table else s for s in stored], dtype=torch.float64
        )
        assert byte.min() >= 0 and byte.max() <= 255 and (byte == byte.round()).all()
        total = total + part.weight * (byte - part.zero)
    error = (total / form.factor - torch.from_numpy(values)).abs().max()
    assert error <= (2.0**-15 * abs(values).max() if dtype == dtypes.nf4 else 0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_planes_are_whole(bits: int) -> None:
    for k in (16, 32, 64, 128):
        layout = Plane(bits, 0).layout(k)
        assert (layout.shape, layout.num_threads, layout.num_slots) == ((k, 16), 1, k * 16)


FEATURES = {"avx2": "avx2,f16c,fma", "sse2": "none"}  # what they need comes along


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("dtype", ["u1", "u4", "i7", "u8", "nf4", "f6e3m2"])
def test_older_machines(dtype: str, features: str) -> None:
    names = FEATURES[features]
    if not set(names.split(",")) - {"none"} <= host_features():
        pytest.skip(f"this CPU has not all of {names}")
    with options.scope(cpu_features=names):
        check(5, 20, 128, dtype, 64)
        check_exact(5, 20, 128, dtype, 64)
        test_extreme_codes_are_exact(8)


def test_unknown_features_are_refused() -> None:
    weight = quantize_weight(torch.randn(16, 64), "u4", group_size=32)
    with (
        options.scope(cpu_features="avx1024"),
        pytest.raises(TilusValueError, match="no avx1024"),
    ):
        matmul(torch.randn(1, 64), weight)


def test_errors_name_the_argument() -> None:
    w = torch.randn(16, 64)
    with pytest.raises(TilusValueError, match="k = 64, no multiple of the group, 128"):
        quantize_weight(w, "u4")
    with pytest.raises(TilusValueError, match="`weight` holds NaN"):
        quantize_weight(w / 0 * 0, "u4", group_size=32)
    with pytest.raises(TilusTypeError, match="`dtype` is f16"):
        quantize_weight(w, "f16", group_size=32)
    with pytest.raises(TilusTypeError, match="`scale_dtype` is u8"):
        quantize_weight(w, "u4", group_size=32, scale_dtype="u8")
    with pytest.raises(TilusValueError, match="`group_size` is 48"):
        quantize_weight(w, "u4", group_size=48)
    with pytest.raises(TilusTypeError, match="`zero_point`"):
        quantize_weight(w, "i4", group_size=32, zero_point=True)
    q = quantize_weight(w, "u4", group_size=32)
    with pytest.raises(TilusTypeError, match=r"`x` is .*its last dimension must be k = 64"):
        matmul(torch.randn(2, 65), q)
    with pytest.raises(TilusTypeError, match=r"`x` is torch\.int32"):
        matmul(torch.zeros(2, 64, dtype=torch.int32), q)
    with pytest.raises(TilusTypeError, match="`bias`"):
        matmul(torch.randn(2, 64), q, torch.zeros(15))
    with pytest.raises(TilusValueError, match="`activations` is 'fp8'"):
        matmul(torch.randn(2, 64), q, activations="fp8")


def test_dropped_codes_are_still_multiplied() -> None:
    torch.manual_seed(0)
    w, x = torch.randn(32, 64), torch.randn(3, 64)
    q = quantize_weight(w, "u3", group_size=32)
    want, size = matmul(x, q), q.nbytes
    prepare(q)
    assert torch.equal(matmul(x, q), want) and q.nbytes == size
    for use in (q.dequantize, lambda: matmul(x, q, activations="exact"), lambda: raw(q)):
        with pytest.raises(TilusValueError, match="has dropped its codes"):
            use()


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(32, 64), (20, 300), (17, 513)])
def test_dense_weights(kind: torch.dtype, n: int, k: int) -> None:
    """Those in bf16 round x to bf16, where the machine multiplies in bf16."""
    torch.manual_seed(n)
    w = torch.randn(n, k).to(kind)
    q = prepare(w)
    halves = kind == torch.bfloat16 and "avx512bf16" in host_features()
    for m in (1, 3, 9, 40):
        x = torch.randn(m, k)
        want = (x.bfloat16() if halves else x).double() @ w.double().T
        assert ((matmul(x, q) - want).abs().max() / want.abs().max()) < 2e-6
    assert q.nbytes == w.nbytes
    ids = torch.tensor([0, n - 1, 5])
    assert torch.equal(embedding(ids, q), w[ids].float())
