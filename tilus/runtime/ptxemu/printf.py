"""Text that kernels print, and strings in global memory."""

from __future__ import annotations

import re

import numpy as np

from tilus.runtime.ptxemu.spaces import Spaces
from tilus.runtime.ptxemu.syntax import Instruction
from tilus.runtime.ptxemu.types import Array

_FORMAT = re.compile(r"%([-+ #0]*)(\d*)(?:\.(\d+))?(hh|h|ll|l|z)?([diouxXeEfgGcsp%])")


def string_at(spaces: Spaces, address: int, thread: int, i: Instruction) -> str:
    """The characters at a generic address up to the zero."""
    out = bytearray()
    who = np.array([thread])
    while True:
        at = np.array([address + len(out)], np.uint64)
        byte = int(spaces.load("generic", at, 1, 1, who, i)[0, 0])
        if byte == 0:
            return out.decode("utf-8", "replace")
        out.append(byte)


def print_formatted(
    spaces: Spaces, formats: Array, values: Array, threads: Array, i: Instruction
) -> list[str]:
    """What each thread prints: C's printf, its arguments packed with their own alignment."""
    return [
        _expand(spaces, int(f), int(v), int(t), i)
        for f, v, t in zip(formats, values, threads, strict=True)
    ]


def _expand(spaces: Spaces, format_at: int, values_at: int, thread: int, i: Instruction) -> str:
    offset = 0
    who = np.array([thread])

    def take(nbytes: int) -> Array:
        nonlocal offset
        offset = -(-offset // nbytes) * nbytes
        at = np.array([values_at + offset], np.uint64)
        offset += nbytes
        return np.asarray(spaces.load("generic", at, nbytes, 1, who, i)[0])

    def one(match: re.Match[str]) -> str:
        flags, width, precision, length, kind = match.groups()
        if kind == "%":
            return "%"
        style = f"%{flags}{width}{f'.{precision}' if precision else ''}"
        if kind in "eEfgG":
            return f"{style}{kind}" % float(take(8).view(np.float64)[0])
        if kind == "s":
            text = string_at(spaces, int(take(8)[0]), thread, i)
            return f"{style}s" % text
        if kind == "p":
            return hex(int(take(8)[0]))
        word = take(8 if length in ("l", "ll", "z") else 4)
        if kind in "di":
            return f"{style}d" % int(word.view(f"i{word.dtype.itemsize}")[0])
        return f"{style}{kind.replace('u', 'd')}" % int(word[0])

    return _FORMAT.sub(one, string_at(spaces, format_at, thread, i))
