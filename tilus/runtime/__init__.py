"""Runtime: compiling for this machine, caching, and running kernels."""

if __name__ != "tilus.runtime":
    raise ImportError(f"import this package as tilus.runtime, not as {__name__}")

from tilus.runtime.program import Graph

__all__ = ["Graph"]
