"""Functions are found in their files, however they are nested, decorated, or made."""

# ruff: noqa: E702, F841

import functools
import linecache
import textwrap

import pytest

import tilus
from tilus import f32, i32, ptr
from tilus.errors import TilusError, TilusNameError, TilusSyntaxError
from tilus.ir.program import Assign, walk
from tilus.lang.source import Source, of_function


def names_of(function):
    return [
        s.result.name for s in walk(function.body) if isinstance(s, Assign) and s.result is not None
    ]


def passing(*args, **keywords):
    return lambda fn: fn


# fmt: off


def test_nested_and_decorated():
    size = 8

    @tilus.jit
    @passing(
        1,
        second=[
            2,
        ],
    )
    @passing("é")
    def kernel(x: ptr[f32]): first = tilus.zeros(f32, (size,)); second = first + 1.0

    assert names_of(kernel.trace({})) == ["first", "full", "second"]


# fmt: on


def test_two_on_one_line():
    def a(x):
        return x + 1

    def b(x):
        return x + 2

    assert of_function(a)[1].name == "a" and of_function(b)[1].name == "b"


def from_text(text, file="<test source>", register=True, **names):
    text = textwrap.dedent(text)
    if register:
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names = {"tilus": tilus, "__name__": "made", **names}
    exec(compile(text, file, "exec"), names)
    return names


def test_made_by_exec():
    names = from_text(
        """
        from __future__ import annotations
        from tilus import f32, i32

        def helper(t, n: "i32"):
            return t * tilus.cast(n, f32)

        @tilus.jit
        def kernel(x: tilus.ptr[f32], n: "i32", SIZE: tilus.constexpr = 4) -> None:
            scaled = helper(tilus.zeros(f32, (SIZE,)), n)
        """
    )
    kernel = names["kernel"]
    assert [str(p) for p in kernel.signature.parameters] == [
        "x: ptr[f32]", "n: i32", "SIZE: constexpr",
    ]  # fmt: skip
    kernel.trace({})


def test_without_source():
    names = from_text("def f(x):\n    return x\n", "<nowhere>", register=False)
    with pytest.raises(TilusSyntaxError, match=r"the source of `f` is not available") as caught:
        of_function(names["f"])
    assert "linecache" in str(caught.value)


def test_changed_source():
    names = from_text("def f(x):\n    return x\n", "<changing>")
    linecache.cache["<changing>"] = (9, None, ["\n", "def g(x):\n", "    return 1\n"], "<changing>")
    with pytest.raises(TilusSyntaxError, match="has changed since it was imported"):
        of_function(names["f"])
    linecache.cache["<changing>"] = (9, None, ["def (x):\n"], "<changing>")
    with pytest.raises(TilusSyntaxError, match="cannot be read"):
        of_function(names["f"])


def test_tabs_and_wide_characters():
    names = from_text(
        "import tilus\n@tilus.jit\ndef kernel(n: tilus.i32):\n\tx = 'é' + 'ü'; y = x + näme  # é\n",
        "<tabs>",
    )
    with pytest.raises(TilusNameError) as caught:
        names["kernel"].trace({})
    assert str(caught.value).splitlines()[1:4] == [
        "  --> <tabs>:4:25",
        "4 | \tx = 'é' + 'ü'; y = x + näme  # é",
        "  | \t                       ^^^^",
    ]


def test_columns():
    source = Source("<columns>", ("é = 'ü' + x\n",))
    (assign,) = __import__("ast").parse("é = 'ü' + x").body
    span = source.span(assign.value.right)
    assert (span.col, span.end_col) == (10, 11)


def test_lambdas_are_refused():
    double = lambda x: x * 2  # noqa: E731

    @tilus.jit
    def kernel(n: i32):
        x = double(n)

    with pytest.raises(TilusSyntaxError, match="is a lambda; kernel code is a plain `def`"):
        kernel.trace({})


def test_wrappers_are_inlined_too():
    def twice(fn):
        @functools.wraps(fn)
        def wrapper(*args, **keywords):
            return fn(*args, **keywords) * 2

        return wrapper

    @twice
    def add(x, y=1):
        return x + y

    @tilus.jit
    def kernel(x: ptr[f32], n: i32):
        tilus.store_global(tilus.global_view(x, f32, (1,)), tilus.zeros(f32, 1), add(n, y=n))

    assert "let %n_2 = %n + %n" not in str(kernel.trace({}))
    assert "(%n + %n) * 2" in str(kernel.trace({}))


def test_closures_are_constants_of_the_translation():
    count = 4

    @tilus.jit
    def kernel(x: ptr[f32]):
        t = tilus.zeros(f32, (count,))

    assert "f32[4]" in str(kernel.trace({}))
    count = 8
    assert "f32[8]" in str(kernel.trace({}))


def test_only_functions_can_be_kernels():
    with pytest.raises(TilusError, match="takes a plain function, not a type"):
        tilus.jit(int.__class__)
    with pytest.raises(TilusError, match="is a kernel already"):
        tilus.jit(tilus.jit(passing))
