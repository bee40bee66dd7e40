"""Which names a piece of kernel code assigns, and which are read again afterwards.

Branches and loops hand on only the variables that are read later, so a temporary that is reused
with another type is no conflict, and the IR has no values that nobody reads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

Names = frozenset[str]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def assigned(nodes: Iterable[ast.AST]) -> list[str]:
    """Names that statements bind, in the order of the text; without comprehensions' own."""
    return list(dict.fromkeys(n for node in nodes for n in _stores(node)))


def _stores(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).split(".")[0]
    elif not isinstance(node, (*COMPREHENSIONS, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _stores(child)


def loads(*nodes: ast.AST | None) -> Names:
    """Every name that is read anywhere inside."""
    return frozenset(
        n.id
        for node in nodes
        if node is not None
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    )


def contains(nodes: Iterable[ast.stmt], kind: type[ast.stmt]) -> bool:
    """Whether a statement of this kind stands inside."""
    return any(isinstance(n, kind) for node in nodes for n in ast.walk(node))


def breaks(nodes: Iterable[ast.stmt]) -> bool:
    """Whether a `break` inside leaves the loop whose body this is."""
    for node in nodes:
        if isinstance(node, ast.Break):
            return True
        if isinstance(node, (ast.For, ast.While)):
            if breaks(node.orelse):
                return True
        elif isinstance(node, ast.If) and breaks([*node.body, *node.orelse]):
            return True
    return False


class Liveness:
    """For each statement of a function: the names that may be read after it."""

    def __init__(self, body: Sequence[ast.stmt]) -> None:
        self.after: dict[ast.stmt, Names] = {}
        self.head: dict[ast.stmt, Names] = {}  # of loops: where an iteration begins
        none: Names = frozenset()
        self.block(body, none, none, none)

    def block(self, body: Sequence[ast.stmt], out: Names, brk: Names, cont: Names) -> Names:
        """Names live before the statements."""
        for s in reversed(body):
            self.after[s] = out
            out = self.stmt(s, out, brk, cont)
        return out

    def stmt(self, s: ast.stmt, out: Names, brk: Names, cont: Names) -> Names:
        """Names live before one statement."""
        match s:
            case ast.Assign():
                return (out - _names(*s.targets)) | loads(s)
            case ast.AnnAssign(value=None):
                return out
            case ast.AnnAssign():
                return (out - _names(s.target)) | loads(s.value, s.target)
            case ast.AugAssign():
                return out | _names(s.target) | loads(s)
            case ast.If():
                inner = self.block(s.body, out, brk, cont) | self.block(s.orelse, out, brk, cont)
                return inner | loads(s.test)
            case ast.For() | ast.While():
                return self.loop(s, out, brk, cont)
            case ast.Break():
                return brk
            case ast.Continue():
                return cont
            case ast.Return():
                return loads(s.value)
        return out | loads(s)

    def loop(self, s: ast.For | ast.While, out: Names, brk: Names, cont: Names) -> Names:
        """Names live before a loop: what the fixed point of its iterations reads."""
        done = self.block(s.orelse, out, brk, cont)
        target = _names(s.target) if isinstance(s, ast.For) else frozenset()
        test = loads(s.test) if isinstance(s, ast.While) else frozenset()
        head = done | test
        while True:
            more = head | (self.block(s.body, head, out, head) - target)
            if more == head:
                break
            head = more
        self.head[s] = head
        return head | loads(s.iter) if isinstance(s, ast.For) else head


def _names(*targets: ast.expr) -> Names:
    """Plain names that an assignment to the targets overwrites."""
    found: set[str] = set()
    for t in targets:
        match t:
            case ast.Name():
                found.add(t.id)
            case ast.Tuple() | ast.List():
                found |= _names(*t.elts)
            case ast.Starred():
                found |= _names(t.value)
    return frozenset(found)
