"""A compiler and virtual machine for low-precision kernels.

    import tilus
    from tilus import f16, i32

    @tilus.jit
    def scale(x: tilus.ptr[f16], n: i32, k: i32, BLOCK: tilus.constexpr): ...

    scale[(tilus.cdiv(n, 256),)](x, n, 3, BLOCK=256)

Names are loaded when they are first used: `import tilus.layouts` needs neither torch nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each family of names lives; the first module that offers a name has it.
_SOURCES = tuple(
    f"tilus.{name}" for name in "lang dtypes tensor errors lang.autotune runtime kernels".split()
)
_PACKAGES = "codegen dtypes errors ir kernels lang layouts options runtime tensor".split()

if TYPE_CHECKING:
    from tilus.dtypes import *  # noqa: F403
    from tilus.lang import *  # noqa: F403
    from tilus.lang.autotune import *  # noqa: F403
    from tilus.runtime import Graph as Graph
    from tilus.tensor import Tensor as Tensor


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _PACKAGES:
        return importlib.import_module(f"tilus.{name}")
    for source in _SOURCES:
        module = importlib.import_module(source)
        if name in getattr(module, "__all__", ()):
            globals()[name] = value = getattr(module, name)
            return value
    raise AttributeError(f"module 'tilus' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {n for s in _SOURCES for n in getattr(importlib.import_module(s), "__all__", ())}
    return sorted(names | set(globals()))
