"""`tilus run`: what a model writes after a prompt, as it comes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tilus.cli.common import UsageError, show_json
from tilus.cli.model_options import (
    about_options,
    add_generation,
    add_model,
    generator,
    load,
    read_text,
    sampling,
)
from tilus.cli.screen import INTERRUPTED, add_json, rates, show_pieces, summary

if TYPE_CHECKING:
    from tilus.llm.tokenizer import Tokenizer

EXAMPLES = """\
examples:
  tilus run --prompt "os.remove(path)"
  tilus run ./Llama-3.2-1B --prompt "The sea is" --weights u4 --temperature 0.8 --seed 1
  tilus run model.gguf --chat --prompt - < question.txt
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "run",
        help="let a model continue a text",
        description="Print what a model writes after a prompt, as it comes; then, on standard "
        "error,\nhow fast it was.",
        epilog=EXAMPLES,
    )
    add_model(p)
    p.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what to continue; - for standard input, which is read also if it is no terminal",
    )
    p.add_argument("--chat", action="store_true", help="the prompt is a message, to be answered")
    add_generation(p)
    add_json(p, "the text and figures")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    how, text = sampling(args), _prompt(args)
    loaded = load(args)
    prompt = _encoded(args, text, loaded.tokenizer)
    made = generator(args, loaded.model, len(prompt) + args.max_tokens)
    room = min(made.pool.blocks * made.pool.block_size, loaded.model.config.context)
    if len(prompt) > room:
        kind = "--context" if args.context else "the model's context"
        raise UsageError(f"the prompt has {len(prompt)} tokens, more than {kind}, {room}")

    from tilus.llm.answer import Answer

    with about_options(args):
        answer = Answer(made, loaded.tokenizer, args.stop)
    pieces = answer.pieces(prompt, max_tokens=args.max_tokens, sampling=how)
    show_pieces(answer, pieces, not args.json)
    if args.json:
        figures = {"prompt_tokens": len(prompt), **rates(made), **loaded.facts(args)}
        show_json(
            {"text": answer.text, "tokens": answer.tokens, "finish": answer.finish, **figures}
        )
    else:
        ends = {"length": "ended by --max-tokens", "context": f"ended by the context of {room}"}
        print(summary(answer, made, len(prompt), {**ends, INTERRUPTED: "stopped"}), file=sys.stderr)
    return 130 if answer.finish == INTERRUPTED else 0


def _prompt(args: argparse.Namespace) -> str:
    if args.prompt not in (None, "-"):
        text: str = args.prompt
        return text
    if args.prompt is None and sys.stdin.isatty():
        raise UsageError("--prompt is missing: give it a text, or - and the text on standard input")
    return read_text("-", "--prompt").removesuffix("\n")


def _encoded(args: argparse.Namespace, text: str, tokenizer: Tokenizer) -> list[int]:
    if args.chat:
        if not tokenizer.has_chat_template:
            raise UsageError("--chat: this model has no chat template; leave the option out")
        text = tokenizer.chat([{"role": "user", "content": text}])
    ids = tokenizer.encode(text, special=not args.chat)
    if not ids:
        raise UsageError("--prompt is empty, and this model has no token to begin a text with")
    return ids
