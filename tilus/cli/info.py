"""`tilus info`: versions, the machine, options, targets, element types; or what a model is."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from tilus import __version__
from tilus.cli import info_model
from tilus.cli.common import columns, console, show_json
from tilus.errors import TilusError
from tilus.options import Option, Options, options

PACKAGES = ("numpy", "torch", "triton", "llvmlite", "lark", "networkx", "rich", "cuda-bindings")

# What kernels for CPUs can make use of, by LLVM's names.
FEATURES = {
    "x86": "avx2 fma f16c avxvnni avx512f avx512bw avx512vl avx512dq avx512vnni avx512vbmi "
    "avx512vbmi2 avx512bf16 avx512fp16 amx-int8 amx-bf16",
    "arm": "neon dotprod i8mm bf16 fullfp16 sve sve2 sme",
}

EXAMPLES = """\
examples:
  tilus info
  tilus info --types
  tilus info --json
  tilus info model.gguf
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "info",
        help="versions, machine, options, targets, element types; or what a model is",
        description="Say what this installation has and how it is set, or what a model is.",
        epilog=EXAMPLES,
    )
    p.add_argument("model", metavar="MODEL", nargs="?", help="a model's folder, or a GGUF file")
    p.add_argument("--types", action="store_true", help="every element type, one on a line")
    p.add_argument("--json", action="store_true", help="everything as JSON")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.model is not None:
        info_model.show(args.model, args.json)
        return 0
    if args.json:
        show_json(
            {
                "versions": versions(),
                "cpu": cpu(),
                "gpus": gpus(),
                "options": option_values(),
                "targets": targets(),
                "types": types(),
            }
        )
        return 0
    if args.types:
        head = ("name", "bits", "kind", "smallest", "largest", "special values")
        print(columns([head, *(tuple(map(str, t.values())) for t in types())]))
        return 0
    machine, found = cpu(), gpus()
    section("Versions", versions().items())
    section(
        "Machine",
        [
            ("cpu", f"{machine['name']}, {machine['architecture']}, {machine['cores']} cores"),
            ("features", " ".join(machine["features"]) or "none that kernels make use of"),
            *(("gpu", g) for g in found or ["none"]),
        ],
    )
    rows = [(o["variable"], _shown(o["value"]), o["meaning"] + _set(o)) for o in option_values()]
    section("Options (environment variables)", rows)
    section(
        "Targets",
        [
            (
                t["name"],
                f"warps of {t['warp_size']}",
                ", ".join(t["matrix_instructions"]) or "no matrix instructions",
            )
            for t in targets()
        ],
    )
    section("Element types (all of them: tilus info --types)", families())
    return 0


def section(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a heading and an aligned table."""
    out = console()
    out.print(title, style="bold")
    print(columns(rows, indent="  "), end="\n\n")


def versions() -> dict[str, str]:
    """Version of each part; `missing` where it is not installed."""
    found = {"tilus": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def cpu() -> dict[str, Any]:
    """The processor, and those of its features that kernels can make use of."""
    from llvmlite import binding

    arch = platform.machine().lower()
    family = "arm" if arch in ("arm64", "aarch64") else "x86"
    try:
        has = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on this system
        has = {}
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "name": binding.get_host_cpu_name(),
        "architecture": arch,
        "cores": cores,
        "features": [name for name in FEATURES[family].split() if has.get(name)],
    }


def gpus() -> list[str]:
    """Name, architecture and memory of each CUDA device that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        found.append(f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB")
    return found


def option_values() -> list[dict[str, Any]]:
    """Every option: its variable, value, default, and what it means."""
    rows = []
    for name, option in vars(Options).items():
        if not isinstance(option, Option):
            continue
        try:
            value = _plain(getattr(options, name))
        except TilusError as e:
            value = f"wrong: {e.first.message}; {e.first.help}"
        rows.append(
            {
                "variable": option.variable,
                "value": value,
                "default": _plain(option.default),
                "allowed": option.allowed,
                "meaning": option.__doc__,
            }
        )
    return rows


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def _shown(value: Any) -> str:
    words = {None: "-", True: "1", False: "0"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _set(o: dict[str, Any]) -> str:
    return "" if o["value"] == o["default"] else f" (default: {_shown(o['default'])})"


def targets() -> list[dict[str, Any]]:
    """The machines that kernels can be compiled for."""
    from tilus.ir.target import TARGETS

    return [
        {
            "name": t.name,
            "warp_size": t.warp_size,
            "matrix_instructions": [atom.name for atom in t.matrix],
        }
        for t in TARGETS.values()
    ]


def types() -> list[dict[str, Any]]:
    """Every element type that has a name."""
    from tilus.dtypes import ALL_TYPES, Kind

    rows = []
    for t in ALL_TYPES:
        special = [n for n, there in (("NaN", t.has_nan), ("inf", t.has_infinity)) if there]
        whole = t.kind in (Kind.UINT, Kind.INT, Kind.BOOL)
        rows.append(
            {
                "name": t.name,
                "bits": t.bits,
                "kind": t.kind.value,
                "min": int(t.min) if whole else float(t.min),
                "max": int(t.max) if whole else float(t.max),
                "special": " ".join(special),
            }
        )
    return rows


def families() -> list[tuple[str, str]]:
    """The element types in a few lines."""
    from tilus.dtypes import ALL_TYPES, Kind

    def named(kind: Kind, narrow: bool) -> str:
        names = [t.name for t in ALL_TYPES if t.kind is kind and (t.bits <= 8) == narrow]
        return " ".join(names)

    return [
        ("unsigned", f"{named(Kind.UINT, True)} {named(Kind.UINT, False)}"),
        ("signed", f"{named(Kind.INT, True)} {named(Kind.INT, False)}"),
        ("float", named(Kind.FLOAT, False)),
        (
            "small float",
            "f3e1m1 f4e2m1 f6e3m2 f8e4m3 f8e5m2 ... any sign, exponent and mantissa "
            "of at most 8 bits; e8m0",
        ),
        ("codebook", f"{named(Kind.LUT, True)}, and lut(bits, values)"),
        ("bool", "bool"),
    ]
