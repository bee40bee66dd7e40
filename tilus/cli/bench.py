"""`tilus bench`: products, attention, models beside the machine's limits; casts, launches."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tilus.cli import bench_attention, bench_model
from tilus.cli.common import Parser, UsageError, write

if TYPE_CHECKING:
    from tilus.dtypes import DType
    from tilus.kernels.peers import Peer

EPILOG = """\
example:
  tilus bench matmul --weights u1,u4,f6e3m2 --m 1,8,512 --n 4096 --k 4096
"""
CASTS_EPILOG = """\
example:
  tilus bench casts --weights u3,nf4
"""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Enter the command."""
    bench = commands.add_parser("bench", help="measure kernels", epilog=EPILOG)
    what = bench.add_subparsers(title="what to measure", metavar="WHAT", parser_class=Parser)
    p = what.add_parser("matmul", help="quantised matrix products", epilog=EPILOG)
    p.add_argument("--device", choices=["cpu"], default="cpu")
    p.add_argument("--weights", default="u4", help="element types, separated by commas")
    p.add_argument("--m", default="1", help="rows of the activations, separated by commas")
    p.add_argument("--n", type=int, default=4096, help="outputs")
    p.add_argument("--k", type=int, default=4096, help="inputs")
    p.add_argument("--group", type=int, default=128, help="group size; 0: one scale a column")
    p.add_argument("--peers", default="all", help="`all` installed, `none`, or names by commas")
    p.add_argument("--json", metavar="FILE", help="write JSON; - for standard output")
    p.set_defaults(run=run)
    bench_model.add(what)
    bench_attention.add(what)
    c = what.add_parser("casts", help="what taking weights apart costs", epilog=CASTS_EPILOG)
    c.add_argument("--weights", default="all", help="element types, separated by commas")
    c.add_argument("--json", metavar="FILE", help="write JSON; - for standard output")
    c.set_defaults(run=run_casts)
    launch = what.add_parser("launch", help="what a launch and a compilation cost")
    launch.add_argument("--json", metavar="FILE", help="write JSON; - for standard output")
    launch.set_defaults(run=run_launch)
    bench.set_defaults(run=lambda args: _nothing(bench))


def _nothing(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def run_casts(args: argparse.Namespace) -> int:
    """Count and show."""
    from tilus import dtypes
    from tilus.kernels import casts
    from tilus.runtime.cpu import host_target

    if args.weights == "all":
        types = [t for t in dtypes.NARROW_TYPES if t not in (dtypes.bool_, dtypes.e8m0)]
    else:
        types = _types(args.weights)
    rows = casts.table(types, host_target())
    if args.json != "-":
        print("vector operations that make 64 weights the operand of a dot\n")
        print("weights  bytes     i8   bf16    f32")
        for row in rows:
            cells = (
                f"{row[str(t)]:6.2f}" if row[str(t)] is not None else "     -"
                for t in casts.OPERANDS
            )
            print(f"{row['weights']:8} {row['parts'] or '-':>5} {' '.join(cells)}")
    if args.json:
        _write(args.json, {"casts": rows})
    return 0


def run_launch(args: argparse.Namespace) -> int:
    """Measure and show."""
    from tilus.kernels import latency

    figures = latency.measure()
    if args.json != "-":
        for name, figure in figures.items():
            words, unit = name.rsplit("_", 1)
            print(f"{words.replace('_', ' '):24} {figure:9.2f} {unit}")
    if args.json:
        _write(args.json, figures)
    return 0


def _types(names: str) -> list[DType]:
    from tilus.dtypes import dtype

    try:
        return [dtype(name) for name in names.split(",")]
    except ValueError as e:
        raise UsageError(str(e)) from None


def _write(where: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=1)
    if where == "-":
        print(text)
    else:
        write(where, f"{text}\n")


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    from tilus.kernels import bench

    types = _types(args.weights)
    try:
        rows = [int(m) for m in args.m.split(",")]
    except ValueError as e:
        raise UsageError(str(e)) from None
    if min(rows) < 1 or args.n < 1 or args.k < 1:
        raise UsageError("--m, --n and --k are at least 1")
    beside = _peers(args.peers)
    quiet = args.json == "-"
    limits = bench.measure_ceilings()
    if not quiet:
        print(
            f"ceilings: {limits.stream_gbps:.1f} GB/s read, {limits.int8_gops:.0f} GOP/s int8, "
            f"{limits.bf16_gflops:.0f} GFLOP/s bf16\n"
        )
        print("weights      m       us    GB/s  stream   GOP/s   peak    error  call us  best peer")
    cases = []
    for t in types:
        for m in rows:
            case = bench.measure_case(t, m, args.n, args.k, args.group or None, limits, beside)
            cases.append(case)
            if not quiet:
                print(_row(case), flush=True)
    report = {"machine": bench.machine(), "ceilings": asdict(limits), "cases": cases}
    if args.json:
        _write(args.json, report)
    return 0


def _peers(names: str) -> list[Peer]:
    from tilus.kernels import peers

    there = peers.available() if names != "none" else []
    if names in ("all", "none"):
        return there
    wanted = names.split(",")
    if missing := set(wanted) - {p.name for p in there}:
        known = ", ".join(p.name for p in there)
        raise UsageError(f"--peers: not here: {', '.join(sorted(missing))}; there are {known}")
    return [p for p in there if p.name in wanted]


def _row(c: dict[str, Any]) -> str:
    row = (
        f"{c['weights']:8} {c['m']:5} {c['us']:8.1f} {c['gbps']:7.1f} {c['of_stream']:6.0%} "
        f"{c['gflops']:8.0f} {c['of_peak']:6.0%} {c['error']:8.1e} {c['us_call']:8.1f}"
    )
    if not c["peers"]:
        return row
    name, peer = min(c["peers"].items(), key=lambda item: float(item[1]["us"]))
    return f"{row}  {peer['us'] / c['us']:.2f}x {name}"
