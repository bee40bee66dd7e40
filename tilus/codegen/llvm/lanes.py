"""Values with operators: what the arithmetic of this folder is written in.

`Lanes(w, v)` stands for a scalar or a vector. An operator appends one instruction to `w`; numbers
become constants of the other side's type. The instruction follows the element type: `+` is `fadd`
or `add`. Integers carry no sign in LLVM, so `>>` is logical and `sar` arithmetic, and comparisons
say which they are: `lt` is signed (or of floats), `ult` unsigned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tilus.codegen.llvm.writer import BITS, V, Writer, constant, values, vector

_SHORT = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
_FLOATS = ("half", "bfloat", "float", "double")


def like(v: V, element: str) -> str:
    """The type of as many `element` as `v` has lanes; a scalar's if `v` is one."""
    return vector(element, v.lanes) if v.type.startswith("<") else element


def mangled(type_: str) -> str:
    """A type as the names of overloaded intrinsics spell it: `<16 x float>` as `v16f32`."""
    m = re.fullmatch(r"<(\d+) x (.*)>", type_)
    if m:
        return f"v{m[1]}{mangled(m[2])}"
    return _SHORT.get(type_, type_)


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """A value and the writer that its uses are appended to."""

    w: Writer
    v: V

    @property
    def element(self) -> str:
        """The element type."""
        return self.v.element

    @property
    def lanes(self) -> int:
        """How many elements there are."""
        return self.v.lanes

    @property
    def is_vector(self) -> bool:
        """Whether the type is a vector's, be it of one lane."""
        return self.v.type.startswith("<")

    @property
    def is_float(self) -> bool:
        """Whether the elements are floats."""
        return self.element in _FLOATS

    @property
    def bits(self) -> int:
        """The width of an element."""
        return BITS[self.element]

    def has(self, *features: str) -> bool:
        """Whether the machine has all of these features."""
        return self.w.module.features.issuperset(features)

    def of(self, value: Operand) -> Lanes:
        """A constant of this type; a value as it is."""
        if isinstance(value, Lanes):
            return value
        if not self.is_float:
            value = _wrapped(int(value), self.bits)
        return Lanes(self.w, constant(self.v.type, value))

    def filled(self, element: str, value: int | float) -> Lanes:
        """As many of a constant of another type."""
        return Lanes(self.w, V(like(self.v, element), "poison")).of(value)

    def each(self, numbers: Sequence[int]) -> Lanes:
        """A constant integer vector of this type with these lanes."""
        return Lanes(self.w, values(self.element, [_wrapped(n, self.bits) for n in numbers]))

    def _op(self, opcode: str, other: Operand, swap: bool = False) -> Lanes:
        a, b = self, self.of(other)
        if swap:
            a, b = b, a
        return Lanes(self.w, self.w.op(self.v.type, f"{opcode} {a.v}, {b.v.ref}"))

    # arithmetic

    def __add__(self, other: Operand) -> Lanes:
        return self._op("fadd" if self.is_float else "add", other)

    def __sub__(self, other: Operand) -> Lanes:
        return self._op("fsub" if self.is_float else "sub", other)

    def __rsub__(self, other: Operand) -> Lanes:
        return self._op("fsub" if self.is_float else "sub", other, swap=True)

    def __mul__(self, other: Operand) -> Lanes:
        return self._op("fmul" if self.is_float else "mul", other)

    def __truediv__(self, other: Operand) -> Lanes:
        return self._op("fdiv", other)

    def __rtruediv__(self, other: Operand) -> Lanes:
        return self._op("fdiv", other, swap=True)

    def __neg__(self) -> Lanes:
        if self.is_float:
            return Lanes(self.w, self.w.op(self.v.type, f"fneg {self.v}"))
        return 0 - self

    def fma(self, b: Operand, c: Operand) -> Lanes:
        """`self * b + c`, rounded once if the machine can, else twice."""
        b, c = self.of(b), self.of(c)
        if self.has("fma"):
            return self.call("fma", b, c)
        return self * b + c

    # bits

    def __and__(self, other: Operand) -> Lanes:
        return self._op("and", other)

    def __or__(self, other: Operand) -> Lanes:
        return self._op("or", other)

    def __xor__(self, other: Operand) -> Lanes:
        return self._op("xor", other)

    def __invert__(self) -> Lanes:
        return self ^ -1

    def __lshift__(self, count: Operand) -> Lanes:
        return self if count == 0 else self._op("shl", count)

    def __rshift__(self, count: Operand) -> Lanes:
        return self if count == 0 else self._op("lshr", count)

    def sar(self, count: Operand) -> Lanes:
        """Shifted right, the sign repeated."""
        return self._op("ashr", count)

    def as_int(self) -> Lanes:
        """The bits of floats as integers."""
        return self.as_element(f"i{self.bits}")

    def as_element(self, element: str) -> Lanes:
        """The bits of each element as another type of the same width."""
        return Lanes(self.w, self.w.bitcast(self.v, like(self.v, element)))

    # comparisons

    def _compare(self, real: str, integer: str, other: Operand) -> Lanes:
        kind, predicate = ("fcmp", real) if self.is_float else ("icmp", integer)
        return Lanes(self.w, self.w.compare(kind, predicate, self.v, self.of(other).v))

    def eq(self, other: Operand) -> Lanes:
        """Equal; NaN to nothing."""
        return self._compare("oeq", "eq", other)

    def ne(self, other: Operand) -> Lanes:
        """Not equal; NaN to anything."""
        return self._compare("une", "ne", other)

    def lt(self, other: Operand) -> Lanes:
        """Less; integers are signed."""
        return self._compare("olt", "slt", other)

    def le(self, other: Operand) -> Lanes:
        """Less or equal; integers are signed."""
        return self._compare("ole", "sle", other)

    def gt(self, other: Operand) -> Lanes:
        """Greater; integers are signed."""
        return self._compare("ogt", "sgt", other)

    def ge(self, other: Operand) -> Lanes:
        """Greater or equal; integers are signed."""
        return self._compare("oge", "sge", other)

    def ult(self, other: Operand) -> Lanes:
        """Less, of unsigned integers."""
        return self._compare("ult", "ult", other)

    def uge(self, other: Operand) -> Lanes:
        """Greater or equal, of unsigned integers."""
        return self._compare("uge", "uge", other)

    def is_nan(self) -> Lanes:
        """Whether a float is NaN."""
        return self._compare("uno", "ne", self)

    def select(self, a: Lanes, b: Operand) -> Lanes:
        """`a` where this i1 is true, else `b`."""
        return Lanes(self.w, self.w.select(self.v, a.v, a.of(b).v))

    # other types

    def cast(self, opcode: str, element: str) -> Lanes:
        """A conversion instruction; nothing if the element type is the same."""
        return Lanes(self.w, self.w.cast(opcode, self.v, element))

    def zext(self, element: str) -> Lanes:
        """Wider integers, filled with zeros."""
        return self.cast("zext", element)

    def resized(self, element: str, signed: bool = False) -> Lanes:
        """Integers made wider, or narrower by dropping high bits."""
        wider = BITS[element] > self.bits
        return self.cast(("sext" if signed else "zext") if wider else "trunc", element)

    # calls

    def call(self, name: str, *others: Lanes) -> Lanes:
        """The intrinsic `llvm.<name>`, overloaded on this type, which is also the result's."""
        return self.call_exactly(f"llvm.{name}.{mangled(self.v.type)}", *others)

    def call_exactly(self, name: str, *others: Lanes, result: str = "") -> Lanes:
        """The function `name` of this value and others; its result has this type or `result`."""
        arguments = [self.v, *(other.v for other in others)]
        return Lanes(self.w, self.w.call(result or self.v.type, name, *arguments))


Operand: TypeAlias = Lanes | int | float


def _wrapped(n: int, bits: int) -> int:
    """An integer as the signed one with the same low bits, which is how LLVM's text wants it."""
    n &= (1 << bits) - 1
    return n - (1 << bits) if bits > 1 and n >> (bits - 1) else n
