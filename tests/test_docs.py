"""What README.md and docs/ show is what happens, and their links lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, perform

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ("structure.md", "instructions.md")
APPLIED = "add-an-instruction.md"  # to a copy of the tree
COPIED = ("tilus", "tests", "docs", "pyproject.toml")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in GENERATED], ids=name)
def test_page(path, tmp_path, pytestconfig):
    """`--update-golden` writes the outputs there really are into the page."""
    if path.name == APPLIED:
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, tmp_path / part)
    text = path.read_text(encoding="utf-8")
    now, wrong = perform(text, tmp_path)
    if pytestconfig.getoption("update_golden"):
        path.write_text(now, encoding="utf-8")
    else:
        assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    missing = [x for x in links if "://" not in x and not (path.parent / x).exists()]
    assert not missing


def test_instructions_page_is_up_to_date():
    command = [sys.executable, "docs/instructions.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
