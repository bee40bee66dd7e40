"""Runs the programs in programs/, and edits their PTX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tilus.runtime import ptxemu

FOLDER = Path(__file__).parent / "programs"


@dataclass
class Case:
    """A launch of a program, and what its buffers hold afterwards."""

    buffers: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    grid: Any = 1
    block: Any = 128
    more: Sequence[Any] = ()  # arguments after the buffers
    dynamic: int = 0
    kernel: str = ""
    tolerance: float = 0.0


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    """Enter a case under its name, which is that of the program."""
    CASES[make.__name__] = make
    return make


@cache
def text(name: str) -> str:
    """The PTX of a program."""
    return (FOLDER / f"{name}.ptx").read_text(encoding="utf-8")


@cache
def parsed(name: str) -> ptxemu.Module:
    return ptxemu.parse(text(name))


def run(
    name: str, ptx: str | None = None, case: Case | None = None, **options: Any
) -> tuple[Case, ptxemu.Report]:
    """Launch a program, or an edited text of it, on fresh buffers."""
    module = ptxemu.parse(ptx) if ptx else parsed(name)
    one = case or CASES[name]()
    memory = ptxemu.Memory()
    addresses = [memory.add(key, array) for key, array in one.buffers.items()]
    report = ptxemu.launch(
        module,
        one.kernel or name,
        one.grid,
        one.block,
        [*addresses, *one.more],
        memory,
        dynamic_shared=one.dynamic,
        **options,
    )
    return one, report


def check(one: Case) -> None:
    """The buffers hold what the case says."""
    for name, expected in one.expected.items():
        found = one.buffers[name]
        if found.dtype.kind == "V":  # bfloat16
            found = found.astype(np.float32)
        if one.tolerance:
            np.testing.assert_allclose(found, expected, rtol=one.tolerance, atol=one.tolerance)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def lines_with(name: str, *words: str) -> list[int]:
    """Line numbers of the instructions that contain one of the words."""
    return [
        number
        for number, line in enumerate(text(name).splitlines(), 1)
        if any(w in line.split("//")[0] for w in words)
    ]


def without_line(name: str, number: int) -> str:
    """The text with one line made empty."""
    lines = text(name).split("\n")
    lines[number - 1] = ""
    return "\n".join(lines)
