"""What all commands share: their errors, their output, and how colours are chosen.

A `UsageError` is about the command line: exit code 2. A `TilusError` is about a kernel: it is shown
as it stands, exit code 1. Colours are for terminals only, and never with NO_COLOR set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    from tilus.dtypes import DType
    from tilus.errors import TilusError

ERROR_STYLES = {
    r"^error:": "bold red",
    r"(?m)^ *\d* \| \s*\^+$": "red",
    r"(?m)^ *-->.*$": "dim",
    r"(?m)^ *= help:.*$": "cyan",
}


class UsageError(Exception):
    """The command line asks for something that is not there."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are two lines long."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """End with the message instead of the whole usage."""
        self.exit(2, f"tilus: {message}\nTry `{self.prog} --help`.\n")


def count(text: str) -> int:
    """What an option that counts something takes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def element_type(option: str, name: str) -> DType:
    """The element type that an option names."""
    from tilus.dtypes import dtype

    try:
        return dtype(name)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def console(to_stderr: bool = False) -> Console:
    """Where coloured text goes; without a terminal it is plain text of any width."""
    from rich.console import Console

    return Console(stderr=to_stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def show(text: str, styles: dict[str, str], to_stderr: bool = False) -> None:
    """Print text; on a terminal, what the regular expressions find has a style."""
    from rich.text import Text

    out = console(to_stderr)
    if not out.is_terminal:
        print(text, file=sys.stderr if to_stderr else sys.stdout)
        return
    styled = Text(text)
    for pattern, style in styles.items():
        styled.highlight_regex(pattern, style)
    out.print(styled)


def show_error(error: TilusError) -> None:
    """An error of a kernel, as it stands."""
    show(str(error), ERROR_STYLES, to_stderr=True)


def show_json(data: dict[str, Any]) -> None:
    """Data for other programs, one entry on a line."""
    print(_json(data))


def _json(data: Any, indent: str = "") -> str:
    inner = indent + "  "
    if isinstance(data, dict) and data:
        rows = [f"{inner}{json.dumps(k)}: {_json(v, inner)}" for k, v in data.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return "[\n" + ",\n".join(inner + json.dumps(x) for x in data) + f"\n{indent}]"
    return json.dumps(data)


def columns(rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Rows of words, aligned; the last word of a row may be of any length."""
    rows = [tuple(row) for row in rows]
    count = max((len(row) for row in rows), default=0)
    widths = [
        max((len(row[i]) for row in rows if i < len(row) - 1), default=0) for i in range(count)
    ]
    lines = (
        "  ".join([*(w.ljust(n) for w, n in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in rows
    )
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def write(path: str, text: str) -> None:
    """Write a file that the command line names."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror or e}") from None
