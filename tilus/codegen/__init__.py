"""Code generation: from IR to PTX, Triton and CPU code (nothing here yet)."""

if __name__ != "tilus.codegen":
    raise ImportError(f"import this package as tilus.codegen, not as {__name__}")
