"""`tilus bench model`: prefill and decode of a model's shape, beside the machine's limits."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from tilus.cli.common import Parser, UsageError, count, element_type, write
from tilus.cli.model_options import about_options, add_sizes
from tilus.cli.progress import Bar

if TYPE_CHECKING:
    from tilus.llm.bench import Task
    from tilus.llm.peers import ModelPeer

DESCRIPTION = """\
Time a model of a published shape with random weights; nothing is downloaded. For each type: the
prompt's tokens a second, and the share of the int8 peak that its operations take; the tokens a
second that are made one after the other, and the share of the memory's stream that reading weights,
keys and values takes. Peak and stream are probed beside each round.
"""
EPILOG = """\
example:
  tilus bench model --shape llama-3.2-1b --weights u8,u4,u2 --group-size 64
  tilus bench model --shape qwen3-8b --layers 4 --context 4096 --json
"""
DENSE = ("bf16", "f32")
HEAD = "weights       MB  MB/token  prefill/s   peak  decode/s  stream"


def add(what: Any) -> None:
    """Enter the command below `tilus bench`."""
    p: Parser = what.add_parser(
        "model", help="prefill and decode of a model", description=DESCRIPTION, epilog=EPILOG
    )
    p.add_argument("--shape", required=True, metavar="NAME", help="such as llama-3.2-1b")
    p.add_argument("--weights", default="u4", metavar="TYPES", help="by commas; bf16 and f32 also")
    add_sizes(p)
    p.add_argument(
        "--prompt", type=count, default=512, metavar="N", help="tokens of prefill (default: 512)"
    )
    p.add_argument(
        "--generate", type=count, default=128, metavar="N", help="tokens of decode (default: 128)"
    )
    p.add_argument(
        "--context",
        type=count,
        metavar="N",
        help="tokens in the cache before decode is timed (default: as --prompt)",
    )
    p.add_argument("--layers", type=count, metavar="N", help="fewer than the shape has")
    p.add_argument("--threads", type=count, metavar="N", help="threads that compute (default: all)")
    p.add_argument(
        "--peers",
        default="none",
        help="`all` installed, `none` (default), or parts of names by commas; llama.cpp with the "
        "types nearest in size, in the same rounds",
    )
    p.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON; to standard output"
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and show."""
    kinds = [element_type("--weights", name) for name in args.weights.split(",")]
    for kind in kinds:
        if str(kind) not in DENSE and (kind.bits > 8 or str(kind) in ("e8m0", "bool")):
            raise UsageError(f"--weights: {kind}; weights have at most 8 bits, or are bf16 or f32")

    import torch

    from tilus.kernels.bench import machine
    from tilus.llm.bench import Limits, Task, measure
    from tilus.runtime.memory import keep_freed

    keep_freed()

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    sizes = (args.prompt, args.generate, args.context or args.prompt, args.layers)
    tasks = [Task(args.shape, k, args.group_size or None, args.kv, *sizes) for k in kinds]
    with about_options(args):
        for task in tasks:
            task.check()
    quiet = args.json == "-"
    limits, rows = Limits(), []
    if not quiet:
        print(f"ceilings: {limits.reader.best:.1f} GB/s read, {limits.ints.best:.0f} GOP/s int8\n")
        print(HEAD)
    for task in tasks:
        bar = Bar()
        try:
            rows.append(measure(task, limits, bar, _peers(args.peers, task)))
        finally:
            bar.clear()
        if not quiet:
            print(_row(rows[-1]), flush=True)
    if args.json:
        report = json.dumps({"machine": machine(), "models": rows}, indent=1)
        if quiet:
            print(report)
        else:
            write(args.json, f"{report}\n")
    return 0


def _peers(names: str, task: Task) -> list[ModelPeer]:
    from tilus.llm import peers
    from tilus.llm.shapes import config_of

    if names == "none":
        return []
    there = peers.available(config_of(task.shape, task.layers), task.weights, task.group_size)
    wanted = [p for p in there if names == "all" or any(n in p.name for n in names.split(","))]
    if names != "all" and not wanted:
        known = ", ".join(p.name for p in there) or "none for this model and type"
        raise UsageError(f"--peers: no {names} here; there are {known}")
    return wanted


def _row(r: dict[str, Any]) -> str:
    lines = [_ours(r)]
    for name, peer in r["peers"].items():
        prefill, decode = peer["prefill_tokens_per_s"], peer["decode_tokens_per_s"]
        times = r["prefill_tokens_per_s"] / prefill, r["decode_tokens_per_s"] / decode
        lines.append(f"  {name:23} {prefill:10.1f} {times[0]:5.2f}x {decode:9.1f} {times[1]:6.2f}x")
    return "\n".join(lines)


def _ours(r: dict[str, Any]) -> str:
    return (
        f"{r['weights']:8} {r['model_bytes'] / 1e6:7.0f} {r['bytes_per_token'] / 1e6:9.0f} "
        f"{r['prefill_tokens_per_s']:10.1f} {r['of_peak']:6.0%} {r['decode_tokens_per_s']:9.1f} "
        f"{r['of_stream']:7.0%}"
    )
