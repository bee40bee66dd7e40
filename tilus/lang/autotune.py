"""`@tilus.autotune`: a kernel that finds out itself which of several configs runs fastest.

    configs --cost model--> the cheapest few that compile --runs on copies--> the fastest

The model (`tilus.ir.cost`, or the user's) ranks all configs without running anything. The first
`top` of them that compile are run on copies of the tensors, so nothing of the caller's is touched:
once to compare what they leave in memory with what the model's first choice leaves, then several
times against the clock. What was found is remembered, in the process and on disk.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, NoReturn

import llvmlite.binding as llvm
import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DType, Kind
from tilus.errors import Span, TilusError, TilusTypeError
from tilus.ir import cost as model
from tilus.ir.instructions.memory import GlobalView
from tilus.ir.program import Assign, Function, walk
from tilus.ir.types import PointerType
from tilus.lang.frame import Trace
from tilus.lang.jit import JitFunction
from tilus.lang.launch import Grid, hidden, resolve_grid, threads, typed_key
from tilus.lang.signature import Role
from tilus.options import options
from tilus.runtime import cache
from tilus.runtime.cpu import host_target
from tilus.runtime.program import recording
from tilus.tensor import Tensor

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Cost = Callable[[dict[str, Any]], float]
Key = tuple[Any, ...]
Run = Callable[[Grid], Callable[..., None]]  # what `kernel[grid]` gives

THREAD_WORDS = ("num_warps", "num_threads")
ROUNDS = 25  # at most
ENOUGH = 0.1  # seconds of rounds; then three of them are
PATIENCE = 2.0  # seconds after which no further round begins
HOPELESS = 3.0  # times slower than the fastest after three rounds: not run again
LINE = 64  # bytes; a copy lies as the original does relative to them


class Config:
    """Values for some of a kernel's constexprs, and how many threads a block has.

    >>> Config(BLOCK=256, num_warps=4)
    Config(BLOCK=256, num_warps=4)
    """

    __slots__ = ("keywords",)

    def __init__(
        self, *, num_warps: int | None = None, num_threads: int | None = None, **constants: Any
    ) -> None:
        threads(num_warps, num_threads)
        for name, x in constants.items():
            try:
                hash(x)
            except TypeError:
                raise TilusTypeError(
                    f"Config: `{name}` is a {type(x).__name__}, which is not hashable",
                    help="pass a tuple" if isinstance(x, list) else None,
                ) from None
        asked = zip(THREAD_WORDS, (num_warps, num_threads), strict=True)
        self.keywords = constants | {name: n for name, n in asked if n is not None}

    @property
    def constants(self) -> dict[str, Any]:
        """The constexprs by name."""
        return {n: x for n, x in self.keywords.items() if n not in THREAD_WORDS}

    def _key(self) -> frozenset[Any]:
        return frozenset((n, typed_key(x)) for n, x in self.keywords.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{n}={x!r}' for n, x in self.keywords.items())})"


def autotune(
    configs: Iterable[Config],
    key: Iterable[str] | str = (),
    *,
    cost: Cost | None = None,
    top: int = 4,
) -> Callable[[JitFunction], Autotuned]:
    """Let a kernel choose some of its constexprs; it goes above `@tilus.jit`.

    The first launch with other values of `key` (or of the constexprs that are not tuned) chooses,
    and the process keeps to that. The disk remembers it too, for the same kernel, configs, `key`,
    processor and threads. A config whose results differ by more than rounding is warned of.

    Args:
        configs: what to choose from. All of them give the same constexprs.
        key: scalar parameters on whose values the choice depends. Types always do: they are the
            parameters' own.
        cost: what a config costs (less is better), of all arguments and constexprs by name; in
            place of the estimate in `tilus.ir.cost`, which knows little but needs no running.
        top: how many of the cheapest configs that compile are run to find the fastest.

    Raises:
        TilusTypeError: a name is no parameter, or the configs do not fit together.
    """
    names = (key,) if isinstance(key, str) else tuple(key)

    def wrap(kernel: JitFunction) -> Autotuned:
        if not isinstance(kernel, JitFunction) or isinstance(kernel, Autotuned):
            what = "tuned already" if isinstance(kernel, Autotuned) else "no kernel"
            name = getattr(kernel, "__name__", kernel)
            raise TilusTypeError(
                f"@tilus.autotune takes a kernel; `{name}` is {what}",
                help="write it above @tilus.jit, once",
            )
        return Autotuned(kernel, tuple(configs), names, cost, top)

    return wrap


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A config that can be traced, and what the model thinks of it."""

    config: Config
    bound: dict[str, Any]  # arguments and constexprs by name
    words: dict[str, Any]  # `num_warps`, `num_threads`
    function: Function
    blocks: int
    cost: float


class Autotuned(JitFunction):
    """A kernel whose launches choose their config.

    Attributes:
        kernel: the plain kernel, to be launched with constexprs of one's own.
        configs: what there is to choose from.
        best: what was chosen, by the values of `key` and then of the constexprs that are given,
            each in the order of the parameters.
    """

    def __init__(
        self,
        kernel: JitFunction,
        configs: tuple[Config, ...],
        key: tuple[str, ...],
        cost: Cost | None,
        top: int,
    ) -> None:
        super().__init__(kernel.fn, kernel.num_threads)
        self.kernel, self.configs, self.key = kernel, configs, key
        self.cost, self.top = cost, top
        self.best: dict[Key, Config] = {}
        self._check()
        self._tuned = frozenset(name for config in configs for name in config.keywords)
        self._measured: dict[Key, Config] = {}
        self._modelled: dict[Key, Config] = {}
        self._traces: dict[Key, tuple[Function, Trace]] = {}
        self._lock = threading.RLock()

    def _fail(self, what: str, span: Span | None = None, help: str | None = None) -> NoReturn:
        raise TilusTypeError(f"autotune of `{self.__name__}`: {what}", span, help=help)

    def _check(self) -> None:
        """Raise unless the configs fit together; what needs annotations is checked at a launch."""
        if not self.configs:
            self._fail("`configs` is empty", help="give at least one tilus.Config")
        if not isinstance(self.top, int) or isinstance(self.top, bool) or self.top < 1:
            self._fail(f"`top` is {self.top!r}; it is an int, at least 1")
        for config in self.configs:
            if not isinstance(config, Config):
                self._fail(f"{config!r} is no tilus.Config", help="write tilus.Config(BLOCK=256)")
        first = self.configs[0]
        for i, config in enumerate(self.configs):
            if config in self.configs[:i]:
                self._fail(f"{config} is there twice")
            for name in sorted(config.constants.keys() ^ first.constants.keys()):
                has, lacks = (first, config) if name in first.constants else (config, first)
                help = "all configs give the same constexprs"
                self._fail(f"{lacks} does not give `{name}`, as {has} does", help=help)
        code = self.fn.__code__
        known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        named = {n: "a config gives" for n in first.constants} | dict.fromkeys(
            self.key, "`key` names"
        )
        for name, who in named.items():
            if name not in known:
                help = f"it takes {', '.join(known) or 'no parameters'}"
                self._fail(f"{who} `{name}`, which is no parameter of the kernel", help=help)

    @cached_property
    def _places(self) -> tuple[int, list[tuple[str, int, Any]], list[tuple[str, int, Any]]]:
        """How many arguments may come by place, and where key scalars and given constexprs are."""
        scalars, constants, room = [], [], len(self.signature.parameters)
        for i, p in enumerate(self.signature.parameters):
            place = len(self.signature.parameters) if p.keyword_only else i
            if p.name in self._tuned:
                if p.role is not Role.CONSTEXPR:
                    self._fail(f"`{p}` cannot be tuned: it is no constexpr", p.span)
                if p.name in self.key:
                    self._fail(f"`{p}` cannot be in the key: it is tuned", p.span)
                room = min(room, place)
            elif p.role is Role.CONSTEXPR:
                constants.append((p.name, place, p.default))
            elif p.name in self.key:
                if p.role is Role.POINTER:
                    what = "its type is always the same, and what it points to does not count"
                    self._fail(f"`{p}` cannot be in the key: {what}", p.span)
                scalars.append((p.name, place, p.default))
        return room, scalars, constants

    # launching

    def __getitem__(self, grid: Grid) -> Callable[..., None]:
        """`kernel[grid](*args)`: run it with the best config for these arguments."""
        return partial(self._launch, grid)

    def _launch(self, grid: Grid, /, *args: Any, **keywords: Any) -> None:
        __tracebackhide__ = True
        known = self._measured if options.autotune else self._modelled
        try:
            config = known.get(self._key(args, keywords))
        except TypeError:  # what chooses will say it
            config = None
        if config is None:
            config = self._choose(self.kernel.__getitem__, grid, args, keywords)
        self.kernel[grid](*args, **keywords, **config.keywords)

    @hidden
    def interpret(self, *args: Any, grid: Grid, **keywords: Any) -> None:
        """Run the kernel in the interpreter, with the config that the model finds cheapest.

        Args:
            args: the kernel's arguments, by place or by name.
            grid: blocks along up to three axes, or a function of the arguments by name.
            keywords: further arguments, and `num_warps` or `num_threads`.
        """

        def run(grid: Grid) -> Callable[..., None]:
            return partial(self.kernel.interpret, grid=grid)

        config = self._choose(run, grid, args, keywords, interpreted=True)
        run(grid)(*args, **keywords, **config.keywords)

    def _key(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> Key:
        """What a choice is remembered by: cheap, as every launch asks for it."""
        room, scalars, constants = self._places
        given = len(args)
        if given > room or (keywords and not self._tuned.isdisjoint(keywords)):
            self._refuse(args, keywords)
        key = [torch.get_num_threads(), (None, None)]
        if keywords:
            key[1] = tuple(map(keywords.get, THREAD_WORDS))
        for n, i, x in scalars:
            key.append(args[i] if i < given else keywords.get(n, x))
        for n, i, x in constants:
            key.append(typed_key(args[i] if i < given else keywords.get(n, x)))
        return tuple(key)

    def _refuse(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Raise if a launch gives what is tuned."""
        places = [p.name for p in self.signature.parameters if not p.keyword_only]
        by_place = [n for n in places[: len(args)] if n in self._tuned]
        for name in (*by_place, *sorted(self._tuned & keywords.keys())):
            help = f"leave it out, or launch `{self.__name__}.kernel`, which is not tuned"
            self._fail(f"`{name}` is tuned, and the launch gives it", self.signature.span, help)

    # choosing

    @hidden
    def _choose(
        self,
        run: Run,
        grid: Grid,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        interpreted: bool = False,
    ) -> Config:
        """The config for these arguments, found out if it is not known."""
        try:
            key = self._key(args, keywords)
            hash(key)
        except TilusError:
            raise
        except TypeError:
            return self.configs[0]  # the launch will say what cannot be hashed
        interpreted |= options.interpret
        measures = options.autotune and not interpreted and recording() is None
        known = self._measured if measures else self._modelled
        with self._lock:
            if key in known and not interpreted:
                return known[key]
            candidates = self._candidates(grid, args, keywords)
            name = self._name(candidates, key) if measures else ""
            found = self._read(name) if measures and not options.always_compile else None
            if found is None:
                ready = self._ready(run, args, keywords, candidates, self.top if measures else 1)
                if not ready:
                    return self._raise(run, args, keywords)
                if ready[0].blocks == 0:
                    return ready[0].config  # for a launch of nothing
                found = self._fastest(grid, ready) if measures else ready[0].config
                if found is None:
                    return ready[0].config  # the launch will say what is wrong
                if measures:
                    cache.write(name, str(self.configs.index(found)).encode())
            if not interpreted:
                known[key] = found
            self.best[self._label(args, keywords)] = found
        return found

    def _candidates(
        self, grid: Grid, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> list[_Candidate]:
        """The configs that can be traced, cheapest first; of equals the first."""
        given = {n: x for n, x in keywords.items() if n not in THREAD_WORDS}
        asked = {n: x for n, x in keywords.items() if n in THREAD_WORDS}
        found = []
        for config in self.configs:
            bound = self.signature.bind(args, given | config.constants)
            extents = resolve_grid(grid, bound, self.__name__)
            words = asked | {n: x for n, x in config.keywords.items() if n in THREAD_WORDS}
            count = threads(words.get("num_warps"), words.get("num_threads"))
            try:
                function = self._traced(bound, count or self.kernel.num_threads or 1)
            except TilusError:
                continue
            if self.cost is not None:
                cost = float(self.cost(bound | words))
            else:
                cost = model.estimate(function, bound, extents, torch.get_num_threads())
            found.append(_Candidate(config, bound, words, function, math.prod(extents), cost))
        return sorted(found, key=lambda c: c.cost)

    def _traced(self, bound: Mapping[str, Any], count: int) -> Function:
        """The kernel's IR for these constexprs, with nothing known of the other arguments."""
        constants = {
            p.name: x.item() if isinstance(x := bound[p.name], np.generic) else x
            for p in self.signature.parameters
            if p.role is Role.CONSTEXPR
        }
        key = (count, *(typed_key(x) for x in constants.values()))
        found = self._traces.get(key)
        if found is None or not found[1].is_current():
            found = self._traces[key] = self.kernel.translate(constants, count, {}, frozenset())
        return found[0]

    def _ready(
        self,
        run: Run,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
        candidates: list[_Candidate],
        limit: int,
    ) -> list[_Candidate]:
        """The first candidates that compile: a launch of no blocks compiles, and runs nothing."""

        def compiles(c: _Candidate) -> bool:
            try:
                run((0,))(*args, **keywords, **c.config.keywords)
            except TilusError:
                return False
            return True

        return list(islice(filter(compiles, candidates), limit))

    def _raise(self, run: Run, args: tuple[Any, ...], keywords: dict[str, Any]) -> Config:
        """No config compiles: raise what the first one's launch says."""
        first = self.configs[0]
        try:
            run((0,))(*args, **keywords, **first.keywords)
        except TilusError as e:
            tried = ", ".join(map(str, self.configs))
            e.add_note(f"autotune of `{self.__name__}`: this is {first}'s error; tried: {tried}")
            raise
        return first

    # remembering

    def _name(self, candidates: list[_Candidate], key: Key) -> str:
        """The name of the choice on disk."""
        texts = {c.config: str(c.function) for c in candidates}
        count, _, *values = key
        scalars = ",".join(map(str, values[: len(self._places[1])]))
        parts = ["autotune", *(texts.get(c, "") for c in self.configs), str(self.top), scalars]
        machine = [",".join(sorted(host_target().features)), llvm.get_host_cpu_name(), str(count)]
        return cache.key([*parts, *machine])

    def _read(self, name: str) -> Config | None:
        """The choice of that name, if there is one that makes sense."""
        text = (cache.read(name) or b"").decode("ascii", "replace")
        known = text.isdecimal() and int(text) < len(self.configs)
        return self.configs[int(text)] if known else None

    def _label(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> Key:
        """What `best` shows of a launch."""
        _, scalars, constants = self._places
        return tuple(
            args[i] if i < len(args) else keywords.get(n, x) for n, i, x in (*scalars, *constants)
        )

    # measuring

    def _fastest(self, grid: Grid, candidates: list[_Candidate]) -> Config | None:
        """The config with the least median time, of those that agree with the first that runs."""
        start = time.perf_counter()
        trial = _Trial(self, grid, candidates[0])
        faults = {c: trial.fault(c) for c in candidates}
        running = agreeing = [c for c in candidates if faults[c] is None]
        if not agreeing:
            return None
        for c in candidates:
            if faults[c] is not None:
                text = f"autotune of `{self.__name__}`: {c.config} is left out: {faults[c]}"
                warnings.warn(text, RuntimeWarning, stacklevel=5)  # at the launch
        times: dict[_Candidate, list[float]] = {c: [] for c in agreeing}
        for i in range(ROUNDS):
            spent = time.perf_counter() - start
            if len(running) == 1 or (i and spent > (PATIENCE if i < 3 else ENOUGH)):
                break
            for c in running[:: -1 if i % 2 else 1]:
                times[c].append(trial.seconds(c))
            if i >= 2:
                limit = HOPELESS * min(map(min, times.values()))
                running = [c for c in running if min(times[c]) <= limit]
        return min(agreeing, key=lambda c: statistics.median(times[c] or [0.0])).config


class _Trial:
    """Runs of candidates on copies of a launch's tensors; the caller's own are only read."""

    def __init__(self, tuned: Autotuned, grid: Grid, first: _Candidate) -> None:
        self.launch = tuned.kernel[grid]
        self.parameters = tuned.signature.parameters
        pointers = {p.name: first.bound[p.name] for p in self.parameters if p.role is Role.POINTER}
        spans = {n: span for n, x in pointers.items() if (span := _span(x)) is not None}
        self.regions = _regions(spans.values())
        self.within: dict[str, tuple[_Region, slice]] = {}
        self.copies: dict[str, Any] = {}
        for name, (low, high) in spans.items():
            region = next(r for r in self.regions if r.low <= low < r.low + r.copy.size)
            self.within[name] = region, slice(low - region.low, high - region.low)
            self.copies[name] = _rebuilt(pointers[name], region)
        self.changed: set[_Region] = set()  # by some run
        self.reference: tuple[_Candidate, dict[_Region, Bytes]] | None = None

    def call(self, c: _Candidate) -> Callable[[], None]:
        """The launch of a candidate, with all memory as the caller's is."""
        for region in self.changed:
            region.copy[:] = region.original
        values = c.bound | self.copies
        args = [values[p.name] for p in self.parameters if not p.keyword_only]
        keywords = {p.name: values[p.name] for p in self.parameters if p.keyword_only}
        return partial(self.launch, *args, **keywords, **c.words)

    def seconds(self, c: _Candidate) -> float:
        """How long a launch takes."""
        call = self.call(c)
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def fault(self, c: _Candidate) -> str | None:
        """What is wrong with a run; None if it leaves what the first good one left."""
        try:
            self.call(c)()
            fault = None
        except TilusError as e:
            fault = f"its run fails: {e.first.message}"
        self.changed |= {r for r in self.regions if not np.array_equal(r.copy, r.original)}
        if fault is None and self.reference is None:
            left = {r: r.copy.copy() if r in self.changed else r.original for r in self.regions}
            self.reference = c, left
        return self.difference(c) if fault is None else fault

    def difference(self, c: _Candidate) -> str | None:
        """What is in memory after a run that the first good one did not leave there."""
        assert self.reference is not None
        first, left = self.reference
        types = _element_types(c.function)
        for name, (region, part) in self.within.items():
            found = _difference(region.copy[part], left[region][part], types[name])
            if found:
                return f"its `{name}` is not that of {first.config}: {found}"
        return None


def _difference(got: Bytes, want: Bytes, dtype: DType) -> str | None:
    """How two results differ by more than rounding can explain; None if they agree.

    Integers, bools and codebooks agree if they are equal; floats of m mantissa bits if they differ
    by at most 2^(-m/2) of their value and of the root of the mean square of all.
    """
    if np.array_equal(got, want):
        return None
    count = got.size * 8 // dtype.bits
    x, y = (dtype.decode(dtypes.unpack(b, dtype.bits, count)) for b in (got, want))
    wrong = x != y
    with np.errstate(all="ignore"):
        off = np.abs(x.astype(np.float64) - y.astype(np.float64))
        if dtype.kind is Kind.FLOAT:
            finite = np.isfinite(x) & np.isfinite(y)
            size = np.abs(np.where(finite, y, 0).astype(np.float64))
            scale = np.sqrt(np.mean(size**2))
            close = off <= 2.0 ** (-dtype.mantissa_bits / 2) * (size + scale)
            wrong &= ~close & ~(np.isnan(x) & np.isnan(y))
    if not wrong.any():
        return None
    return f"{wrong.sum()} of {count} elements differ, by up to {off[wrong].max():.3g}"


def _element_types(f: Function) -> dict[str, DType]:
    """What each pointer's elements are seen as: as what its views say, if they agree."""
    types = {p.value.name: p.value.dtype for p in f.params if isinstance(p.value.type, PointerType)}
    seen: dict[str, set[DType]] = {}
    for s in walk(f.body):
        if isinstance(s, Assign) and isinstance(s.inst, GlobalView):
            seen.setdefault(s.inst.ptr.name, set()).add(s.inst.dtype)
    return types | {name: next(iter(found)) for name, found in seen.items() if len(found) == 1}


@dataclass(frozen=True, eq=False)
class _Region:
    """A stretch of the caller's memory, which arguments may share, and a copy of it."""

    low: int  # address
    original: Bytes
    copy: Bytes


def _regions(spans: Iterable[tuple[int, int]]) -> list[_Region]:
    """The memory that some spans cover; those that overlap share a region."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if joined and low < joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    out = []
    for low, high in joined:
        original = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
        room = np.empty(original.size + 2 * LINE, np.uint8)
        at = (low - room.ctypes.data) % LINE
        copy = room[at : at + original.size]
        copy[:] = original
        out.append(_Region(low, original, copy))
    return out


def _span(x: Any) -> tuple[int, int] | None:
    """The addresses a tensor covers, the end excluded; None if it is empty, or no tensor."""
    if isinstance(x, Tensor):
        return _span(x.storage)
    if isinstance(x, torch.Tensor):
        start, shape, size = x.data_ptr(), tuple(x.shape), x.element_size()
        strides: Sequence[int] = [s * size for s in x.stride()]
    elif isinstance(x, np.ndarray):
        start, shape, strides, size = x.ctypes.data, x.shape, x.strides, x.itemsize
    else:
        return None
    if 0 in shape:
        return None
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    return start + sum(min(0, e) for e in ends), start + sum(max(0, e) for e in ends) + size


def _rebuilt(x: Any, region: _Region) -> Any:
    """The same tensor in the region's copy."""
    if isinstance(x, Tensor):
        return Tensor(x.dtype, x.shape, _rebuilt(x.storage, region))
    if isinstance(x, np.ndarray):
        at = x.ctypes.data - region.low
        return np.ndarray(x.shape, x.dtype, region.copy, at, x.strides)
    low, high = _span(x) or (0, 0)
    part = torch.from_numpy(region.copy[low - region.low : high - region.low])
    return part.view(x.dtype).as_strided(x.shape, x.stride())


__all__ = ["Autotuned", "Config", "autotune"]
