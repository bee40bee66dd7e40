"""`tilus chat`: a conversation with a model, on the terminal or one message on a line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tilus.cli.common import UsageError
from tilus.cli.model_options import (
    ROOM,
    Loaded,
    about_options,
    add_generation,
    add_model,
    generator,
    load,
    sampling,
)
from tilus.cli.screen import INTERRUPTED, add_json, rates, show_pieces, summary

if TYPE_CHECKING:
    from tilus.llm.generate import Sampling

DESCRIPTION = """\
Talk with a model. Empty lines are left out; /reset begins a new conversation, and /exit or Ctrl-D
ends. Ctrl-C stops an answer; at the prompt, it ends too. Where standard input is no terminal, each
line of it is a message.
"""
EXAMPLES = """\
examples:
  tilus chat ./Llama-3.2-1B-Instruct --weights u4 --system "Answer in one sentence."
  tilus chat model.gguf --json < messages.txt
"""


def add(commands: Any) -> None:
    """Add the command."""
    p = commands.add_parser(
        "chat", help="talk with a model", description=DESCRIPTION, epilog=EXAMPLES
    )
    add_model(p)
    p.add_argument("--system", metavar="TEXT", help="what the conversation begins with")
    add_generation(p)
    add_json(p, "an object for each answer, on a line of its own")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    how = sampling(args)
    loaded = load(args)
    if not loaded.tokenizer.has_chat_template:
        raise UsageError(
            f"{loaded.path} has no chat template: `tilus run` continues a text with any model"
        )
    chat = Chat(args, loaded, how)
    for message in messages(prompt="" if args.json else "> "):
        if message == "/exit":
            break
        if message == "/reset":
            chat.reset()
            continue
        try:
            chat.turn(message)
        except KeyboardInterrupt:  # before its answer, or after
            print("stopped", file=sys.stderr)
    return 0


def messages(prompt: str) -> Iterator[str]:
    """What is written to us, without what is empty."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  (lines can be edited)
    while True:
        try:
            line = input(prompt) if terminal else sys.stdin.buffer.readline().decode()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            raise
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8") from None
        if not line and not terminal:
            return
        if line.strip():
            yield line.strip()


class Chat:
    """A conversation so far, and the cache that has most of it."""

    def __init__(self, args: argparse.Namespace, loaded: Loaded, how: Sampling) -> None:
        self.args = args
        self.loaded = loaded
        self.sampling = how
        self.generator = generator(args, loaded.model, ROOM, reuse=True)
        pool = self.generator.pool
        self.room = min(pool.blocks * pool.block_size, loaded.model.config.context)
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation."""
        system = self.args.system
        self.said = [] if system is None else [{"role": "system", "content": system}]

    def turn(self, message: str) -> None:
        """Answer a message; one that has no room, or is stopped before its answer, is forgotten."""
        from tilus.llm.answer import Answer

        tokenizer, quiet = self.loaded.tokenizer, self.args.json
        said = [*self.said, {"role": "user", "content": message}]
        prompt = tokenizer.encode(tokenizer.chat(said), special=False)
        if len(prompt) > self.room:
            self.full(len(prompt))
            return
        with about_options(self.args):
            answer = Answer(self.generator, tokenizer, self.args.stop)
        pieces = answer.pieces(prompt, max_tokens=self.args.max_tokens, sampling=self.sampling)
        show_pieces(answer, pieces, not quiet)
        if answer.text or answer.finish != INTERRUPTED:
            self.said = [*said, {"role": "assistant", "content": answer.text}]
        if quiet:
            figures = {"prompt_tokens": len(prompt), **rates(self.generator)}
            facts = self.loaded.facts(self.args)
            turn = {"text": answer.text, "tokens": answer.tokens, "finish": answer.finish}
            print(json.dumps({**turn, **figures, **facts}), flush=True)
            return
        ends = {"length": "ended by --max-tokens", INTERRUPTED: "stopped"}
        print(summary(answer, self.generator, len(prompt), ends), file=sys.stderr)
        if answer.finish == "context":
            self.full(len(prompt) + len(answer.tokens))

    def full(self, tokens: int) -> None:
        """Say that there is no room, and what to do."""
        most = self.loaded.model.config.context
        more = f", or start with --context up to {most}" if self.room < most else ""
        print(
            f"the context is full: {tokens} tokens, and room for {self.room}; "
            f"/reset begins a new conversation{more}",
            file=sys.stderr,
        )
