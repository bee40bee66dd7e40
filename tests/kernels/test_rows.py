"""Native norms and gates against the reference."""

from __future__ import annotations

import pytest
import torch

from tilus.errors import TilusValueError
from tilus.kernels import reference, rows


@pytest.mark.parametrize(("count", "hidden"), [(1, 64), (3, 256), (5, 300), (2, 1), (0, 64)])
@pytest.mark.parametrize("residual", [False, True])
def test_rms_norm(count: int, hidden: int, residual: bool) -> None:
    torch.manual_seed(0)
    x, other = torch.randn(count, hidden) * 3, torch.randn(count, hidden)
    weight = torch.randn(hidden)
    extra = (other,) if residual else ()
    got, want = rows.rms_norm(x, weight, 1e-3, *extra), reference.rms_norm(x, weight, 1e-3, *extra)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", rows.KINDS)
@pytest.mark.parametrize(("count", "inner"), [(1, 64), (3, 300), (2, 1)])
def test_gated(kind: str, count: int, inner: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, 2 * inner) * 4
    got, want = rows.gated(x, kind), reference.gated(x, kind)
    torch.testing.assert_close(got, want, rtol=5e-6, atol=5e-6)


def test_extremes() -> None:
    x = torch.tensor([[-200.0, 200.0, -1e30, 0.0, 2.0, 3.0, 1.0, 5.0]])
    for kind in rows.KINDS:
        torch.testing.assert_close(rows.gated(x, kind), reference.gated(x, kind))
    with pytest.raises(TilusValueError, match="`kind` is 'relu'"):
        rows.gated(x, "relu")
