"""How well a model predicts a text: perplexity, and bits per byte.

A text longer than the window is read in windows that overlap; each token is predicted once, in the
first window that holds it, from all that stands before it there.

    perplexity = e^(nats / tokens)        bits per byte = nats / (ln 2 * bytes of the text)

Bits per byte compare models of different vocabularies; perplexities do not.
"""

from __future__ import annotations

import math
import time
from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from tilus.errors import TilusValueError
from tilus.llm.batch import Batch, Sequence
from tilus.llm.model import Model
from tilus.llm.ops import Cache

_LOGITS = 1 << 24  # held at a time
_BLOCK = 64  # tokens in a block of the cache


@dataclass(frozen=True)
class Score:
    """What a text cost a model."""

    tokens: int  # predicted
    nats: float  # -ln of their probability
    text_bytes: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """One over the mean (geometric) probability of a token."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """What a byte of the text costs."""
        return self.nats / math.log(2) / self.text_bytes


def perplexity(
    model: Model,
    tokens: abc.Sequence[int],
    text_bytes: int,
    *,
    prefix: abc.Sequence[int] = (),
    window: int = 1024,
    stride: int | None = None,
    kv: str = "f32",
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Predict each token of a text from those before it.

    Args:
        model: what predicts.
        tokens: of the text, without special ones.
        text_bytes: of the text in UTF-8.
        prefix: tokens that each window begins with, such as BOS; they are not predicted. Without
            them the text's first token has nothing to be predicted from, and is not counted.
        window: tokens of the text that are looked at together, at most the model's context.
        stride: tokens from one window to the next, with no prefix fewer than the window has; None
            for half a window.
        kv: the type of keys and values.
        progress: called with the tokens predicted so far, and how many there are.
    """
    room = min(window, model.config.context - len(prefix))
    step = max(1, room // 2) if stride is None else stride
    if window < 2 or room < 2:
        raise TilusValueError(f"`window` is {window}; it is 2 at least, also beside the `prefix`")
    most = room if prefix else room - 1  # a window's first token needs something before it
    if not 1 <= step <= most:
        raise TilusValueError(f"`stride` is {step}; in windows of {room} it is from 1 to {most}")
    if text_bytes < 1:
        raise TilusValueError(f"`text_bytes` is {text_bytes}; the text needs a byte at least")
    whole = len(tokens) - (0 if prefix else 1)
    if whole < 1:
        raise TilusValueError(f"`tokens` has {len(tokens)} tokens; none can be predicted")
    start = time.perf_counter()
    blocks = -(-(room + len(prefix)) // _BLOCK)
    cache = model.cache(blocks, _BLOCK, kv)
    nats, done = 0.0, 0
    for begin, end, seen in _windows(len(tokens), room, step):
        some = [*prefix, *tokens[begin:end]]
        first = max(1, len(prefix) + seen - begin)  # of `some`, the first to be predicted
        nats += _nats(model, cache, blocks, some, first)
        done += len(some) - first
        if progress is not None:
            progress(done, whole)
    return Score(done, nats, text_bytes, time.perf_counter() - start)


def _windows(count: int, room: int, step: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, how many tokens were in windows before)."""
    begin = seen = 0
    while seen < count:
        end = min(begin + room, count)
        yield begin, end, seen
        begin, seen = begin + step, end


def _nats(model: Model, cache: Cache, blocks: int, tokens: list[int], first: int) -> float:
    """-ln of the probability of the tokens from `first` on, given those before."""
    sequence = Sequence(tokens, 0, list(range(blocks)))
    chunk = max(1, min(512, _LOGITS // model.config.vocab_size))
    total = 0.0
    for begin in range(0, len(tokens) - 1, chunk):
        end = min(begin + chunk, len(tokens) - 1)
        batch = Batch.of([(sequence, end - begin)], _BLOCK)
        wanted = torch.arange(end - begin)[max(first - 1 - begin, 0) :]
        logits = model.forward(replace(batch, wanted=wanted), cache).double()
        sequence.computed = end
        targets = torch.tensor(tokens[begin + 1 : end + 1])[wanted]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return total
