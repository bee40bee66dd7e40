"""How fast a model of a published shape is on this machine, beside what the machine can do at most.

    prefill     tokens of a prompt a second; operations beside int8 dots from registers
    decode      one token after the other; bytes read for each beside the stream of all threads

The ceilings are probed before and after each prompt and each token, and a share is the median of
the rounds' own: a machine that is slower for a while is so for both. A token reads the weights of
all products, the head's included, and the keys and values of all tokens before it. A prompt's
operations are two for each weight of a layer and token, the head's once, and those of attention.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from tilus import dtypes
from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.bench import Multiplier, Reader
from tilus.llm.generate import Generator
from tilus.llm.model import Model
from tilus.llm.ops import Weight
from tilus.llm.peers import LlamaModel, ModelPeer
from tilus.llm.shapes import RandomModel, config_of

PREFILLS = 3  # rounds of prefill, behind one that is not counted
DECODES = 8  # rounds of decode
WARM = 4  # tokens before them
PROBES = 4  # before and after each round
KV_BITS = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8}

Progress = Callable[[int, int, str], None]  # done, of how many, and what


@dataclass(frozen=True)
class Task:
    """What to measure."""

    shape: str
    weights: DType
    group_size: int | None = 128
    kv: str = "bf16"
    prompt: int = 512  # tokens
    generate: int = 128  # tokens
    context: int = 512  # tokens in the cache when decoding begins
    layers: int | None = None  # fewer than the shape has

    def check(self) -> None:
        """Raise an error about what cannot be measured."""
        most = config_of(self.shape, self.layers)["max_position_embeddings"]
        for name in ("prompt", "generate", "context"):
            if getattr(self, name) < 1:
                raise TilusValueError(f"`{name}` is {getattr(self, name)}; it is at least 1")
        for name, tokens in (("prompt", self.prompt), ("context", self.room)):
            if tokens > most:
                raise TilusValueError(f"`{name}` asks for {tokens} tokens; {self.shape} has {most}")

    @property
    def room(self) -> int:
        """Tokens that the cache has room for."""
        return max(self.prompt, self.context + WARM + self.generate) + 1


class Limits:
    """What the machine can do at most: the best of some probes of a few milliseconds.

    The first ones after a pause are slow: they wait for pages, or for the clock to rise.
    """

    def __init__(self) -> None:
        self.reader = Reader()
        self.ints = Multiplier(dtypes.i8, dtypes.u8)

    def stream(self) -> float:
        """Bytes a second that all threads read."""
        return max(self.reader.rate() for _ in range(PROBES)) * 1e9

    def peak(self) -> float:
        """Operations a second of int8 dots."""
        return max(self.ints.rate() for _ in range(PROBES)) * 1e9


@dataclass(frozen=True)
class Round:
    """What one round gave."""

    tokens_per_s: float
    limit: float  # bytes or operations a second, at that time
    share: float  # of the limit


def measure(
    task: Task,
    limits: Limits,
    progress: Progress | None = None,
    beside: Sequence[ModelPeer] = (),
) -> dict[str, Any]:
    """The rates of one model, their shares of the limits, and what they follow from.

    Args:
        task: what to measure.
        limits: what the machine can do.
        progress: called now and then.
        beside: other runtimes, whose models are timed in the same rounds.

    Raises:
        TilusValueError: a field of the task is out of place, by name.
    """
    task.check()
    say = progress or (lambda done, total, what: None)
    with ExitStack() as stack:
        others = []
        for i, peer in enumerate(beside):
            say(i, len(beside), f"making {peer.name}")
            others.append(Other(peer, stack.enter_context(peer.open()), task))
        model = Model.load(
            RandomModel(config_of(task.shape, task.layers), task.weights, task.group_size),
            progress=lambda done, total: say(done, total, f"making {task.weights} weights"),
        )
        generator = Generator(model, capacity=task.room, kv=task.kv)
        rounds: list[list[Round]] = []
        for kind, how in ((_prefills, Other.prefill), (_decodes, Other.decode)):
            for other in others:
                how(other)
                other.forget()
            rounds.append([])
            for i, one in enumerate(kind(task, generator, limits)):
                say(i + 1, DECODES, f"measuring {task.weights}")
                rounds[-1].append(one)
                for other in others:
                    how(other)
            for other in others:
                other.settle()
    prefill, decode = map(_median, rounds)
    return {
        "shape": task.shape,
        "layers": model.config.layers,
        "weights": str(task.weights),
        "group_size": task.group_size,
        "kv": task.kv,
        "model_bytes": model.nbytes,
        "prompt": task.prompt,
        "prefill_tokens_per_s": prefill.tokens_per_s,
        "of_peak": prefill.share,
        "int8_gops": prefill.limit / 1e9,
        "context": task.context,
        "generate": task.generate,
        "bytes_per_token": bytes_read(model, task.kv, task.context + WARM + task.generate // 2),
        "decode_tokens_per_s": decode.tokens_per_s,
        "of_stream": decode.share,
        "stream_gbps": decode.limit / 1e9,
        "peers": {other.peer.name: other.figures() for other in others},
    }


class Other:
    """A peer's model, and how fast it was."""

    def __init__(self, peer: ModelPeer, model: LlamaModel, task: Task) -> None:
        self.peer, self.model, self.task = peer, model, task
        self.rates: list[float] = []
        self.medians: list[float] = []

    def prefill(self) -> None:
        """One prompt."""
        self.rates.append(self.task.prompt / self.model.prefill(self.task.prompt, self.task.kv))

    def decode(self) -> None:
        """As many tokens as a round of ours."""
        count = max(1, self.task.generate // DECODES)
        self.rates.append(count / self.model.decode(count, self.task.context, self.task.kv))

    def forget(self) -> None:
        """Leave out what was timed so far."""
        self.rates = []

    def settle(self) -> None:
        """Take the median of what was timed."""
        self.medians.append(statistics.median(self.rates))
        self.forget()

    def figures(self) -> dict[str, float]:
        """What it gave, as in the report on ours."""
        prefill, decode = self.medians
        return {
            "bits": self.peer.bits,
            "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode,
        }


def _median(rounds: list[Round]) -> Round:
    columns = zip(*((r.tokens_per_s, r.limit, r.share) for r in rounds), strict=True)
    return Round(*map(statistics.median, columns))


def _tokens(count: int, vocabulary: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    tokens: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return tokens


def _prefills(task: Task, generator: Generator, limits: Limits) -> Iterator[Round]:
    model = generator.model
    prompt = _tokens(task.prompt, model.config.vocab_size)
    work = operations(model, task.prompt)
    for i in range(1 + PREFILLS):
        before = limits.peak()
        list(generator.stream(prompt, max_tokens=1))
        if i:
            limit = (before + limits.peak()) / 2
            rate = generator.timing.prefill_rate
            yield Round(rate, limit, work / task.prompt * rate / limit)


def _decodes(task: Task, generator: Generator, limits: Limits) -> Iterator[Round]:
    model = generator.model
    prompt = _tokens(task.context, model.config.vocab_size)
    tokens = generator.stream(prompt, max_tokens=1 + WARM + task.generate)
    for _ in range(1 + WARM):
        next(tokens)
    timing = generator.timing
    length = task.context + WARM + 1  # tokens before the one that comes next
    for count in _parts(task.generate):
        spent, probes = timing.decode_seconds, [limits.stream()]
        for _ in range(count):
            next(tokens)
            probes.append(limits.stream())
        limit = statistics.mean(probes)
        rate = count / (timing.decode_seconds - spent)
        nbytes = bytes_read(model, task.kv, length + count // 2)
        yield Round(rate, limit, nbytes * rate / limit)
        length += count


def _parts(count: int) -> list[int]:
    """So many tokens in rounds of about the same size."""
    rounds = min(DECODES, count)
    return [count * (i + 1) // rounds - count * i // rounds for i in range(rounds)]


# ---- what is counted --------------------------------------------------------------------------


def products(model: Model) -> tuple[list[Weight], list[Weight]]:
    """The weights of the layers' products, and of the head's."""
    found = [
        weight
        for layer in model.layers
        for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
        for weight, _ in linear.parts
    ]
    return found, [weight for weight, _ in model.head.parts]


def bytes_read(model: Model, kv: str, length: int) -> int:
    """Bytes that a token reads which follows `length` others: weights, keys and values."""
    layers, head = products(model)
    config = model.config
    row = config.head_dim * KV_BITS[kv] // 8 + (4 if kv == "i8" else 0)  # with the scale
    seen = sum(min(length, window or length) for window in config.windows)
    return sum(w.nbytes for w in layers + head) + 2 * seen * config.kv_heads * row


def operations(model: Model, tokens: int) -> int:
    """Operations of a prompt's products and of its attention, whose masked half is not done."""
    layers, head = products(model)
    weights = sum(math.prod(w.shape) for w in layers)
    pairs = sum(_pairs(tokens, window) for window in model.config.windows)
    return (
        2 * weights * tokens
        + 2 * sum(math.prod(w.shape) for w in head)
        + 4 * pairs * model.config.q_rows
    )


def _pairs(tokens: int, window: int | None) -> int:
    """How many tokens all tokens see, themselves included."""
    seen = min(tokens, window or tokens)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen
