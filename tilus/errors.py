"""Source spans, diagnostics, and the one way an error is shown.

A `Span` is a stretch of a user's file. A `Diagnostic` is one finding: what is wrong, where, which
values led to it, and what to do. A `TilusError` carries one or more of them and prints them with
the user's own lines:

    error: dot: operands differ: f16[2,3] and f16[4,4]
      --> kernel.py:78:9
    75 |     a = tilus.zeros(f16, (2, 3))
       |         ------------------------ this is f16[2,3]
    78 |     c = tilus.dot(a, b, acc)
       |         ^^^^^^^^^^^^^^^^^^^^
       = help: the columns of `a` must be as many as the rows of `b`
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = [
    "TilusError",
    "TilusIndexError",
    "TilusNameError",
    "TilusNotImplementedError",
    "TilusSyntaxError",
    "TilusTypeError",
    "TilusValueError",
    "Trap",
]

MAX_DIAGNOSTICS = 10


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source file; columns count characters from 0, lines from 1.

    `reason` is set on what the compiler made itself: "inserted by insert_barriers".
    """

    file: str
    line: int
    col: int
    end_line: int
    end_col: int
    reason: str = ""

    def because(self, reason: str) -> Span:
        """This place, as the origin of something the compiler inserted."""
        return Span(self.file, self.line, self.col, self.end_line, self.end_col, reason)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.col + 1}"
        return f"{place} ({self.reason})" if self.reason else place


@dataclass
class Diagnostic:
    """One finding, with the places that explain it."""

    message: str
    span: Span | None = None
    notes: list[tuple[Span, str]] = field(default_factory=list)
    help: str | None = None

    def render(self) -> str:
        """The finding as text, with the lines it speaks of."""
        out = [f"error: {self.message}"]
        width = 1
        if self.span is not None:
            out.append(f"  --> {self.span}")
            marks = [(self.span, "^", "")]
            marks += [(s, "-", f" {text}") for s, text in self.notes if s != self.span]
            width = max(len(str(s.line)) for s, _, _ in marks)
            shown: tuple[str, int] | None = None
            for span, char, text in sorted(marks, key=lambda m: (m[0].file, m[0].line, m[0].col)):
                lines = _underlined(span, char, text, width, other_file=span.file != self.span.file)
                again = shown == (span.file, span.line)  # its line has been shown just now
                out += list(lines)[-1:] if again else lines
                shown = (span.file, span.line)
        if self.help:
            out.append(f"{'':>{width}} = help: {self.help}")
        return "\n".join(out)


def _underlined(span: Span, char: str, text: str, width: int, other_file: bool) -> Iterable[str]:
    """A source line with its stretch marked underneath."""
    line = linecache.getline(span.file, span.line).rstrip("\n")
    end = span.end_col if span.end_line == span.line else len(line.rstrip())
    pad = "".join("\t" if c == "\t" else " " for c in line[: span.col])
    if other_file:
        yield f"  ::: {span}"
    yield f"{span.line:>{width}} | {line}".rstrip()
    yield f"{'':>{width}} | {pad}{char * max(1, end - span.col)}{text}"


class TilusError(Exception):
    """An error in what the user wrote or passed, shown against the user's own lines."""

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        notes: Sequence[tuple[Span, str]] = (),
        help: str | None = None,
    ) -> None:
        super().__init__(message)
        self.diagnostics = [Diagnostic(message, span, list(notes), help)]

    @property
    def first(self) -> Diagnostic:
        """The first finding: the one a single-error caller made."""
        return self.diagnostics[0]

    @property
    def span(self) -> Span | None:
        """Where the first finding is."""
        return self.first.span

    def at(self, span: Span | None) -> TilusError:
        """Set the place of a finding that was raised without one; return the error."""
        if self.first.span is None:
            self.first.span = span
        return self

    @classmethod
    def collect(cls, errors: Sequence[TilusError]) -> TilusError:
        """One error that shows all of `errors`, in source order."""
        found = [d for e in errors for d in e.diagnostics]
        found.sort(key=lambda d: (d.span.file, d.span.line, d.span.col) if d.span else ("", 0, 0))
        error = type(errors[0])(found[0].message)
        error.diagnostics = found
        return error

    def __str__(self) -> str:
        shown = [d.render() for d in self.diagnostics[:MAX_DIAGNOSTICS]]
        if (more := len(self.diagnostics) - len(shown)) > 0:
            shown.append(f"... and {more} more")
        return "\n\n".join(shown)


class TilusTypeError(TilusError, TypeError):
    """Types, shapes or kinds of values do not fit."""


class TilusValueError(TilusError, ValueError):
    """A value is outside what is allowed."""


class TilusIndexError(TilusError, IndexError):
    """An index lies outside its sequence."""


class TilusNameError(TilusError, NameError):
    """A name has no value where it is read."""


class TilusSyntaxError(TilusError):
    """A construct that is not part of the kernel language, or text that is not IR."""


class TilusNotImplementedError(TilusError, NotImplementedError):
    """A backend says that it will not do something, and why."""


class Trap(TilusError, RuntimeError):
    """A fault the interpreter caught while a kernel ran."""
