"""Every sample, interpreted on several numbers of threads, gives what its reference says."""

import pytest

from tests.samples import SAMPLES
from tilus.ir.interpreter import run
from tilus.ir.passes import lower


@pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.name)
def test_sample(s) -> None:
    for seed, num_threads in enumerate(s.threads):
        case = s.case(seed)
        said: list[str] = []
        run(lower(s.program(num_threads)), case.args, s.grid, output=said.append)
        case.check()
        assert "".join(f"{line}\n" for line in said) == s.prints
