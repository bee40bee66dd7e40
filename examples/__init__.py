"""Kernels that run and check themselves, and a quantised model; `python -m examples` runs all."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass

import torch

MODELS = ("quantised_model", "train_tiny")  # the others are kernels


def kernels() -> list[str]:
    """The modules with kernels, whose `main` makes checks."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in names if not name.startswith("_") and name not in MODELS]


@dataclass(frozen=True)
class Check:
    """One run of a kernel beside its reference."""

    kernel: str
    case: str
    error: float  # largest difference, relative to the largest value of the reference
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within what is allowed (NaN is not)."""
        return self.error <= self.allowed

    @property
    def rank(self) -> float:
        """For finding the worst of several: the error, NaN above everything."""
        return self.error if self.error == self.error else float("inf")


def compare(
    kernel: str, case: str, out: torch.Tensor, reference: torch.Tensor, allowed: float
) -> Check:
    """The largest difference between a result and its reference, in units of the largest value."""
    scale = reference.double().abs().max().clamp_min(1e-30)
    error = (out.double() - reference.double()).abs().max() / scale
    return Check(kernel, case, float(error), allowed)
