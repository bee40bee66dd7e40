"""Runtime: loading, caching and launching compiled kernels (nothing here yet)."""

if __name__ != "tilus.runtime":
    raise ImportError(f"import this package as tilus.runtime, not as {__name__}")
