"""GGUF's element types: whatever the bytes of a block, the values are those of the package gguf."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from tilus import dtypes
from tilus.errors import TilusValueError
from tilus.kernels import QuantizedWeight, matmul
from tilus.llm.checkpoints.gguf_model import _converted
from tilus.llm.checkpoints.gguf_types import GGML_TYPES, GgmlType, pack_blocks

PACKED = [t for t in GGML_TYPES.values() if t.packed is not None]
EXACT = [t for t in PACKED if t.packed and not t.packed.affine]
AFFINE = [t for t in PACKED if t.packed and t.packed.affine]
CONVERTED = [t for t in GGML_TYPES.values() if t.nearest is not None and t.name != "Q1_0"]
N, K = 24, 1024
BY_NAME = {t.name: t for t in GGML_TYPES.values()}


def name(ggml: GgmlType) -> str:
    return ggml.name


def reference(ggml: GgmlType, blocks: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(blocks, gguf.GGMLQuantizationType[ggml.name])


def random_blocks(ggml: GgmlType, seed: int, largest: float = np.inf) -> np.ndarray:
    """Blocks of random bytes [N, bytes of K weights] that stand for finite numbers."""
    rng = np.random.default_rng(seed)
    count = N * K // ggml.elements
    blocks = rng.integers(0, 256, (8 * count, ggml.nbytes), dtype=np.uint8)
    if ggml.name == "NVFP4":  # whose scales have no sign
        blocks[:, :4] &= 0x7F
    values = reference(ggml, blocks)
    good = np.isfinite(values).all(1) & (np.abs(values) <= largest).all(1)
    if ggml.name == "MXFP4":  # whose largest scales are beyond f32 times 6
        good &= blocks[:, 0] < 250
    assert good.sum() >= count
    return blocks[good][:count].reshape(N, -1)


def packed(ggml: GgmlType, blocks: np.ndarray) -> QuantizedWeight:
    data = torch.from_numpy(blocks).reshape(-1)
    return pack_blocks(ggml, data, N, data.numel() // N // ggml.nbytes * ggml.elements)


def test_numbers_and_sizes_are_those_of_the_package():
    theirs = {
        int(t): (t.name, *gguf.GGML_QUANT_SIZES[t])
        for t in gguf.GGMLQuantizationType
        if t.name not in ("Q8_1", "Q8_K")  # of intermediate results
    }
    ours = {number: (t.name, t.elements, t.nbytes) for number, t in GGML_TYPES.items()}
    assert ours == theirs


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ggml", EXACT, ids=name)
def test_types_without_minima_keep_every_bit(ggml: GgmlType, seed: int):
    blocks = random_blocks(ggml, seed)
    weight = packed(ggml, blocks)
    want = torch.from_numpy(reference(ggml, blocks))
    assert weight.zeros is None
    assert torch.equal(weight.dequantize(), want)
    assert len(want.unique()) > 100


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ggml", AFFINE, ids=name)
def test_types_with_minima_keep_values_up_to_f32_rounding(ggml: GgmlType, seed: int):
    blocks = random_blocks(ggml, seed)
    weight = packed(ggml, blocks)
    assert weight.zeros is not None and weight.zeros.dtype == dtypes.f32
    got, want = weight.dequantize(), torch.from_numpy(reference(ggml, blocks))
    scales = weight.scales.to_float().double().repeat_interleave(weight.group_size, 1)
    zeros = weight.zeros.to_float().double().repeat_interleave(weight.group_size, 1)
    terms = (scales * weight.codes.to_float()).abs() + (scales * zeros).abs()
    error = (got.double() - want.double()).abs()
    assert (error <= 2.0**-22 * terms).all()
    assert len(want.unique()) > 100


@pytest.mark.parametrize("ggml", [BY_NAME["Q4_1"], BY_NAME["Q5_1"]], ids=name)
def test_a_scale_of_zero_leaves_the_minimum(ggml: GgmlType):
    blocks = random_blocks(ggml, 3).reshape(-1, ggml.nbytes)
    blocks[::2, :2] = 0
    blocks[::4, 1] = 0x80  # -0
    blocks[::8, 2:4] = 0
    blocks = blocks.reshape(N, -1)
    weight = packed(ggml, blocks)
    want = torch.from_numpy(reference(ggml, blocks)).reshape(-1, 32)
    got = weight.dequantize().reshape(-1, 32)
    assert torch.equal(got[::2], want[::2])
    assert (got[::8] == 0).all() and (got[2::4] != 0).any()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_what_the_package_quantises(kind: str):
    values = np.random.default_rng(5).standard_normal((N, K)).astype(np.float32)
    ggml = BY_NAME[kind]
    blocks = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    got = packed(ggml, blocks).dequantize()
    torch.testing.assert_close(got, torch.from_numpy(reference(ggml, blocks)), rtol=1e-6, atol=1e-6)
    assert (got - torch.from_numpy(values)).abs().max() < 1


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q4_K", "Q6_K", "Q2_K"])
@pytest.mark.parametrize("bits", [0x7C00, 0x7E00, 0xFC00])
def test_scales_that_are_no_numbers_are_refused(kind: str, bits: int):
    ggml = BY_NAME[kind]
    at = {"Q6_K": 208, "Q2_K": 80}.get(kind, 0)
    blocks = random_blocks(ggml, 1).reshape(-1, ggml.nbytes)
    blocks[-1, at : at + 2] = np.array([bits], "<u2").view(np.uint8)
    with pytest.raises(TilusValueError, match="NaN or infinite"):
        packed(ggml, blocks.reshape(N, -1))


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q2_K"])
def test_minima_that_are_no_numbers_are_refused(kind: str):
    ggml = BY_NAME[kind]
    at = 82 if kind == "Q2_K" else 2
    blocks = random_blocks(ggml, 1).reshape(-1, ggml.nbytes)
    blocks[-1, at : at + 2] = 0xFF
    with pytest.raises(TilusValueError, match="NaN or infinite"):
        packed(ggml, blocks.reshape(N, -1))


def test_a_weight_taken_apart_in_pieces(monkeypatch):
    ggml = BY_NAME["Q3_K"]
    blocks = random_blocks(ggml, 4)
    whole = packed(ggml, blocks)
    monkeypatch.setattr("tilus.llm.checkpoints.gguf_types._AT_ONCE", 5 * K)  # 24 = 4 * 5 + 4 rows
    pieces = packed(ggml, blocks)
    assert pieces.codes.equal(whole.codes) and pieces.scales.equal(whole.scales)


@pytest.mark.parametrize("ggml", CONVERTED, ids=name)
def test_converted_types_are_near(ggml: GgmlType):
    blocks = random_blocks(ggml, 2, largest=1000)
    if ggml.name == "TQ2_0":  # -1, 0 and 1; the fourth code is not used
        fields = blocks.reshape(-1, ggml.nbytes)[:, :64]
        fields &= ~((fields >> 1) & fields & 0x55) & 0xFF
    want = torch.from_numpy(reference(ggml, blocks))
    weight = _converted(ggml, torch.from_numpy(blocks).reshape(-1), N, K)
    error = (weight.dequantize() - want).abs()
    if ggml.name.startswith("TQ"):
        assert torch.equal(weight.dequantize(), want) and weight.dtype.bits == 2
        return
    groups = want.reshape(N, -1, 32)
    step = (groups.amax(2).clamp_min(0) - groups.amin(2).clamp_max(0)) / 15
    assert (error.reshape(groups.shape) <= 1.01 * step[:, :, None]).all()
    assert weight.dtype == dtypes.u4 and error.max() > 0


def test_converted_types_that_are_no_numbers_are_refused():
    ggml = BY_NAME["IQ3_XXS"]
    blocks = random_blocks(ggml, 2, largest=1000)
    blocks[-1, :2] = 0xFF
    with pytest.raises(TilusValueError, match="NaN or infinity"):
        _converted(ggml, torch.from_numpy(blocks).reshape(-1), N, K)


@pytest.mark.parametrize(("kind", "at"), [("Q4_K", (0, 2)), ("Q6_K", (208,))])
def test_products_with_packed_weights(kind: str, at: tuple[int, ...]):
    ggml = BY_NAME[kind]
    blocks = random_blocks(ggml, 6).reshape(-1, ggml.nbytes)
    scales = np.random.default_rng(7).uniform(0.001, 0.01, (len(blocks), len(at)))
    for place, column in zip(at, scales.T, strict=True):
        blocks[:, place : place + 2] = column[:, None].astype("<f2").view(np.uint8)
    blocks = blocks.reshape(N, -1)
    x = torch.randn(3, K, generator=torch.Generator().manual_seed(0))
    got = matmul(x, packed(ggml, blocks), activations="exact").double()
    want = x.double() @ torch.from_numpy(reference(ggml, blocks)).double().T
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
