"""Kernels written in the kernel language, and what their host side needs."""

from tilus.kernels.weights import WeightLayout, weight_layout

__all__ = ["WeightLayout", "weight_layout"]
