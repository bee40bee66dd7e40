"""What annotations mean: `ptr[f16]`, scalar element types, `constexpr`."""

from __future__ import annotations

import builtins
from types import FunctionType
from typing import Any

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusTypeError
from tilus.ir.types import PointerType


class constexpr:
    """Annotates a parameter that is known at compile time: any hashable Python object."""


class ptr:
    """Annotates a pointer parameter: `ptr[f16]` takes a tensor of f16, or its address's owner."""

    def __class_getitem__(cls, dtype: DType | str) -> PointerType:
        """The type of pointers to elements of `dtype`."""
        if not isinstance(dtype, (DType, str)):
            raise TilusTypeError(f"ptr[...] takes an element type, not {dtype!r}")
        return PointerType(dtypes.dtype(dtype))


class Names(dict[str, Any]):
    """What a function's text can refer to: its closure, its globals, the built-ins."""

    def __init__(self, fn: FunctionType) -> None:
        super().__init__()
        self.fn = fn
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                self[name] = cell.cell_contents
            except ValueError:
                continue

    def __missing__(self, name: str) -> Any:
        if name in self.fn.__globals__:
            return self.fn.__globals__[name]
        return vars(builtins)[name]


def annotation_of(fn: FunctionType, name: str) -> Any:
    """What a parameter's annotation stands for; a string if its names are not known here."""
    try:
        value = fn.__annotations__.get(name)
    except NameError as e:  # Python 3.14 evaluates annotations only now
        return str(e.name)
    for _ in range(2):  # `from __future__ import annotations` may wrap a string once more
        if isinstance(value, str):
            try:
                value = eval(value.strip(), fn.__globals__, Names(fn))
            except Exception:
                return value
    return value
