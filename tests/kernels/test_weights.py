"""Weight tiles: reversible for every width, and exactly what a kernel loads and views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilus import dtypes
from tilus.dtypes import NARROW_TYPES, DType
from tilus.errors import TilusValueError
from tilus.ir import machine
from tilus.kernels import weight_layout
from tilus.layouts import vector_width
from tilus.tensor import Tensor

SHAPES = [((64, 64), 16, 32), ((64, 32), 32, 64), ((128, 64), 32, 128), ((64, 64), 1, 32)]


def codes(dtype: DType, k: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(k * n + dtype.bits)
    raw = torch.randint(0, 1 << dtype.bits, (k, n), dtype=torch.int64, generator=generator)
    return Tensor.from_codes(raw.to(torch.uint8), dtype)


@pytest.mark.parametrize("dtype", NARROW_TYPES, ids=str)
@pytest.mark.parametrize(("tile", "rows", "threads"), SHAPES)
def test_bytes_viewed_in_a_thread_are_its_elements(
    dtype: DType, tile: tuple[int, int], rows: int, threads: int
) -> None:
    layout = weight_layout("generic", dtype, tile, rows=rows, num_threads=threads)
    weight = codes(dtype, tile[0], tile[1])
    data = layout.pack(weight).reshape(-1).numpy()
    held = data[machine.index_table(layout.bytes)]  # what each thread loads
    want = weight.codes().numpy().reshape(-1)[machine.index_table(layout.elements)]
    for thread in range(threads):
        got = dtypes.unpack(held[thread], dtype.bits, layout.elements.num_slots)
        np.testing.assert_array_equal(got, want[thread])


@pytest.mark.parametrize("dtype", NARROW_TYPES, ids=str)
def test_pack_is_reversible(dtype: DType) -> None:
    layout = weight_layout("generic", dtype, (64, 32), rows=32, num_threads=64)
    weight = codes(dtype, 192, 96)
    data = layout.pack(weight)
    assert data.numel() * 8 == 192 * 96 * dtype.bits  # no byte is wasted
    assert layout.unpack(data).equal(weight)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_loads_16_bytes_at_once(bits: int) -> None:
    layout = weight_layout("generic", dtypes.dtype(f"u{bits}"), (64, 64), rows=16, num_threads=32)
    assert layout.vector == 16
    assert vector_width(layout.bytes, (1,), 8) == 16


def test_replicas_load_the_same_bytes() -> None:
    layout = weight_layout("generic", dtypes.u3, (128, 64), rows=64, num_threads=128)
    assert layout.elements.is_replicated and layout.bytes.is_replicated
    assert layout.tile_bytes == 128 * 64 * 3 // 8


def test_errors_say_what_to_do() -> None:
    layout = weight_layout("generic", dtypes.u4, (64, 64), rows=16, num_threads=32)
    with pytest.raises(TilusValueError, match=r"k a multiple of 64.*pad it"):
        layout.pack(codes(dtypes.u4, 65, 64))
    with pytest.raises(TilusValueError, match="this layout is for u4"):
        layout.pack(codes(dtypes.u3, 64, 64))
    with pytest.raises(TilusValueError, match="not whole bytes"):
        weight_layout("generic", dtypes.u1, (16, 8), rows=16, num_threads=32)
    with pytest.raises(TilusValueError, match="must be 2048 bytes"):
        layout.unpack(torch.zeros(1, 1, 512, dtype=torch.uint8))
