"""How a damaged file must be refused: one line, soon, and without filling memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilus.errors import TilusError

MEMORY = 64 << 20  # bytes that a refusal may take


def peak() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def refused(action: Callable[[Path], Any], path: Path, message: str) -> None:
    """Check that `action(path)` raises an error that matches `message` and names the path."""
    memory, start = peak(), time.process_time()
    with pytest.raises(TilusError) as caught:
        action(path)
    assert time.process_time() - start < 1
    assert peak() - memory < MEMORY
    text = str(caught.value)
    assert text.count("\n") == 0 and text.isprintable() and len(text) < 600, text
    assert re.search(message, text), text
    assert str(path) in text
