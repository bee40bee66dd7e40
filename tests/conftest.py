"""What all tests share: Hypothesis profiles, golden files, and the marker `gpu`."""

import difflib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"
USED = pytest.StashKey[set[str]]()

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, database=None, print_blob=True
)
settings.register_profile("dev", deadline=None, max_examples=200)
settings.register_profile(
    "laws",
    deadline=None,
    max_examples=10_000,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the files in tests/golden")


def pytest_configure(config):
    config.stash[USED] = set()
    os.environ.setdefault("TILUS_VERIFY", "each")
    os.environ.setdefault("TILUS_AUTOTUNE", "0")


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))


@pytest.fixture
def golden(pytestconfig):
    """`golden(name, text)` compares `text` with the file tests/golden/<name>.

    Call it before anything that may skip the test: a golden no test asked for is an error.
    """

    def check(name: str, text: str) -> None:
        __tracebackhide__ = True
        pytestconfig.stash[USED].add(name)
        path = GOLDEN / name
        if pytestconfig.getoption("update_golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists():
            pytest.fail(f"tests/golden/{name} is missing (--update-golden writes it):\n{text}")
        elif (expected := path.read_text(encoding="utf-8")) != text:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm=""
            )
            pytest.fail("\n".join(lines) or "only the line ends differ")

    return check


# A golden that no test asked for is an error, but only a full run that went well can tell. With
# xdist each worker hands what it used to the controller, and the controller tells.


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    used = config.stash[USED]
    if hasattr(config, "workeroutput"):
        config.workeroutput["golden"] = sorted(used)
        return
    if exitstatus != pytest.ExitCode.OK or not _is_full_run(config):
        return
    present = {p.relative_to(GOLDEN).as_posix() for p in GOLDEN.rglob("*") if p.is_file()}
    for name in sorted(present - used):
        nodeid = f"tests/golden/{name}"
        config.hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=nodeid,
                location=(nodeid, None, nodeid),
                keywords={},
                outcome="failed",
                longrepr="no test asks for this file: delete it",
                when="teardown",
            )
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[USED].update(getattr(node, "workeroutput", {}).get("golden", ()))


def _is_full_run(config) -> bool:
    option = config.option
    ignored = option.deselect or option.ignore or option.ignore_glob
    narrowed = option.keyword or ignored or getattr(option, "lf", False)
    return (
        config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and option.markexpr in ("", "not gpu")
        and not narrowed
        and not option.collectonly
    )
