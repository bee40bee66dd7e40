"""CPython and the front end agree on every program of `programs.py`."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.frontend.harness import as_kernel, in_kernel, in_python
from tests.frontend.programs import PROGRAMS

small = st.integers(-12, 24)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_same_integers(program):
    kernel = as_kernel(program)

    @settings(max_examples=12, phases=(Phase.explicit, Phase.generate))
    @given(small, small, small)
    def agree(a, b, c):
        assert in_kernel(kernel, a, b, c) == in_python(program, a, b, c)

    agree()
    for args in ((0, 0, 0), (1, 1, 1), (4, 2, 16), (16, 3, 0), (-5, 7, 2)):
        assert in_kernel(kernel, *args) == in_python(program, *args)
