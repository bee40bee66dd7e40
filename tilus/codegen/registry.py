"""Lowerings: one function for each (backend, instruction), or the reason why there is none.

    @lowering("llvm", Exp)
    def _(inst: Exp, f: FunctionLowering, x: Tile) -> Tile: ...

    unsupported("triton", CopyAsync, "Triton decides itself what is copied asynchronously")

A backend is looked up along `BACKENDS[name]`: what `cpu` does not lower itself, `llvm` lowers for
it. `tests/codegen/test_registry.py` goes red for an instruction that a backend neither lowers nor
refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tilus.errors import TilusNotImplementedError
from tilus.ir.inst import Inst

BACKENDS: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "llvm")}

_LOWERINGS: dict[tuple[str, type[Inst]], Callable[..., Any]] = {}
_UNSUPPORTED: dict[tuple[str, type[Inst]], str] = {}

F = TypeVar("F", bound=Callable[..., Any])


def lowering(layer: str, *classes: type[Inst]) -> Callable[[F], F]:
    """Enter the function that lowers these instructions (or families of them)."""

    def enter(fn: F) -> F:
        for cls in classes:
            key = layer, cls
            if key in _LOWERINGS or key in _UNSUPPORTED:
                raise TypeError(f"{layer} already speaks of {cls.__name__}")
            _LOWERINGS[key] = fn
        return fn

    return enter


def unsupported(layer: str, cls: type[Inst], reason: str) -> None:
    """Say on purpose that `layer` will not lower an instruction, and why."""
    _UNSUPPORTED[layer, cls] = reason


def find(backend: str, cls: type[Inst]) -> Callable[..., Any] | str | None:
    """The lowering of an instruction, the reason why there is none, or None: forgotten."""
    for layer in BACKENDS[backend]:
        for base in cls.__mro__:
            key = layer, base
            if key in _LOWERINGS:
                return _LOWERINGS[key]
            if key in _UNSUPPORTED:
                return _UNSUPPORTED[key]
    return None


def find_or_raise(backend: str, cls: type[Inst]) -> Callable[..., Any]:
    """The lowering of an instruction; raises with the reason why there is none."""
    found = find(backend, cls)
    if found is None or isinstance(found, str):
        why = found or "no lowering has been written"
        raise TilusNotImplementedError(f"{backend} does not lower {cls.opcode}: {why}")
    return found
