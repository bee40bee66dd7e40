"""What the commands about models share: options, and how a model is found and loaded."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilus.cli.common import Parser, UsageError, count, element_type
from tilus.cli.progress import Bar, noted, show_notes
from tilus.errors import TilusError

if TYPE_CHECKING:
    from tilus.llm.checkpoints import Checkpoint
    from tilus.llm.generate import Generator, Sampling
    from tilus.llm.model import Model
    from tilus.llm.tokenizer import Tokenizer

SHIPPED = Path(__file__).parents[2] / "examples" / "tiny-model"  # of an installation from source
GROUPS = (0, 16, 32, 64, 128, 256)
ROOM = 4096  # tokens that a conversation has room for, if the model's context is not shorter

# ---- options ----------------------------------------------------------------------------------


def add_model(p: Parser) -> None:
    """The model, and how it is held in memory."""
    p.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a folder with safetensors files, one that `tilus quantize` wrote, or a GGUF file "
        "(default: the small model in examples/tiny-model)",
    )
    p.add_argument(
        "--weights",
        metavar="TYPE",
        help="quantise the weights to this type, such as u4 (default: as they are stored)",
    )
    add_sizes(p)
    p.add_argument("--threads", type=count, metavar="N", help="threads that compute (default: all)")


def add_sizes(p: Parser) -> None:
    """The group size of weights, and the type of keys and values."""
    p.add_argument(
        "--group-size",
        type=int,
        choices=GROUPS,
        default=128,
        metavar="N",
        help="weights that share a scale with --weights: 16, 32, 64, 128 or 256; 0: a whole row "
        "(default: 128)",
    )
    p.add_argument(
        "--kv",
        choices=("bf16", "f16", "f32", "i8"),
        default="bf16",
        help="the type of keys and values (default: bf16)",
    )


def add_generation(p: Parser) -> None:
    """How an answer is made."""
    p.add_argument(
        "--max-tokens", type=count, default=256, metavar="N", help="at most so many (default: 256)"
    )
    p.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the most likely token, 1 follows the model's probabilities (default: 0)",
    )
    p.add_argument("--top-k", type=int, default=0, metavar="N", help="of the N likeliest; 0: all")
    p.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="of the likeliest that make up P"
    )
    p.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="of those P as likely as the first"
    )
    p.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed, the same text")
    p.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text"
    )
    p.add_argument(
        "--context",
        type=count,
        metavar="N",
        help="tokens of prompt and answer that the cache has room for",
    )


@contextmanager
def about_options(args: argparse.Namespace) -> Iterator[None]:
    """Errors about arguments become errors about the options of the same names."""
    try:
        yield
    except TilusError as error:
        names = vars(args)

        def option(name: re.Match[str]) -> str:
            return f"--{name[1].replace('_', '-')}" if name[1] in names else name[0]

        raise UsageError(re.sub(r"`(\w+)`", option, error.first.message)) from None


def sampling(args: argparse.Namespace) -> Sampling:
    """How tokens are chosen."""
    from tilus.llm.generate import Sampling

    with about_options(args):
        return Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.seed)


# ---- models -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A model in memory."""

    path: Path
    model: Model
    tokenizer: Tokenizer
    weights: str  # types of the matrices, the one with most bytes first

    def facts(self, args: argparse.Namespace) -> dict[str, Any]:
        """What a report in JSON says of the model."""
        return {
            "model": str(self.path),
            "model_bytes": self.model.nbytes,
            "weights": self.weights,
            "group_size": args.group_size if args.weights else None,
            "kv": args.kv,
        }


def find(path: str | None) -> Path:
    """The model that the command line names, or the one of the repository."""
    if path is not None:
        return Path(path)
    if not SHIPPED.is_dir():
        raise UsageError(
            f"MODEL is missing, and the small model is not at {SHIPPED}: name a folder with "
            "safetensors files or a GGUF file"
        )
    return SHIPPED


def load(args: argparse.Namespace) -> Loaded:
    """Read the model, with a bar on a terminal; what there is to note goes to standard error."""
    import torch

    from tilus.llm.checkpoints import open_checkpoint
    from tilus.llm.model import Model
    from tilus.llm.tokenizer import Tokenizer
    from tilus.runtime.memory import keep_freed

    keep_freed()
    path = find(args.model)
    kind = element_type("--weights", args.weights) if args.weights else None
    if kind is not None and kind.bits > 8:
        raise UsageError(f"--weights is {kind}; weights have at most 8 bits")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bar = Bar()
    with noted() as notes:
        try:
            checkpoint: Checkpoint = open_checkpoint(path)
            tokenizer = Tokenizer.load(checkpoint.tokenizer)
            model = Model.load(
                checkpoint,
                weights=kind,
                group_size=args.group_size or None,
                progress=lambda done, total: bar(done, total, "loading"),
            )
        finally:
            bar.clear()
    show_notes(notes)
    return Loaded(path, model, tokenizer, _types(model))


def _types(model: Model) -> str:
    from tilus.kernels.quantized import QuantizedWeight
    from tilus.tensor import from_torch

    linears = [(x.qkv, x.output, x.gate_up, x.down) for x in model.layers]
    parts = [w for layer in linears for linear in layer for w, _ in linear.parts]
    sizes: Counter[str] = Counter()
    for w in (*parts, model.embeddings):
        kind = w.dtype if isinstance(w, QuantizedWeight) else from_torch(w.dtype)
        sizes[str(kind)] += w.nbytes
    return ", ".join(name for name, _ in sizes.most_common())


def generator(args: argparse.Namespace, model: Model, room: int, **how: Any) -> Generator:
    """A cache of --context tokens, or of `room`, as far as the model's own context goes."""
    from tilus.llm.generate import Generator

    most = model.config.context
    if args.context is not None and args.context > most:
        raise UsageError(f"--context is {args.context}; the model's is {most}")
    return Generator(model, capacity=args.context or min(room, most), kv=args.kv, **how)


# ---- texts ------------------------------------------------------------------------------------


def read_text(path: str, option: str) -> str:
    """A file that an option names, or standard input."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode()
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        where = "standard input" if path == "-" else path
        raise UsageError(f"{option}: {where} is not UTF-8 at byte {error.start}") from None
