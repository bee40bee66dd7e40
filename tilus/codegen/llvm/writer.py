"""Writing LLVM IR as text: typed values, instructions, blocks, and what a module needs besides.

A `V` is a typed SSA value or constant. `Writer` appends instructions to the current block and gives
each result a stable name made from a hint (`%acc.12`), so that a diff of two outputs stays local.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tilus.dtypes import DType

I1, I8, I16, I32, I64 = "i1", "i8", "i16", "i32", "i64"
HALF, BFLOAT, FLOAT, DOUBLE, PTR, VOID = "half", "bfloat", "float", "double", "ptr", "void"

BITS = {I1: 1, I8: 8, I16: 16, I32: 32, I64: 64, HALF: 16, BFLOAT: 16, FLOAT: 32, DOUBLE: 64}


@dataclass(frozen=True, slots=True)
class V:
    """A value: its LLVM type, and its name or constant."""

    type: str
    ref: str

    def __str__(self) -> str:
        return f"{self.type} {self.ref}"

    @property
    def lanes(self) -> int:
        """How many elements a vector has; 1 for a scalar."""
        m = re.match(r"<(\d+) x ", self.type)
        return int(m[1]) if m else 1

    @property
    def element(self) -> str:
        """The element type of a vector; a scalar's own."""
        m = re.match(r"<\d+ x (.*)>$", self.type)
        return m[1] if m else self.type


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements."""
    return f"<{lanes} x {element}>"


def element_type(dtype: DType) -> str:
    """The LLVM type that holds one value in a register; codes of narrow types lie in an i8.

    bf16 is held as its bits: machines without it would take vectors of it apart.
    """
    names = {"f16": HALF, "bf16": I16, "f32": FLOAT, "tf32": FLOAT, "f64": DOUBLE, "bool": I1}
    if dtype.name in names:
        return names[dtype.name]
    return f"i{max(8, dtype.bits)}"


def constant(type_: str, value: float | int | bool) -> V:
    """A scalar constant, or a vector of one."""
    element = V(type_, "").element
    if element == I1:
        text = "true" if value else "false"
    elif element.startswith("i"):
        text = str(int(value))
    else:
        text = float_text(element, float(value))
    if element == type_:
        return V(type_, text)
    return V(type_, f"splat ({element} {text})")


def float_text(element: str, value: float) -> str:
    """A float constant: LLVM takes every one as the bits of a double that is exact in the type."""
    if element == HALF:
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    if element == BFLOAT:
        return f"0xR{struct.unpack('<I', struct.pack('<f', value))[0] >> 16:04X}"
    if element == FLOAT:
        value = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def values(element: str, numbers: Sequence[float | int | bool]) -> V:
    """A vector constant of these numbers."""
    inner = ", ".join(str(constant(element, n)) for n in numbers)
    return V(vector(element, len(numbers)), f"<{inner}>")


@dataclass
class Module:
    """Functions, declarations and tables of one compilation."""

    functions: list[str] = field(default_factory=list)
    declarations: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    helpers: dict[str, str] = field(default_factory=dict)  # internal functions, by name
    features: frozenset[str] = frozenset()  # of the machine, by LLVM's names: "avx512vbmi"

    def declare(self, result: str, name: str, arguments: Iterable[str]) -> None:
        """Make an external function or intrinsic known."""
        self.declarations[name] = f"declare {result} @{name}({', '.join(arguments)})"

    def table(self, element: str, numbers: Sequence[float | int], align: int = 64) -> V:
        """A constant array; equal ones are one."""
        inner = ", ".join(str(constant(element, n)) for n in numbers)
        body = (
            f"private unnamed_addr constant [{len(numbers)} x {element}] [{inner}], align {align}"
        )
        name = self.tables.setdefault(body, f"@table.{len(self.tables)}")
        return V(PTR, name)

    def text(self) -> str:
        """The module."""
        parts = [f"{name} = {body}" for body, name in self.tables.items()]
        parts += sorted(self.declarations.values())
        return "\n".join([*parts, "", *self.helpers.values(), *self.functions])


class Writer:
    """Appends to one function."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.lines: list[str] = []
        self.entry: list[str] = []  # allocas
        self.count = 0
        self.block = "entry"
        self.path: tuple[int, ...] = ()  # the branches and loops that are being written
        self.closed = False

    def name(self, hint: str = "t") -> str:
        """A fresh local name."""
        self.count += 1
        return f"%{re.sub(r'[^A-Za-z0-9_]', '_', hint) or 't'}.{self.count}"

    def line(self, text: str) -> None:
        """A statement without result. What follows a terminator cannot run and is left out."""
        if not self.closed:
            self.lines.append("  " + text)

    def comment(self, text: str) -> None:
        """A comment line."""
        if not self.closed:
            self.lines.append(f"  ; {text}")

    def op(self, type_: str, text: str, hint: str = "t") -> V:
        """An instruction and its result."""
        name = self.name(hint)
        self.line(f"{name} = {text}")
        return V(type_, name)

    # regions and blocks

    @contextmanager
    def nested(self) -> Iterator[None]:
        """What is written inside runs only on some paths, or several times."""
        outer = self.path
        self.count += 1
        self.path = (*outer, self.count)
        try:
            yield
        finally:
            self.path = outer

    def label(self, name: str) -> None:
        """Begin a block; control falls into it from the one before."""
        self.goto(name)
        self.lines.append(f"{name}:")
        self.block, self.closed = name, False

    def fresh_label(self, hint: str) -> str:
        """A name for a block."""
        return self.name(hint)[1:]

    def goto(self, label: str) -> None:
        """End the block with a jump."""
        self.line(f"br label %{label}")
        self.closed = True

    def branch(self, cond: V, then: str, otherwise: str) -> None:
        """End the block with a choice."""
        self.line(f"br {cond}, label %{then}, label %{otherwise}")
        self.closed = True

    def ret(self) -> None:
        """End the function."""
        self.line("ret void")
        self.closed = True

    # memory

    def alloca(self, type_: str, count: int = 1, align: int = 64, hint: str = "slot") -> V:
        """Memory of the function's own."""
        name = self.name(hint)
        size = f", i64 {count}" if count != 1 else ""
        self.entry.append(f"  {name} = alloca {type_}{size}, align {align}")
        return V(PTR, name)

    def load(self, type_: str, pointer: V, align: int, hint: str = "v") -> V:
        """Read memory."""
        return self.op(type_, f"load {type_}, {pointer}, align {align}", hint)

    def store(self, value: V, pointer: V, align: int) -> None:
        """Write memory."""
        self.line(f"store {value}, {pointer}, align {align}")

    def gep(self, pointer: V, offset: V, element: str = I8) -> V:
        """`pointer` moved on by `offset` elements."""
        if offset.ref == "0":
            return pointer
        return self.op(PTR, f"getelementptr {element}, {pointer}, {offset}", "p")

    # arithmetic

    def binary(self, opcode: str, a: V, b: V, hint: str = "t") -> V:
        """`opcode a, b`; integer constants are folded where that is plain."""
        folded = _fold(opcode, a, b)
        if folded is not None:
            return folded
        return self.op(a.type, f"{opcode} {a}, {b.ref}", hint)

    def compare(self, kind: str, predicate: str, a: V, b: V) -> V:
        """`icmp` or `fcmp`."""
        result = vector(I1, a.lanes) if a.type.startswith("<") else I1
        return self.op(result, f"{kind} {predicate} {a}, {b.ref}", "c")

    def select(self, cond: V, a: V, b: V) -> V:
        """`a` where `cond`, else `b`."""
        return self.op(a.type, f"select {cond}, {a}, {b}")

    def cast(self, opcode: str, x: V, element: str) -> V:
        """A conversion instruction to another element type."""
        to = vector(element, x.lanes) if x.type.startswith("<") else element
        if to == x.type:
            return x
        return self.op(to, f"{opcode} {x} to {to}")

    def bitcast(self, x: V, type_: str) -> V:
        """The same bits as another type."""
        return x if x.type == type_ else self.op(type_, f"bitcast {x} to {type_}")

    def call(self, result: str, name: str, *arguments: V) -> V:
        """Call a function or intrinsic."""
        self.module.declare(result, name, (a.type for a in arguments))
        inner = ", ".join(map(str, arguments))
        if result == VOID:
            self.line(f"call void @{name}({inner})")
            return V(VOID, "")
        return self.op(result, f"call {result} @{name}({inner})")

    # vectors

    def splat(self, x: V, lanes: int) -> V:
        """A vector of one value."""
        type_ = vector(x.type, lanes)
        if not x.ref.startswith("%"):
            return V(type_, f"splat ({x})")
        one = self.op(type_, f"insertelement {type_} poison, {x}, i64 0")
        return self.shuffle(one, one, [0] * lanes)

    def shuffle(self, a: V, b: V | None, mask: Sequence[int]) -> V:
        """Lanes of `a` and `b` by number; -1 is anything."""
        if b is None and list(mask) == list(range(a.lanes)):
            return a
        inner = ", ".join(f"i32 {'poison' if m < 0 else m}" for m in mask)
        other = V(a.type, "poison") if b is None or b is a else b
        type_ = vector(a.element, len(mask))
        return self.op(type_, f"shufflevector {a}, {other}, <{len(mask)} x i32> <{inner}>")

    def extract(self, x: V, lane: int) -> V:
        """One lane."""
        return self.op(x.element, f"extractelement {x}, i64 {lane}")

    def part(self, x: V, start: int, lanes: int) -> V:
        """`lanes` lanes from `start` on."""
        if start == 0 and lanes == x.lanes:
            return x
        return self.shuffle(x, None, range(start, start + lanes))

    def join(self, parts: Sequence[V]) -> V:
        """Vectors of one length, one after the other."""
        row = list(parts)
        while len(row) > 1:
            merged = []
            for a, b in zip(row[::2], row[1::2], strict=False):
                wide = max(a.lanes, b.lanes)
                a, b = self._padded(a, wide), self._padded(b, wide)
                merged.append((a, b))
            rest = row[-1:] if len(row) % 2 else []
            sizes = [(x.lanes, y.lanes) for x, y in zip(row[::2], row[1::2], strict=False)]
            row = [
                self.shuffle(a, b, [*range(n), *range(a.lanes, a.lanes + m)])
                for (a, b), (n, m) in zip(merged, sizes, strict=True)
            ] + rest
        return row[0]

    def _padded(self, x: V, lanes: int) -> V:
        if x.lanes == lanes:
            return x
        return self.shuffle(x, None, [*range(x.lanes), *[-1] * (lanes - x.lanes)])


def _fold(opcode: str, a: V, b: V) -> V | None:
    """Constant integer arithmetic, and identities that keep the text short."""
    if not re.fullmatch(r"i\d+", a.type):
        return None
    x = int(a.ref) if re.fullmatch(r"-?\d+", a.ref) else None
    y = int(b.ref) if re.fullmatch(r"-?\d+", b.ref) else None
    base = opcode.split()[0]
    if x is not None and y is not None and base in ("add", "sub", "mul"):
        return V(a.type, str({"add": x + y, "sub": x - y, "mul": x * y}[base]))
    if base in ("add", "sub") and y == 0:
        return a
    if base == "add" and x == 0:
        return b
    if base == "mul" and (x == 1 or y == 1):
        return b if x == 1 else a
    if base == "mul" and (x == 0 or y == 0):
        return V(a.type, "0")
    return None
