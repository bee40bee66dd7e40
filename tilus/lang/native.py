"""Ordinary Python that runs while a kernel is translated, and must not touch run-time values.

A compile-time call runs natively. Should it use the kernel language itself (`tilus.block_idx()`,
say), Python's own operators would see an expression where they expect a number, and `==` would
quietly be False. So the functions of the language stop such a call, and its function is inlined.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from tilus.errors import TilusTypeError

_ordinary: ContextVar[bool] = ContextVar("tilus_ordinary_python", default=False)


class UsesKernel(BaseException):
    """Ordinary Python has called a function of the kernel language."""


def check_kernel() -> None:
    """Stop if this is ordinary Python that a kernel's translation has called."""
    if _ordinary.get():
        raise UsesKernel


def run(fn: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """`fn(*args, **keywords)` as ordinary Python.

    Raises:
        UsesKernel: it is kernel code.
    """
    token = _ordinary.set(True)
    try:
        return fn(*args, **keywords)
    finally:
        _ordinary.reset(token)


def compute(fn: Callable[..., Any], *args: Any) -> Any:
    """The same for what is not a call in the user's text: an operator, an attribute, a loop."""
    try:
        return run(fn, *args)
    except UsesKernel:
        raise TilusTypeError(
            "this runs kernel code as ordinary Python",
            help="put the kernel code into a function, and call that",
        ) from None
