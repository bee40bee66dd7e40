"""The example that quantises a model, on another small model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import quantised_model
from tests.cli.models import write_model
from tilus.dtypes import dtype


def test_a_row_for_each_type_and_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(dtype(name).bits <= 8 for name in quantised_model.TYPES if name)
    monkeypatch.setattr(quantised_model, "TYPES", (None, "u4"))
    monkeypatch.setattr(quantised_model, "CHARACTERS", 120)
    quantised_model.main(write_model(tmp_path / "model"))
    out = capsys.readouterr().out
    rows = re.findall(r"│ +(as stored|u4) +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │ +(\d+) │", out)
    assert [row[0] for row in rows] == ["as stored", "u4"]
    plain, small = ([float(cell) for cell in row[1:]] for row in rows)
    assert plain[0] == 32 and 4.3 < small[0] < 5.5 and small[1] < plain[1] / 5
    assert plain[2] != small[2] and min(plain + small) > 0
    sample = out.partition("In u4, after 'class socket(family, type)':")[2]
    assert len(sample.strip()) > 20 and "perplexity of 120 characters" in out
