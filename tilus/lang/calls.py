"""Calls: the functions of the kernel language, Python's built-ins, host functions, inlining.

A call whose arguments are all compile-time values runs as ordinary Python, while the kernel is
translated (once or a few times). A function of the user's that gets a run-time value or uses the
kernel language, and every function marked `@tilus.jit`, is inlined: its own body is translated in
place of the call.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
from collections.abc import Hashable
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from tilus.dtypes import DType
from tilus.errors import Span, TilusError, TilusSyntaxError, TilusTypeError
from tilus.ir.builder import emit
from tilus.ir.expr import Expr, describe
from tilus.ir.instructions.debug import Breakpoint
from tilus.ir.types import PointerType
from tilus.lang import native, operators, ops
from tilus.lang.annotations import annotation_of, constexpr
from tilus.lang.builtin import ON_RUNTIME, on_runtime
from tilus.lang.expressions import Expressions
from tilus.lang.frame import Flow, host_error
from tilus.lang.native import UsesKernel
from tilus.lang.unsupported import BUILTINS, INSTEAD, MUTATORS
from tilus.lang.values import Binding, has_runtime, is_number, is_scalar, is_tile, name_type

MAX_DEPTH = 64


class Calls(Expressions):
    """How calls are evaluated."""

    def _Call(self, node: ast.Call) -> Any:
        fn = self.expr(node.func)
        args = list(self.elements(node.args))
        keywords: dict[str, Any] = {}
        for k in node.keywords:
            more = {k.arg: self.expr(k.value)} if k.arg else self.double_star(k.value)
            for name, value in more.items():
                if name in keywords:
                    raise TilusTypeError(f"the argument `{name}` is given twice", self.span(k))
                keywords[name] = value
        return self.call(node, fn, args, keywords)

    def double_star(self, node: ast.expr) -> dict[str, Any]:
        """The arguments that `**node` stands for."""
        x = self.expr(node)
        if not isinstance(x, dict) or not all(isinstance(k, str) for k in x):
            raise TilusTypeError(
                f"`**` needs a dict with names as keys, not {name_type(x)}", self.span(node)
            )
        return x

    def call(self, node: ast.Call, fn: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
        """The value of `fn(*args, **keywords)`."""
        while isinstance(fn, functools.partial):
            args, keywords = [*fn.args, *args], {**fn.keywords, **keywords}
            fn = fn.func
        if isinstance(fn, Expr):
            raise TilusTypeError(
                f"a value of type {fn.type} cannot be called", self.span(node.func)
            )
        if ops.is_kernel_function(fn):
            return self.native(fn, *args, **keywords)
        if isinstance(fn, DType):
            return self.native(ops.cast, *args, dtype=fn, **keywords)
        if (inner := jit_target(fn)) is not None:
            return self.inline(node, inner, args, keywords)
        self.check_allowed(node, fn)
        if fn is builtins.breakpoint:
            return self.breakpoint(node, args, keywords)
        if isinstance(fn, MethodType) and isinstance(fn.__func__, FunctionType):
            fn, args = fn.__func__, [fn.__self__, *args]
        if not has_runtime(args) and not has_runtime(keywords):
            return self.on_host(node, fn, args, keywords)
        if isinstance(fn, FunctionType):
            return self.inline(node, fn, args, keywords)
        if fn is functools.partial or (isinstance(fn, type) and hasattr(fn, "_make")):
            return self.native(fn, *args, **keywords)
        if fn is getattr and len(args) == 2 and isinstance(args[1], str):
            return self.attribute(args[0], args[1], "getattr")
        if isinstance(fn, Hashable) and fn in ON_RUNTIME:
            return self.native(on_runtime, fn, args, keywords)
        method = vars(type(fn)).get("__call__")
        if isinstance(method, FunctionType):
            return self.inline(node, method, [fn, *args], keywords)
        raise TilusTypeError(
            f"{describe(fn)} cannot take run-time values",
            self.span(node),
            help=BUILTIN_HELP.get(
                getattr(fn, "__name__", ""), "compute it of compile-time values, or write it out"
            ),
        )

    def on_host(self, node: ast.Call, fn: Any, args: list[Any], keywords: dict[str, Any]) -> Any:
        """Run a function as ordinary Python, now."""
        try:
            return self.constant(native.run(fn, *args, **keywords), self.source.text(node))
        except UsesKernel:
            if isinstance(fn, FunctionType):
                return self.inline(node, fn, args, keywords)
            raise TilusTypeError(
                f"{describe(fn)} runs kernel code as ordinary Python",
                self.span(node),
                help="call a function instead, or write a comprehension",
            ) from None
        except (TilusError, RecursionError):
            raise
        except Exception as e:
            raise host_error(e, self.span(node)) from e

    def check_allowed(self, node: ast.Call, fn: Any) -> None:
        """Raise for built-ins and methods that mean something only while Python itself runs."""
        name = getattr(fn, "__name__", "")
        if name in BUILTINS and fn is getattr(builtins, name, None):
            raise TilusSyntaxError(
                f"`{name}` is not supported in a kernel", self.span(node), help=BUILTINS[name]
            )
        if isinstance(fn, BuiltinMethodType):
            owner = fn.__self__
            for kind, names in MUTATORS.items():
                if isinstance(owner, kind) and name in names:
                    raise TilusSyntaxError(
                        f"a {kind.__name__} cannot be changed inside a kernel",
                        self.span(node),
                        help=INSTEAD.get(kind, "make a new one"),
                    )
            if name in ("index", "count", "remove") and has_runtime(owner):
                raise TilusTypeError(f"`{name}` cannot compare run-time values", self.span(node))

    def breakpoint(self, node: ast.Call, args: list[Any], keywords: dict[str, Any]) -> None:
        """Stop in the debugger with the variables that have run-time values."""
        if args or keywords:
            raise TilusTypeError("`breakpoint()` takes no arguments in a kernel", self.span(node))
        live = {n: b.value for n, b in self.env.items() if b.present and n[0] != "<"}
        live = {n: x for n, x in live.items() if is_tile(x) or is_scalar(x)}
        emit(Breakpoint(tuple(live), tuple(live.values())))

    # inlining

    def inline(
        self, node: ast.Call, fn: FunctionType, args: list[Any], keywords: dict[str, Any]
    ) -> Any:
        """Translate a function's body in place of its call."""
        span = self.span(node)
        if self.trace.stack.count(fn) >= MAX_DEPTH:
            raise TilusTypeError(
                f"`{fn.__name__}` calls itself more than {MAX_DEPTH} times",
                span,
                help="recursion must end at compile time: decide it by compile-time arguments",
            )
        self.trace.stack.append(fn)
        try:
            frame = type(self)(fn, self.trace)
            frame.receive(args, keywords, span)
            flow = frame.block(frame.node.body)
        except TilusError as e:
            for d in e.diagnostics:
                if d.span is not None and d.span != span:
                    d.notes.append((span, f"`{fn.__name__}` is called here"))
            raise
        except RecursionError:
            raise TilusTypeError(f"`{fn.__name__}` is nested too deeply", span) from None
        finally:
            self.trace.stack.pop()
        return frame.returned if flow is Flow.RETURN else None

    def receive(self, args: list[Any], keywords: dict[str, Any], span: Span) -> None:
        """Bind the parameters of the function to be inlined, as a call of it would."""
        try:
            bound = inspect.signature(self.fn, follow_wrapped=False).bind(*args, **keywords)
        except TypeError as e:
            raise TilusTypeError(f"{self.fn.__name__}: {e}", span) from None
        bound.apply_defaults()
        for p in _parameters(self.node):
            value = self.constant(bound.arguments[p.arg], p.arg)
            if isinstance(value, tuple) and self.node.args.vararg is p:
                value = tuple(self.constant(x, p.arg) for x in value)
            elif p.annotation is not None and self.node.args.kwarg is not p:
                wanted = annotation_of(self.fn, p.arg)
                value = self.typed(value, wanted, f"`{p.arg}` of `{self.fn.__name__}`", span)
            self.env[p.arg] = Binding(value, span)
            if not _is_simple(value):
                self.bind(p.arg, value, span)

    def typed(self, value: Any, wanted: Any, what: str, span: Span | None) -> Any:
        """A value as its annotation says, where that is one of ours; others mean nothing."""
        if wanted is constexpr and has_runtime(value):
            raise TilusTypeError(
                f"{what} must be known at compile time, not {name_type(value)}", span
            )
        if isinstance(wanted, DType):
            if is_number(value):
                return operators.number(value, wanted, f"{what}: ")
            if not is_scalar(value) or value.dtype != wanted:
                raise TilusTypeError(
                    f"{what} must be a scalar of {wanted}, not {name_type(value)}",
                    span,
                    help=f"convert it: tilus.cast(x, {wanted})" if is_scalar(value) else None,
                )
        if isinstance(wanted, PointerType) and not (
            isinstance(value, Expr) and value.type == wanted
        ):
            raise TilusTypeError(f"{what} must be a {wanted}, not {name_type(value)}", span)
        return value

    returned: Any = None

    def block(self, body: list[ast.stmt]) -> Flow:
        """Translate statements (statements.py)."""
        raise NotImplementedError


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
    a = node.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]


def _is_simple(x: Any) -> bool:
    """Whether an argument may stand as it is wherever its parameter is read."""
    if isinstance(x, Expr):
        return all(not getattr(a, "args", ()) for a in getattr(x, "args", ()))
    return not has_runtime(x)


def jit_target(fn: object) -> FunctionType | None:
    """The function under `@tilus.jit`."""
    return getattr(fn, "__tilus_jit__", None)


BUILTIN_HELP: dict[str, str] = {
    "round": "`tilus.round(tile)` rounds to the nearest integer",
    "sorted": "kernels have no sort; `tilus.max` and `tilus.argmax` find the largest element",
    "map": "write a comprehension",
    "filter": "write a comprehension over compile-time conditions",
    "str": "`tilus.print_tensor(x, message)` prints it",
    "repr": "`tilus.print_tensor(x, message)` prints it",
    "format": "`tilus.print_tensor(x, message)` prints it",
    "float": "convert it: tilus.cast(x, tilus.f32)",
    "set": "use a tuple",
    "frozenset": "use a tuple",
    "hasattr": "use the value's type: `x.dtype`, `x.shape`",
}
