"""Native embeddings against the reference: equal in every bit."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

import tilus
from tilus.errors import TilusTypeError
from tilus.kernels import quantize_weight, reference
from tilus.kernels.embedding import embedding
from tilus.kernels.panels import PanelFormat
from tilus.kernels.product import matmul
from tilus.kernels.quantized import QuantizedWeight
from tilus.tensor import Tensor

VOCABULARY = 37  # two panels and five more
IDS = torch.tensor([0, 36, 5, 16, 15, 36, 31])

UNSIGNED = [f"u{b}" for b in range(1, 9)]
OTHERS = [f"i{b}" for b in range(1, 9)] + [
    "f3e1m1", "f4e2m1", "f5e2m2", "f6e2m3", "f6e3m2", "f7e3m3", "f8e4m3", "f8e5m2", "nf4", "iq4nl",
]  # fmt: skip
GROUPS = (16, 32, 64, 128, 256, None)
SCALES = ("f16", "bf16", "f32", "e8m0", "f8e4m3")


def cases() -> list[tuple[str, bool | str, int | None, str, str]]:
    """Every type, and kinds of zero points, with groups, scales and formats taking turns."""
    turns = zip(cycle(GROUPS), cycle(SCALES), cycle(("int8", "int8", "exact")), strict=False)
    kinds: list[tuple[str, bool | str]] = [(t, True) for t in UNSIGNED]
    kinds += list(zip(UNSIGNED, cycle(("float", False)), strict=False))
    kinds += [(t, False) for t in OTHERS]
    kinds += [(t, z) for t, z in kinds if t in ("u3", "i3", "nf4")]
    found = [(*kind, *turn) for kind, turn in zip(kinds, turns, strict=False)]
    ones = [("u1", True, 16, "f16", "exact"), ("i1", False, 16, "f32", "exact")]  # half bytes
    return found + ones


def random_weight(
    dtype: str, zero: bool | str, group: int | None, scale: str, hidden: int
) -> QuantizedWeight:
    weight = torch.randn(VOCABULARY, hidden, generator=torch.Generator().manual_seed(hidden))
    return quantize_weight(weight, dtype, group_size=group, scale_dtype=scale, zero_point=zero)


@pytest.mark.parametrize(("dtype", "zero", "group", "scale", "how"), cases())
def test_codes(dtype: str, zero: bool | str, group: int | None, scale: str, how: str) -> None:
    hidden = 300 if group is None else 3 * group  # for some, the last chunk is not whole
    weight = random_weight(dtype, zero, group, scale, hidden)
    got = embedding(IDS, weight, activations=how)
    assert torch.equal(got, reference.embedding(IDS, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("hidden", [1, 256, 300])
def test_floats(dtype: torch.dtype, hidden: int) -> None:
    table = torch.randn(VOCABULARY, hidden).to(dtype)
    for ids in (IDS, IDS.int(), IDS[:1], IDS[:0]):
        got = embedding(ids, table)
        assert got.dtype == torch.float32
        assert torch.equal(got, reference.embedding(ids, table))


@pytest.mark.parametrize("hidden", [1, 5, 31, 33, 513])
def test_odd_sizes(hidden: int) -> None:
    weight = random_weight("u3", True, None, "f16", hidden)
    for ids in (IDS, IDS.int(), IDS[:0]):
        assert torch.equal(embedding(ids, weight), reference.embedding(ids, weight))


def test_every_code() -> None:
    for dtype in ("i8", "f8e4m3", "u8"):
        kind = tilus.dtype(dtype)
        codes = (torch.arange(17 * 256) * 7 % 256).reshape(17, 256).to(torch.uint8)
        codes[codes & 0x7F == 0x7F] = 0  # NaN of f8e4m3
        scales = torch.rand(17, 8) + 0.5
        weight = QuantizedWeight(
            Tensor.from_codes(codes, kind), Tensor.from_float(scales, tilus.f16), None, 32
        )
        ids = torch.arange(17)
        assert torch.equal(embedding(ids, weight), weight.dequantize())


def test_memory_is_that_of_products() -> None:
    weight = random_weight("u4", True, 32, "f16", 64)
    matmul(torch.randn(1, 64), weight)
    embedding(IDS, weight)
    assert sum(isinstance(key, PanelFormat) for key in weight.plans) == 1


def test_graph_reads_ids_when_replayed() -> None:
    ids = IDS.clone()
    for table in (torch.randn(VOCABULARY, 40), random_weight("u4", True, 32, "f16", 64)):
        with tilus.Graph() as graph:
            out = embedding(ids, table)
        for shift in (1, 9):
            ids.copy_((IDS + shift) % VOCABULARY)
            graph.replay()
            assert torch.equal(out, reference.embedding(ids, table))


def test_errors() -> None:
    table = torch.randn(VOCABULARY, 8)
    for ids in (IDS.float(), IDS[None], IDS[::2]):
        with pytest.raises(TilusTypeError, match="`ids` is"):
            embedding(ids, table)
    for bad in (table.double(), table[0], table.T):
        with pytest.raises(TilusTypeError, match="`table` is"):
            embedding(IDS, bad)
