"""`tilus bench matmul`: quantised products beside the machine's limits."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilus.cli.common import Parser, UsageError

if TYPE_CHECKING:
    from tilus.kernels.peers import Peer

EPILOG = """\
example:
  tilus bench matmul --weights u1,u4,f6e3m2 --m 1,8,512 --n 4096 --k 4096
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
    bench.set_defaults(run=lambda args: _nothing(bench))


def _nothing(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    from tilus.dtypes import dtype
    from tilus.kernels import bench

    try:
        types = [dtype(name) for name in args.weights.split(",")]
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
    if quiet:
        print(json.dumps(report, indent=1))
    elif args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
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
