"""Run every example and show how far each is from its reference."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

import examples


def main() -> int:
    """Run them all; the number of failures."""
    torch.manual_seed(0)
    table = Table(title="tilus examples", title_justify="left")
    for heading in ("kernel", "case", "max error", "allowed", ""):
        right = heading in ("max error", "allowed")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "case")
    failures = count = 0
    start = time.perf_counter()
    for module in sorted(m.name for m in pkgutil.iter_modules(examples.__path__)):
        if module.startswith(("_", "train_")):
            continue
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
    console.print(f"{count - failures} of {count} checks passed in {seconds:.1f} s")
    return failures


if __name__ == "__main__":
    sys.exit(main())
