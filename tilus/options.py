"""Options: what the `TILUS_*` environment variables and `options.scope()` can change.

A variable is read each time its option is asked for, never at import. A scope comes before the
environment, and belongs to the thread (or asyncio task) that opened it:

>>> with options.scope(verify="each"):
...     options.verify
'each'
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from tilus.errors import TilusTypeError, TilusValueError

T = TypeVar("T")

_SCOPED: ContextVar[Mapping[str, Any]] = ContextVar("tilus.options")


class Option(Generic[T]):
    """One setting: its default, how its text is read, and what it means."""

    def __init__(self, default: T, read: Callable[[str], T], allowed: str, doc: str) -> None:
        self.default = default
        self.read = read
        self.allowed = allowed
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.variable = f"TILUS_{name.upper()}"

    @overload
    def __get__(self, instance: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Option[T] | T:
        if instance is None:
            return self
        scoped = _SCOPED.get({})
        if self.name in scoped:
            value: T = scoped[self.name]
            return value
        return self.parse(os.environ.get(self.variable, ""))

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(f"set it with `options.scope({self.name}=...)` or {self.variable}")

    def parse(self, text: str) -> T:
        """The value that `text` stands for; empty text stands for the default."""
        if not text:
            return self.default
        try:
            return self.read(text)
        except (ValueError, LookupError):
            raise TilusValueError(
                f"{self.variable} is {text!r}", help=f"it can be {self.allowed}"
            ) from None


def _flag(doc: str, default: bool = False) -> Option[bool]:
    words = {"1": True, "true": True, "0": False, "false": False}
    return Option(default, lambda text: words[text.lower()], "1 or 0", doc)


def _choice(*words: str, doc: str) -> Option[str]:
    """One of some words, of which the first is the default."""
    return Option(words[0], lambda text: words[words.index(text)], " or ".join(words), doc)


def _count(doc: str) -> Option[int | None]:
    def read(text: str) -> int:
        if not text.isdecimal():
            raise ValueError
        return int(text)

    return Option[int | None](None, read, "a whole number from 0", doc)


def _folder(doc: str) -> Option[Path | None]:
    return Option[Path | None](None, lambda text: Path(text).expanduser(), "a folder", doc)


class Options:
    """All options. Each is named as its variable is, without `TILUS_` and in lower case."""

    interpret = _flag("Run kernels in the interpreter, where `breakpoint()` works.")
    verify = _choice("once", "each", doc="Verify at both ends, or after each pass too.")
    stop_after = _count("Stop after this many passes, to find the one that breaks a program.")
    dump = _folder("Write the IR after each pass into this folder, as `KERNEL/NN_name.tir`.")
    cache_dir = _folder("Keep compiled kernels in this folder instead of `~/.cache/tilus`.")
    cpu_features = Option[frozenset[str] | None](
        None,
        lambda text: frozenset(text.replace(",", " ").split()) - {"none"},
        "features by LLVM's names, such as `avx2,fma`, or `none`",
        "Compile for a CPU with these features only, instead of all that this one has.",
    )
    always_compile = _flag("Compile kernels again even if the cache has them.")
    autotune = _flag("Measure a tuned kernel's configs; if 0, the cost model alone chooses.", True)
    full_traceback = _flag("Show the frames of tilus itself in the traceback of an error.")

    @contextmanager
    def scope(self, **values: object) -> Iterator[None]:
        """Set options inside a `with` block; None stands for an option's default."""
        known = {n: o for n, o in vars(Options).items() if isinstance(o, Option)}
        if unknown := values.keys() - known.keys():
            raise TilusTypeError(
                f"no such option: {', '.join(sorted(unknown))}",
                help=f"the options are {', '.join(sorted(known))}",
            )
        parsed = {n: known[n].parse("" if v is None else str(v)) for n, v in values.items()}
        token = _SCOPED.set({**_SCOPED.get({}), **parsed})
        try:
            yield
        finally:
            _SCOPED.reset(token)


options = Options()
