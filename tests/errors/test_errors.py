"""Every kernel in this folder is wrong, and says where and how.

A bad line ends in `#! part of the message`; a line `#! ^^^^` below it pins the caret. A kernel must
give exactly the errors that are marked from the end of the kernel before it to its own end, so a
helper stands above the kernel that calls it. `@launched(args)` gives the arguments of a launch.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tilus.errors import TilusError
from tilus.lang import JitFunction

HERE = Path(__file__).parent


def kernels():
    for path in sorted(HERE.glob("*.py")):
        if path.name not in ("test_errors.py", "launched.py", "__init__.py"):
            module = importlib.import_module(f"tests.errors.{path.stem}")
            found = [f for f in vars(module).values() if isinstance(f, JitFunction)]
            found = [f for f in found if f.__module__ == module.__name__]
            lines = path.read_text(encoding="utf-8").splitlines()
            begin = 0
            for f in sorted(found, key=lambda f: f.fn.__code__.co_firstlineno):
                end = last_line("\n".join(lines), f.fn.__code__.co_firstlineno)
                yield pytest.param(f, lines, begin, end, id=f"{path.stem}-{f.__name__}")
                begin = end


def last_line(text, first):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == first:
                pinned = text.splitlines()[node.end_lineno : node.end_lineno + 1]
                return node.end_lineno + bool(pinned and re.match(r"\s*#! +\^", pinned[0]))
    raise AssertionError(first)


def expected(lines, begin, end):
    """(line, part of the message, (first column, end column) or None) of each marked line."""
    for number in range(begin + 1, end + 1):
        line = lines[number - 1]
        marked = re.search(r"#! (?!\s*\^)(.+)", line)
        if marked:
            below = lines[number] if number < len(lines) else ""
            caret = re.match(r"\s*#! *(\^+)", below)
            yield number, marked[1].strip(), caret and caret.span(1)


@pytest.mark.parametrize(("kernel", "lines", "begin", "end"), list(kernels()))
def test_error(kernel, lines, begin, end):
    with pytest.raises(TilusError) as caught:
        launch = getattr(kernel, "launch", None)
        launch() if launch else kernel.trace({})
    found = [d for d in caught.value.diagnostics if d.span is not None]
    assert len(found) == len(caught.value.diagnostics), f"no place: {caught.value}"
    wanted = list(expected(lines, begin, end))
    assert wanted, "no error is expected of this kernel"
    shown = f"\n{caught.value}"
    assert sorted(d.span.line for d in found) == [line for line, *_ in wanted], shown
    for d, (_, part, columns) in zip(sorted(found, key=lambda d: d.span.line), wanted, strict=True):
        assert part in d.message, shown
        if columns:
            assert (d.span.col, d.span.end_col) == columns, shown
