"""The sums that the search for scales goes by, against plain torch."""

from __future__ import annotations

import pytest
import torch

from tilus import dtypes
from tilus.kernels.fit import fit_sums, fits
from tilus.tensor import Tensor


@pytest.mark.parametrize("name", ["u1", "u4", "u8", "i3", "f4e2m1", "f6e3m2", "nf4"])
@pytest.mark.parametrize("size", [16, 32, 128, 256])
def test_sums(name: str, size: int) -> None:
    torch.manual_seed(size)
    codes = dtypes.dtype(name)
    w = torch.randn(5, 7, size)
    scale = w.abs().amax(2) / max(codes.max, 1)
    scale[2, 3] = 0.0
    zero = torch.randint(0, int(codes.max) + 1, (5, 7)).float() if name[0] == "u" else None
    p = w / torch.where(scale == 0, 1.0, scale)[:, :, None]
    p = p if zero is None else p + zero[:, :, None]
    if codes.is_integer:
        p = p.round().clamp(codes.min, codes.max)
    else:
        p = Tensor.from_float(p, codes).to_float()
    p = p if zero is None else p - zero[:, :, None]
    r = w - p * scale[:, :, None]
    want = [t.double().sum(2) for t in (r * r, r * p, p * p, r, p)]
    for got, exact in zip(fit_sums(w, scale, zero, codes), want, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-3)


def test_sizes() -> None:
    assert [size for size in range(1, 300) if fits(size)] == [16, 32, 64, 128, 256]
