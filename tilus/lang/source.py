"""Where a function was written: its file's syntax tree, and spans in characters.

The whole file is parsed once, and the function is found by the line its code begins at, so line
numbers are the file's own, whatever decorates or encloses the function.
"""

from __future__ import annotations

import ast
import linecache
from functools import lru_cache
from types import FunctionType

from tilus.errors import Span, TilusSyntaxError

HOW_TO_GET_SOURCE = (
    "write the function in a file; text passed to `exec` must be compiled under a file name that "
    "`linecache` knows"
)


class Source:
    """A file: its lines, its syntax tree, and the functions in it by first line."""

    def __init__(self, file: str, lines: tuple[str, ...]) -> None:
        self.file, self.lines = file, lines
        self.functions: dict[int, list[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]] = {}
        for node in ast.walk(ast.parse("".join(lines), file, type_comments=False)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                self.functions.setdefault(first, []).append(node)
            elif isinstance(node, ast.Lambda):
                self.functions.setdefault(node.lineno, []).append(node)

    def column(self, line: int, offset: int) -> int:
        """The character at a byte offset in a line (`ast` counts UTF-8 bytes)."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return offset if text.isascii() else len(text.encode()[:offset].decode(errors="replace"))

    def span(self, node: ast.AST) -> Span:
        """The stretch of the file that a node was read from."""
        return self.between(node, node)

    def between(self, first: ast.AST, last: ast.AST) -> Span:
        """From the beginning of one node to the end of another."""
        line, end_line = first.lineno, last.end_lineno  # type: ignore[attr-defined]
        return Span(
            self.file,
            line,
            self.column(line, first.col_offset),  # type: ignore[attr-defined]
            end_line,
            self.column(end_line, last.end_col_offset),  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        """The source text of a node, on one line."""
        at = self.span(node)
        if at.line > len(self.lines):
            return ast.unparse(node)
        rows = [*self.lines[at.line - 1 : at.end_line]]
        rows[-1] = rows[-1][: at.end_col]  # first, as it may be the only row
        rows[0] = rows[0][at.col :]
        return " ".join("".join(rows).split())


@lru_cache(maxsize=256)
def _source(file: str, lines: tuple[str, ...]) -> Source:
    return Source(file, lines)


def of_function(fn: FunctionType) -> tuple[Source, ast.FunctionDef]:
    """The file and the definition of a function.

    Raises:
        TilusSyntaxError: there is no source, it has changed, or it is not a plain `def`.
    """
    code = fn.__code__
    lines = tuple(linecache.getlines(code.co_filename, fn.__globals__))
    if not lines:
        raise TilusSyntaxError(
            f"the source of `{fn.__name__}` is not available ({code.co_filename})",
            help=HOW_TO_GET_SOURCE,
        )
    try:
        source = _source(code.co_filename, lines)
    except SyntaxError as e:
        raise TilusSyntaxError(
            f"the source of `{fn.__name__}` cannot be read: {e}", help=HOW_TO_GET_SOURCE
        ) from None
    found = source.functions.get(code.co_firstlineno, [])
    named = [n for n in found if getattr(n, "name", "<lambda>") == code.co_name]
    if not named:
        raise TilusSyntaxError(
            f"`{fn.__name__}` is not at line {code.co_firstlineno} of {code.co_filename}",
            help="the file has changed since it was imported: import it again",
        )
    node = named[0]
    if isinstance(node, ast.FunctionDef) and not _is_generator(code.co_flags):
        return source, node
    kind = {ast.Lambda: "a lambda", ast.AsyncFunctionDef: "an async function"}
    raise TilusSyntaxError(
        f"`{fn.__name__}` is {kind.get(type(node), 'a generator')}; kernel code is a plain `def`",
        source.span(node),
        help="write a plain `def` function",
    )


def _is_generator(flags: int) -> bool:
    return bool(flags & 0x20)  # CO_GENERATOR


def header(source: Source, node: ast.FunctionDef) -> Span:
    """`def name(...)`, without decorators and body."""
    line = node.lineno
    start = source.column(line, node.col_offset)
    text = source.lines[line - 1]
    at = text.find(node.name, start)
    return Span(source.file, line, start, line, at + len(node.name))
