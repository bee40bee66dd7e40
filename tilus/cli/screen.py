"""An answer on the terminal: shown as it comes, stopped by Ctrl-C, summed up in a line."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tilus.cli.common import Parser

if TYPE_CHECKING:
    from tilus.llm.answer import Answer
    from tilus.llm.generate import Generator

INTERRUPTED = "interrupted"  # how an answer ended, besides what `tilus.llm.generate` knows
# On a terminal, what a model writes must not move the cursor or set colours.
_CONTROLS = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}"
)


def add_json(p: Parser, what: str) -> None:
    """The option for other programs."""
    p.add_argument("--json", action="store_true", help=f"nothing but {what}, as JSON")


def show_pieces(answer: Answer, pieces: Iterable[str], on: bool) -> None:
    """Print an answer as it comes, if it is `on`; Ctrl-C ends it. The cursor is on a fresh line."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # for those that are not UTF-8
    terminal = out.isatty()
    try:
        for piece in pieces:
            if on and piece:
                print(piece.translate(_CONTROLS) if terminal else piece, end="", flush=True)
    except KeyboardInterrupt:
        answer.finish = INTERRUPTED
    if on and not answer.text.endswith("\n"):
        print(flush=True)


def rates(generator: Generator) -> dict[str, float | None]:
    """Tokens a second of the last run; None where nothing was computed."""
    timing = generator.timing
    return {
        "prefill_tokens_per_s": round(timing.prefill_rate, 2) or None,
        "decode_tokens_per_s": round(timing.decode_rate, 2) or None,
    }


def summary(answer: Answer, generator: Generator, prompt: int, ends: dict[str, str]) -> str:
    """How many tokens, how fast, and why there are no more.

    Args:
        answer: at its end.
        generator: that made it.
        prompt: tokens of the prompt, those that the cache had before included.
        ends: what to say of some values of `finish`.
    """
    timing = generator.timing
    new = "" if timing.prefill_tokens in (0, prompt) else f" ({timing.prefill_tokens} new)"
    rate = f", {timing.prefill_rate:.1f} tokens/s" if timing.prefill_tokens else ""
    parts = [f"prompt {prompt} tokens{new}{rate}"]
    rate = f", {timing.decode_rate:.1f} tokens/s" if timing.decode_tokens else ""
    parts.append(f"answer {len(answer.tokens)} tokens{rate}")
    if answer.finish in ends:
        parts.append(ends[answer.finish])
    return "; ".join(parts)
