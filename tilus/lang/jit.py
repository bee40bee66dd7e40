"""`@tilus.jit`: a Python function as a kernel, and as a function that kernels inline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from types import FunctionType
from typing import Any, overload

from tilus.errors import TilusTypeError
from tilus.ir.builder import at, building
from tilus.ir.expr import Const, Value
from tilus.ir.program import Function, Param
from tilus.ir.types import PointerType, ScalarType
from tilus.lang import kept, source
from tilus.lang.frame import Trace
from tilus.lang.launch import NUM_THREADS, Launcher, hidden
from tilus.lang.loops import Translator
from tilus.lang.native import check_kernel
from tilus.lang.signature import Parameter, Role, Signature, read_signature
from tilus.lang.values import Binding
from tilus.runtime.program import CpuKernel


class JitFunction(Launcher):
    """A kernel: `kernel[grid](*args)` launches it, `kernel.trace(...)` gives its IR."""

    def __init__(self, fn: FunctionType, num_threads: int | None) -> None:
        super().__init__()
        self.fn: FunctionType = fn
        self.__wrapped__: FunctionType = fn
        self.num_threads = num_threads
        self.__name__, self.__qualname__ = fn.__name__, fn.__qualname__
        self.__doc__, self.__module__ = fn.__doc__, fn.__module__
        self._signature: Signature | None = None

    @property
    def __tilus_jit__(self) -> FunctionType:
        """What a kernel that calls this one inlines."""
        return self.fn

    def __repr__(self) -> str:
        return f"<kernel {self.__module__}.{self.__qualname__}>"

    @property
    def signature(self) -> Signature:
        """The parameters and what their annotations say."""
        if self._signature is None:
            self._signature = read_signature(self.fn)
        return self._signature

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Refuse: a kernel runs on a grid. (In a kernel, the call is inlined.)"""
        check_kernel()
        raise TilusTypeError(
            f"the kernel `{self.__name__}` is called without a grid",
            help=f"launch it: {self.__name__}[grid](...)",
        )

    @hidden
    def trace(
        self,
        constants: Mapping[str, Any],
        num_threads: int | None = None,
        divisible: Mapping[str, int] = {},
        ones: Set[str] = frozenset(),
    ) -> Function:
        """The kernel's IR, typed and verified, before any pass.

        Args:
            constants: a value for each constexpr parameter (those with defaults may be left out).
            num_threads: threads of a block.
            divisible: what divides a scalar, or a pointer's address in bytes.
            ones: scalars that are known to be 1.
        """
        count = num_threads or self.num_threads or NUM_THREADS
        return self.translate(constants, count, divisible, ones)[0]

    def translate(
        self,
        constants: Mapping[str, Any],
        num_threads: int,
        divisible: Mapping[str, int],
        ones: Set[str],
    ) -> tuple[Function, Trace]:
        """The kernel's IR, and what of its surroundings it was made from."""
        from tilus.ir.verifier import verify

        values = self.signature.complete(constants)
        trace = Trace()
        frame = Translator(self.fn, trace, kernel=True)
        params = []
        for p in self.signature.parameters:
            if p.role is Role.CONSTEXPR:
                frame.env[p.name] = Binding(values[p.name], p.span)
                continue
            assert p.dtype is not None
            kind = PointerType if p.role is Role.POINTER else ScalarType
            value = Value(kind(p.dtype), p.name, p.span)
            params.append(Param(value, divisible.get(p.name, 1)))
            known = Const(1, p.dtype) if p.name in ones else value
            frame.env[p.name] = Binding(known, p.span)
        head = source.header(frame.source, frame.node)
        with building() as block, at(head):
            trace.stack.append(self.fn)
            frame.block(frame.node.body)
        function = Function(self.__name__, tuple(params), block.seq(), num_threads, head)
        verify(function)
        return function, trace

    def compile(
        self,
        constants: Mapping[str, Any],
        divisible: Mapping[str, int] = {},
        ones: Set[str] = frozenset(),
    ) -> tuple[CpuKernel, Trace]:
        """Native code for one thread a block, from disk if it is there; arguments as of `trace`."""
        return kept.native(self, self.signature.complete(constants), divisible, ones)


@overload
def jit(fn: FunctionType, /) -> JitFunction: ...
@overload
def jit(
    *, num_warps: int | None = None, num_threads: int | None = None
) -> Callable[[FunctionType], JitFunction]: ...
def jit(
    fn: FunctionType | None = None,
    /,
    *,
    num_warps: int | None = None,
    num_threads: int | None = None,
) -> JitFunction | Callable[[FunctionType], JitFunction]:
    """Make a function a kernel; the parameters' annotations say their roles.

    Args:
        fn: the function. `ptr[f16]` annotates a pointer, `i32` and other element types a run-time
            scalar, `constexpr` a value that is known at compile time.
        num_warps: warps of a block unless a launch says otherwise. Left open, a block is one
            thread in native CPU code and four warps elsewhere.
        num_threads: threads of a block, instead of warps.
    """
    from tilus.lang.launch import threads

    count = threads(num_warps, num_threads)

    def wrap(f: FunctionType) -> JitFunction:
        if isinstance(f, JitFunction):
            raise TilusTypeError(f"`{f.__name__}` is a kernel already")
        if not isinstance(f, FunctionType):
            raise TilusTypeError(
                f"@tilus.jit takes a plain function, not a {type(f).__name__}",
                help="it goes directly above the `def`",
            )
        return JitFunction(f, count)

    return wrap if fn is None else wrap(fn)


__all__ = ["JitFunction", "Parameter", "jit"]
