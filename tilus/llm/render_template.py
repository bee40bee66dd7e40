"""A process of its own that renders one chat template: it may be hostile, and is run by path.

It reads a JSON object {template, values, limits} from its input and writes {text} or {error} to
its output. Before it looks at the template it lowers its own limits: memory, time of the CPU,
bytes written. Python cannot stop one long multiplication, the kernel can.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class _Refused(Exception):
    """The template called `raise_exception`, or wrote too much."""


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that says so when a template reaches for what it may not have."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """An error at once, where Jinja's own would give an empty text."""
        kind = type(obj).__name__
        raise SecurityError(f"it reaches for {attribute!r} of a {kind}, which is unsafe")


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """A namespace without names that Python gives a meaning."""

    def __init__(*args: Any, **names: Any) -> None:
        for name in dict(*args[1:], **names):
            _check(name)
        Namespace.__init__(*args, **names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def _check(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace may not have the name {name!r}")


def _refuse(message: object) -> None:
    raise _Refused(str(message))


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As JSON, without Jinja's escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _render(template: str, values: dict[str, Any], most: int) -> str:
    """The text of a template; its parts are counted as they come."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.filters["tojson"] = _json
    environment.globals = {
        "range": environment.globals["range"],
        "dict": lambda *args, **names: dict(*args, **names),
        "namespace": _Namespace,
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    parts, size = [], 0
    for part in environment.from_string(template).generate(values):
        parts.append(part)
        size += len(part)
        if size > most:
            raise _Refused(f"it writes more than {most} characters")
    return "".join(parts)


def _limit(memory: int, seconds: float, written: int) -> None:
    """From here on: bytes of memory, seconds of CPU and bytes written; too much ends the process.

    A limit that the system does not know is left out; the parent's clock still runs.
    """
    for which, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (most, most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    limits = request["limits"]
    _limit(limits["memory"], limits["seconds"], limits["written"])
    try:
        return {"text": _render(request["template"], request["values"], limits["characters"])}
    except MemoryError:
        return {"error": f"it needs more than {limits['memory'] >> 20} MiB"}
    except RecursionError:
        return {"error": "it is nested too deep"}
    except _Refused as error:
        return {"error": str(error)}
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except TemplateError as error:
        return {"error": str(error.message)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    answer = _answer(json.load(sys.stdin))
    json.dump(answer, sys.stdout)
