"""The kernel language: `@tilus.jit`, the functions a kernel calls, and what its annotations say.

A kernel is a Python function that is translated, not run: its syntax tree is read once for each
combination of compile-time values. What works means what Python means; everything else is an error
at its place. Globals and closures are read when the kernel is translated, as constants.
"""

from typing import Any

from tilus.lang.annotations import constexpr, ptr
from tilus.lang.jit import JitFunction, jit
from tilus.lang.ops import FUNCTIONS

__all__ = ["JitFunction", "constexpr", "jit", "ptr"]
__all__ += sorted(FUNCTIONS)


def __getattr__(name: str) -> Any:
    """A function of the language, by the name a kernel uses."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(f"module 'tilus.lang' has no attribute {name!r}")
