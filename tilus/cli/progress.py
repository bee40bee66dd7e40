"""What commands say while they work: a bar on the terminal, and notes."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

BAR = 24  # characters of a full bar


class Bar:
    """A line on the terminal that says how far a job is; nothing where there is no terminal."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()
        self.began: tuple[float, int] | None = None  # when, and how much was done by then

    def __call__(self, done: int, total: int, name: str) -> None:
        """Show that `done` of `total` are done, and what is next."""
        if not self.on:
            return
        now = time.perf_counter()
        if self.began is None:
            self.began = now, done
        elapsed, part = now - self.began[0], done - self.began[1]
        left = f"{elapsed / part * (total - done):.0f} s left" if part else ""
        filled = BAR * done // max(total, 1)
        text = (
            f"[{'#' * filled}{'.' * (BAR - filled)}] {done / max(total, 1):4.0%} {left:>12} {name}"
        )
        self._show(text)

    def clear(self) -> None:
        """Take the line away."""
        if self.on and self.began is not None:
            self._show("")

    def _show(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:{width}}\r", end="", file=sys.stderr, flush=True)


@contextmanager
def noted() -> Iterator[list[str]]:
    """The warnings of what is done inside, once it is done."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes += [str(warning.message) for warning in caught]


def show_notes(notes: list[str]) -> None:
    """Notices, one on a line, where they are not taken for the result."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
