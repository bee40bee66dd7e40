"""What taking weights apart costs: operations for 64 weights, counted in the machine code.

The kernel turns codes as products store them into the operands of a dot, and stores those; what is
counted are the vector instructions of its loop that are not loads, stores or moves.
"""

from __future__ import annotations

import re
from typing import Any

from tilus import dtypes
from tilus.codegen.cpu.module import generate
from tilus.dtypes import DType
from tilus.ir.passes import lower
from tilus.ir.target import Target
from tilus.kernels.device import casts as device
from tilus.kernels.integers import integer_form
from tilus.kernels.panels import PanelFormat
from tilus.runtime import jit

OPERANDS = (dtypes.i8, dtypes.bf16, dtypes.f32)
STEP = 32  # rows of k that are taken apart at a time


def operations(weights: DType, operand: DType, target: Target) -> float | None:
    """Vector operations that make 64 weights an operand; None where it cannot stand for them.

    Args:
        weights: the type of the codes.
        operand: i8 (one or two unsigned bytes a weight), bf16 or f32.
        target: the CPU that is compiled for.
    """
    form = integer_form(weights) if operand == dtypes.i8 else None
    if form is None and operand == dtypes.i8:
        return None
    panels = PanelFormat(weights.bits, STEP, STEP, dtypes.f32, form, operand)
    function = lower(device.take_apart.trace({"form": panels, "WEIGHTS": weights}, 1), target)
    text = jit.assembly(generate(function, target).text, target)
    loop = max(re.split(r"\n(?=\.?\w+:)", text), key=len)  # LLVM may have put several rounds in one
    stored = re.findall(r"^\tvmov\w+\t%([xyz])mm\d+, .*\)", loop, re.MULTILINE)
    nbytes = sum({"x": 16, "y": 32, "z": 64}[register] for register in stored)
    found = re.findall(r"^\t(v\w+)\t", loop, re.MULTILINE)
    counted = [name for name in found if not name.startswith("vmov")]
    made = nbytes * 8 / (panels.weight.bits * len(panels.parts))
    return len(counted) * 64 / made if made else None


def table(types: list[DType], target: Target) -> list[dict[str, Any]]:
    """A row for each type: operations for 64 weights, and the unsigned bytes of a weight."""
    rows = []
    for t in types:
        form = integer_form(t)
        row: dict[str, Any] = {"weights": str(t), "parts": len(form.parts) if form else 0}
        for operand in OPERANDS:
            row[str(operand)] = operations(t, operand, target)
        rows.append(row)
    return rows
