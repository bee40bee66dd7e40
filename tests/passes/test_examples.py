"""The before/after pair in each pass's docstring holds, and a second run changes nothing."""

import doctest
import sys

import pytest

from tilus.ir.passes import PIPELINE, Pass


@pytest.mark.parametrize("p", PIPELINE, ids=lambda p: p.name)
def test_docstring(p: Pass) -> None:
    module = sys.modules[p.fn.__module__]
    test = doctest.DocTestParser().get_doctest(p.__doc__, vars(module), p.name, None, 0)
    assert test.examples, f"{p.name} has no example"
    failures: list[str] = []
    doctest.DocTestRunner().run(test, out=failures.append)
    assert not failures, "".join(failures)
