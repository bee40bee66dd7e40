"""Building programs: the current block of statements, and functions that emit into it.

with building() as block:          # statements emitted inside land in `block.stmts`
    with at(span, name="acc"):     # what is emitted carries this place and name
        x = emit(Full(f32, (64, 64), const(0.0)))
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ParamSpec, Union, get_args, get_origin

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusTypeError
from tilus.ir.expr import Expr, Value, as_expr, describe
from tilus.ir.inst import Inst, Role
from tilus.ir.program import Assign, Let, Seq, Stmt, same_attribute

P = ParamSpec("P")


@dataclass
class Block:
    """Statements being collected."""

    stmts: list[Stmt] = field(default_factory=list)

    def seq(self) -> Seq:
        """The statements so far, as a sequence."""
        return Seq(tuple(self.stmts))


_block: ContextVar[Block | None] = ContextVar("tilus_block", default=None)
_place: ContextVar[tuple[Span | None, str]] = ContextVar("tilus_place", default=(None, ""))


@contextmanager
def building() -> Iterator[Block]:
    """Collect what is emitted inside."""
    block = Block()
    token = _block.set(block)
    try:
        yield block
    finally:
        _block.reset(token)


@contextmanager
def at(span: Span | None, name: str = "") -> Iterator[None]:
    """Statements and values made inside carry this place and this name."""
    token = _place.set((span, name))
    try:
        yield
    finally:
        _place.reset(token)


def here() -> Span | None:
    """The place that is being translated."""
    return _place.get()[0]


def require_kernel() -> Block:
    """The current block; raises unless a program is being built."""
    block = _block.get()
    if block is None:
        raise TilusTypeError(
            "an instruction can only be used inside a kernel",
            help="write the call in a function decorated with @tilus.jit",
        )
    return block


def append(stmt: Stmt) -> None:
    """Add a statement to the current block."""
    require_kernel().stmts.append(stmt)


def emit(inst: Inst) -> Value | None:
    """Check one instruction, add it to the current block, and name its result."""
    span, name = _place.get()
    try:
        type_ = inst.infer()
    except TilusError as e:
        raise e.at(span) from None
    result = None if type_ is None else Value(type_, name, span)
    append(Assign(result, inst, span=span))
    return result


def let(expr: Expr, name: str = "") -> Value:
    """Name a scalar expression; a value already named is itself."""
    span, hint = _place.get()
    if isinstance(expr, Value):
        return expr
    var = Value(expr.type, name or hint, span)
    append(Let(var, expr, span=span))
    return var


def op(cls: Callable[P, Inst]) -> Callable[P, Value]:
    """The user's function for an instruction; its signature is the dataclass's own.

    Python numbers become scalar operands, lists become tuples, names become element types.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> Value:
        return emit(make(cls, args, kwargs))  # type: ignore[return-value, arg-type]

    call.__doc__, call.__name__ = cls.__doc__, cls.opcode  # type: ignore[attr-defined]
    call.__wrapped__ = cls  # type: ignore[attr-defined]  # inspect.signature follows it
    return call


def make(cls: type[Inst], args: Sequence[Any], kwargs: dict[str, Any]) -> Inst:
    """Construct an instruction from what a user wrote, converting each field by its type."""
    names = list(cls.roles())
    if len(args) > len(names):
        raise TilusTypeError(f"{cls.opcode} takes {len(names)} arguments, not {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise TilusTypeError(
                f"{cls.opcode} has no parameter {name!r}", help=f"it takes {', '.join(names)}"
            )
        if name in given:
            raise TilusTypeError(f"{cls.opcode}: {name!r} is given twice")
        given[name] = value
    roles, hints = cls.roles(), cls.hints()
    try:
        return cls(**{n: _coerce(cls.opcode, n, v, roles[n], hints[n]) for n, v in given.items()})
    except TypeError as e:
        if isinstance(e, TilusError):
            raise
        missing = [
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.name not in given and _is_required(f)
        ]
        raise TilusTypeError(f"{cls.opcode}: missing {', '.join(missing) or e}") from None


def check_fields(inst: Inst) -> None:
    """Raise unless each field holds what its type says, as `make` would have made it."""
    roles, hints = inst.roles(), inst.hints()
    for name, role in roles.items():
        have = getattr(inst, name)
        need = _coerce(inst.opcode, name, have, role, hints[name])
        if not same_attribute(have, need):
            raise TilusTypeError(f"{inst.opcode}: `{name}` is {have!r}; it must be {need!r}")


def _is_required(f: Any) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _coerce(opcode: str, name: str, value: Any, role: Role, hint: Any) -> Any:
    """A field's value from a user's argument."""
    if value is None:
        if not _optional(hint):
            raise TilusTypeError(f"{opcode}: `{name}` must not be None")
        return None
    if role is Role.OPERAND:
        if not isinstance(value, Value):
            raise TilusTypeError(
                f"{opcode}: `{name}` must be a tile or a view, not {describe(value)}"
            )
        return value
    if role is Role.SCALAR:
        return _scalar(opcode, name, value)
    if role in (Role.SCALARS, Role.OPERANDS):
        if not isinstance(value, (tuple, list)):
            value = (value,)
        if role is Role.OPERANDS:
            return tuple(
                _coerce(opcode, f"{name}[{i}]", v, Role.OPERAND, Value) for i, v in enumerate(value)
            )
        return tuple(_scalar(opcode, f"{name}[{i}]", v) for i, v in enumerate(value))
    return attribute(opcode, name, value, hint)


def _scalar(opcode: str, name: str, value: Any) -> Expr:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (Expr, bool, int, float)):
        raise TilusTypeError(
            f"{opcode}: `{name}` must be a number or a scalar, not {describe(value)}"
        )
    return as_expr(value)


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def attribute(opcode: str, name: str, value: Any, hint: Any) -> Any:
    """A compile-time attribute converted to the type its field declares."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (h for h in get_args(hint) if h is not type(None))
    if isinstance(value, Expr):
        raise TilusTypeError(
            f"{opcode}: `{name}` must be known at compile time, not a run-time {value.type}",
            help="make it a constexpr parameter or a constant",
        )
    if hint is DType and not isinstance(value, DType):
        if not isinstance(value, str):
            raise TilusTypeError(
                f"{opcode}: `{name}` must be an element type, not {describe(value)}"
            )
        try:
            return dtypes.dtype(value)
        except ValueError as e:
            raise TilusTypeError(f"{opcode}: `{name}`: {e}") from None
    if get_origin(hint) is tuple:
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value,)
        if not isinstance(value, (tuple, list)):
            raise TilusTypeError(f"{opcode}: `{name}` must be a tuple, not {describe(value)}")
        inner = get_args(hint)[0]
        return tuple(attribute(opcode, f"{name}[{i}]", v, inner) for i, v in enumerate(value))
    if isinstance(value, np.generic):
        value = value.item()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is int):
        raise TilusTypeError(f"{opcode}: `{name}` must be {_article(hint)}, not {describe(value)}")
    return value


def _article(hint: type) -> str:
    name = {"Layout": "layout", "SharedLayout": "shared-memory layout"}.get(
        hint.__name__, hint.__name__
    )
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
