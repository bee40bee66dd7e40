"""What is known of scalars before a kernel runs: bounds and divisors.

`Facts(low, high, divisor)`: the value lies in [low, high] and is a multiple of `divisor` (0: it is
0). They come from parameters, loop extents, constants and promises, and are carried through
expressions. Where arithmetic may wrap, only powers of two stay divisors and the bounds are lost.

    let %row = block_idx(0) * 64        [0, 2**31-1]      multiple of 64
    for %k < %n // 32 ...               [0, n//32 - 1]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tilus import dtypes
from tilus.dtypes import DType
from tilus.ir.expr import Apply, Const, Expr, GridIndex, Value, apply, kind_of
from tilus.ir.expr import walk as walk_expr
from tilus.ir.program import For, Function, Let, walk

I32_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Facts:
    """Bounds (inclusive) and a divisor of an integer scalar."""

    low: int
    high: int
    divisor: int = 1

    @property
    def constant(self) -> int | None:
        """The value, when it is certain."""
        return self.low if self.low == self.high else None

    def is_multiple_of(self, n: int) -> bool:
        """Whether `n` certainly divides the value."""
        return self.divisor % n == 0


def anything(dtype: DType) -> Facts:
    """Nothing but the type is known."""
    return Facts(int(dtype.min), int(dtype.max)) if kind_of(dtype) == "i" else Facts(0, 1)


class Analysis:
    """Facts about the scalars of one function."""

    def __init__(self, f: Function) -> None:
        self.of_value: dict[Value, Facts] = {}
        self.lets: dict[Value, Expr] = {}
        self.extents: dict[Value, Expr] = {}  # of loops, by their index
        for p in f.params:
            if kind_of(p.value.dtype) == "i":
                known = anything(p.value.dtype)
                self.of_value[p.value] = Facts(known.low, known.high, p.divisible)
        for s in walk(f.body):
            if isinstance(s, Let):
                self.let(s)
            elif isinstance(s, For):
                self.loop(s)

    def let(self, s: Let) -> None:
        """Learn from a `let`."""
        self.of_value[s.var] = self.facts(s.expr)
        self.lets[s.var] = s.expr

    def loop(self, s: For) -> None:
        """Learn from a loop's extent."""
        self.extents[s.index] = s.extent
        self.of_value[s.index] = Facts(0, max(0, self.facts(s.extent).high - 1))

    def facts(self, e: Expr) -> Facts:
        """What is known of an integer expression (of a bool: 0 or 1)."""
        if isinstance(e, Const):
            if not isinstance(e.value, (int, bool)):
                return anything(e.dtype)
            return Facts(int(e.value), int(e.value), abs(int(e.value)))
        if isinstance(e, Value):
            return self.of_value.get(e) or anything(e.dtype)
        if isinstance(e, GridIndex):
            return Facts(0 if e.kind == "block_idx" else 1, I32_MAX)
        assert isinstance(e, Apply)
        if kind_of(e.dtype) == "f" or any(kind_of(a.dtype) == "f" for a in e.args):
            return anything(e.dtype)
        limits = anything(e.dtype)
        known = [self.facts(a) for a in e.args]
        if e.op == "cast" and e.dtype == dtypes.bool_:  # != 0
            return limits if known[0].low <= 0 <= known[0].high else Facts(1, 1)
        exact = _transfer(e.op, known)
        if exact is None:
            return limits
        if limits.low <= exact.low and exact.high <= limits.high:
            return exact
        return Facts(limits.low, limits.high, exact.divisor & -exact.divisor)

    def difference(self, a: Expr, b: Expr) -> int | None:
        """a - b when it is certain."""
        left, right = self.linear(a), self.linear(b)
        terms = {k: left[0].get(k, 0) - right[0].get(k, 0) for k in left[0] | right[0]}
        return None if any(terms.values()) else left[1] - right[1]

    def unfolded(self, e: Expr) -> Expr:
        """The expression a `let` names; anything else as it is."""
        while isinstance(e, Value) and e in self.lets:
            e = self.lets[e]
        return e

    def inputs(self, e: Expr) -> set[Value]:
        """The values an expression is computed from, `let`s unfolded."""
        found = (self.unfolded(x) for x in walk_expr(e) if isinstance(x, Value))
        return {v for x in found for v in ((x,) if isinstance(x, Value) else self.inputs(x))}

    def linear(self, e: Expr) -> tuple[dict[Expr, int], int]:
        """An integer expression as {term: factor} and a constant, modulo wrap-around."""
        e = self.unfolded(e)
        if isinstance(e, Const) and isinstance(e.value, int):
            return {}, int(e.value)
        if isinstance(e, Apply) and e.op in ("add", "sub"):
            (a, x), (b, y) = self.linear(e.args[0]), self.linear(e.args[1])
            sign = 1 if e.op == "add" else -1
            return {k: a.get(k, 0) + sign * b.get(k, 0) for k in a | b}, x + sign * y
        if isinstance(e, Apply) and e.op == "mul":
            for factor, other in (e.args, e.args[::-1]):
                if isinstance(factor, Const):
                    terms, c = self.linear(other)
                    n = int(factor.value)
                    return {k: v * n for k, v in terms.items()}, c * n
        if isinstance(e, Apply) and e.op == "multiple_of":
            return self.linear(e.args[0])
        return {e: 1}, 0

    def is_inside(self, offset: Expr, length: int, extent: Expr) -> bool:
        """Whether [offset, offset + length) certainly lies in [0, extent).

        The extent is taken to be exact: no view is larger than its index type can say.
        """
        (a, x), (b, y) = self.linear(extent), self.linear(offset)
        room = {k: a.get(k, 0) - b.get(k, 0) for k in a | b}
        return self._is_not_negative(b, y) and self._is_not_negative(room, x - y - length)

    def is_not_negative(self, e: Expr) -> bool:
        """Whether an integer expression is certainly at least 0."""
        return self._is_not_negative(*self.linear(e))

    def _is_not_negative(self, terms: dict[Expr, int], constant: int, depth: int = 8) -> bool:
        """Whether a sum of terms is certainly at least 0.

        A term that counts against it is replaced by the largest value it can have: a block's index
        by the grid's extent - 1, a loop's index by the loop's extent - 1, x // n by x / n, a
        minimum by either operand.
        """
        terms = {k: v for k, v in terms.items() if v}
        worst = constant
        for k, v in terms.items():
            known = self.facts(k)
            worst += v * (known.low if v > 0 else known.high)
        if worst >= 0:
            return True
        if depth == 0:
            return False
        for k, v in terms.items():
            rest = {t: n for t, n in terms.items() if t != k}
            for factor, bound, offset in self._upper_bounds(k, v) if v < 0 else ():
                more = _plus(rest, constant + offset, factor, self.linear(bound))
                if self._is_not_negative(*more, depth - 1):
                    return True
        return False

    def _upper_bounds(self, k: Expr, v: int) -> Iterator[tuple[int, Expr, int]]:
        """(f, e, c) such that v * k, with a negative v, is at least f * e + c."""
        if isinstance(k, GridIndex) and k.kind == "block_idx":
            yield v, GridIndex("grid_dim", k.axis), -v
        elif isinstance(k, Value) and k in self.extents:
            yield v, self.extents[k], -v
        elif isinstance(k, Apply) and k.op == "min":
            yield from ((v, a, 0) for a in k.args)
        elif isinstance(k, Apply) and k.op == "floordiv":
            n = k.args[1]
            if isinstance(n, Const) and int(n.value) > 0 and v % int(n.value) == 0:
                yield v // int(n.value), k.args[0], 0

    def can_trap(self, e: Expr) -> bool:
        """Whether evaluating it may divide by zero, shift too far or break a promise."""
        if not isinstance(e, Apply):
            return False
        if e.op in ("floordiv", "mod"):
            d = self.facts(e.args[1])
            if d.low <= 0 <= d.high:
                return True
        if e.op in ("shl", "shr"):
            d = self.facts(e.args[1])
            if d.low < 0 or d.high > 63:
                return True
        if e.op == "div" and not (isinstance(e.args[1], Const) and e.args[1].value != 0):
            return True
        if e.op == "multiple_of" and not self.facts(e.args[0]).is_multiple_of(_const(e.args[1])):
            return True
        return any(self.can_trap(a) for a in e.args)


def _plus(
    terms: dict[Expr, int], constant: int, factor: int, more: tuple[dict[Expr, int], int]
) -> tuple[dict[Expr, int], int]:
    """A sum with `factor` times another one added."""
    out = dict(terms)
    for k, v in more[0].items():
        out[k] = out.get(k, 0) + factor * v
    return out, constant + factor * more[1]


def _const(e: Expr) -> int:
    assert isinstance(e, Const)
    return int(e.value)


def _transfer(op: str, args: list[Facts]) -> Facts | None:
    """Facts of the exact (unwrapped) result."""
    a, *rest = args
    b = rest[0] if rest else a
    match op:
        case "add":
            return Facts(a.low + b.low, a.high + b.high, math.gcd(a.divisor, b.divisor))
        case "sub":
            return Facts(a.low - b.high, a.high - b.low, math.gcd(a.divisor, b.divisor))
        case "mul":
            ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
            return Facts(min(ends), max(ends), a.divisor * b.divisor)
        case "neg":
            return Facts(-a.high, -a.low, a.divisor)
        case "abs":
            low = 0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
            return Facts(low, max(abs(a.low), abs(a.high)), a.divisor)
        case "min":
            return Facts(min(a.low, b.low), min(a.high, b.high), math.gcd(a.divisor, b.divisor))
        case "max":
            return Facts(max(a.low, b.low), max(a.high, b.high), math.gcd(a.divisor, b.divisor))
        case "floordiv" if b.constant:
            n = b.constant
            ends = [a.low // n, a.high // n]
            divisor = a.divisor // abs(n) if a.divisor % abs(n) == 0 else 1
            return Facts(min(ends), max(ends), divisor)
        case "mod" if b.constant:
            n = b.constant
            if n > 0 and 0 <= a.low and a.high < n:
                return a
            low, high = (0, n - 1) if n > 0 else (n + 1, 0)
            common = math.gcd(a.divisor, abs(n))
            if common == abs(n):
                return Facts(0, 0, 0)
            return Facts(low, high, common)
        case "shl" if b.constant is not None and 0 <= b.constant < 64:
            n = 1 << b.constant
            return Facts(a.low * n, a.high * n, a.divisor * n)
        case "shr" if b.constant is not None and 0 <= b.constant < 64:
            n = 1 << b.constant
            return Facts(a.low // n, a.high // n, a.divisor // n if a.divisor % n == 0 else 1)
        case "select":
            x, y = rest
            return Facts(min(x.low, y.low), max(x.high, y.high), math.gcd(x.divisor, y.divisor))
        case "cast":
            return a
        case "multiple_of":
            n = b.constant or 1
            return Facts(a.low, a.high, math.lcm(a.divisor, n) if a.divisor else 0)
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
            truth = _compare(op, a, b)
            return None if truth is None else Facts(int(truth), int(truth), int(truth))
    return None


def _compare(op: str, a: Facts, b: Facts) -> bool | None:
    """The truth of a comparison, when it is certain."""
    match op:
        case "lt":
            return True if a.high < b.low else False if a.low >= b.high else None
        case "le":
            return True if a.high <= b.low else False if a.low > b.high else None
        case "gt" | "ge":
            return _compare("lt" if op == "gt" else "le", b, a)
        case "eq":
            if a.constant is not None and a.constant == b.constant:
                return True
            return False if a.high < b.low or b.high < a.low else None
        case "ne":
            equal = _compare("eq", a, b)
            return None if equal is None else not equal
    return None


def row_major_strides(shape: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Strides of a dense row-major view, as expressions."""
    strides: list[Expr] = [Const(1, dtypes.i32)]
    for extent in reversed(shape[1:]):
        strides.append(apply("mul", extent, strides[-1]))
    return tuple(reversed(strides))
