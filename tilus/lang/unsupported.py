"""Python that kernels do not have: what is wrong with each, and what to do instead."""

from __future__ import annotations

import ast

NO_HELP = "kernel code has assignments, `if`, `for`, `while`, `assert` and calls"

TABLE: dict[str, tuple[str, str]] = {
    "FunctionDef": (
        "a function cannot be defined inside a kernel",
        "define it at the top of the file: calls are inlined",
    ),
    "AsyncFunctionDef": (
        "an async function cannot be defined inside a kernel",
        "write a plain `def`",
    ),
    "Lambda": (
        "a lambda cannot be written inside a kernel",
        "define a function at the top of the file: calls are inlined",
    ),
    "ClassDef": ("a class cannot be defined inside a kernel", "define it outside of the kernel"),
    "Delete": ("`del` is not supported", "leave the name alone; nothing is kept alive by it"),
    "With": ("`with` is not supported", "call what is needed directly"),
    "AsyncWith": ("`async with` is not supported", "call what is needed directly"),
    "AsyncFor": ("`async for` is not supported", "use `for`"),
    "Match": ("`match` is not supported", "use `if` and `elif`"),
    "Raise": (
        "`raise` is not supported",
        "`assert condition, message` stops the kernel when the condition fails",
    ),
    "Try": ("`try` is not supported", "a kernel cannot catch errors: check with `if`"),
    "TryStar": ("`try` is not supported", "a kernel cannot catch errors: check with `if`"),
    "Import": ("`import` is not supported inside a kernel", "import at the top of the file"),
    "ImportFrom": ("`import` is not supported inside a kernel", "import at the top of the file"),
    "Global": ("`global` is not supported", "a kernel's results go to memory, by `store_global`"),
    "Nonlocal": (
        "`nonlocal` is not supported",
        "a kernel's results go to memory, by `store_global`",
    ),
    "TypeAlias": ("`type` is not supported inside a kernel", "define it outside of the kernel"),
    "Await": ("`await` is not supported", "kernel code is not asynchronous"),
    "Yield": ("`yield` is not supported", "return a tuple"),
    "YieldFrom": ("`yield from` is not supported", "return a tuple"),
    "Starred": (
        "a starred expression is not supported here",
        "unpack it in a call, a tuple or a list",
    ),
    "TemplateStr": ("a template string is not supported", "use an f-string of compile-time values"),
    "Interpolation": (
        "a template string is not supported",
        "use an f-string of compile-time values",
    ),
}

BUILTINS: dict[str, str] = {
    "print": "`tilus.print_tensor(x, message)` prints a tile or a scalar",
    "eval": "write the expression itself",
    "exec": "write the statements themselves",
    "compile": "write the statements themselves",
    "globals": "name the global itself",
    "locals": "name the variables themselves",
    "vars": "use `getattr`",
    "dir": "use `getattr`",
    "input": "pass the value as an argument of the kernel",
    "open": "pass the data as an argument of the kernel",
    "setattr": "objects cannot be changed inside a kernel",
    "delattr": "objects cannot be changed inside a kernel",
    "iter": "loop over the sequence itself",
    "next": "index the sequence, or loop over it",
    "super": "call the function by its name",
    "__import__": "import at the top of the file",
    "exit": "`return` ends the kernel",
    "quit": "`return` ends the kernel",
    "id": "compare with `is`",
}

# Methods that change the object they are called on.
MUTATORS: dict[type, frozenset[str]] = {
    list: frozenset("append extend insert remove pop clear sort reverse".split()),
    dict: frozenset("pop popitem clear update setdefault".split()),
    set: frozenset(
        "add remove discard pop clear update intersection_update difference_update "
        "symmetric_difference_update".split()
    ),
    bytearray: frozenset("append extend insert remove pop clear reverse".split()),
}

INSTEAD: dict[type, str] = {
    list: "make a new list: `xs = [*xs, x]`",
    dict: "make a new dict: `d = {**d, key: x}`",
    set: "make a new set: `s = s | {x}`",
}


def unsupported(node: ast.AST) -> tuple[str, str]:
    """The message and the help for a kind of syntax that kernels do not have."""
    name = type(node).__name__
    return TABLE.get(name, (f"this syntax ({name}) is not supported in a kernel", NO_HELP))
