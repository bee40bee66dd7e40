"""What `FILE::KERNEL` and `-D` mean: find the kernel, and give its parameters values."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import linecache
import re
import sys
import traceback
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from tilus import dtypes
from tilus.cli.common import UsageError
from tilus.errors import TilusError
from tilus.ir.parser import parse_file
from tilus.ir.program import Function
from tilus.ir.target import TARGETS
from tilus.layouts import (
    LayoutError,
    column_local,
    column_spatial,
    local,
    parse_layout,
    parse_shared_layout,
    replicated,
    spatial,
)

if TYPE_CHECKING:
    from tilus.lang.jit import JitFunction

PRIMITIVES = {f.__name__: f for f in (spatial, local, column_spatial, column_local, replicated)}
LAYOUT = re.compile(rf"({'|'.join(PRIMITIVES)}|layout)\s*\(|empty\b")
SHARED = re.compile(r"shared\s*\(")


class FileFault(TilusError):
    """The user's file could not be executed; the message is Python's own report."""

    def __str__(self) -> str:
        return self.first.message


def load(args: argparse.Namespace) -> Function:
    """The kernel that the command line names, as IR before any pass."""
    path, _, name = args.file.partition("::")
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    if path.endswith(".tir"):
        return _from_text(path, name, args)
    if path.endswith(".py"):
        return _from_python(path, name, args)
    raise UsageError(f"{path} is neither a Python file (.py) nor the text of a kernel (.tir)")


def _from_text(path: str, name: str, args: argparse.Namespace) -> Function:
    given = {
        "-D": args.constants,
        "--divisible": args.divisible,
        "--one": args.ones,
        "--num-warps": args.num_warps,
        "--num-threads": args.num_threads,
    }
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} is for kernels in Python; {path} says it in its own text")
    try:
        f = parse_file(path)
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"cannot read {path}: {e}") from None
    if name and name != f.name:
        raise UsageError(f"no kernel is named {name!r} in {path}; there is {f.name}")
    return f


# --- Python files ---


def _from_python(path: str, name: str, args: argparse.Namespace) -> Function:
    if args.num_threads is not None and args.num_warps is not None:
        raise UsageError("--num-warps and --num-threads say the same: give one of them")
    num_threads = args.num_threads
    if args.num_warps is not None:
        num_threads = args.num_warps * TARGETS[args.target].warp_size
    given = pairs("-D", args.constants)
    divisible = {n: _divisor(n, text) for n, text in pairs("--divisible", args.divisible).items()}
    module = execute(path)
    kernel = find_kernel(module, path, name)
    check_names(kernel, given, divisible, args.ones)
    constants = {n: value(n, text, vars(module)) for n, text in given.items()}
    for n, x in constants.items():
        if not isinstance(x, Hashable):
            raise UsageError(f"-D {n}={given[n]}: a {type(x).__name__} can change; use a tuple")
    return kernel.trace(constants, num_threads, divisible, frozenset(args.ones))


def execute(path: str) -> ModuleType:
    """The module that a file makes; a file of a package is imported as a part of it."""
    file = Path(path).resolve()
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").exists():
        folder, parts = folder.parent, [folder.name, *parts]
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        if len(parts) > 1:
            return importlib.import_module(".".join(parts))
        spec = importlib.util.spec_from_file_location(f"__tilus__.{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (TilusError, KeyboardInterrupt):
        raise
    except SystemExit as e:
        raise UsageError(
            f"{path} ended the program (exit code {e.code}) when it was read"
        ) from None
    except BaseException as e:
        raise FileFault(_report(e, str(file))) from e


def _report(e: BaseException, file: str) -> str:
    """Python's own report, from the user's file on."""
    frames = traceback.extract_tb(e.__traceback__)
    own = next((i for i, frame in enumerate(frames) if frame.filename == file), len(frames))
    linecache.checkcache(file)
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames[own:])]
    lines = lines if own < len(frames) else []
    return "".join([*lines, *traceback.format_exception_only(e)]).rstrip()


def find_kernel(module: ModuleType, path: str, name: str) -> JitFunction:
    """The kernel of that name, or the only one there is."""
    from tilus.lang.jit import JitFunction

    own = {
        n: v
        for n, v in vars(module).items()
        if isinstance(v, JitFunction) and v.__module__ == module.__name__
    }
    # A helper that kernels inline is decorated too, but its parameters say no roles.
    kernels = {n: v for n, v in own.items() if _has_signature(v)} or own
    if name:
        found = getattr(module, name, None)
        if isinstance(found, JitFunction):
            return found
        what = f"no kernel is named {name!r} in {path}"
        if found is not None:
            what = f"{name!r} in {path} is not a kernel: it is not decorated with @tilus.jit"
        raise UsageError(f"{what}; there {_named(list(kernels))}")
    if not kernels:
        raise UsageError(f"{path} has no kernel: no function in it is decorated with @tilus.jit")
    if len(kernels) == 1:
        return next(iter(kernels.values()))
    names = "\n".join(f"  {path}::{n}" for n in kernels)
    raise UsageError(f"{path} has {len(kernels)} kernels; name one of them:\n{names}")


def _has_signature(kernel: JitFunction) -> bool:
    try:
        kernel.signature  # noqa: B018
    except TilusError:
        return False
    return True


def _named(names: Sequence[str]) -> str:
    if not names:
        return "are none"
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def check_names(
    kernel: JitFunction, constants: Iterable[str], divisible: Iterable[str], ones: Iterable[str]
) -> None:
    """Raise unless the options name parameters of their kind, and every constexpr has a value."""
    from tilus.lang.signature import Role

    parameters = {p.name: p for p in kernel.signature.parameters}
    constexprs = [p for p in parameters.values() if p.role is Role.CONSTEXPR]
    for option, names in (("-D", constants), ("--divisible", divisible), ("--one", ones)):
        for name in names:
            if name not in parameters:
                shown = ", ".join(map(str, parameters.values())) or "no parameters"
                raise UsageError(
                    f"{option} {name}: the kernel {kernel.__name__} has no parameter {name}; "
                    f"it takes {shown}"
                )
            p = parameters[name]
            if (p.role is Role.CONSTEXPR) != (option == "-D"):
                when = "compile" if p.role is Role.CONSTEXPR else "run"
                want = "compile" if option == "-D" else "run"
                raise UsageError(
                    f"{option} is for {want}-time parameters; `{p}` is known at {when} time"
                )
            if option != "-D" and p.role is Role.SCALAR and not (p.dtype and p.dtype.is_integer):
                raise UsageError(f"{option} is for integers and pointers, not for `{p}`")
            if option == "--one" and p.role is Role.POINTER:
                raise UsageError(f"--one is for integers, not for `{p}`")
    missing = [p for p in constexprs if p.required and p.name not in constants]
    if missing:
        shown = " ".join(f"-D {p.name}=..." for p in missing)
        names = ", ".join(f"`{p}`" for p in missing)
        raise UsageError(f"the kernel {kernel.__name__} needs a value for {names}: {shown}")


# --- values ---


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or not rest.strip():
            raise UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        if name in found:
            raise UsageError(f"{option}: {name} is given twice")
        found[name] = rest.strip()
    return found


def _divisor(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--divisible {name}={text}: {text!r} is not a number from 1 on")
    return int(text)


def value(name: str, text: str, names: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A Python literal, an element type, a layout, or an expression over the names of the file.

    >>> value("BM", "64"), value("wtype", "u4"), value("order", "(0, f16)")
    (64, dtype('u4'), (0, dtype('f16')))
    >>> value("layout", "spatial(8, 4) * local(1, 2)")
    spatial(8,4)*local(1,2)
    >>> value("BM", "2 * TILE", {"TILE": 32})
    64
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    try:
        return dtypes.dtype(text)
    except ValueError:
        pass
    try:
        if LAYOUT.match(text):
            return parse_layout(text)
        if SHARED.match(text):
            return parse_shared_layout(text)
        types = {t.name: t for t in dtypes.ALL_TYPES}
        return eval(text, {**types, **PRIMITIVES, **names})
    except LayoutError as e:
        raise UsageError(f"-D {name}={text}: {e}") from None
    except (SyntaxError, NameError) as e:
        what = f"it is no literal, no element type, no layout and no expression ({e.args[0]})"
        if text.isidentifier():
            what = f"there is no element type {text}, and nothing of that name in the file"
            what += f"; a text is quoted: -D \"{name}='{text}'\""
        raise UsageError(f"-D {name}={text}: {what}") from None
    except Exception as e:
        raise UsageError(f"-D {name}={text}: {type(e).__name__}: {e}") from None
