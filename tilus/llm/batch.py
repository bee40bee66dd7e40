"""What one pass through a model computes: new tokens of some sequences, and where they are kept."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field

import torch

from tilus.errors import TilusValueError


@dataclass(eq=False)
class Sequence:
    """Tokens whose keys and values are in a paged cache, or will be."""

    tokens: list[int]  # all that are known
    computed: int = 0  # of these, how many have their keys and values in the cache
    blocks: list[int] = field(default_factory=list)  # of the cache, in order


class BlockPool:
    """Which blocks of a cache are free."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.free = list(range(blocks - 1, -1, -1))

    def fit(self, sequence: Sequence, length: int) -> bool:
        """Give a sequence the blocks for `length` tokens; False, and none, if they do not last."""
        more = -(-length // self.block_size) - len(sequence.blocks)
        if more > len(self.free):
            return False
        sequence.blocks += [self.free.pop() for _ in range(more)]
        return True

    def release(self, sequence: Sequence) -> None:
        """Take all of a sequence's blocks back."""
        self.free += reversed(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0


@dataclass(frozen=True)
class Batch:
    """New tokens of some sequences, one after the other, and where they stand."""

    tokens: torch.Tensor  # i64 [rows]
    positions: torch.Tensor  # i32 [rows]
    slots: torch.Tensor  # i32 [rows]
    block_table: torch.Tensor  # i32 [sequences, most blocks]
    query_start: torch.Tensor  # i32 [sequences + 1]
    lengths: torch.Tensor  # i32 [sequences], the new tokens included
    totals: list[int]  # for each sequence, all tokens that are known: what dynamic RoPE goes by
    wanted: torch.Tensor | None  # i64: the rows whose logits are asked for; None for all

    @staticmethod
    def of(
        parts: abc.Sequence[tuple[Sequence, int]], block_size: int, *, every_row: bool = False
    ) -> Batch:
        """The next tokens of some sequences.

        Args:
            parts: sequences, and how many of the tokens not yet computed to take of each.
            block_size: of the cache.
            every_row: ask for the logits of all tokens, not only of each sequence's last.
        """
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for sequence, count in parts:
            first, last = sequence.computed, sequence.computed + count
            if count < 1 or last > len(sequence.tokens):
                known = len(sequence.tokens) - first
                raise TilusValueError(f"`parts` takes {count} tokens of {known} not yet computed")
            if last > len(sequence.blocks) * block_size:
                raise TilusValueError(f"`parts` has a sequence with no blocks for {last} tokens")
            tokens += sequence.tokens[first:last]
            positions += range(first, last)
            slots += [
                sequence.blocks[p // block_size] * block_size + p % block_size
                for p in range(first, last)
            ]
            starts.append(len(tokens))
        most = max((len(sequence.blocks) for sequence, _ in parts), default=0)
        table = [s.blocks + [0] * (most - len(s.blocks)) for s, _ in parts]
        last_rows = torch.tensor(starts[1:], dtype=torch.int64) - 1
        return Batch(
            torch.tensor(tokens, dtype=torch.int64),
            torch.tensor(positions, dtype=torch.int32),
            torch.tensor(slots, dtype=torch.int32),
            torch.tensor(table, dtype=torch.int32).reshape(len(parts), most),
            torch.tensor(starts, dtype=torch.int32),
            torch.tensor([s.computed + count for s, count in parts], dtype=torch.int32),
            [len(s.tokens) for s, _ in parts],
            None if every_row else last_rows,
        )

    @property
    def counts(self) -> list[int]:
        """How many new tokens each sequence has."""
        counts: list[int] = self.query_start.diff().tolist()
        return counts
