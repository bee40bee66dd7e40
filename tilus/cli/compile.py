"""`tilus compile`: show a kernel as IR, after any pass or after each."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

from tilus.cli.common import UsageError, columns, count, show, write
from tilus.cli.kernels import load
from tilus.ir.passes import PIPELINE, Report, decisions, lower
from tilus.ir.printer import print_function
from tilus.ir.program import Function
from tilus.ir.target import TARGETS

SOURCE, EVERY = "source", "all"  # besides the passes, what `--after` takes

TIR_STYLES = {
    r"\b(kernel|threads|divisible|let|for|while|if|else|carry|unroll|stages|yield|continue|break"
    r"|return)\b": "bold",
    r"%\w+": "cyan",
    r"#\w+": "magenta",
    r"(?m);.*$": "dim",
}

DESCRIPTION = """\
Show a kernel as IR, after all passes or after one of them.

FILE is a Python file with a kernel (a function decorated with @tilus.jit), or a `.tir` file, the
text form of a kernel. Nothing is run but the file's own top level.

-D gives a compile-time parameter its value: a Python literal (64, 0.5, True, 'text', (1, 2)), an
element type (u4, f6e3m2), a layout ("spatial(8,4)*local(1,2)"), or an expression over the names of
the file ("2 * TILE"). A launch finds out by itself what is divisible by 16 and what is 1; here
--divisible and --one say it.
"""

EXAMPLES = """\
examples:
  tilus compile kernels.py::matmul -D BM=64 -D wtype=u4 --num-warps 4
  tilus compile kernels.py::matmul -D BM=64 -D wtype=u4 --after source --places
  tilus compile kernels.py::scale -D BLOCK=256 --divisible x=16 --divisible n=16 -o scale.tir
  tilus compile scale.tir --after all --timing
  tilus compile --passes
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "compile", help="show a kernel as IR", description=DESCRIPTION, epilog=EXAMPLES
    )
    p.add_argument("file", metavar="FILE[::KERNEL]", nargs="?", help="a .py or .tir file")
    p.add_argument(
        "-D",
        dest="constants",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="the value of a compile-time parameter",
    )
    p.add_argument(
        "--divisible",
        metavar="NAME=N",
        action="append",
        default=[],
        help="promise that N divides an integer argument, or the address of a pointer (in bytes)",
    )
    p.add_argument(
        "--one",
        dest="ones",
        metavar="NAME",
        action="append",
        default=[],
        help="compile for an integer argument that is 1",
    )
    p.add_argument("--num-warps", type=count, metavar="N", help="warps in a block (default: 4)")
    p.add_argument("--num-threads", type=count, metavar="N", help="threads in a block, instead")
    p.add_argument(
        "--target",
        choices=list(TARGETS),
        default="generic",
        help="the machine to compile for (default: generic)",
    )
    p.add_argument(
        "--emit",
        choices=["tir"],
        default="tir",
        help="what to print; `tir`, the text form of the IR, is all there is so far",
    )
    p.add_argument(
        "--after",
        metavar="PASS",
        help=f"stop after this pass; `{SOURCE}` is before the first one, `{EVERY}` prints each",
    )
    p.add_argument("--places", action="store_true", help="say which source line each line is from")
    p.add_argument(
        "--report",
        action="store_true",
        help="say what the compiler decided: conversions, barriers, widths of accesses (stderr)",
    )
    p.add_argument("--timing", action="store_true", help="print each pass's milliseconds (stderr)")
    p.add_argument("--passes", action="store_true", help="list the passes and end")
    p.add_argument("-o", "--output", metavar="FILE", help="write to a file instead")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.passes:
        print(columns((str(n), name, doc) for n, (name, doc) in enumerate(passes())))
        return 0
    if args.file is None:
        raise UsageError("say which kernel: tilus compile FILE[::KERNEL]")
    names = [name for name, _ in passes()]
    if args.after is not None and args.after not in (*names, EVERY):
        raise UsageError(f"no pass is named {args.after!r}; there are {', '.join((*names, EVERY))}")
    begin = time.perf_counter()
    f = load(args)
    seconds = {SOURCE: time.perf_counter() - begin}
    stages = [(SOURCE, f)]
    if args.after != SOURCE:
        report = Report()
        after = None if args.after == EVERY else args.after
        try:
            lower(f, args.target, after=after, report=report)
        finally:
            if args.timing:
                _print_timing(seconds | report.seconds)
        stages += report.stages
    elif args.timing:
        _print_timing(seconds)
    if args.report:
        for decision in decisions(stages[-1][1], TARGETS[args.target]):
            print(decision, file=sys.stderr)
    text = _text(stages, args)
    if args.output is not None:
        write(args.output, text)
    else:
        show(text.removesuffix("\n"), TIR_STYLES)
    return 0


def passes() -> list[tuple[str, str]]:
    """Each stage with what it is: the kernel as it was written, then every pass."""
    rows = [(SOURCE, "The kernel as it was written, before any pass.")]
    for p in PIPELINE:
        first = re.split(r"(?<=\.)\s|\n\n", p.__doc__.strip(), maxsplit=1)[0]
        rows.append((p.name, " ".join(first.split())))
    return rows


def _text(stages: list[tuple[str, Function]], args: argparse.Namespace) -> str:
    if args.after != EVERY:
        return print_function(stages[-1][1], args.places)
    return "\n".join(f"; after {name}\n{print_function(f, args.places)}" for name, f in stages)


def _print_timing(seconds: dict[str, float]) -> None:
    rows = [
        (name, f"{1000 * s:8.2f} ms")
        for name, s in (seconds | {"total": sum(seconds.values())}).items()
    ]
    print(columns(rows), file=sys.stderr)
