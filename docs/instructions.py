"""Write docs/instructions.md: every instruction and function of the language, from the code itself.

`python docs/instructions.py` writes; with `--check` it only says whether the page is up to date.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tilus.ir.inst import REGISTRY, Effect, Inst, Role
from tilus.ir.printer import number
from tilus.lang.operators import BINARY, UNARY
from tilus.lang.ops import FUNCTIONS

PAGE = Path(__file__).resolve().parent / "instructions.md"

INTRODUCTION = """\
# Instructions

`make structure` writes this page from the code.

An instruction is written once, as a class in `tilus/ir/instructions/`. Its fields are its operands
and attributes; this page shows them in order, with their defaults. In the text form of the IR the
call has the same name and the same fields. In a kernel it is `tilus.<name>`; the last column says
how else. [language.md](language.md) is about kernels, [ir.md](ir.md) about the text form."""


def main() -> int:
    """Write the page, or check it."""
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print("docs/instructions.md is out of date: run `make structure`")
        return 1
    return 0


def page() -> str:
    """The text of docs/instructions.md."""
    parts = [INTRODUCTION]
    families: dict[str, list[type[Inst]]] = {}
    for cls in REGISTRY.values():
        families.setdefault(cls.__module__, []).append(cls)
    for module, classes in sorted(families.items()):
        title = module.rpartition(".")[2]
        rows = [
            (f"`{signature(c)}`", one_line(c.__doc__), constants(c), effects(c), in_kernels(c))
            for c in classes
        ]
        head = ("instruction", "what it does", "known at compile time", "effects", "in a kernel")
        parts += [f"## {title}", paragraphs(sys.modules[module].__doc__), table(head, rows)]
    own = [
        (f"`tilus.{name}{_parameters(fn)}`", one_line(fn.__doc__))
        for name, fn in sorted(FUNCTIONS.items())
        if name not in REGISTRY
    ]
    parts += [
        "## Functions that are not one instruction",
        "What else a kernel can call: short forms, scalars, and what steers translation.",
        table(("function", "what it does"), own),
    ]
    return "\n\n".join(parts) + "\n"


def signature(cls: type[Inst]) -> str:
    """The instruction as it is called, with the defaults of its fields."""
    shown = [
        f.name if f.default is MISSING else f"{f.name}={_default(f.default)}" for f in fields(cls)
    ]
    return f"{cls.opcode}({', '.join(shown)})"


def _default(value: Any) -> str:
    return "None" if value is None else f'"{value}"' if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, bool) or not isinstance(value, float) else number(value)


def effects(cls: type[Inst]) -> str:
    """What it does besides making its result."""
    words = [f"reads `{name}`" for name in cls.reads] + [f"writes `{name}`" for name in cls.writes]
    words += ["orders"] if Effect.SYNC in cls.effects else []
    words += ["debugging"] if Effect.DEBUG in cls.effects else []
    return ", ".join(words)


def constants(cls: type[Inst]) -> str:
    """The fields that are attributes: known when the kernel is compiled."""
    return ", ".join(f"`{name}`" for name, role in cls.roles().items() if role is Role.ATTRIBUTE)


def in_kernels(cls: type[Inst]) -> str:
    """How else kernels can say it: by an operator, or not by `tilus.<name>` at all."""
    for symbol, meanings in BINARY.items():
        if cls in meanings:
            return f"`a {symbol} b`".replace("|", "\\|")
    for symbol, meanings in UNARY.items():
        if cls in meanings:
            return f"`{symbol}x`"
    return SPELLED.get(cls.opcode, "" if cls.opcode in FUNCTIONS else "only in the IR")


SPELLED = {
    "abs": "`abs(x)`",
    "dot": "`a @ b`",
    "breakpoint": "`breakpoint()`",
    "device_assert": "`assert cond, message`",
    "reduce": "`tilus.sum`, `tilus.max`, `tilus.min`, `tilus.any`, `tilus.all`, `tilus.argmax`",
    "scan": "`tilus.cumsum`, `tilus.cumprod`, `tilus.cummax`, `tilus.cummin`",
}


def _parameters(fn: Callable[..., Any]) -> str:
    """The parameters of a function, without their types."""
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(fn).parameters.values()
    ]
    text = str(inspect.Signature(parameters))
    return re.sub(r"dtype\('(\w+)'\)", r"\1", text)


def one_line(doc: str | None) -> str:
    """A docstring as the cell of a table."""
    return " ".join((doc or "").split()).replace("|", "\\|")


def paragraphs(doc: str | None) -> str:
    """A module's docstring as text, indented parts as code."""
    out = []
    for part in inspect.cleandoc(doc or "").split("\n\n"):
        out.append(f"```\n{inspect.cleandoc(part)}\n```" if part.startswith(" ") else part)
    return "\n\n".join(out)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown; columns that are empty in every row are left out."""
    grid = [list(head), *map(list, rows)]
    used = [i for i in range(len(grid[0])) if any(row[i] for row in grid[1:])]
    lines = [" | ".join(row[i] for i in used) for row in grid]
    lines.insert(1, " | ".join("---" for _ in used))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
