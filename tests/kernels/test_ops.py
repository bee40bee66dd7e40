"""The product as an operator of torch: `opcheck`, `torch.compile`, gradients."""

from __future__ import annotations

import pytest
import torch

from tilus.errors import TilusTypeError
from tilus.kernels import matmul, ops, quantize_weight


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zero", [True, False, "float"])
def test_opcheck(zero: bool | str, bias: bool) -> None:
    torch.manual_seed(0)
    weight = quantize_weight(torch.randn(24, 64), "u4", group_size=32, zero_point=zero)
    codes, scales, zeros, types, sizes = ops.raw(weight)
    for x in (torch.randn(3, 64), torch.randn(2, 5, 64).bfloat16()):
        extra = torch.randn(24, requires_grad=True) if bias else None
        args = (x.requires_grad_(), codes, scales, zeros, extra, types, sizes, "int8")
        torch.library.opcheck(torch.ops.tilus.quantized_matmul, args)


def test_compiled_is_the_same() -> None:
    torch.manual_seed(0)
    first = quantize_weight(torch.randn(32, 64), "u4", group_size=32)
    second = quantize_weight(torch.randn(16, 32), "f6e3m2", group_size=32)

    def net(x: torch.Tensor) -> torch.Tensor:
        return matmul(torch.relu(matmul(x, first)), second) + 1.0

    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for rows in (1, 3, 17):
        x = torch.randn(rows, 64)
        assert torch.equal(compiled(x), net(x))


def test_packed_once() -> None:
    weight = quantize_weight(torch.randn(16, 64), "u4", group_size=32)
    codes, scales, zeros, types, sizes = ops.raw(weight)
    for _ in range(2):
        ops.quantized_matmul(torch.randn(1, 64), codes, scales, zeros, None, types, sizes, "int8")
        found = ops._plans[codes]
        assert len(found) == 2  # the packed bytes, and the plan for one row


def test_gradients() -> None:
    torch.manual_seed(0)
    weight = quantize_weight(torch.randn(16, 64), "u4", group_size=32)
    x = torch.randn(3, 64, requires_grad=True)
    bias = torch.zeros(16, requires_grad=True)
    matmul(x, weight, bias, activations="exact").square().sum().backward()
    plain = x.detach().clone().requires_grad_()
    other = torch.zeros(16, requires_grad=True)
    (plain @ weight.dequantize().T + other).square().sum().backward()
    assert x.grad is not None and bias.grad is not None
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_not_a_tensor() -> None:
    weight = quantize_weight(torch.randn(16, 64), "u4", group_size=32)
    with pytest.raises(TilusTypeError, match="`x` is a list"):
        matmul([1.0] * 64, weight)
