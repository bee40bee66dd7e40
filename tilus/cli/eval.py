"""`tilus eval`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tilus.cli.common import UsageError, columns, count, show_json
from tilus.cli.model_options import about_options, add_model, find, load, read_text
from tilus.cli.progress import Bar
from tilus.cli.screen import add_json

DESCRIPTION = """\
Measure how well a model predicts a text: its perplexity, and the bits that each byte of the text
costs. The text is read in windows that overlap; every token is predicted once, from what stands
before it in its window. Lower is better; only bits per byte compare models of different
vocabularies.
"""
EXAMPLES = """\
examples:
  tilus eval --weights u4 --group-size 64
  tilus eval ./Llama-3.2-1B --text book.txt --weights u3 --json
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "eval", help="how well a model predicts a text", description=DESCRIPTION, epilog=EXAMPLES
    )
    add_model(p)
    p.add_argument(
        "--text",
        metavar="FILE",
        help="UTF-8; - for standard input (default: validation.txt in MODEL)",
    )
    p.add_argument(
        "--window", type=count, default=1024, metavar="N", help="tokens at a time (default: 1024)"
    )
    p.add_argument(
        "--stride", type=count, metavar="N", help="from window to window (default: half of one)"
    )
    add_json(p, "the figures")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    text = read_text(_file(args), "--text")
    if not text:
        raise UsageError("--text is empty")
    loaded = load(args)

    from tilus.llm.perplexity import perplexity

    tokenizer, bar = loaded.tokenizer, Bar()
    begin = tokenizer.encode("")
    prefix = begin[:1] if begin[:1] == [tokenizer.bos_id] else []
    try:
        with about_options(args):
            score = perplexity(
                loaded.model,
                tokenizer.encode(text, special=False),
                len(text.encode()),
                prefix=prefix,
                window=args.window,
                stride=args.stride,
                kv=args.kv,
                progress=lambda done, total: bar(done, total, "tokens"),
            )
    finally:
        bar.clear()
    if not math.isfinite(score.nats):
        raise UsageError(f"{loaded.path}: its probabilities are not numbers; try --kv f32")
    figures = {
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "text_bytes": score.text_bytes,
        "tokens_per_s": round(score.tokens / score.seconds, 1),
    }
    facts = loaded.facts(args)
    if args.json:
        show_json({**figures, **facts})
        return 0
    print(
        columns(
            [
                ("perplexity", f"{score.perplexity:.4f}"),
                ("bits per byte", f"{score.bits_per_byte:.4f}"),
                ("tokens", f"{score.tokens} of {score.text_bytes} bytes"),
                ("tokens/s", f"{figures['tokens_per_s']}"),
                ("model", f"{facts['model_bytes'] / 1e6:.2f} MB, {facts['weights']}"),
                ("keys, values", args.kv),
            ]
        )
    )
    return 0


def _file(args: argparse.Namespace) -> str:
    if args.text is not None:
        path: str = args.text
        return path
    own = find(args.model) / "validation.txt"
    if not own.is_file():
        raise UsageError("--text FILE is missing: the model has no validation.txt of its own")
    return str(own)
