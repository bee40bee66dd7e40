"""`tilus quantize`: a model's weights in any element type, as a folder that `tilus run` takes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Literal

from tilus.cli.common import UsageError, columns, element_type, show_json
from tilus.cli.progress import Bar, noted, show_notes
from tilus.errors import TilusError

if TYPE_CHECKING:
    from tilus.llm.quantize.job import Report, Settings

EXAMPLES = """\
examples:
  tilus quantize ./Llama-3.2-1B ./llama-u4 --weights u4
  tilus quantize model.gguf ./small --weights f3e1m1 --group-size 32 --keep lm_head.weight
"""
ZEROS: dict[str, bool | Literal["float"] | None] = {"int": True, "float": "float", "none": False}


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "quantize",
        help="quantise a model",
        description="Quantise a model's matrices and write them, with all else that belongs to the "
        "model,\ninto a folder. A job that was stopped goes on when it is started again.",
        epilog=EXAMPLES,
    )
    p.add_argument("source", metavar="SRC", help="a folder with safetensors files, or a GGUF file")
    p.add_argument("destination", metavar="DST", help="the folder to make")
    p.add_argument("--weights", required=True, metavar="TYPE", help="element type, such as u4")
    p.add_argument(
        "--group-size",
        type=int,
        default=128,
        metavar="N",
        help="weights that share a scale: 16, 32, 64, 128 or 256; 0: a whole row (default: 128)",
    )
    p.add_argument("--scales", default="f16", metavar="TYPE", help="f16, bf16, f32, e8m0 or f8e4m3")
    p.add_argument("--zeros", choices=list(ZEROS), help="zero points of u1 to u8 (default: int)")
    p.add_argument("--no-clip", action="store_true", help="do not look for better scales")
    p.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave these tensors as they are, as in `*.down_proj.weight`; may be repeated",
    )
    p.add_argument("--force", action="store_true", help="replace a model that is at DST")
    p.add_argument("--json", action="store_true", help="the report as JSON")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from tilus.llm.quantize.job import quantize

    settings = _settings(args)
    bar = Bar()
    with noted() as notes:
        try:
            report = quantize(
                args.source, args.destination, settings, force=args.force, progress=bar
            )
        except KeyboardInterrupt:
            bar.clear()
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise
        finally:
            bar.clear()
    report.notices[:0] = notes
    if args.json:
        show_json(report.described())
        return 0
    show_notes(report.notices)
    print(_table(report))
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from tilus.llm.quantize.job import Settings

    try:
        return Settings(
            element_type("--weights", args.weights),
            args.group_size,
            element_type("--scales", args.scales),
            ZEROS.get(args.zeros),
            not args.no_clip,
            tuple(args.keep),
        )
    except TilusError as error:
        raise UsageError(error.first.message) from None


def _table(report: Report) -> str:
    rows = [("tensor", "shape", "type", "group", "MB", "error")]
    for row in report.rows:
        entry = row.entry
        group = "-" if entry.scales is None else str(entry.group_size or "row")
        error = "-" if row.error is None else f"{row.error:.5f}"
        shape = "x".join(map(str, entry.shape))
        kind = str(entry.dtype).partition("(")[0]
        rows.append((entry.name, shape, kind, group, f"{row.nbytes / 1e6:.3f}", error))
    resumed = f", {report.resumed} tensors finished before" if report.resumed else ""
    return (
        f"{columns(rows)}\n\n{report.destination}: {report.nbytes / 1e6:.2f} MB, "
        f"{report.bits:.3f} bits a quantised weight, error {report.error:.5f} "
        f"(relative RMS), {report.seconds:.1f} s{resumed}"
    )
