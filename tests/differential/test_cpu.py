"""Native CPU code does what each sample says: the same samples that the interpreter must pass."""

from __future__ import annotations

import pytest

from tests.samples import SAMPLES, Sample
from tilus.codegen.registry import find
from tilus.errors import TilusNotImplementedError
from tilus.ir.inst import REGISTRY
from tilus.ir.passes import lower
from tilus.options import options
from tilus.runtime.cpu import compile_cpu, host_target
from tilus.runtime.jit import host_features

NATIVE = [s for s in SAMPLES if 1 in s.threads]
AVX2 = "avx,avx2,f16c,fma,sse3,sse4.1,sse4.2,ssse3"


@pytest.mark.parametrize("sample", NATIVE, ids=lambda s: s.name)
def test_native(sample: Sample) -> None:
    check(sample)


@pytest.mark.parametrize("features", [AVX2, "none"], ids=["avx2", "sse2"])
@pytest.mark.parametrize("sample", NATIVE[::7], ids=lambda s: s.name)
def test_older_machines(sample: Sample, features: str) -> None:
    if not set(features.split(",")) - {"none"} <= host_features():
        pytest.skip(f"this CPU has not all of {features}")
    with options.scope(cpu_features=features):
        check(sample)


def check(sample: Sample) -> None:
    target = host_target()
    f = lower(sample.program(1), target)
    if isinstance(find("cpu", REGISTRY[sample.opcode]), str):
        with pytest.raises(TilusNotImplementedError):
            compile_cpu(f, target)
        return
    kernel = compile_cpu(f, target)
    case = sample.case()
    args = [
        x.ctypes.data if hasattr(x, "ctypes") else x
        for x in (case.args[p.value.name] for p in f.params)
    ]
    grid = (*sample.grid, 1, 1)[:3]
    kernel.launch(args, grid)
    case.check()
