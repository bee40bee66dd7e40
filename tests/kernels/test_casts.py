"""The counts of `tilus bench casts`, where they are known."""

from __future__ import annotations

import json

import pytest

from tilus import cli, dtypes
from tilus.kernels.casts import operations, table
from tilus.runtime.cpu import host_target
from tilus.runtime.jit import host_features

WIDE = pytest.mark.skipif("avx512bw" not in host_features(), reason="counts of AVX-512")


@WIDE
@pytest.mark.parametrize(
    ("weights", "most"),
    [("u8", 0.0), ("u4", 1.5), ("u2", 1.75), ("u1", 1.875), ("u3", 4.0), ("u6", 4.0), ("nf4", 4.0)],
)
def test_no_more_than(weights: str, most: float) -> None:
    found = operations(dtypes.dtype(weights), dtypes.i8, host_target())
    assert found is not None and found <= most


def test_wide_types_have_no_bytes() -> None:
    assert operations(dtypes.f8e4m3, dtypes.i8, host_target()) is None
    found = operations(dtypes.f8e4m3, dtypes.f32, host_target())
    assert found is not None and found > 0


def test_table_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = table([dtypes.nf4], host_target())
    assert row["weights"] == "nf4" and row["parts"] == 2 and row["i8"] > 0
    assert cli.main(["bench", "casts", "--weights", "nf4,f8e4m3", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["casts"][0] == row
    assert cli.main(["bench", "casts", "--weights", "f8e4m3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["f8e4m3", "-", "-"]
    assert cli.main(["bench", "casts", "--weights", "u99"]) == 2
