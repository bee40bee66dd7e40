"""What a job has finished, on disk: one line of JSON each, after a first line that says which job.

A line counts once it is whole; what a killed job leaves of one is cut off.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from tilus.errors import TilusValueError

try:
    import fcntl
except ImportError:  # not a Unix: nobody keeps two jobs from writing to one folder
    fcntl = None  # type: ignore[assignment]


class Journal:
    """An open journal, which no other process has open.

    Attributes:
        job: what the first line says; None if there is none.
        done: the lines after it.
    """

    def __init__(self, path: Path) -> None:
        self.job: dict[str, Any] | None = None
        self.done: list[dict[str, Any]] = []
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise TilusValueError(f"another job is writing to {path.parent}; wait for it") from None
        self._read()

    def _read(self) -> None:
        with open(self._file, "rb", closefd=False) as file:
            data = file.read()
        lines, whole = [], 0
        for line in data.splitlines(keepends=True):
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if not isinstance(value, dict):
                break
            lines.append(value)
            whole += len(line)
        os.ftruncate(self._file, whole)
        if lines:
            self.job, *self.done = lines

    def begin(self, job: dict[str, Any]) -> None:
        """Forget what is there, and begin with this job."""
        os.ftruncate(self._file, 0)
        self.job, self.done = job, []
        self._write(job)

    def add(self, line: dict[str, Any]) -> None:
        """Note that something is finished."""
        self.done.append(line)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
