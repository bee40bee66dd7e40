"""Run every kernel and show how far it is from its reference; then quantise a model."""

from __future__ import annotations

import importlib
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

import examples
from examples import quantised_model


def main() -> int:
    """Run them all; the number of checks that failed."""
    torch.manual_seed(0)
    table = Table(title="Kernels beside their references", title_justify="left")
    for heading in ("kernel", "case", "max error", "allowed", ""):
        right = heading in ("max error", "allowed")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "case")
    failures = count = 0
    start = time.perf_counter()
    for module in examples.kernels():
        for check in importlib.import_module(f"examples.{module}").main():
            mark = "[green]ok[/green]" if check.passed else "[bold red]FAILED[/bold red]"
            table.add_row(
                check.kernel, check.case, f"{check.error:.1e}", f"{check.allowed:.0e}", mark
            )
            failures += not check.passed
            count += 1
        table.add_section()
    seconds = time.perf_counter() - start
    console = Console()
    console.print(table)
    console.print(f"{count - failures} of {count} checks passed in {seconds:.1f} s\n")
    quantised_model.main()
    return failures


if __name__ == "__main__":
    sys.exit(main())
