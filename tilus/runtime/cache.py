"""Compiled code on disk, so that a kernel is compiled once on a machine.

An entry's name is the hash of all that its content depends on: the kernel's IR, the target, the
toolchain's version, and our own sources. Its content begins with its own checksum; what does not
match it, or cannot be read, counts as absent and is written anew. Writing goes through a temporary
file, so that no reader ever sees half an entry; where the folder cannot be written to, a warning
says so once and kernels are compiled in every process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from tilus.options import options

MAGIC = b"tilus-cache-1\n"


@lru_cache(maxsize=1)
def source_hash() -> str:
    """A hash of this package's own sources: changing the compiler changes every key."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".lark"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def key(parts: Iterable[str]) -> str:
    """The name of an entry that depends on these texts, and on our sources."""
    digest = hashlib.sha256(source_hash().encode())
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


def folder() -> Path:
    """Where entries lie: TILUS_CACHE_DIR, or `~/.cache/tilus`."""
    chosen: Path | None = options.cache_dir
    return chosen or Path.home() / ".cache" / "tilus"


def read(name: str) -> bytes | None:
    """An entry's content; None if it is not there or not whole."""
    try:
        data = (folder() / name[:2] / name).read_bytes()
    except OSError:
        return None
    head, content = data[: len(MAGIC) + 32], data[len(MAGIC) + 32 :]
    whole = head == MAGIC + hashlib.sha256(content).digest()
    return content if whole else None


def write(name: str, content: bytes) -> None:
    """Enter an entry, replacing what is there."""
    path = folder() / name[:2] / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
            f.write(MAGIC + hashlib.sha256(content).digest() + content)
        try:
            os.replace(f.name, path)
        except OSError:
            os.unlink(f.name)
            raise
    except OSError as e:
        _warn(str(folder()), e.strerror or str(e))


@lru_cache(maxsize=8)
def _warn(where: str, why: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept in {where} ({why}); set TILUS_CACHE_DIR to a folder that "
        "can be written to",
        RuntimeWarning,
        stacklevel=4,
    )


def remembered(parts: Iterable[str], make: Callable[[], bytes]) -> bytes:
    """The content for a key, made and kept if it is not there."""
    name = key(parts)
    content = None if options.always_compile else read(name)
    if content is None:
        content = make()
        write(name, content)
    return content
