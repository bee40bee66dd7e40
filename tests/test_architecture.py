"""What holds the tree together: import direction, file sizes, docstrings, the links at the top."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "tilus").rglob("*.py"))
LINKS = ("ir", "codegen", "layouts", "runtime")

# What each part at the bottom may import of ours, and the order of the parts above them: each may
# import the bottom and what stands to its left. From `kernels` on, `import tilus` itself is open.
BOTTOM = {
    "errors": set(),
    "options": {"errors"},
    "dtypes": {"errors"},
    "tensor": {"errors", "options", "dtypes"},
    "layouts": set(),
}
ORDER = ("ir", "codegen", "runtime", "lang", "kernels", "llm", "cli", "__main__")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part(path: Path) -> str:
    """The part of the package a file belongs to: tilus/ir/span.py to `ir`."""
    return path.relative_to(ROOT / "tilus").parts[0].removesuffix(".py")


def allowed(part: str) -> set[str]:
    """The parts of tilus that this part may import."""
    if part in BOTTOM:
        return BOTTOM[part] | {part}
    place = ORDER.index(part)
    facade = {"__init__"} if place >= ORDER.index("kernels") else set()
    return {*BOTTOM, *ORDER[: place + 1], *facade}


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """The line and part of every import of ours, also those inside functions."""
    parts = {*BOTTOM, *ORDER}
    for node in ast.walk(tree):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + (node.module or "").split(".") if node.module else base
            names = [[*base, alias.name] for alias in node.names]
        for top, *rest in names:
            if top == "tilus":
                yield node.lineno, rest[0] if rest and rest[0] in parts else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_left(path):
    this = part(path)
    if this == "__init__":
        return
    assert this in {*BOTTOM, *ORDER}, f"say in ORDER where tilus.{this} stands"
    package = list(path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [
        f"{name(path)}:{line}: tilus.{this} may not import {'tilus' if to == '__init__' else to}"
        for line, to in imported(tree, package)
        if to not in allowed(this)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_form_of_import_is_seen():
    source = """
import numpy, tilus.lang.jit as j
from tilus import dtypes, jit
from tilus.codegen.registry import lowering
def f():
    from ..runtime import cache
    from . import passes
    from .. import errors
    import tilus
"""
    seen = sorted(imported(ast.parse(source), ["tilus", "ir"]))
    assert [to for _, to in seen] == [
        "lang",
        *("__init__", "dtypes"),
        "codegen",
        *("runtime", "ir", "errors", "__init__"),
    ]
    assert {to for _, to in seen} - allowed("ir") == {"__init__", "lang", "codegen", "runtime"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, f"{name(path)} has no docstring"


def test_no_file_is_long_without_a_reason():
    files = [
        p
        for f in ("tilus", "tests", "examples", "benchmarks", "docs")
        for p in (ROOT / f).rglob("*.py")
    ]
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        reason = any(line.startswith("# long because: ") for line in lines)
        assert len(lines) <= 600 or reason, f"{name(path)} has {len(lines)} lines; split it"


def test_the_facade_is_small():
    text = (ROOT / "tilus" / "__init__.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80


@pytest.mark.parametrize("link", LINKS)
def test_links_at_the_top(link):
    assert os.readlink(ROOT / link) == f"tilus/{link}"
    assert (ROOT / link / "__init__.py").exists()


@pytest.mark.parametrize("link", LINKS)
def test_linked_folders_refuse_their_bare_names(link, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(ImportError, match=rf"tilus\.{link}"):
        importlib.import_module(link)


def test_layouts_need_neither_torch_nor_numpy():
    heavy = ("numpy", "torch", "triton", "llvmlite", "cuda")
    code = f"import sys, tilus.layouts; print(*[m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("\n", "")


def test_structure_page_is_up_to_date():
    command = [sys.executable, "docs/structure.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
