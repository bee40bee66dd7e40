"""Every sample as text and through every pass; no instruction is without one."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.samples import SAMPLES
from tilus.ir.inst import REGISTRY
from tilus.ir.parser import parse
from tilus.ir.passes import PIPELINE, Report, lower
from tilus.ir.program import Assign, walk
from tilus.ir.target import target
from tilus.ir.verifier import verify

every_sample = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.name)


def test_every_instruction_has_a_sample() -> None:
    assert {s.opcode for s in SAMPLES} == set(REGISTRY)


def test_names_differ() -> None:
    assert [n for n, k in Counter(s.name for s in SAMPLES).items() if k > 1] == []


@every_sample
def test_the_instruction_is_in_it(s) -> None:
    f = s.program(32)
    verify(f)
    found = {x.inst.opcode for x in walk(f.body) if isinstance(x, Assign)}
    assert s.opcode in found


@every_sample
def test_text_after_every_pass(s) -> None:
    source = s.program(s.threads[-1])
    assert parse(str(source)) == source
    report = Report()
    lower(source, report=report)
    assert [name for name, _ in report.stages] == [p.name for p in PIPELINE]
    seen = source
    for name, f in report.stages:
        if f is seen:
            continue
        seen, text = f, str(f)
        again = parse(text)
        assert again == f, name
        assert str(again) == text, name  # names and aliases, too, are stable
        for p in PIPELINE[: [p.name for p in PIPELINE].index(name) + 1]:
            assert p(f, target("generic")) is f, f"{p.name} again, after {name}"


def test_text_is_the_same_in_every_process() -> None:
    code = (
        "from tests.samples import SAMPLES\n"
        "from tilus.ir.passes import lower\n"
        "for s in SAMPLES[::15]: print(lower(s.program(s.threads[-1])))"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]
    assert texts[0].count("kernel @") == len(SAMPLES[::15])
