"""A function being translated: its names, its place in the file, and branches that meet again.

The front end is a stack of classes, each adding one part of Python:

    Frame         names, spans, branches and their joins                    (this module)
    Expressions   operators, short circuits, displays, comprehensions       expressions.py
    Calls         instructions, built-ins, host functions, inlining         calls.py
    Statements    assignments, `if`, `return`, `assert`                     statements.py
    Translator    `for` and `while`                                         loops.py
"""

from __future__ import annotations

import ast
import builtins
import difflib
import enum
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType
from typing import Any

import numpy as np

from tilus.errors import Span, TilusError, TilusNameError, TilusSyntaxError, TilusTypeError
from tilus.ir.builder import Block, append, at, building, let
from tilus.ir.expr import Apply, Expr, GridIndex, Value, walk
from tilus.ir.program import If, Yield, definitions
from tilus.lang import source as sources
from tilus.lang.liveness import Liveness, Names, assigned
from tilus.lang.unsupported import BUILTINS, unsupported
from tilus.lang.values import (
    Binding,
    Conflict,
    Elements,
    Fixed,
    Group,
    Leaf,
    Missing,
    Shape,
    conflicting,
    fixed,
    has_runtime,
    is_array,
    is_sequence,
    leaf_types,
    leaves,
    lifted,
    meet,
    name_type,
    rebuild,
    remade,
)

VALUE = "<value>"  # the name of what an expression's branches give


class Flow(enum.Enum):
    """What comes after a statement."""

    NEXT = "the statement after it"
    BREAK = "the end of an unrolled loop"
    CONTINUE = "the next iteration of an unrolled loop"
    RETURN = "the end of an inlined function"
    DEAD = "nothing: control has left"


@dataclass
class Branch:
    """What one path emitted, and what its variables are at its end."""

    block: Block
    env: dict[str, Binding]
    flow: Flow = Flow.NEXT

    @property
    def reached(self) -> bool:
        """Whether control comes to the end of the path."""
        return self.flow is not Flow.DEAD


@dataclass
class Trace:
    """What all frames of one translation share."""

    stack: list[FunctionType] = field(default_factory=list)
    globals: dict[tuple[int, str], tuple[dict[str, Any], Any]] = field(default_factory=dict)
    cells: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    @staticmethod
    def lookup(names: dict[str, Any], name: str) -> Any:
        """What a global name stands for: in the module, else a builtin."""
        return _global(names, name)

    def is_current(self) -> bool:
        """Whether the globals and closures that were read still are what they were."""
        return all(
            _global(names, name) is value for (_, name), (names, value) in self.globals.items()
        ) and all(cell.cell_contents is value for cell, value in self.cells.values())


_ABSENT = object()


def _global(names: dict[str, Any], name: str) -> Any:
    return names[name] if name in names else vars(builtins).get(name, _ABSENT)


@lru_cache(maxsize=1024)
def _liveness(node: ast.FunctionDef) -> Liveness:
    return Liveness(node.body)


@lru_cache(maxsize=1024)
def _locals(node: ast.FunctionDef) -> Names:
    a = node.args
    params = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return frozenset([p.arg for p in params] + assigned(node.body))


class Frame:
    """The state of a function's translation, and how names are read and bound."""

    def __init__(self, fn: FunctionType, trace: Trace, kernel: bool = False) -> None:
        self.fn, self.trace, self.kernel = fn, trace, kernel
        self.source, self.node = sources.of_function(fn)
        self.live = _liveness(self.node)
        self.locals = _locals(self.node)
        self.env: dict[str, Binding] = {}
        self.depth = 0  # of run-time branches and loops around what is being translated
        self.comprehensions = 0  # around it

    # places

    def span(self, node: ast.AST) -> Span:
        """Where a node stands."""
        return self.source.span(node)

    def refuse(self, node: ast.AST) -> TilusSyntaxError:
        """The error for a construct that is not part of the kernel language."""
        message, help = unsupported(node)
        return TilusSyntaxError(message, self.span(node), help=help)

    # names

    def read(self, node: ast.Name) -> Any:
        """The value of a name, as Python would look it up."""
        name = node.id
        binding = self.env.get(name)
        if binding is not None:
            if isinstance(binding.value, Missing):
                raise binding.value.error(self.span(node))
            return binding.value
        if name in self.locals:
            raise TilusNameError(
                f"`{name}` is read before it is assigned",
                self.span(node),
                help=f"the function assigns `{name}`, so it is a variable of its own, not a global",
            )
        return self.constant(self.look_up(name, node), name)

    def look_up(self, name: str, node: ast.AST) -> Any:
        """A name from around the function: a closure, a global, a built-in."""
        code = self.fn.__code__
        if name in code.co_freevars and self.fn.__closure__:
            cell = self.fn.__closure__[code.co_freevars.index(name)]
            try:
                value = cell.cell_contents
            except ValueError:
                raise TilusNameError(
                    f"`{name}` has no value yet in the enclosing function", self.span(node)
                ) from None
            self.trace.cells[id(cell)] = (cell, value)
            return value
        names = self.fn.__globals__
        value = _global(names, name)
        if value is _ABSENT:
            known = [*self.env, *self.locals, *names, *(vars(builtins).keys() - BUILTINS)]
            close = difflib.get_close_matches(name, known, n=1)
            help = f"did you mean `{close[0]}`?" if close else None
            raise TilusNameError(f"`{name}` is not defined", self.span(node), help=help)
        self.trace.globals[id(names), name] = (names, value)
        return value

    def constant(self, value: Any, name: str) -> Any:
        """A compile-time object as kernel code sees it: NumPy scalars are Python numbers."""
        if isinstance(value, np.generic):
            return value.item()
        if is_array(value):
            raise TilusTypeError(
                f"`{name}` is an array, and not an argument of the kernel",
                help="pass it as an argument: the kernel declares it `name: tilus.ptr[dtype]`",
            )
        return value

    def bind(self, name: str, value: Any, span: Span | None) -> Any:
        """Let a name stand for a value; a scalar expression is computed here, once."""
        if hasattr(value, "__next__") or isinstance(value, Elements):
            raise TilusTypeError(
                f"`{name}` would be an iterator, which can be used only once",
                span,
                help="keep its elements: tuple(...)",
            )
        with at(span, name):
            value = _settled(value, name)
        self.env[name] = Binding(value, span)
        return value

    # branches

    @contextmanager
    def path(self, runtime: bool = True) -> Iterator[Branch]:
        """Translate something apart: its statements and assignments stay in the branch."""
        env, depth = self.env, self.depth
        self.env, self.depth = dict(env), depth + runtime
        try:
            with building() as block:
                branch = Branch(block, self.env)
                yield branch
                branch.env = self.env
        finally:
            self.env, self.depth = env, depth

    def join(
        self, cond: Expr, a: Branch, b: Branch, live: Names | None, span: Span, words: str
    ) -> None:
        """Emit the `if` of two paths; variables live afterwards (None: all) become its results."""
        results: list[Value] = []
        handed: list[list[Expr]] = [[], []]
        env: dict[str, Binding] = {}
        paths = [p for p in (a, b) if p.reached]
        for name in {**a.env, **b.env} if paths else ():
            bindings = [p.env.get(name) for p in paths]
            before = self.env.get(name)
            if all(x is before for x in bindings):
                if before is not None:
                    env[name] = before
            elif live is None or name in live or name[0] == "<":
                shape = self._met(name, paths, bindings, span, words)
                if isinstance(shape, Missing):
                    env[name] = Binding(shape, span)
                    continue
                first = bindings[0]
                assert first is not None
                made = [Value(t, _plain(name), first.span) for t in leaf_types(shape)]
                results += made
                for out, x in zip(handed, bindings, strict=False):
                    assert x is not None
                    out += leaves(shape, x.value)
                env[name] = Binding(rebuild(shape, iter(made)), first.span)
        if results:
            for p, values in zip(paths, handed, strict=False):
                p.block.stmts.append(Yield(tuple(values), span=span))
        append(If(cond, a.block.seq(), b.block.seq(), tuple(results), span=span))
        self.env = env

    def _met(
        self, name: str, paths: list[Branch], bindings: list[Binding | None], span: Span, words: str
    ) -> Shape | Missing:
        """The shape of a variable after the paths that reach the join."""
        known = [x for x in bindings if x is not None and x.present]
        if len(known) < len(bindings):
            gone = next((x.value for x in bindings if x is not None and not x.present), None)
            if gone is not None:
                return gone  # type: ignore[no-any-return]
            notes = [(x.span, "assigned here, on one path") for x in known if x.span]
            return Missing(
                f"`{name}` may have no value here",
                (*notes, (span, f"the other path through this {words} does not assign it")),
                "assign it on every path, or before",
            )
        if len(known) == 1:
            return _exported(name, known[0], paths[0])
        shape = meet(fixed(known[0].value), known[1].value)
        if isinstance(shape, Conflict):
            places = [(x.span, f"here it is {name_type(x.value)}") for x in known if x.span]
            return conflicting(name, shape, places)
        return shape

    def choose(
        self,
        cond: Any,
        then: Callable[[], Any],
        orelse: Callable[[], Any],
        node: ast.AST,
        combine: Callable[[Any, Any], Any],
    ) -> Any:
        """One of two values, of which only the chosen one is computed."""
        span = self.span(node)
        with self.path() as a:
            self.env[VALUE] = Binding(then(), span)
        with self.path() as b:
            self.env[VALUE] = Binding(orelse(), span)
        x, y = a.env[VALUE].value, b.env[VALUE].value
        shape = meet(fixed(x), y)
        if isinstance(shape, Conflict):
            help = shape.help or "give both the same type"
            raise TilusTypeError(f"the value is {shape.why}", span, help=help)
        quiet = not a.block.stmts and not b.block.stmts
        if quiet and self._unchanged(a) and self._unchanged(b) and _scalars(shape):
            parts = zip(leaves(shape, x), leaves(shape, y), strict=True)
            return rebuild(shape, (combine(p, q) for p, q in parts))
        self.join(cond, a, b, None, span, "expression")
        return self.env.pop(VALUE).value

    def _unchanged(self, branch: Branch) -> bool:
        return all(x is self.env.get(n) for n, x in branch.env.items() if n != VALUE)


def _settled(value: Any, name: str) -> Any:
    """The value with its scalar expressions computed and named."""
    if isinstance(value, (Apply, GridIndex)):
        return let(value, name)
    if is_sequence(value) and has_runtime(value):
        items = [_settled(x, f"{name}_{i}") for i, x in enumerate(value)]
        if any(x is not y for x, y in zip(items, value, strict=True)):
            return remade(type(value), items)
    return value


def _plain(name: str) -> str:
    """A name for the IR."""
    return name.strip("<>").split(" ")[0]


def _scalars(shape: Shape) -> bool:
    """Whether the run-time parts are scalars."""
    return all(type(t).__name__ == "ScalarType" for t in leaf_types(shape))


def _exported(name: str, binding: Binding, path: Branch) -> Shape | Missing:
    """The shape of what the only path that goes on made: results, where it made them itself."""
    inner = {v for s in path.block.stmts for v in definitions(s)}

    def own(x: Any) -> bool:
        return isinstance(x, Expr) and any(e in inner for e in walk(x) if isinstance(e, Value))

    def shape(s: Shape) -> Shape:
        if isinstance(s, Group):
            return Group(s.kind, tuple(map(shape, s.items)))
        assert isinstance(s, Fixed)
        return lifted(s) if own(s.value) else s

    found = shape(fixed(binding.value))
    for x in _fixed_values(found):
        if own(x):
            return Missing(
                f"`{name}` is made in only one branch and cannot be used after it",
                ((binding.span, f"this is {name_type(x)}"),) if binding.span else (),
                "make it before the `if`",
                TilusTypeError,
            )
    return found


def _fixed_values(shape: Shape) -> Iterable[Any]:
    if isinstance(shape, Group):
        for s in shape.items:
            yield from _fixed_values(s)
    elif isinstance(shape, Fixed):
        yield shape.value


def holds_made_here(shape: Shape) -> bool:
    """Whether a view or shared tile would have to leave the region that made it."""
    return any(has_runtime(x) for x in _fixed_values(shape))


def is_carried(shape: Shape) -> bool:
    """Whether a shape has run-time parts that may change."""
    return isinstance(shape, Leaf) or any(True for _ in leaf_types(shape))


def host_error(error: Exception, span: Span | None, help: str | None = None) -> TilusError:
    """What a compile-time computation raised, as an error at the place that asked for it."""
    from tilus.errors import TilusIndexError, TilusValueError

    kinds: list[tuple[type[Exception], type[TilusError]]] = [
        (TypeError, TilusTypeError),
        (LookupError, TilusIndexError),
        (NameError, TilusNameError),
        (Exception, TilusValueError),
    ]
    kind = next(k for e, k in kinds if isinstance(error, e))
    text = str(error) or "no message"
    if isinstance(error, KeyError):
        text = f"no entry {text}"
    prefix = (
        "" if type(error) in (TypeError, ValueError, IndexError) else f"{type(error).__name__}: "
    )
    return kind(prefix + text, span, help=help)
