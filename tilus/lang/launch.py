"""Launching kernels: arguments checked by name, specialised on, and the translation cached."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Set
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusError, TilusNotImplementedError, TilusTypeError, TilusValueError
from tilus.ir import interpreter
from tilus.ir.passes import lower
from tilus.ir.program import Function
from tilus.lang.frame import Trace
from tilus.lang.quick import ALIGNMENT, Quick
from tilus.lang.signature import Parameter, Role, Signature
from tilus.options import options
from tilus.runtime.program import CpuKernel, recording

P = ParamSpec("P")
R = TypeVar("R")

NUM_THREADS = 128
Grid = int | tuple[int, ...] | Callable[[dict[str, Any]], Any]


def hidden(fn: Callable[P, R]) -> Callable[P, R]:
    """Show an error of the kernel without the frames of the compiler that found it."""

    @functools.wraps(fn)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            return fn(*args, **keywords)
        except TilusError as e:
            if options.full_traceback:
                raise
            error = e
        raise error.with_traceback(None) from error.__cause__

    return call


def threads(num_warps: int | None, num_threads: int | None) -> int | None:
    """How many threads a block is asked to have; None if that is left open."""
    if num_warps is not None and num_threads is not None:
        raise TilusTypeError(
            "`num_warps` and `num_threads` are both given", help="give one of them"
        )
    for name, x in (("num_warps", num_warps), ("num_threads", num_threads)):
        if x is not None and (not isinstance(x, int) or isinstance(x, bool) or x < 1):
            raise TilusValueError(f"`{name}` is {x!r}; it is an int, at least 1")
    if num_threads is not None:
        return num_threads
    return num_warps * 32 if num_warps is not None else None


class Launch:
    """A kernel on a grid of blocks, to be called with its arguments."""

    __slots__ = ("grid", "kernel")

    def __init__(self, kernel: Launcher, grid: Grid) -> None:
        self.kernel, self.grid = kernel, grid

    @hidden
    def __call__(self, *args: Any, **keywords: Any) -> None:
        """Run the kernel: as native code if a block may be one thread, else interpreted.

        TILUS_INTERPRET=1 interprets it in any case.
        """
        self.kernel.start(self.grid, args, keywords)


class Launcher:
    """What a kernel can do with arguments; `JitFunction` adds the translation."""

    __name__: str
    num_threads: int | None

    def __init__(self) -> None:
        self._lowered: dict[Any, tuple[Any, Trace]] = {}
        self._quick: Quick | None = None

    @property
    def signature(self) -> Signature:
        """The parameters."""
        raise NotImplementedError

    def translate(
        self,
        constants: Mapping[str, Any],
        num_threads: int,
        divisible: Mapping[str, int],
        ones: Set[str],
    ) -> tuple[Function, Trace]:
        """The kernel's IR, and what it was made from."""
        raise NotImplementedError

    def compile(
        self, constants: Mapping[str, Any], divisible: Mapping[str, int], ones: Set[str]
    ) -> tuple[CpuKernel, Trace]:
        """Native code for one thread a block, and what it was made from."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was compiled in this process."""
        self._lowered.clear()
        self._quick = None

    def __getitem__(self, grid: Grid) -> Callable[..., None]:
        """`kernel[grid](*args, num_warps=4)`: run it on a grid of blocks."""
        return Launch(self, grid)

    @hidden
    def interpret(self, *args: Any, grid: Grid, **keywords: Any) -> None:
        """Run the kernel in the interpreter, on host memory (torch CPU tensors, NumPy arrays).

        Args:
            args: the kernel's arguments, by place or by name.
            grid: blocks along up to three axes, or a function of the arguments by name.
            keywords: further arguments, and `num_warps` or `num_threads`.
        """
        self._run(grid, args, keywords, True)

    def start(self, grid: Grid, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Launch: the short way if it can be gone."""
        if options.interpret:
            self._run(grid, args, keywords, True)
            return
        quick = self._quick
        if quick is None:
            quick = self._quick = Quick(self.signature)
        given = quick.arguments(args, keywords, options.cpu_features)
        if given is None or type(grid) not in (int, tuple) or self.num_threads not in (None, 1):
            self._run(grid, args, keywords, False)
            return
        key, words = given
        kernel = quick.find(key)
        if kernel is None:
            made = self._run(grid, args, keywords, False)
            if made is not None:
                quick.enter(key, *made)
            return
        extents = resolve_grid(grid, {}, self.__name__)
        if 0 not in extents:
            try:
                kernel.launch(words, extents, (args, keywords))
            except struct.error:  # a number that its type does not hold: the long way says which
                self._run(grid, args, keywords, False)

    def _run(
        self, grid: Grid, args: tuple[Any, ...], keywords: dict[str, Any], interpreted: bool
    ) -> tuple[CpuKernel, Trace] | None:
        """Launch the long way; what native code was run, if any."""
        asked = threads(keywords.pop("num_warps", None), keywords.pop("num_threads", None))
        count = asked or self.num_threads
        bound = self.signature.bind(args, keywords)
        extents = resolve_grid(grid, bound, self.__name__)
        for p in self.signature.parameters:
            device = getattr(bound.get(p.name), "device", None)
            if device is not None and getattr(device, "type", "cpu") != "cpu":
                _fail(p, f"is on {device}; kernels run on CPU memory so far", "pass x.cpu()")
        if interpreted or count not in (None, 1):
            if recording() is not None:
                raise TilusNotImplementedError(
                    f"`{self.__name__}` is interpreted, and a graph records native kernels only"
                )
            (function, _), values = self.specialize(bound, count or NUM_THREADS, native=False)
            if 0 not in extents:
                interpreter.run(function, values, extents)
            return None
        (kernel, trace), values = self.specialize(bound, 1, native=True)
        if 0 not in extents:
            places = [
                _address(p, values[p.name]) if p.role is Role.POINTER else values[p.name]
                for p in self.signature.parameters
                if p.role is not Role.CONSTEXPR
            ]
            kernel.launch(places, extents, values)
        return kernel, trace

    def specialize(
        self, bound: dict[str, Any], count: int, native: bool
    ) -> tuple[tuple[Any, Trace], dict[str, Any]]:
        """The kernel compiled (else lowered) for arguments, and what it takes at run time."""
        constants: dict[str, Any] = {}
        values: dict[str, Any] = {}
        divisible: dict[str, int] = {}
        ones: set[str] = set()
        for p in self.signature.parameters:
            x = bound[p.name]
            if p.role is Role.CONSTEXPR:
                constants[p.name] = _constant(p, x)
            elif p.role is Role.POINTER:
                values[p.name] = x
                if _address(p, x) % ALIGNMENT == 0:
                    divisible[p.name] = ALIGNMENT
            else:
                values[p.name] = value = _scalar(p, x)
                if p.dtype is not None and p.dtype.is_integer:
                    if value == 1:
                        ones.add(p.name)
                    elif value % ALIGNMENT == 0:
                        divisible[p.name] = ALIGNMENT
        return self.made(constants, count, divisible, ones, native), values

    def made(
        self,
        constants: dict[str, Any],
        count: int,
        divisible: dict[str, int],
        ones: set[str],
        native: bool,
    ) -> tuple[Any, Trace]:
        """Native code, or a lowered function, and what it was made from; made once."""
        typed = tuple((n, typed_key(x)) for n, x in constants.items())
        target = options.cpu_features if native else ""
        key = (native, target, typed, count, tuple(divisible.items()), frozenset(ones))
        found = self._lowered.get(key)
        if found is None or not found[1].is_current():
            if native:
                found = self.compile(constants, divisible, ones)
            else:
                function, trace = self.translate(constants, count, divisible, ones)
                found = lower(function, "generic"), trace
            self._lowered[key] = found
        return found


def typed_key(x: Any) -> Any:
    """A key that keeps 1, 1.0 and True apart, and 0.0 and -0.0."""
    if isinstance(x, tuple):
        return tuple(map(typed_key, x))
    return (type(x), repr(x) if isinstance(x, float) else x)


def resolve_grid(grid: Grid, bound: dict[str, Any], name: str) -> tuple[int, int, int]:
    """Three extents; `grid` may be a function of the arguments by name."""
    said = grid(dict(bound)) if callable(grid) else grid
    extents = said if isinstance(said, (tuple, list)) else (said,)
    extents = tuple(x.item() if isinstance(x, np.generic) else x for x in extents)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in extents)
    if not 1 <= len(extents) <= 3 or not whole:
        raise TilusTypeError(
            f"the grid of `{name}` is {said!r}; it is an int or a tuple of one to three ints",
            help="for example kernel[(blocks,)](...), or a function of the arguments by name",
        )
    if any(n < 0 for n in extents):
        raise TilusValueError(f"the grid of `{name}` is {said!r}; no extent may be negative")
    x, y, z = (*extents, 1, 1)[:3]
    return x, y, z


def _fail(p: Parameter, what: str, help: str | None = None, kind: Any = TilusTypeError) -> Any:
    raise kind(f"the argument `{p}` {what}", p.span, help=help)


def _constant(p: Parameter, x: Any) -> Any:
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, list):
        _fail(p, "is a list, which can change", "pass a tuple")
    try:
        hash(x)
    except TypeError:
        _fail(p, f"is a {type(x).__name__}, which is not hashable", "pass a tuple of numbers")
    if _is_tensor(x):
        _fail(p, f"is a {type(x).__name__}", "annotate the parameter as `tilus.ptr[dtype]`")
    return x


def _scalar(p: Parameter, x: Any) -> Any:
    dtype = p.dtype
    assert dtype is not None
    if isinstance(x, np.generic):
        x = x.item()
    if dtype.name == "bool":
        if not isinstance(x, bool):
            _fail(p, f"must be True or False, not {_shown(x)}")
        return x
    if dtype.is_integer:
        if not isinstance(x, int) or isinstance(x, bool):
            help = None
            if _is_tensor(x):
                help = "`.item()` gives its value"
            _fail(p, f"must be an int, not {_shown(x)}", help)
        if not dtype.min <= x <= dtype.max:
            _fail(
                p,
                f"is {x}; {dtype} holds {dtype.min} to {dtype.max}",
                kind=TilusValueError,
            )
        return x
    if not isinstance(x, (int, float)) or isinstance(x, bool):
        _fail(p, f"must be a number, not {_shown(x)}")
    return float(x)


def _shown(x: Any) -> str:
    if x is None or isinstance(x, (bool, int, float, str)):
        return repr(x)
    return f"a {type(x).__name__}"


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "data_ptr") or hasattr(x, "__array_interface__") or hasattr(x, "storage")


def _address(p: Parameter, x: Any) -> int:
    """Where a pointer argument's memory begins; its element type is checked."""
    assert p.dtype is not None
    if isinstance(x, interpreter.Workspace):
        return int(x.data.ctypes.data)
    if isinstance(x, np.ndarray):
        try:
            given: DType | None = dtypes.from_numpy(x.dtype)
        except ValueError:
            given = None
        _check_elements(p, given, str(x.dtype), f"a NumPy array of {x.dtype}")
        return int(x.ctypes.data)
    if isinstance(getattr(x, "dtype", None), DType) and hasattr(x, "storage"):
        if x.dtype != p.dtype:
            _fail(p, f"holds {x.dtype}, not {p.dtype}")
        return int(x.storage.data_ptr())
    if hasattr(x, "data_ptr") and hasattr(x, "untyped_storage"):
        name = str(x.dtype).removeprefix("torch.")
        try:
            given = dtypes.dtype(name)
        except ValueError:
            given = None
        _check_elements(p, given, name, f"a tensor of {x.dtype}")
        return int(x.data_ptr()) if x.numel() else 0
    _fail(
        p,
        f"must be a tensor, not {_shown(x)}",
        "torch tensors, tilus.Tensor, and NumPy arrays when interpreting",
    )
    raise AssertionError


def _check_elements(p: Parameter, given: DType | None, name: str, what: str) -> None:
    """Raise unless memory of `given` elements may stand for the parameter's."""
    wanted = p.dtype
    assert wanted is not None
    if given == wanted:
        return
    packed = wanted.is_subbyte or bool(wanted.values) or wanted.name not in _HOST_TYPES
    if name == "uint8" and wanted.bits <= 8 and packed:
        return
    help = f"convert it, or declare `{p.name}: tilus.ptr[{given}]`" if given is not None else None
    if packed:
        help = f"pass a tilus.Tensor of {wanted}, or its packed bytes as uint8"
    _fail(p, f"is {what}, not of {wanted}", help)


# Element types that torch or NumPy have themselves.
_HOST_TYPES = frozenset(
    "u8 u16 u32 u64 i8 i16 i32 i64 f8e4m3 f8e5m2 e8m0 f16 bf16 f32 f64 bool".split()
)
