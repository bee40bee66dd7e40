"""A step of decoding, one token of each of some sequences, recorded once and replayed.

    tokens, places, table, lengths, settings   written into tensors that stay
      -> every kernel of the model, the sampler's too, in one call
      -> ids

The graph holds addresses and sizes; what changes from step to step is read from its tensors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Some
from dataclasses import dataclass

import torch

from tilus.llm.batch import Batch, Sequence
from tilus.llm.model import Model
from tilus.llm.ops import Cache
from tilus.runtime.program import Graph


@dataclass(frozen=True)
class Choice:
    """How the tokens of some sequences are chosen, for `Ops.sample`; [sequences] each."""

    temperature: torch.Tensor  # f32
    top_k: torch.Tensor  # i64
    top_p: torch.Tensor  # f32
    min_p: torch.Tensor  # f32
    seed: torch.Tensor  # i64
    position: torch.Tensor  # i64: the number of tokens before

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        """In order."""
        return (
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.seed,
            self.position,
        )


class Pace:
    """On how many threads steps are taken: all, or one, whichever is faster.

    The threads meet after each of a step's hundreds of kernels. Those of small models take less
    than a meeting does, and on a busy machine a meeting waits for whoever is not running. The
    slower choice is tried again now and then, less and less often while it stays slower.
    """

    def __init__(self) -> None:
        self.times: dict[int, float] = {}  # of steps with each, in seconds, single slow ones aside
        self.wait = 4  # steps until the other is tried again
        self.left = 0

    def threads(self) -> int:
        """For the next step."""
        every = torch.get_num_threads()
        for count in (every, 1):
            if count not in self.times:
                return count
        best = min((every, 1), key=lambda count: self.times[count])
        self.left -= 1
        if self.left > 0:
            return best
        self.wait = min(2 * self.wait, 1024)
        self.left = self.wait
        return 1 if best == every else every

    def took(self, threads: int, seconds: float) -> None:
        """Note how long a step took."""
        before = min(self.times, key=lambda count: self.times[count], default=threads)
        usual = self.times.get(threads, seconds)
        self.times[threads] = min(seconds, 0.8 * usual + 0.2 * min(seconds, 2 * usual))
        if min(self.times, key=lambda count: self.times[count]) != before:
            self.wait = self.left = 4


class Decoder:
    """One step for `count` sequences of at most `blocks` blocks of the cache each.

    Args:
        model: a recordable one.
        cache: where keys and values are.
        block_size: of the cache.
        count: sequences.
        blocks: of the longest.
    """

    def __init__(
        self, model: Model, cache: Cache, block_size: int, count: int, blocks: int
    ) -> None:
        self.block_size = block_size
        one = torch.zeros(count, dtype=torch.int32)
        self.batch = Batch(
            torch.zeros(count, dtype=torch.int64),
            one,
            one.clone(),
            torch.zeros(count, blocks, dtype=torch.int32),
            torch.arange(count + 1, dtype=torch.int32),
            one.clone(),
            [0] * count,
            None,
        )
        real, whole = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
        self.choice = Choice(real, whole, real.clone(), real.clone(), whole.clone(), whole.clone())
        angles = model.tables.up_to(blocks * block_size)
        with Graph() as self.graph:
            x = model.passed(self.batch, cache, angles, self.batch.positions)
            self.ids = model.ops.sample(model.head(x, model.ops), *self.choice.arguments)
        self.pace = Pace()
        self._rows = self.batch.block_table.numpy()
        self._known: list[list[int]] = [[] for _ in range(count)]  # what the table's rows hold

    def step(self, sequences: Some[Sequence], choice: Choice) -> list[int]:
        """Compute the last token of each sequence, whose blocks have room for it; the next ones."""
        size, batch = self.block_size, self.batch
        at = [len(s.tokens) - 1 for s in sequences]
        batch.tokens.numpy()[:] = [s.tokens[-1] for s in sequences]
        batch.positions.numpy()[:] = at
        batch.slots.numpy()[:] = [
            s.blocks[p // size] * size + p % size for s, p in zip(sequences, at, strict=True)
        ]
        batch.lengths.numpy()[:] = [p + 1 for p in at]
        for row, (sequence, known) in enumerate(zip(sequences, self._known, strict=True)):
            if sequence.blocks != known:
                self._rows[row, : len(sequence.blocks)] = sequence.blocks
                self._known[row] = list(sequence.blocks)
        for mine, theirs in zip(self.choice.arguments, choice.arguments, strict=True):
            mine.copy_(theirs)
        threads, start = self.pace.threads(), time.perf_counter()
        self.graph.replay(threads)
        self.pace.took(threads, time.perf_counter() - start)
        ids: list[int] = self.ids.tolist()
        return ids
