"""Generation for one user: prompts in, tokens out as they come, and how fast.

A prompt's tokens are computed in chunks (prefill), then one token of each sequence at a time
(decode). Which random number a token is chosen with depends on the seed and on the token's place in
its sequence, and on nothing else.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import torch

from tilus.errors import TilusValueError
from tilus.kernels.product import clock
from tilus.llm.batch import Batch, BlockPool, Sequence
from tilus.llm.decode import Choice, Decoder
from tilus.llm.model import Model

FEWEST = 64  # blocks that a recorded step has room for, at least
STOP, LENGTH, CONTEXT = "stop", "length", "context"  # why a sequence ended


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; see `tilus.kernels.reference.sample`."""

    temperature: float = 0.0  # 0: the most likely token
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("temperature", 0.0, 100.0)
        self._check("top_k", 0, 1 << 31)
        self._check("top_p", 0.0, 1.0)
        self._check("min_p", 0.0, 1.0)
        self._check("seed", -(1 << 63), (1 << 63) - 1)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        whole = isinstance(low, int)
        kinds: tuple[type, ...] = (int,) if whole else (int, float)
        if type(value) not in kinds or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise TilusValueError(f"`{name}` is {value!r}; it is {what} from {low} to {high}")


GREEDY = Sampling()


@dataclass(frozen=True)
class Step:
    """One thing that happened to a sequence: a token, or its end."""

    sequence: int  # which of the prompts
    token: int | None
    finish: str | None = None  # at the end: stop, length or context


@dataclass
class Completion:
    """What follows a prompt; the token that stopped it is not part of it."""

    tokens: list[int] = field(default_factory=list)
    finish: str = ""  # stop, length or context


@dataclass
class Timing:
    """Tokens and seconds of prefill and decode.

    What the caller does in between is not counted, nor compiling kernels and recording steps.
    """

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_rate(self) -> float:
        """Tokens of prompts computed in a second."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens made in a second, each sequence's first aside, which is prefill's."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


class Generator:
    """A model with a cache.

    Args:
        model: what computes.
        capacity: tokens of all sequences that the cache has room for; None for the model's
            context, at most 4096.
        block_size: tokens in a block of the cache.
        kv: the type of keys and values: f32, f16, bf16 or i8.
        chunk: tokens of a prompt computed at a time.
        reuse: keep the last single sequence in the cache, for a prompt that begins as it does.
    """

    def __init__(
        self,
        model: Model,
        *,
        capacity: int | None = None,
        block_size: int = 64,
        kv: str = "f32",
        chunk: int = 512,
        reuse: bool = False,
    ) -> None:
        for name, value in (("capacity", capacity), ("block_size", block_size), ("chunk", chunk)):
            if value is not None and value < 1:
                raise TilusValueError(f"`{name}` is {value}; it is at least 1")
        room = min(model.config.context, 4096) if capacity is None else capacity
        self.model = model
        self.chunk = chunk
        self.pool = BlockPool(-(-room // block_size), block_size)
        self.cache = model.cache(self.pool.blocks, block_size, kv)
        self.timing = Timing()  # of the last run
        self.reuse = reuse and not model.config.rope.depends_on_length
        self._kept: Sequence | None = None
        self._decoders: dict[tuple[int, int], Decoder] = {}  # by sequences and blocks

    def stream(
        self,
        prompt: abc.Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling = GREEDY,
        stop: Collection[int] = (),
    ) -> Iterator[int]:
        """The tokens after a prompt, as they come; closing the iterator ends it early.

        Args:
            prompt: token ids.
            max_tokens: how many at most.
            sampling: how they are chosen.
            stop: token ids that end the text, and are not part of it.
        """
        for step in self.steps([prompt], max_tokens=max_tokens, sampling=sampling, stop=stop):
            if step.token is not None:
                yield step.token

    def generate(
        self,
        prompts: abc.Sequence[abc.Sequence[int]],
        *,
        max_tokens: int,
        sampling: Sampling | abc.Sequence[Sampling] = GREEDY,
        stop: Collection[int] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """What follows each of some prompts, which are decoded together.

        Args:
            prompts: token ids of each.
            max_tokens: how many at most after each.
            sampling: how they are chosen; for all prompts, or one for each.
            stop: token ids that end a text, and are not part of it.
            on_token: called with the number of the prompt and each token.
        """
        found = [Completion() for _ in prompts]
        for step in self.steps(prompts, max_tokens=max_tokens, sampling=sampling, stop=stop):
            if step.token is not None:
                found[step.sequence].tokens.append(step.token)
                if on_token is not None:
                    on_token(step.sequence, step.token)
            if step.finish is not None:
                found[step.sequence].finish = step.finish
        return found

    def steps(
        self,
        prompts: abc.Sequence[abc.Sequence[int]],
        *,
        max_tokens: int,
        sampling: Sampling | abc.Sequence[Sampling] = GREEDY,
        stop: Collection[int] = (),
    ) -> Iterator[Step]:
        """Everything that happens to some prompts, in order; see `generate`."""
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        self._check(prompts, max_tokens, each)
        return self._run([list(p) for p in prompts], max_tokens, each, frozenset(stop))

    def _check(
        self, prompts: abc.Sequence[abc.Sequence[int]], max_tokens: int, each: list[Sampling]
    ) -> None:
        if max_tokens < 1:
            raise TilusValueError(f"`max_tokens` is {max_tokens}; it is at least 1")
        if len(each) != len(prompts):
            raise TilusValueError(f"`sampling` has {len(each)} entries for {len(prompts)} prompts")
        blocks, size = 0, self.model.config.vocab_size
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise TilusValueError(f"`prompts`: prompt {i} is empty; it needs a token at least")
            if not all(type(t) is int and 0 <= t < size for t in prompt):
                raise TilusValueError(f"`prompts`: prompt {i} has tokens outside 0 to {size - 1}")
            if len(prompt) > self.model.config.context:
                raise TilusValueError(
                    f"`prompts`: prompt {i} has {len(prompt)} tokens; the model's context is "
                    f"{self.model.config.context}"
                )
            blocks += -(-len(prompt) // self.pool.block_size)
        if blocks > self.pool.blocks:
            room = self.pool.blocks * self.pool.block_size
            raise TilusValueError(
                f"`prompts` do not fit into the cache of {room} tokens; give `capacity` more"
            )

    # ---- running ----------------------------------------------------------------------------

    def _run(
        self,
        prompts: list[list[int]],
        max_tokens: int,
        samplings: list[Sampling],
        stop: frozenset[int],
    ) -> Iterator[Step]:
        self.timing = Timing()
        sequences = [self._begin(prompt, len(prompts) == 1) for prompt in prompts]
        running: list[int] = []
        made = 0  # tokens of each that still runs
        try:
            tokens = [self._prefill(*pair) for pair in zip(sequences, samplings, strict=True)]
            which = list(range(len(prompts)))
            while which:
                made += 1
                running = []
                for i, token in zip(which, tokens, strict=True):
                    if token in stop:
                        yield Step(i, None, STOP)
                        continue
                    sequences[i].tokens.append(token)
                    yield Step(i, token)
                    if made == max_tokens:
                        yield Step(i, None, LENGTH)
                    elif not self._room(sequences[i]):
                        yield Step(i, None, CONTEXT)
                    else:
                        running.append(i)
                which = running
                if which:
                    tokens = self._decode(
                        [sequences[i] for i in which], [samplings[i] for i in which]
                    )
        finally:
            self._end(sequences)

    def _begin(self, prompt: list[int], alone: bool) -> Sequence:
        kept, self._kept = self._kept, None
        if kept is None:
            return Sequence(prompt)
        same = 0
        if alone:
            most = min(kept.computed, len(prompt) - 1)  # one token is computed for its logits
            same = next((i for i in range(most) if kept.tokens[i] != prompt[i]), most)
        if same == 0:
            self.pool.release(kept)
            return Sequence(prompt)
        kept.tokens, kept.computed = prompt, same
        return kept

    def _end(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if self.reuse and len(sequences) == 1:
                self._kept = sequence
            else:
                self.pool.release(sequence)

    def _room(self, sequence: Sequence) -> bool:
        """Whether one more token can be computed, whose blocks the sequence has then."""
        length = len(sequence.tokens)
        return length <= self.model.config.context and self.pool.fit(sequence, length)

    def _prefill(self, sequence: Sequence, sampling: Sampling) -> int:
        """Compute all tokens of a prompt; the token after it."""
        start = clock()
        if not self.pool.fit(sequence, len(sequence.tokens)):
            raise TilusValueError("`prompts` do not fit into the cache; give `capacity` more")
        new = len(sequence.tokens) - sequence.computed
        while (left := len(sequence.tokens) - sequence.computed) > self.chunk:
            batch = Batch.of([(sequence, self.chunk)], self.pool.block_size)
            self.model.hidden(batch, self.cache)
            sequence.computed += self.chunk
        (token,) = self._next([(sequence, left)], [sampling])
        self.timing.prefill_tokens += new
        self.timing.prefill_seconds += clock() - start
        return token

    def _decode(self, sequences: list[Sequence], samplings: list[Sampling]) -> list[int]:
        """Compute the last token of each sequence; the tokens after them."""
        decoder = self._decoder(sequences) if self.model.recordable else None
        start = clock()
        if decoder is not None:
            tokens = decoder.step(sequences, _choice(sequences, samplings))
            self._check_ids(sequences, tokens)
            for sequence in sequences:
                sequence.computed += 1
        else:
            tokens = self._next([(sequence, 1) for sequence in sequences], samplings)
        self.timing.decode_tokens += len(sequences)
        self.timing.decode_seconds += clock() - start
        return tokens

    def _next(self, parts: list[tuple[Sequence, int]], samplings: list[Sampling]) -> list[int]:
        """Compute all that is left of some sequences; the token after each."""
        logits = self.model.forward(Batch.of(parts, self.pool.block_size), self.cache)
        for sequence, count in parts:
            sequence.computed += count
        some = [sequence for sequence, _ in parts]
        choice = _choice(some, samplings)
        tokens: list[int] = self.model.ops.sample(logits, *choice.arguments).tolist()
        self._check_ids(some, tokens)
        return tokens

    def _decoder(self, sequences: list[Sequence]) -> Decoder:
        """The recorded step for so many sequences of such lengths."""
        longest = max(len(sequence.blocks) for sequence in sequences)
        blocks = min(self.pool.blocks, max(FEWEST, 1 << (longest - 1).bit_length()))
        key = len(sequences), blocks
        if key not in self._decoders:
            size = self.pool.block_size
            self._decoders[key] = Decoder(self.model, self.cache, size, *key)
        return self._decoders[key]

    def _check_ids(self, sequences: list[Sequence], tokens: list[int]) -> None:
        for sequence, token in zip(sequences, tokens, strict=True):
            if token < 0:
                raise TilusValueError(
                    f"the logits after token {len(sequence.tokens)} are not finite: the model's "
                    "weights, or its keys and values, are out of range"
                )


def _choice(sequences: list[Sequence], samplings: list[Sampling]) -> Choice:
    """How the next token of each sequence is chosen."""
    real, whole = torch.float32, torch.int64
    return Choice(
        torch.tensor([s.temperature for s in samplings], dtype=real),
        torch.tensor([s.top_k for s in samplings], dtype=whole),
        torch.tensor([s.top_p for s in samplings], dtype=real),
        torch.tensor([s.min_p for s in samplings], dtype=real),
        torch.tensor([s.seed for s in samplings], dtype=whole),
        torch.tensor([len(sequence.tokens) for sequence in sequences], dtype=whole),
    )
