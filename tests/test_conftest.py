"""The golden files' own rules: a missing, different or unused one fails; --update-golden writes."""

from pathlib import Path

import pytest

pytest_plugins = "pytester"

TEST = """
import pytest

@pytest.mark.parametrize("i", range(4))
def test_text(golden, i):
    golden(f"{i}.txt", f"line {i}\\n")
"""


@pytest.fixture
def project(pytester):
    """A project of four golden tests, with this folder's conftest.py."""
    pytester.makeini("[pytest]\ntestpaths = tests")
    tests = pytester.mkdir("tests")
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    (tests / "conftest.py").write_text(conftest, encoding="utf-8")
    (tests / "test_it.py").write_text(TEST, encoding="utf-8")
    pytester.runpytest_subprocess("--update-golden").assert_outcomes(passed=4)
    return pytester


def test_what_was_written_is_found(project):
    assert (project.path / "tests/golden/2.txt").read_text(encoding="utf-8") == "line 2\n"
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=4)
    assert result.ret == 0


def test_different_and_missing(project):
    (project.path / "tests/golden/1.txt").write_text("line one\n", encoding="utf-8")
    (project.path / "tests/golden/2.txt").unlink()
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*-line one", "*+line 1"])
    result.stdout.fnmatch_lines(["*tests/golden/2.txt is missing*", "*line 2"])


@pytest.mark.parametrize("workers", [0, 2])
def test_unused(project, workers):
    (project.path / "tests/golden/old.txt").write_text("", encoding="utf-8")
    result = project.runpytest_subprocess("-n", str(workers))
    result.assert_outcomes(passed=4, errors=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR tests/golden/old.txt - no test asks for this file*"])


@pytest.mark.parametrize("narrowed", ["tests/test_it.py", "-k2", "-mlaws or not laws"])
def test_part_of_a_run_cannot_tell_what_is_unused(project, narrowed):
    (project.path / "tests/golden/old.txt").write_text("", encoding="utf-8")
    assert project.runpytest_subprocess(narrowed).ret == 0
