"""Kernels written in the kernel language, and what their host side needs."""

from tilus.kernels.product import matmul
from tilus.kernels.quantized import QuantizedWeight, quantize_weight
from tilus.kernels.weights import WeightLayout, weight_layout

__all__ = ["QuantizedWeight", "WeightLayout", "matmul", "quantize_weight", "weight_layout"]
