"""Loops: `for` over a range and `while` become loops of the kernel; other `for`s are unrolled.

Which types the variables have that an iteration hands to the next is not known before its body is
translated. So the body is translated on a guess, and again on a better one until what it hands on
fits: a Python number starts as an i32, f32 or bool; a variable whose types disagree for good cannot
be read where they meet, and reading it there is the error.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tilus import dtypes
from tilus.errors import Span, TilusError, TilusSyntaxError, TilusTypeError
from tilus.ir.builder import Block, append, at, building, emit
from tilus.ir.expr import Const, Expr, Value, apply
from tilus.ir.instructions.tiles import Full
from tilus.ir.program import Break, Continue, For, If, Seq, Stmt, While, Yield
from tilus.ir.types import ScalarType, TileType, Type
from tilus.lang.bounds import Bounds, bounds_of
from tilus.lang.frame import Flow, holds_made_here
from tilus.lang.liveness import Names, assigned, breaks
from tilus.lang.statements import Statements
from tilus.lang.values import (
    Binding,
    Conflict,
    Fixed,
    Group,
    Leaf,
    Missing,
    Range,
    Shape,
    conflicting,
    fixed,
    leaf_types,
    leaves,
    lifted,
    meet,
    name_type,
    rebuild,
)


class Late(Shape):
    """A variable that gets its first value inside the loop."""


class Dropped(Shape):
    """A variable that has no value after the loop, or not on every way out of it."""


@dataclass
class Loop:
    """A loop that is being translated."""

    node: ast.For | ast.While
    runtime: bool
    depth: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    late: frozenset[str] = frozenset()  # those that have no value before the loop
    unborn: Names = frozenset()  # those that may be read only after the body has assigned them
    flag: str = ""  # the variable that says that a `break` was taken, for an `else`
    args: dict[str, list[Value]] = field(default_factory=dict)
    pending: dict[str, Shape] = field(default_factory=dict)
    exits: frozenset[str] = frozenset({"yield", "continue", "break"})  # what may end the loop
    broke: bool = False  # by a `break` of the user's
    left: bool = False  # by any
    before: dict[str, Binding] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    cond: Any = True  # of a `while`
    notes: dict[str, list[tuple[Span, str]]] = field(default_factory=dict)


class Translator(Statements):
    """A function's translation, complete."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loops: list[Loop] = []

    # jumps

    def _Break(self, s: ast.Break) -> Flow:
        loop = self.innermost(s, "break")
        loop.broke = True
        if not loop.runtime:
            return Flow.BREAK
        if loop.flag:
            self.env[loop.flag] = Binding(True, self.span(s))
        append(Break(self.edge(loop, "break"), span=self.span(s)))
        return Flow.DEAD

    def _Continue(self, s: ast.Continue) -> Flow:
        loop = self.innermost(s, "continue")
        if not loop.runtime:
            return Flow.CONTINUE
        append(Continue(self.edge(loop, "continue"), span=self.span(s)))
        return Flow.DEAD

    def innermost(self, s: ast.stmt, word: str) -> Loop:
        """The loop that a `break` or `continue` belongs to."""
        loop = self.loops[-1]
        if not loop.runtime and self.depth != loop.depth:
            raise TilusSyntaxError(
                f"a `{word}` of an unrolled loop cannot depend on a run-time condition",
                self.span(s),
                [(self.head(loop.node), "this loop is unrolled at compile time")],
                "loop over `range` or `tilus.range`, or put the rest of the body under the `if`",
            )
        return loop

    # for

    def _For(self, s: ast.For) -> Flow:
        bounds = self.expr(s.iter)
        if isinstance(bounds, (range, Range)):
            with at(self.span(s.iter)):
                return self.for_range(s, bounds_of(bounds))
        return self.unroll(s, self.iterate(bounds, s.iter))

    def unroll(self, s: ast.For, items: Iterable[Any]) -> Flow:
        """Translate the body once for each element."""
        loop = Loop(s, runtime=False, depth=self.depth)
        for x in items:
            self.assign(s.target, x, s.iter)
            self.loops.append(loop)
            try:
                flow = self.block(s.body)
            finally:
                self.loops.pop()
            if flow is Flow.BREAK:
                return Flow.NEXT
            if flow in (Flow.RETURN, Flow.DEAD):
                return flow
        return self.block(s.orelse)

    def for_range(self, s: ast.For, bounds: Bounds) -> Flow:
        """A loop of the kernel."""
        if not isinstance(s.target, ast.Name):
            if isinstance(s.target, (ast.Tuple, ast.List)):
                raise TilusTypeError(
                    "the numbers of a range cannot be unpacked", self.span(s.target)
                )
            self.assign(s.target, None, s.iter)
        if bounds.count == 0:
            return self.block(s.orelse)
        assert isinstance(s.target, ast.Name)
        name, place = s.target.id, self.span(s.target)
        indices: list[Value] = []

        def body(loop: Loop) -> Flow:
            index = Value(ScalarType(bounds.extent.dtype), name, place)
            index.name = name if bounds.at(index) is index else f"{name}_index"
            indices.append(index)
            with at(place, name):
                self.bind(name, bounds.at(index), place)
            return self.block(s.body)

        def make(loop: Loop, inits: Values, block: Block, results: Values) -> Stmt:
            args = tuple(a for n in loop.shapes for a in loop.args.get(n, ()))
            r = tuple(v for v in results if isinstance(v, Value))
            return For(
                indices[-1], bounds.extent, args, inits, block.seq(), r,
                bounds.unroll, bounds.stages, span=self.head(s),
            )  # fmt: skip

        certain = bounds.count is not None
        return self.loop(s, body, make, certain, ())

    # while

    def _While(self, s: ast.While) -> Flow:
        def body(loop: Loop) -> Flow:
            before = dict(self.env)
            with building() as scratch:
                cond = self.truth(s.test)
            if not isinstance(cond, Expr):
                loop.cond = cond
                if not cond:
                    return Flow.DEAD
                for stmt in scratch.stmts:
                    append(stmt)
            elif not scratch.stmts and before == self.env:
                loop.cond = cond  # the loop may end before its first iteration
                for name in loop.late & self.live.head[s]:
                    if not isinstance(loop.shapes[name], Dropped):
                        loop.pending[name] = Dropped()
            else:
                for stmt in scratch.stmts:
                    append(stmt)
                leave = Break(self.edge(loop, "break"), span=self.span(s.test))
                append(If(apply("not", cond), Seq((leave,)), span=self.span(s.test)))
                loop.cond = True
            return self.block(s.body)

        def make(loop: Loop, inits: Values, block: Block, results: Values) -> Stmt:
            args = tuple(a for n in loop.shapes for a in loop.args.get(n, ()))
            r = tuple(v for v in results if isinstance(v, Value))
            cond = loop.cond if isinstance(loop.cond, Expr) else Const(True, dtypes.bool_)
            return While(cond, args, inits, block.seq(), r, span=self.head(s))

        return self.loop(s, body, make, True, (s.test,))

    # both

    def loop(
        self,
        s: ast.For | ast.While,
        body: Callable[[Loop], Flow],
        make: Callable[[Loop, Values, Block, Values], Stmt],
        certain: bool,
        parts: tuple[ast.AST, ...],
    ) -> Flow:
        """Translate a loop; `certain`: its body (or condition) runs at least once."""
        flag = f"<broke {s.lineno}>" if s.orelse and breaks(s.body) else ""
        if flag:
            self.env[flag] = Binding(False, self.head(s))
        target = [s.target] if isinstance(s, ast.For) else []
        written = assigned([*parts, *target, *s.body])
        live = self.live.head[s] | self.live.after[s]
        names = [n for n in written if n in live] + ([flag] if flag else [])
        bound = {n for n in names if n in self.env and self.env[n].present}
        only_breaks = frozenset(names) - self.live.head[s]
        late = frozenset(n for n in names if n not in bound and (certain or n in only_breaks))
        shapes = {
            n: lifted(fixed(self.env[n].value)) if n in bound else Late()
            for n in names
            if n in bound or n in late
        }
        loop, block = self.settle(s, shapes, late, body)
        if loop.cond is False and not loop.broke and isinstance(s, ast.While):
            self.env.pop(flag, None)
            self.truth(s.test)  # for what it assigns
            return self.block(s.orelse)
        return self.finish(s, loop, block, make, written)

    def settle(
        self,
        s: ast.For | ast.While,
        shapes: dict[str, Shape],
        late: Names,
        body: Callable[[Loop], Flow],
    ) -> tuple[Loop, Block]:
        """Translate the body until what it hands on fits what it was given."""
        notes: dict[str, list[tuple[Span, str]]] = {}
        tried_numbers = False
        refined: set[str] = set()  # variables found not to change after all
        for _ in range(8 + 4 * len(shapes)):  # a type moves on by one variable in each trial
            loop = self.new_loop(s, shapes, late, notes)
            try:
                block = self.attempt(loop, body)
            except TilusError as error:
                guesses = {n: x for n, x in shapes.items() if _is_guess(x)}
                if not guesses or tried_numbers:
                    raise
                tried_numbers = True
                better = self.from_numbers(s, shapes, late, notes, body, guesses)
                if better is None:
                    raise error
                shapes = better
                continue
            constant = {n for n, args in loop.args.items() if args} - loop.changed - late - refined
            if not loop.pending and not constant:
                return loop, block
            refined |= constant
            shapes = {**shapes, **{n: fixed(self.env[n].value) for n in constant}, **loop.pending}
        raise AssertionError("the types of a loop's variables do not settle")

    def new_loop(
        self, s: ast.For | ast.While, shapes: dict[str, Shape], late: Names,
        notes: dict[str, list[tuple[Span, str]]],
    ) -> Loop:  # fmt: skip
        """The state of one trial."""
        loop = Loop(s, True, self.depth, shapes, late, notes=notes, before=self.env)
        loop.unborn = frozenset(n for n in assigned([s]) if n not in shapes and n not in self.env)
        loop.flag = next((n for n in shapes if n[0] == "<"), "")
        if isinstance(s, ast.While):
            loop.exits = frozenset({"break"})
        return loop

    def from_numbers(
        self,
        s: ast.For | ast.While,
        shapes: dict[str, Shape],
        late: Names,
        notes: dict[str, list[tuple[Span, str]]],
        body: Callable[[Loop], Flow],
        guesses: dict[str, Shape],
    ) -> dict[str, Shape] | None:
        """Better types for Python numbers: those that the first iteration makes of them."""
        first = {**shapes, **{n: fixed(self.env[n].value) for n in guesses if n not in late}}
        loop = self.new_loop(s, first, late, notes)
        try:
            self.attempt(loop, body)
        except TilusError:
            return None
        better = {n: loop.pending.get(n, first[n]) for n in shapes}
        return None if all(better[n] == shapes[n] for n in guesses) else better

    def attempt(self, loop: Loop, body: Callable[[Loop], Flow]) -> Block:
        """Translate the body once, on the shapes the loop has now."""
        with self.path() as p:
            for name in loop.unborn:
                self.env[name] = Binding(self.no_value_yet(loop, name), self.head(loop.node))
            for name, shape in loop.shapes.items():
                self.env[name] = self.at_head(loop, name, shape)
            self.loops.append(loop)
            try:
                p.flow = body(loop)
                if p.reached and (values := self.edge(loop, "yield")):
                    append(Yield(values, span=self.head(loop.node)))
            finally:
                self.loops.pop()
        return p.block

    def at_head(self, loop: Loop, name: str, shape: Shape) -> Binding:
        """What a variable is where an iteration begins."""
        span = self.env[name].span if name in self.env else self.head(loop.node)
        if isinstance(shape, Conflict):
            return Binding(conflicting(name, shape, loop.notes.get(name, [])), span)
        if not isinstance(shape, (Late, Dropped)):
            loop.args[name] = [
                Value(t, name.strip("<>").split(" ")[0], span) for t in leaf_types(shape)
            ]
        if name in loop.late or isinstance(shape, Dropped):
            return Binding(self.no_value_yet(loop, name), span)
        loop.heads[name] = rebuild(shape, iter(loop.args[name]))
        return Binding(loop.heads[name], span)

    def no_value_yet(self, loop: Loop, name: str) -> Missing:
        """Why a variable cannot be read before the loop's body has assigned it."""
        return Missing(
            f"`{name}` has no value in the first iteration",
            ((self.head(loop.node), "this loop assigns it only later"),),
            "give it a value before the loop",
        )

    def edge(self, loop: Loop, kind: str) -> tuple[Expr, ...]:
        """What the variables hand on where an iteration ends; misfits wait for the next trial."""
        out: list[Expr] = []
        loop.left |= kind == "break"
        needed = (self.live.after if kind == "break" else self.live.head)[loop.node]
        for name, shape in loop.shapes.items():
            now = loop.pending.get(name, shape)
            if isinstance(now, (Conflict, Dropped)):
                continue
            if name not in needed and name[0] != "<":  # nobody will read it
                out += loop.args.get(name, ())
                continue
            binding = self.env.get(name)
            if binding is None or not binding.present:
                if name not in loop.late:
                    gone = binding.value if binding is not None else None
                    loop.pending[name] = Conflict("without a value on one path", missing=gone)
                elif kind in loop.exits:
                    loop.pending[name] = Dropped()
                else:
                    out += loop.args.get(name, ())
                continue
            if binding.value is not loop.heads.get(name):
                loop.changed.add(name)
            new = self.covering(loop, name, now, binding)
            if new is not now:
                loop.pending[name] = new
            elif name not in loop.pending:
                out += leaves(shape, binding.value)
        return tuple(out)

    def covering(self, loop: Loop, name: str, now: Shape, binding: Binding) -> Shape:
        """The shape that covers one more value of a variable."""
        if isinstance(now, Late):
            new = lifted(fixed(binding.value))
            return Dropped() if holds_made_here(new) else new
        new = meet(now, binding.value)
        if isinstance(new, Conflict) and binding.span is not None:
            before = loop.before.get(name)
            notes = [(binding.span, f"here it becomes {name_type(binding.value)}")]
            if before is not None and before.span is not None and name not in loop.late:
                notes.insert(0, (before.span, f"before the loop it is {name_type(before.value)}"))
            loop.notes[name] = notes
            if name in loop.late:
                return Dropped()
        return new

    def finish(
        self,
        s: ast.For | ast.While,
        loop: Loop,
        block: Block,
        make: Callable[[Loop, Values, Block, Values], Stmt],
        written: list[str],
    ) -> Flow:
        """Emit the loop, and let its variables stand for its results."""
        inits: list[Expr] = []
        results: list[Value] = []
        env = {n: b for n, b in self.env.items() if n not in written}
        for name in written:
            shape = loop.shapes.get(name, Dropped())
            env[name] = Binding(self.unset(loop, name, shape), self.head(s))
        for name, args in loop.args.items():
            shape = loop.shapes[name]
            if name in loop.late:
                inits += [self.placeholder(a.type) for a in args]
            else:
                inits += leaves(shape, self.env[name].value)
            made = [Value(a.type, a.name, a.span) for a in args]
            results += made
            span = self.env[name].span if name in self.env else self.head(s)
            env[name] = Binding(rebuild(shape, iter(made)), span)
        append(make(loop, tuple(inits), block, tuple(results)))
        self.env = env
        endless = isinstance(s, ast.While) and loop.cond is True
        if endless and not loop.left:
            return Flow.DEAD
        if not loop.flag:
            return self.block(s.orelse)
        flag = self.env.pop(loop.flag).value
        return self.branches(s, apply("not", flag), s.orelse, [])

    def unset(self, loop: Loop, name: str, shape: Shape) -> Any:
        """Why a variable that the loop assigns has no value after it."""
        if isinstance(shape, Conflict):
            return conflicting(name, shape, loop.notes.get(name, []))
        if isinstance(shape, Fixed):
            return shape.value
        return Missing(
            f"`{name}` may have no value here",
            ((self.head(loop.node), "it is assigned in this loop, which may end before it is"),),
            "give it a value before the loop",
        )

    def placeholder(self, t: Type) -> Expr:
        """A value that is overwritten before it can be read."""
        assert isinstance(t, (ScalarType, TileType))
        zero = Const(False if t.dtype.name == "bool" else 0, t.dtype)
        if isinstance(t, ScalarType):
            return zero
        tile = emit(Full(t.dtype, t.shape, zero))
        assert tile is not None
        return tile


Values = tuple[Expr, ...]


def _is_guess(shape: Shape) -> bool:
    if isinstance(shape, Group):
        return any(map(_is_guess, shape.items))
    return isinstance(shape, Leaf) and shape.numbers is not None
