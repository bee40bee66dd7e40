"""Tuning that is on, and sees an empty disk and one thread."""

import pytest
import torch

from tilus.lang.autotune import Autotuned
from tilus.options import options


@pytest.fixture
def folder(tmp_path):
    """Tuning is on, the disk remembers nothing yet, and times do not depend on other programs.

    (A team of OpenMP threads waits milliseconds for a core that is taken.)
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    with options.scope(autotune=True, cache_dir=tmp_path):
        yield tmp_path
    torch.set_num_threads(count)


@pytest.fixture
def measured(monkeypatch):
    """The kernels that were measured, in order."""
    names, fastest = [], Autotuned._fastest

    def counted(self, *args):
        names.append(self.__name__)
        return fastest(self, *args)

    monkeypatch.setattr(Autotuned, "_fastest", counted)
    return names
