"""Every step of the ladder is a matrix product."""

from __future__ import annotations

import pytest
import torch

import tilus
from tilus import dtypes
from tilus.kernels.device.ladder import STEPS


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (50, 72, 100), (3, 5, 7), (33, 65, 1)])
def test_steps_are_products(step: str, kind: torch.dtype, m: int, n: int, k: int) -> None:
    torch.manual_seed(m * n + k)
    a, b = torch.randn(m, k).to(kind), torch.randn(k, n).to(kind)
    c = torch.zeros(m, n, dtype=kind)
    kernel, constants = STEPS[step]
    names = {
        "TYPE": dtypes.f16 if kind == torch.float16 else dtypes.bf16, "BM": 32, "BN": 64,
    } | constants  # fmt: skip
    grid = (tilus.cdiv(m, 32), tilus.cdiv(n, 64))
    raw = (t.view(torch.uint16) for t in (a, b, c))
    kernel[grid](*raw, m, n, k, **names, num_warps=4)
    want = a.double() @ b.double()
    slack = 2e-3 if kind == torch.float16 else 1.6e-2
    torch.testing.assert_close(c.double(), want, rtol=slack, atol=slack)
