"""Reading files that may be damaged or hostile: bounded, checked, and never mapped into memory.

A mapped file that is cut short meanwhile kills the process; a read of it only comes back short.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilus.errors import TilusValueError

MAX_JSON = 32 << 20  # bytes of a JSON file or header
_SHOWN = 60  # characters of a name in an error, and names in a list


@dataclass(frozen=True)
class File:
    """A regular file as it was when it was opened; every read checks that it still is."""

    path: Path
    size: int
    stamp: tuple[int, int]  # inode, time of the last change

    @staticmethod
    def at(path: Path) -> File:
        """The file at a path."""
        try:
            found = path.stat()
        except (OSError, ValueError) as error:
            raise TilusValueError(f"{path} cannot be opened: {_reason(error)}") from error
        if not stat.S_ISREG(found.st_mode):
            raise TilusValueError(f"{path} is no regular file")
        return File(path, found.st_size, (found.st_ino, found.st_mtime_ns))

    def read(self, start: int, size: int) -> torch.Tensor:
        """Bytes [start, start + size), u8; the caller has checked that they are in the file."""
        data = torch.empty(size, dtype=torch.uint8)
        rest = data.numpy().data
        try:
            with open(self.path, "rb", buffering=0) as file:
                now = os.fstat(file.fileno())
                same = self.stamp == (now.st_ino, now.st_mtime_ns) and self.size == now.st_size
                file.seek(start)
                while same and len(rest) and (count := file.readinto(rest)):
                    rest = rest[count:]
        except OSError as error:
            raise TilusValueError(f"{self.path} cannot be read: {_reason(error)}") from error
        if len(rest) or not same:
            raise TilusValueError(f"{self.path} changed after it was opened; open it again")
        return data

    def read_bytes(self, start: int, size: int) -> bytes:
        """The same as bytes."""
        return self.read(start, size).numpy().tobytes()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; see `parse_json`."""
    file = File.at(path)
    if file.size > MAX_JSON:
        raise TilusValueError(f"{path} has {file.size} bytes; at most {MAX_JSON} are read")
    return parse_json(file.read_bytes(0, file.size), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object, without what Python's parser lets pass.

    That is NaN and infinities, a key given twice, and halves of surrogate pairs.

    Args:
        data: UTF-8.
        where: what errors say it is.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_number,
        )
    except RecursionError as error:
        raise TilusValueError(f"{where} is nested too deep") from error
    except ValueError as error:
        raise TilusValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TilusValueError(f"{where} is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {shown(twice)} is given twice")
    for key, value in pairs:
        key.encode()  # refuses halves of surrogate pairs
        if isinstance(value, str):
            value.encode()
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is too large")
    return value


def is_count(value: object, most: int = (1 << 63) - 1) -> bool:
    """Whether a value is an integer from 0 to `most`; True and False are not."""
    return type(value) is int and 0 <= value <= most


def product(extents: Iterable[int]) -> int:
    """The product of non-negative integers, which stops growing soon after 2^63."""
    total = 1
    for extent in extents:
        total = min(total * extent, 1 << 64)
    return total


def shown(value: object) -> str:
    """A name or another value from a file, for one line of an error."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    text = str(value)
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return repr(short) if isinstance(value, str) else short


def listed(names: Iterable[str]) -> str:
    """Some names from a file, for one line of an error."""
    ordered = sorted(names)
    text = ", ".join(map(shown, ordered[:3]))
    return f"{text} and {len(ordered) - 3} more" if len(ordered) > 3 else text


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
