"""A kernel's parameters: their roles, read from annotations."""

from __future__ import annotations

import ast
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from tilus.dtypes import DType
from tilus.errors import Span, TilusSyntaxError, TilusTypeError
from tilus.ir.types import PointerType
from tilus.lang import source as sources
from tilus.lang.annotations import annotation_of, constexpr

RESERVED = ("num_warps", "num_threads", "grid")
ROLES_HELP = (
    "`tilus.ptr[tilus.f16]` is a pointer, `tilus.i32` a run-time scalar, `tilus.constexpr` a value "
    "known at compile time"
)
_REQUIRED = object()


class Role(enum.Enum):
    """What an argument is to the kernel."""

    POINTER = "pointer"
    SCALAR = "scalar"
    CONSTEXPR = "constexpr"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    role: Role
    dtype: DType | None
    span: Span
    keyword_only: bool = False
    positional_only: bool = False
    default: Any = _REQUIRED

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is _REQUIRED

    def __str__(self) -> str:
        """The parameter with its annotation."""
        said: Any = "constexpr"
        if self.role is not Role.CONSTEXPR:
            said = f"ptr[{self.dtype}]" if self.role is Role.POINTER else self.dtype
        return f"{self.name}: {said}"


@dataclass(frozen=True)
class Signature:
    """All parameters of a kernel."""

    name: str
    parameters: tuple[Parameter, ...]
    span: Span

    def bind(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        """Each parameter's argument, as a call of a Python function binds them."""
        places = [p for p in self.parameters if not p.keyword_only]
        if len(args) > len(places):
            self.fail(f"takes {len(places)} positional arguments; {len(args)} were given")
        out = {p.name: a for p, a in zip(places, args, strict=False)}
        known = {p.name for p in self.parameters if not p.positional_only}
        for name, value in keywords.items():
            if name not in known:
                self.fail(f"has no parameter `{name}`", help=f"it takes {self._shown()}")
            if name in out:
                self.fail(f"got two values for `{name}`")
            out[name] = value
        for p in self.parameters:
            if p.name not in out:
                if p.required:
                    self.fail(f"misses the argument `{p}`", p.span)
                out[p.name] = p.default
        return {p.name: out[p.name] for p in self.parameters}

    def complete(self, constants: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each constexpr parameter."""
        known = {p.name: p for p in self.parameters if p.role is Role.CONSTEXPR}
        for name in constants:
            if name not in known:
                self.fail(f"has no constexpr parameter `{name}`", help=f"it takes {self._shown()}")
        missing = [p for p in known.values() if p.name not in constants and p.required]
        if missing:
            self.fail(f"misses a value for `{missing[0]}`", missing[0].span)
        return {n: constants.get(n, p.default) for n, p in known.items()}

    def fail(self, what: str, span: Span | None = None, help: str | None = None) -> None:
        """Raise an error about this kernel."""
        raise TilusTypeError(f"the kernel `{self.name}` {what}", span or self.span, help=help)

    def _shown(self) -> str:
        return ", ".join(map(str, self.parameters)) or "no parameters"


def read_signature(fn: FunctionType) -> Signature:
    """The parameters of a function that is to be a kernel."""
    source, node = sources.of_function(fn)
    a = node.args
    for extra, stars in ((a.vararg, "*"), (a.kwarg, "**")):
        if extra is not None:
            raise TilusSyntaxError(
                f"a kernel cannot take {stars}{extra.arg}",
                source.span(extra),
                help="name each parameter, or pass a tuple as one constexpr parameter",
            )
    if node.returns is not None and annotation_of(fn, "return") is not None:
        raise TilusTypeError(
            "a kernel returns nothing",
            source.span(node.returns),
            help="write `-> None`, or leave the annotation out",
        )
    defaults = dict(zip([p.arg for p in [*a.posonlyargs, *a.args]][::-1],
                        (fn.__defaults__ or ())[::-1], strict=False))  # fmt: skip
    defaults |= fn.__kwdefaults__ or {}
    parameters = []
    for p in [*a.posonlyargs, *a.args, *a.kwonlyargs]:
        span = source.span(p)
        role, dtype = _role(fn, p, span)
        parameters.append(
            Parameter(
                p.arg, role, dtype, span, p in a.kwonlyargs, p in a.posonlyargs,
                defaults.get(p.arg, _REQUIRED),
            )
        )  # fmt: skip
    return Signature(fn.__name__, tuple(parameters), sources.header(source, node))


def _role(fn: FunctionType, p: ast.arg, span: Span) -> tuple[Role, DType | None]:
    """What a parameter's annotation says."""
    if p.arg in RESERVED:
        raise TilusTypeError(f"`{p.arg}` is an option of the launch: rename the parameter", span)
    if p.annotation is None:
        raise TilusTypeError(f"the parameter `{p.arg}` has no annotation", span, help=ROLES_HELP)
    said = annotation_of(fn, p.arg)
    if isinstance(said, PointerType):
        return Role.POINTER, said.dtype
    if isinstance(said, DType):
        if said.is_subbyte or said.is_small_float or (said.bits <= 8 and said.values):
            raise TilusTypeError(
                f"a scalar parameter cannot be of type {said}", span, help="pass it as i32 or f32"
            )
        return Role.SCALAR, said
    if said is constexpr:
        return Role.CONSTEXPR, None
    shown = f"`{said}`" if isinstance(said, str) else f"`{getattr(said, '__name__', said)}`"
    raise TilusTypeError(
        f"{shown} says nothing about how a kernel takes the parameter `{p.arg}`",
        span,
        help=ROLES_HELP,
    )
