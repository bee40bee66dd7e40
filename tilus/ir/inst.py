"""`Inst`: what every VM instruction is, and what it says once about itself.

A subclass is a frozen dataclass and is entered in `REGISTRY` by being written. The types of its
fields say what they are; printer, parser, builder, rewriter, equality and the DSL function follow:

    Value, Value | None, tuple[Value, ...]      operands: tiles, shared tiles, views, pointers
    Expr, Expr | None, tuple[Expr, ...] (| None) scalar operands: expressions
    anything else                               attributes: DType, Layout, int, str, tuples ...

An instruction states
    infer()      checks its operands, and the result's type (None: no result);
    interpret()  its meaning in NumPy: the reference of every backend;
    layouts()    which layouts follow from which (see `tilus.ir.passes.infer_layouts`);
    effects, reads, writes  what it does besides making its result, and to which operands.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform, get_type_hints

from tilus.errors import TilusTypeError
from tilus.ir.expr import Expr, Value
from tilus.ir.types import TileType, Type
from tilus.layouts import Layout

if TYPE_CHECKING:
    from tilus.ir.target import Target


class Effect(enum.Flag):
    """What an instruction does besides making its result."""

    NONE = 0
    READ = enum.auto()  # of memory that others may write
    WRITE = enum.auto()  # of memory
    SYNC = enum.auto()  # orders other effects
    DEBUG = enum.auto()  # is seen by a person, or stops the kernel


class Role(enum.Enum):
    """What a field of an instruction holds."""

    OPERAND = "operand"
    OPERANDS = "operands"
    SCALAR = "scalar"
    SCALARS = "scalars"
    ATTRIBUTE = "attribute"


ROLES: dict[Any, Role] = {
    Value: Role.OPERAND,
    Value | None: Role.OPERAND,
    tuple[Value, ...]: Role.OPERANDS,
    Expr: Role.SCALAR,
    Expr | None: Role.SCALAR,
    tuple[Expr, ...]: Role.SCALARS,
    tuple[Expr, ...] | None: Role.SCALARS,
}

REGISTRY: dict[str, type[Inst]] = {}

Layouts = dict[str, Layout]  # by operand field ("a", or "tiles.0" in a tuple) and "result"


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
class Inst:
    """One instruction."""

    opcode: ClassVar[str] = ""
    effects: ClassVar[Effect] = Effect.NONE
    reads: ClassVar[tuple[str, ...]] = ()  # operand fields whose memory is read
    writes: ClassVar[tuple[str, ...]] = ()  # operand fields whose memory is written
    threads: ClassVar[bool] = False  # interpret() sees threads and slots, not logical tiles
    is_barrier: ClassVar[bool] = False  # all threads of the block meet here

    def __init_subclass__(
        cls,
        *,
        opcode: str = "",
        effects: Effect = Effect.NONE,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        threads: bool = False,
    ) -> None:
        dataclass(frozen=True, eq=False, repr=False)(cls)
        if not opcode:  # a family's shared base class
            return
        if opcode in REGISTRY:
            raise TypeError(f"opcode {opcode!r} is already {REGISTRY[opcode].__qualname__}")
        cls.opcode, cls.reads, cls.writes, cls.threads = opcode, reads, writes, threads
        cls.effects = effects
        cls.effects |= Effect.READ if reads else Effect.NONE
        cls.effects |= Effect.WRITE if writes else Effect.NONE
        REGISTRY[opcode] = cls

    def infer(self) -> Type | None:
        """Check the operands and attributes; return the result's type."""
        raise NotImplementedError

    def interpret(self, *operands: Any, **_: Any) -> Any:
        """The meaning, in NumPy. Called with the operands that are not None, in field order.

        Without `threads`, tiles arrive as arrays of their shape and the result is one, both of the
        element type's `value_dtype`. With `threads=True` the first argument is the running block
        (`tilus.ir.interpreter.Block`) and tiles arrive as `RegisterTile`s.
        """
        raise NotImplementedError

    def layouts(self, known: Layouts, target: Target, num_threads: int) -> Layouts:
        """Layouts that follow from the known ones; may repeat what is known, never guess."""
        return {}

    def default_layout(self, known: Layouts, target: Target, num_threads: int) -> Layout | None:
        """The result's layout when nothing forces one; None: cannot say yet."""
        return None

    @classmethod
    @cache
    def roles(cls) -> dict[str, Role]:
        """Each field's role, in the order of the fields."""
        hints = get_type_hints(cls)
        return {
            f.name: ROLES.get(hints[f.name], Role.ATTRIBUTE)
            for f in fields(cls)  # type: ignore[arg-type]
        }

    @classmethod
    @cache
    def hints(cls) -> dict[str, Any]:
        """Each field's type."""
        hints = get_type_hints(cls)
        return {f.name: hints[f.name] for f in fields(cls)}  # type: ignore[arg-type]

    def operands(self) -> Iterator[tuple[str, Value]]:
        """(field, value) of each tile, memory or pointer operand; tuples as `field.0`, ..."""
        for name, role in self.roles().items():
            x = getattr(self, name)
            if role is Role.OPERAND and x is not None:
                yield name, x
            elif role is Role.OPERANDS:
                yield from ((f"{name}.{i}", v) for i, v in enumerate(x))

    def tile_operands(self) -> Iterator[tuple[str, Value]]:
        """(field, value) of each register tile operand."""
        for name, v in self.operands():
            if isinstance(v.type, TileType):
                yield name, v
        for name, role in self.roles().items():  # a scalar operand that may also be a tile
            x = getattr(self, name)
            xs = [(name, x)] if role is Role.SCALAR else []
            if role is Role.SCALARS:
                xs = [(f"{name}.{i}", e) for i, e in enumerate(x or ())]
            for n, e in xs:
                if isinstance(e, Value) and isinstance(e.type, TileType):
                    yield n, e

    def scalars(self) -> Iterator[Expr]:
        """Each scalar operand."""
        for name, role in self.roles().items():
            x = getattr(self, name)
            if role is Role.SCALAR and x is not None:
                yield x
            elif role is Role.SCALARS and x is not None:
                yield from x

    def attributes(self) -> dict[str, Any]:
        """The attribute fields."""
        return {n: getattr(self, n) for n, r in self.roles().items() if r is Role.ATTRIBUTE}

    def map(self, fn: Callable[[Expr], Expr]) -> Self:
        """The same instruction with every operand, tile or scalar, passed through `fn`."""
        changed: dict[str, Any] = {}
        for name, role in self.roles().items():
            x = getattr(self, name)
            if x is None or role is Role.ATTRIBUTE:
                continue
            if role in (Role.OPERAND, Role.SCALAR):
                new: Any = fn(x)
                same = new is x
            else:
                new = tuple(fn(e) for e in x)
                same = all(p is q for p, q in zip(new, x, strict=True))
            if not same:
                changed[name] = new
        return replace(self, **changed) if changed else self  # type: ignore[type-var]

    def with_operands(self, new: dict[str, Value]) -> Self:
        """The same instruction with other operands, by the names `tile_operands` gives them."""
        changed: dict[str, Any] = {}
        for name, role in self.roles().items():
            x = getattr(self, name)
            if name in new:
                changed[name] = new[name]
            elif role in (Role.OPERANDS, Role.SCALARS) and x is not None:
                changed[name] = tuple(new.get(f"{name}.{i}", e) for i, e in enumerate(x))
        return replace(self, **changed)  # type: ignore[type-var]

    def __repr__(self) -> str:
        inner = ", ".join(f"{n}={getattr(self, n)!r}" for n in self.roles())
        return f"{self.opcode}({inner})"


def check_tile(inst: Inst, name: str, kinds: str = "any") -> TileType:
    """The type of operand `name`, which must be a register tile."""
    value = getattr(inst, name)
    if not isinstance(value, Value) or not isinstance(value.type, TileType):
        what = value.type if isinstance(value, Expr) else value
        raise TilusTypeError(
            f"{inst.opcode}: `{name}` must be a register tile, not {what}",
            help="`tilus.full` makes a tile of a scalar; `load_global` and `load_shared` read one"
            if isinstance(value, Expr)
            else None,
        )
    return value.type


def born(*values: Expr) -> list[tuple[Any, str]]:
    """Notes that say where each value got its type."""
    return [(v.span, f"this is {v.type}") for v in values if isinstance(v, Value) and v.span]
