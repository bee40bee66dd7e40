"""Every instruction is lowered by every backend, or refused on purpose."""

import pytest

import tilus.codegen.cpu.module  # noqa: F401  (its lowerings are registered)
from tilus.codegen.registry import BACKENDS, find
from tilus.ir.inst import REGISTRY


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opcode", REGISTRY)
def test_lowered_or_refused(opcode: str, backend: str) -> None:
    assert find(backend, REGISTRY[opcode]), f"say how {backend} lowers {opcode}, or why not"
