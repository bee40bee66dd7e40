"""`tilus bench attention`: decode and prefill over a paged cache, beside the machine's limits."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tilus.cli.common import Parser, UsageError, count, write

DESCRIPTION = """\
Time attention over a paged cache: one token behind many, and many tokens at the end of many. The
shares are of what all threads can read (decode) and of the bf16 dots they can do (prefill), probed
beside each round; torch's own attention in bf16 is timed in the same rounds.
"""
EPILOG = """\
example:
  tilus bench attention --kv bf16,i8 --head-dim 64 --keys 8192 --queries 1
"""
HEAD = "kv    head    keys  queries        us    GB/s  stream  GFLOP/s   peak    error  torch"
KINDS = ("f32", "f16", "bf16", "i8")


def add(what: Any) -> None:
    """Enter the command below `tilus bench`."""
    p: Parser = what.add_parser(
        "attention", help="attention over a paged cache", description=DESCRIPTION, epilog=EPILOG
    )
    p.add_argument("--kv", default="bf16,i8", metavar="TYPES", help="f32, f16, bf16, i8 by commas")
    p.add_argument("--heads", type=count, default=32, metavar="N", help="of queries (default: 32)")
    p.add_argument("--kv-heads", type=count, default=8, metavar="N", help="of keys (default: 8)")
    p.add_argument("--head-dim", type=count, default=128, metavar="N", help="(default: 128)")
    p.add_argument("--keys", type=count, default=8192, metavar="N", help="tokens (default: 8192)")
    p.add_argument(
        "--queries", type=count, default=1, metavar="N", help="of these, new ones (default: 1)"
    )
    p.add_argument("--json", metavar="FILE", help="write JSON; - for standard output")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    kinds = args.kv.split(",")
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--kv: {wrong[0]!r} is none of {', '.join(KINDS)}")
    if args.heads % args.kv_heads:
        raise UsageError(f"--heads is {args.heads}, no multiple of --kv-heads, {args.kv_heads}")
    if args.queries > args.keys:
        raise UsageError(f"--queries is {args.queries}, more than --keys, {args.keys}")

    from tilus.kernels.bench import machine
    from tilus.kernels.bench_attention import Case, measure

    sizes = (args.heads, args.kv_heads, args.head_dim, args.keys, args.queries)
    quiet, cases = args.json == "-", []
    if not quiet:
        print(HEAD)
    for kind in kinds:
        cases.append(measure(Case(kind, *sizes)))
        if not quiet:
            print(_row(cases[-1]), flush=True)
    if args.json:
        report = json.dumps({"machine": machine(), "cases": cases}, indent=1)
        if quiet:
            print(report)
        else:
            write(args.json, f"{report}\n")
    return 0


def _row(c: dict[str, Any]) -> str:
    return (
        f"{c['kv']:5} {c['head_dim']:4} {c['keys']:7} {c['queries']:8} {c['us']:9.1f} "
        f"{c['gbps']:7.1f} {c['of_stream']:7.0%} {c['gflops']:8.0f} {c['of_peak']:6.0%} "
        f"{c['error']:8.1e}  {c['torch_us'] / c['us']:.2f}x"
    )
