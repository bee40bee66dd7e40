"""The text for `train_tiny`: documentation that comes with the Python that runs this.

pydoc's topics, the docstrings and longer comments of the standard library, and the docstrings of
its modules in C. Files are held out by a hash of their names.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import pkgutil
import sys
import sysconfig
import textwrap
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

INDENT = "   "  # of a body under its heading, as in pydoc's topics
HELD_OUT = 5  # files of a hundred

NOT_READ = {"test", "tests", "idle_test", "site-packages", "lib-dynload", "pydoc_data"}
# Modules in C that are there for tests or start something when imported.
NOT_IMPORTED = ("_test", "_xx", "xx", "_tkinter", "idlelib", "antigravity")


@dataclass
class Source:
    """One file or built-in module, and its entries: a heading with a body indented under it."""

    name: str
    entries: list[str] = field(default_factory=list)

    @property
    def held_out(self) -> bool:
        """By a hash of its name; a module's halves in C and in Python fall on the same side."""
        if self.name.startswith("pydoc_data"):
            return False  # its topics repeat one another
        stem = self.name.removesuffix(" (C)").removesuffix(".py")
        stem = (
            stem.rpartition("/")[0] + "/" + stem.rpartition("/")[2].removeprefix("_py").strip("_")
        )
        return hashlib.sha256(stem.encode()).digest()[0] * 100 // 256 < HELD_OUT


def entry(heading: str, text: str) -> str:
    """A heading, an empty line, and the text indented under it."""
    return f"{heading}\n\n{textwrap.indent(text, INDENT)}"


def sources() -> list[Source]:
    """All text, each docstring once: where a held-out file has it, it is in that one alone."""
    found = [*python_files(), *modules_in_c(), topics()]
    found.sort(key=lambda s: (not s.held_out, s.name))
    seen: set[str] = set()
    for source in found:
        kept = []
        for text in source.entries:
            key = " ".join(text.partition("\n\n")[2].split())
            if len(key) > 15 and key not in seen:
                kept.append(text)
            seen.add(key)
        source.entries = kept
    return [s for s in found if s.entries]


def python_files() -> Iterator[Source]:
    """The docstrings of the standard library, read and never run."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if NOT_READ & set(name.parts):
            continue
        source = Source(name.as_posix())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings
            tree = ast.parse(path.read_bytes())
        module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        if doc := ast.get_docstring(tree):
            source.entries.append(entry(f"module {module}", doc))
        source.entries += documented(tree.body, "")
        for block in comments(path.read_text(encoding="utf-8", errors="replace")):
            source.entries.append(entry(f"notes on {module}", block))
        yield source
    for path in sorted(root.rglob("email/*.rst")):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        yield Source(path.relative_to(root).as_posix(), text.split("\n\n\n"))


def comments(text: str) -> Iterator[str]:
    """The comments of at least three lines, as far as they are prose."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if (line := line.strip()).startswith("#"):
            block.append(line.lstrip("#").removeprefix(" ").rstrip())
            continue
        found, block = "\n".join(block).strip("\n"), []
        letters = sum(c.isalpha() or c == " " for c in found)
        if found.count("\n") > 1 and letters > 0.85 * len(found):
            yield textwrap.dedent(found)


def documented(body: Iterable[ast.stmt], owner: str) -> Iterator[str]:
    """The entries of the classes and functions in a body, `if` and `try` looked through."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(map(ast.unparse, node.bases))
            if doc := ast.get_docstring(node):
                yield entry(f"class {owner}{node.name}" + (f"({bases})" if bases else ""), doc)
            yield from documented(node.body, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if doc := ast.get_docstring(node):
                yield entry(f"{owner}{node.name}({parameters(node.args)})", doc)
        elif isinstance(node, ast.If | ast.Try):
            yield from documented([*node.body, *node.orelse], owner)


def parameters(args: ast.arguments) -> str:
    """What stands between the brackets, without annotations and `self`."""
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    for arg in [*every, *filter(None, [args.vararg, args.kwarg])]:
        arg.annotation = None
    text = ast.unparse(args)
    for first in "self", "cls":
        text = text.removeprefix(f"{first}, ") if text != first else ""
    return text


def modules_in_c() -> Iterator[Source]:
    """The docstrings of the modules that have no Python source."""
    names = {*sys.builtin_module_names}
    names |= {m.name for m in pkgutil.iter_modules([sysconfig.get_path("stdlib") + "/lib-dynload"])}
    for name in sorted(n for n in names if not n.startswith(NOT_IMPORTED)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
        text = [entry(f"module {name}", inspect.cleandoc(module.__doc__))] if module.__doc__ else []
        yield Source(f"{name} (C)", [*text, *members(module, "")])


def members(owner: types.ModuleType | type, prefix: str) -> Iterator[str]:
    """The entries of what a module or class written in C defines itself."""
    for name, value in sorted(vars(owner).items()):
        doc = getattr(value, "__doc__", None)
        plain = isinstance(doc, str) and (callable(value) or inspect.isdatadescriptor(value))
        if not plain or (inspect.isclass(value) and value.__module__ != owner.__name__):
            continue
        heading, body = prefix + name, inspect.cleandoc(doc)
        signature = getattr(value, "__text_signature__", None)
        if signature:
            for hidden in "$self", "$module", "$type":
                signature = signature.replace(f"{hidden}, /, ", "").replace(f"{hidden}, /", "")
                signature = signature.replace(f"{hidden}, ", "").replace(hidden, "")
            heading += signature
        elif body.startswith(f"{name}("):
            first, _, rest = body.partition("\n")
            heading, body = prefix + first, inspect.cleandoc(rest)
        yield entry(("class " if inspect.isclass(value) else "") + heading, body)
        if inspect.isclass(value):
            yield from members(value, f"{name}.")


def topics() -> Source:
    """The pages of `help()`, without those that stand inside longer ones."""
    pages = importlib.import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    kept = []
    for _, page in sorted(pages.items(), key=lambda p: (-len(p[1]), p[0])):
        lines = [line for line in page.splitlines() if len(line) > 30]
        if sum(line in seen for line in lines) * 2 <= len(lines):
            kept.append(page.strip())
        seen.update(lines)
    return Source("pydoc_data/topics.py", kept)
