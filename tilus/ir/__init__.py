"""The IR: types, scalar expressions, instructions, programs, their text, and what they mean."""

if __name__ != "tilus.ir":
    raise ImportError("import this package as `tilus.ir`")
