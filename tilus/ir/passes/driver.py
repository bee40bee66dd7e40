"""Run passes over a function: ordered, timed, verified, dumped, and stopped where asked.

TILUS_VERIFY=each      verify after every pass, not only at the end
TILUS_DUMP=dir         write the program after each pass as dir/NN_name.tir
TILUS_STOP_AFTER=n     return after n passes, to find the one that breaks a program
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tilus.errors import TilusValueError
from tilus.ir.printer import print_function
from tilus.ir.program import Function
from tilus.ir.target import Target
from tilus.ir.verifier import verify
from tilus.options import options


class Form(enum.Flag):
    """What holds of a program between passes."""

    TYPED = enum.auto()  # every value has a type
    TILES_LAID_OUT = enum.auto()  # every register tile has a layout
    LAID_OUT = enum.auto()  # and every instruction's operands are laid out as it needs them
    VECTORIZED = enum.auto()  # memory instructions say how much one access moves
    ORDERED = enum.auto()  # barriers stand wherever program order needs them


@dataclass(frozen=True)
class Pass:
    """A function from programs to programs, with what it needs and gives."""

    fn: Callable[[Function, Target], Function]
    needs: Form
    gives: Form

    @property
    def name(self) -> str:
        """The function's name."""
        return self.fn.__name__

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self.fn.__doc__ or ""

    def __call__(self, f: Function, target: Target) -> Function:
        """Run the pass alone, without checks."""
        return self.fn(f, target)


def ir_pass(
    *, needs: Form, gives: Form = Form.TYPED
) -> Callable[[Callable[[Function, Target], Function]], Pass]:
    """Declare a pass. Running it twice must change nothing the second time."""
    return lambda fn: Pass(fn, needs, gives)


@dataclass
class Report:
    """What the passes did: seconds and the program after each."""

    seconds: dict[str, float] = field(default_factory=dict)
    stages: list[tuple[str, Function]] = field(default_factory=list)


def run_passes(
    f: Function,
    target: Target,
    pipeline: Iterable[Pass],
    *,
    after: str | None = None,
    report: Report | None = None,
) -> Function:
    """The function after the passes; `after` stops behind the pass of that name.

    Raises:
        TilusTypeError: the program is not well formed, before or after a pass.
    """
    pipeline = tuple(pipeline)
    names = [p.name for p in pipeline]
    if after is not None and after not in names:
        raise TilusValueError(f"no pass is named {after!r}; there are {', '.join(names)}")
    limit = options.stop_after
    report = report or Report()
    form = Form.TYPED
    verify(f)
    _dump(0, "source", f)
    for number, p in enumerate(pipeline, 1):
        if limit is not None and number > limit:
            break
        missing = p.needs & ~form
        assert not missing, f"{p.name} needs {missing}"
        start = time.perf_counter()
        f = p(f, target)
        name = p.name if p.name not in report.seconds else f"{p.name}_{number}"
        report.seconds[name] = time.perf_counter() - start
        form |= p.gives
        report.stages.append((name, f))
        _dump(number, p.name, f)
        if options.verify == "each" or number == len(pipeline):
            verify(f, target if Form.LAID_OUT in form else None)
        if after == p.name and after not in names[number:]:
            break
    return f


def _dump(number: int, name: str, f: Function) -> None:
    folder = options.dump
    if folder is None:
        return
    path = Path(folder) / f.name
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{number:02}_{name}.tir").write_text(print_function(f, places=True))
