"""Every law of ``laws.py`` holds."""

import pytest
from hypothesis import given

from tests.layouts.laws import LAWS


@pytest.mark.laws
@pytest.mark.parametrize("name", LAWS)
def test_law(name):
    strategies, check = LAWS[name]
    given(*strategies)(check)()
