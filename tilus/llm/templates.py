"""Chat templates: Jinja from a model's files, so anyone's code. It is rendered in a process apart.

Jinja's sandbox keeps a template away from Python's insides, but not from all memory and time; see
`render_template` for what does.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tilus.errors import TilusTypeError, TilusValueError

_CHILD = Path(__file__).with_name("render_template.py")
_START = 30.0  # seconds by the clock for a process to start and render, on a busy machine too
_ESCAPED = 6  # bytes that a character takes in JSON, at most


@dataclass(frozen=True)
class Limits:
    """What a chat template may use up."""

    seconds: float = 1.0  # of the CPU
    memory: int = 256 << 20  # bytes, those of Python itself (some 50 MiB) included
    characters: int = 4 << 20  # of its result
    source: int = 1 << 20  # characters of the template
    messages: int = 16 << 20  # characters of the messages, as JSON


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template, and the special tokens that it may name."""

    source: str
    tokens: Mapping[str, str]  # such as `bos_token`
    limits: Limits = Limits()

    def render(self, messages: Sequence[Mapping[str, Any]], answer: bool = True) -> str:
        """The text of a conversation.

        Args:
            messages: each with a `role` and mostly a `content`; what else a template reads is
                passed on.
            answer: whether the text ends where the model's answer begins.
        """
        values = {
            **self.tokens,
            "messages": _checked(messages),
            "add_generation_prompt": answer,
            "tools": None,
            "documents": None,
        }
        try:
            data = json.dumps(values, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise TilusTypeError(f"`messages` cannot be written as JSON: {_line(error)}") from None
        if len(data) > self.limits.messages:
            raise TilusValueError(
                f"`messages` have {len(data)} characters as JSON; at most "
                f"{self.limits.messages} are rendered"
            )
        if len(self.source) > self.limits.source:
            raise _failed(f"it has more than {self.limits.source} characters")
        return _run(self.source, data, self.limits)


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TilusTypeError(f"`messages` is a {type(messages).__name__}, not a list of messages")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TilusTypeError(f"message {place} of `messages` has no `role`, which is a string")
    return [dict(message) for message in messages]


def _run(source: str, values: str, limits: Limits) -> str:
    """Render in a process of its own. What it writes goes to a file, whose size is limited."""
    allowed = {
        "memory": limits.memory,
        "seconds": limits.seconds,
        "characters": limits.characters,
        "written": limits.characters * _ESCAPED + 1000,
    }
    request = (
        f'{{"template": {json.dumps(source)}, "limits": {json.dumps(allowed)}, "values": {values}}}'
    )
    with tempfile.TemporaryFile() as out:
        # -P: the folder of the script, with all its modules, does not become a place to import from
        command = [sys.executable, "-P", str(_CHILD)]
        try:
            done = subprocess.run(
                command,
                input=request.encode(),
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=math.ceil(_START + limits.seconds),
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"it takes more than {limits.seconds:g} s") from None
        return _result(done.returncode, out, limits)


def _result(code: int, out: IO[bytes], limits: Limits) -> str:
    """What the process wrote, or why it failed."""
    if code == -signal.SIGPROF:
        raise _failed(f"it takes more than {limits.seconds:g} s")
    if code:
        raise _failed("it uses more than a template may, or cannot be parsed")
    out.seek(0)
    answer = json.loads(out.read())
    if "error" in answer:
        raise _failed(answer["error"])
    text: str = answer["text"]
    return text


def _failed(why: object) -> TilusValueError:
    return TilusValueError(
        f"the model's chat template cannot be rendered: {_line(why)}",
        help="write the prompt as plain text instead, or mend the template in the model's folder",
    )


def _line(text: object) -> str:
    """At most 200 printable characters in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= 200 else line[:197] + "..."
