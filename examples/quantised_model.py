"""A language model with weights of ten types: how large it is, how well it predicts, how fast.

    python -m examples.quantised_model

The model is the small one in `examples/tiny-model`; every type has a scale for each 64 weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tilus import dtypes
from tilus.llm.checkpoints import Checkpoint, open_checkpoint
from tilus.llm.generate import Generator, Sampling
from tilus.llm.model import Model
from tilus.llm.perplexity import perplexity
from tilus.llm.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "tiny-model"
TYPES = (None, "u8", "u6", "u5", "u4", "u3", "u2", "f6e2m3", "f4e2m1", "nf4")  # None: as stored
GROUP = 64  # weights that share a scale
CHARACTERS = 20_000  # of validation.txt, which the model was not trained on
PROMPT = "class socket(family, type)\n\n"


@dataclass(frozen=True)
class Quality:
    """What a model of one type is worth."""

    megabytes: float
    bits: float  # per weight, scales and zero points included
    perplexity: float
    tokens_per_s: float  # one after the other


def measure(checkpoint: Checkpoint, model: Model, text: str) -> Quality:
    """A model's size, its perplexity on a text, and its speed."""
    tokenizer = Tokenizer.load(checkpoint.tokenizer)
    weights = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names)
    ids, prefix = tokenizer.encode(text, special=False), tokenizer.encode("")
    score = perplexity(model, ids, len(text.encode()), prefix=prefix, window=512, kv="bf16")
    generator = Generator(model, kv="bf16")
    for _ in range(2):  # the first time, kernels are compiled or loaded
        list(generator.stream(tokenizer.encode(PROMPT), max_tokens=64))
    return Quality(
        model.nbytes / 1e6,
        8 * model.nbytes / weights,
        score.perplexity,
        generator.timing.decode_rate,
    )


def sample(checkpoint: Checkpoint, model: Model) -> Iterator[str]:
    """What the model writes after the prompt, as it comes."""
    tokenizer = Tokenizer.load(checkpoint.tokenizer)
    text = tokenizer.stream()
    tokens = Generator(model, kv="bf16").stream(
        tokenizer.encode(PROMPT),
        max_tokens=120,
        sampling=Sampling(temperature=0.7, top_p=0.9, seed=1),
        stop=tokenizer.eos_ids,
    )
    for token in tokens:
        yield text.push(token)
    yield text.end()


def main(folder: Path = FOLDER) -> None:
    """The table, a row at a time, and a sample of the model in u4."""
    checkpoint = open_checkpoint(folder)
    text = (folder / "validation.txt").read_text(encoding="utf-8")[:CHARACTERS]
    console = Console()
    console.print(
        f"The model in {folder.name}, groups of {GROUP}; perplexity of {len(text):,} characters "
        "of validation.txt"
    )
    table = Table("weights", "bits a weight", "MB", "perplexity", "tokens/s", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    with console.status("") as status:
        for name in TYPES:
            status.update(f"measuring {name or 'the weights as they are stored'}")
            kind = dtypes.dtype(name) if name else None
            model = Model.load(checkpoint, weights=kind, group_size=GROUP)
            q = measure(checkpoint, model, text)
            table.add_row(
                name or "as stored",
                f"{q.bits:.2f}",
                f"{q.megabytes:.2f}",
                f"{q.perplexity:.3f}",
                f"{q.tokens_per_s:.0f}",
            )
    console.print(table)
    console.print(f"\nIn u4, after {PROMPT.strip()!r}:\n")
    model = Model.load(checkpoint, weights=dtypes.u4, group_size=GROUP)
    for piece in sample(checkpoint, model):
        console.out(piece, end="", highlight=False)
    console.print()


if __name__ == "__main__":
    main()
