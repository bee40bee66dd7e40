"""The `tilus` command: `run`, `chat`, `eval` and `quantize` models; see what the compiler does."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from tilus import __version__
from tilus.cli import bench, chat, info, layout, quantize, run
from tilus.cli import compile as compile_
from tilus.cli import eval as eval_
from tilus.cli.common import Parser, UsageError, show_error
from tilus.errors import TilusError
from tilus.options import options

EXAMPLES = """\
examples:
  tilus run ./Llama-3.2-1B --weights u4 --prompt "The sea is"
  tilus layout "local(2,1)*spatial(8,4)*local(1,2)"
  tilus compile kernels.py::scale -D BLOCK=256 --after infer_layouts
  tilus info

`tilus COMMAND --help` explains a command.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="tilus",
        description="A compiler for low-precision kernels, and a runtime for quantised models.",
        epilog=EXAMPLES,
    )
    top.add_argument("--version", action="version", version=f"tilus {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for command in (run, chat, eval_, quantize, info, bench, compile_, layout):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 for a faulty kernel, 2 for a faulty command line."""
    top = parser()
    try:
        args = top.parse_args(argv)
        if not hasattr(args, "run"):
            top.print_help()
            return 0
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UsageError as e:
        print(f"tilus: {e}", file=sys.stderr)
        return 2
    except TilusError as e:
        if _full_traceback():
            traceback.print_exc()
        else:
            show_error(e)
        return 1
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _full_traceback() -> bool:
    try:
        return options.full_traceback
    except TilusError:
        return False
