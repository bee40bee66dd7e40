"""Generation: the same tokens whatever the chunks, batches and blocks; and perplexity."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from tests.llm import tiny
from tests.llm.tiny import one_thread
from tilus.errors import TilusValueError
from tilus.llm.batch import Batch, BlockPool, Sequence
from tilus.llm.generate import CONTEXT, LENGTH, STOP, Generator, Sampling, Step
from tilus.llm.model import Model
from tilus.llm.perplexity import perplexity

__all__ = ["one_thread"]  # for all tests here

PROMPT = [5, 99, 200, 7, 31, 8, 250, 1, 64, 12, 13]


@cache
def model(name: str = "mistral-window") -> Model:
    return Model.load(tiny.case(name, layers=2).checkpoint())


def after(prompt: list[int], count: int, **how: Any) -> list[int]:
    """Greedy tokens, one after the other, with no cache kept between them."""
    tokens = list(prompt)
    for _ in range(count):
        logits = tiny.our_logits(model(**how), tokens, [len(tokens)])[-1]
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_greedy_tokens_are_the_most_likely_ones() -> None:
    want = after(PROMPT, 12)
    assert len(set(want)) > 4
    got = Generator(model(), capacity=40).generate([PROMPT], max_tokens=12)
    assert [(c.tokens, c.finish) for c in got] == [(want, LENGTH)]


def test_greedy_tokens_are_those_of_transformers() -> None:
    theirs = tiny.case("mistral-window", layers=2).theirs
    want = theirs.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    got = list(Generator(model(), capacity=40).stream(PROMPT, max_tokens=12))
    assert got == want[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.5, 40, 0.9, 0.01, seed=4)])
@pytest.mark.parametrize(("chunk", "block"), [(1, 64), (3, 48), (11, 16), (512, 16)])
def test_chunks_and_blocks_do_not_matter(sampling: Sampling, chunk: int, block: int) -> None:
    plain = Generator(model(), capacity=64)
    want = list(plain.stream(PROMPT, max_tokens=10, sampling=sampling))
    other = Generator(model(), capacity=64, chunk=chunk, block_size=block)
    assert list(other.stream(PROMPT, max_tokens=10, sampling=sampling)) == want


def test_chunks_do_not_matter_to_rope_that_follows_the_length() -> None:
    """All tokens of a prompt are known from the start: transformers' one pass is the rule."""
    dynamic = model("llama-dynamic")
    prompt = tiny.case("llama-dynamic", layers=2).tokens[:40]
    want = list(Generator(dynamic).stream(prompt, max_tokens=8))
    assert list(Generator(dynamic, chunk=7).stream(prompt, max_tokens=8)) == want
    theirs = tiny.case("llama-dynamic", layers=2).theirs
    tiny.forget(theirs)
    ids = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    assert want == ids[0, 40:].tolist()


def test_sequences_decoded_together() -> None:
    """Each gets what it gets alone; the steps of all come in turn."""
    prompts = [PROMPT, PROMPT[3:], PROMPT[:1], PROMPT]
    how = [Sampling(1.0, seed=s) for s in (1, 2, 3, 9)]
    alone = [
        list(Generator(model(), capacity=64).stream(p, max_tokens=8, sampling=s))
        for p, s in zip(prompts, how, strict=True)
    ]
    seen: list[tuple[int, int]] = []
    generator = Generator(model(), capacity=256)
    got = generator.generate(
        prompts, max_tokens=8, sampling=how, on_token=lambda *step: seen.append(step)
    )
    assert [c.tokens for c in got] == alone and alone[0] != alone[3]
    assert [i for i, _ in seen] == [0, 1, 2, 3] * 8
    assert [t for i, t in seen if i == 2] == alone[2]
    assert len(generator.pool.free) == generator.pool.blocks


def test_a_seed_decides() -> None:
    def texts(seed: int) -> list[int]:
        how = Sampling(temperature=2.0, seed=seed)
        return list(Generator(model(), capacity=64).stream(PROMPT, max_tokens=10, sampling=how))

    assert texts(1) == texts(1)
    assert len({tuple(texts(seed)) for seed in range(4)}) == 4


def test_random_numbers_belong_to_places() -> None:
    """A text that goes on with its own beginning goes on as it did."""
    how = Sampling(temperature=1.0, seed=11)
    generator = Generator(model(), capacity=64)
    whole = list(generator.stream(PROMPT, max_tokens=10, sampling=how))
    rest = list(generator.stream(PROMPT + whole[:4], max_tokens=6, sampling=how))
    assert rest == whole[4:]


# ---- ends ----------------------------------------------------------------------------------------


def test_stop_tokens_end_a_text_and_are_no_part_of_it() -> None:
    want = after(PROMPT, 8)
    end = want[5]
    generator = Generator(model(), capacity=64, block_size=16)
    steps = list(generator.steps([PROMPT], max_tokens=8, stop=[end]))
    cut = want[: want.index(end)]
    assert steps == [*(Step(0, t) for t in cut), Step(0, None, STOP)]
    first = generator.generate([PROMPT, PROMPT[:3]], max_tokens=5, stop={want[0]})
    assert (first[0].tokens, first[0].finish) == ([], STOP)
    assert len(first[1].tokens) == 5 and first[1].finish == LENGTH


def test_the_cache_ends_a_text() -> None:
    """Of 16 places, the prompt takes 11; the last token needs none."""
    generator = Generator(model(), capacity=16, block_size=16)
    (got,) = generator.generate([PROMPT], max_tokens=50)
    assert (got.tokens, got.finish) == (after(PROMPT, 6), CONTEXT)
    (again,) = generator.generate([PROMPT], max_tokens=50)
    assert again == got


def test_the_models_context_ends_a_text() -> None:
    """Of 64 positions, the prompt takes 60; the last token is not computed."""
    prompt = tiny.case("mistral-window", layers=2).tokens[:44] + PROMPT + PROMPT[:5]
    (got,) = Generator(model(), capacity=200).generate([prompt], max_tokens=50)
    assert (len(got.tokens), got.finish) == (5, CONTEXT)


def test_an_iterator_that_is_closed_gives_its_blocks_back() -> None:
    generator = Generator(model(), capacity=64, block_size=16)
    stream = generator.stream(PROMPT, max_tokens=20)
    list(itertools.islice(stream, 3))
    assert len(generator.pool.free) == 3
    stream.close()  # type: ignore[attr-defined]
    assert sorted(generator.pool.free) == list(range(4))


def test_a_failure_gives_the_blocks_back() -> None:
    calls = itertools.count()

    def failing(*arguments: Any) -> torch.Tensor:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return model().ops.gated(*arguments)

    broken = replace(model(), ops=replace(model().ops, gated=failing))
    generator = Generator(broken, capacity=64, block_size=16)
    with pytest.raises(KeyboardInterrupt):
        generator.generate([PROMPT, PROMPT], max_tokens=9)
    assert len(generator.pool.free) == generator.pool.blocks
    (got,) = generator.generate([PROMPT], max_tokens=9)
    assert got.tokens == after(PROMPT, 9)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    broken = replace(model(), norm=model().norm * math.nan)
    generator = Generator(broken, capacity=64)
    with pytest.raises(TilusValueError, match="the logits after token 11 are not finite"):
        generator.generate([PROMPT], max_tokens=3)
    assert len(generator.pool.free) == generator.pool.blocks


# ---- one conversation ----------------------------------------------------------------------------


def test_a_prompt_that_begins_as_the_last_is_not_computed_again() -> None:
    generator = Generator(model(), capacity=64, block_size=16, reuse=True)
    first = list(generator.stream(PROMPT, max_tokens=6))
    assert generator.timing.prefill_tokens == 11
    longer = PROMPT + first + [3, 4]
    got = list(generator.stream(longer, max_tokens=6))
    assert generator.timing.prefill_tokens == 3  # the last token had not been computed
    assert got == after(longer, 6)
    other = [*longer[:9], 77, 78]
    assert list(generator.stream(other, max_tokens=6)) == after(other, 6)
    assert generator.timing.prefill_tokens == 2
    assert list(generator.stream(other, max_tokens=6)) == after(other, 6)
    assert generator.timing.prefill_tokens == 1  # one is always computed, for its logits
    assert list(generator.stream([9, 9], max_tokens=2)) == after([9, 9], 2)
    two = generator.generate([PROMPT, PROMPT], max_tokens=2)
    assert two[0] == two[1] and len(generator.pool.free) == generator.pool.blocks


# ---- timing, arguments ---------------------------------------------------------------------------


def test_tokens_are_counted() -> None:
    generator = Generator(model(), capacity=128)
    generator.generate([PROMPT, PROMPT[:4]], max_tokens=7)
    timing = generator.timing
    assert (timing.prefill_tokens, timing.decode_tokens) == (15, 12)
    assert timing.prefill_rate == pytest.approx(15 / timing.prefill_seconds)
    assert timing.decode_rate == pytest.approx(12 / timing.decode_seconds)
    generator.generate([PROMPT], max_tokens=1)
    assert (generator.timing.decode_tokens, generator.timing.decode_rate) == (0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, r"`temperature` is -1\.0; it is a number from 0\.0 to 100\.0"),
        ({"temperature": math.nan}, "`temperature` is nan"),
        ({"temperature": True}, "`temperature` is True"),
        ({"top_k": -1}, "`top_k` is -1; it is a whole number from 0"),
        ({"top_k": 2.5}, r"`top_k` is 2\.5"),
        ({"top_p": 1.5}, r"`top_p` is 1\.5"),
        ({"min_p": -0.1}, r"`min_p` is -0\.1"),
        ({"seed": 1 << 63}, "`seed` is 9223372036854775808"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TilusValueError, match=message):
        Sampling(**changes)


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([[1], [257]], {}, "prompt 1 has tokens outside 0 to 256"),
        ([[-1]], {}, "tokens outside 0 to 256"),
        ([[1.0]], {}, "tokens outside 0 to 256"),
        ([[1]], {"max_tokens": 0}, "`max_tokens` is 0"),
        ([[1]], {"sampling": []}, "`sampling` has 0 entries for 1 prompts"),
        ([[1] * 33], {}, "do not fit into the cache of 32 tokens; give `capacity` more"),
        ([[1] * 10] * 3, {}, "do not fit into the cache of 32 tokens"),
        ([[1] * 65], {}, "prompt 0 has 65 tokens; the model's context is 64"),
    ],
)
def test_arguments_out_of_place(prompts: Any, changes: dict[str, Any], message: str) -> None:
    generator = Generator(model(), capacity=32, block_size=16)
    with pytest.raises(TilusValueError, match=message):
        generator.generate(prompts, **{"max_tokens": 3, **changes})


@pytest.mark.parametrize("name", ["capacity", "block_size", "chunk"])
def test_sizes_out_of_range(name: str) -> None:
    with pytest.raises(TilusValueError, match=f"`{name}` is 0"):
        Generator(model(), **{name: 0})


def test_batches_take_what_is_there() -> None:
    pool, sequence = BlockPool(3, 4), Sequence([1, 2, 3, 4, 5])
    with pytest.raises(TilusValueError, match="no blocks for 5 tokens"):
        Batch.of([(sequence, 5)], 4)
    assert pool.fit(sequence, 5) and len(sequence.blocks) == 2 and len(pool.free) == 1
    assert not pool.fit(Sequence([]), 5) and len(pool.free) == 1
    with pytest.raises(TilusValueError, match="takes 6 tokens of 5"):
        Batch.of([(sequence, 6)], 4)
    pool.release(sequence)
    assert sorted(pool.free) == [0, 1, 2] and sequence.blocks == []


# ---- perplexity ----------------------------------------------------------------------------------


def nats(tokens: list[int], first: int) -> float:
    """Of the tokens from `first` on, by transformers."""
    case = tiny.case("mistral-window", layers=2)
    logits = tiny.their_logits(case.theirs, tokens, [len(tokens)]).double()
    p = logits.log_softmax(-1)
    return -sum(float(p[i - 1, tokens[i]]) for i in range(first, len(tokens)))


def test_perplexity_of_a_short_text() -> None:
    text = tiny.case("mistral-window", layers=2).tokens
    score = perplexity(model(), text, 96, window=64)
    want = nats(text, 1)
    assert score.tokens == 47 and score.nats == pytest.approx(want, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(want / 47), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(want / math.log(2) / 96, rel=1e-5)
    begun = perplexity(model(), text, 96, window=64, prefix=[2, 3])
    assert begun.tokens == 48 and begun.nats == pytest.approx(nats([2, 3, *text], 2), rel=1e-5)


@pytest.mark.parametrize("prefix", [[], [2]])
@pytest.mark.parametrize(("window", "stride"), [(20, 19), (20, 7), (16, None), (30, 1), (47, 40)])
def test_windows(prefix: list[int], window: int, stride: int | None) -> None:
    """Every token once, from as much as its window holds before it."""
    text = tiny.case("mistral-window", layers=2).tokens
    step = stride or window // 2
    ends = list(range(window, len(text), step))
    ends.append(ends[-1] + step if ends else len(text))
    want, seen = 0.0, 0
    for end in ends:
        part = text[max(0, end - window) : end]
        fresh = min(end, len(text)) - seen
        first = max(1, len(prefix) + len(part) - fresh)
        want += nats([*prefix, *part], first)
        seen += fresh
    progress: list[tuple[int, int]] = []
    score = perplexity(
        model(),
        text,
        100,
        prefix=prefix,
        window=window,
        stride=stride,
        progress=lambda *at: progress.append(at),
    )
    assert score.tokens == len(text) - (0 if prefix else 1)
    assert score.nats == pytest.approx(want, rel=1e-5)
    assert progress[-1] == (score.tokens, score.tokens)


def test_chunks_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = tiny.case("mistral-window", layers=2).tokens
    want = perplexity(model(), text, 96, window=40, stride=9)
    monkeypatch.setattr("tilus.llm.perplexity._LOGITS", 257 * 5)
    got = perplexity(model(), text, 96, window=40, stride=9)
    assert got.tokens == want.tokens and got.nats == pytest.approx(want.nats, rel=1e-6)


def test_keys_and_values_in_bytes_cost_little() -> None:
    text = tiny.case("mistral-window", layers=2).tokens
    want = perplexity(model(), text, 96).nats
    assert 1e-7 < abs(perplexity(model(), text, 96, kv="i8").nats / want - 1) < 1e-3


@pytest.mark.parametrize(
    ("tokens", "changes", "message"),
    [
        ([1], {}, "`tokens` has 1 tokens; none can be predicted"),
        ([], {"prefix": [1]}, "`tokens` has 0 tokens"),
        ([1, 2], {"window": 1}, "`window` is 1"),
        ([1, 2], {"prefix": [1] * 63}, "`window` is 1024; .* beside the `prefix`"),
        ([1, 2], {"stride": 0}, "`stride` is 0"),
        ([1, 2], {"window": 8, "stride": 9}, "`stride` is 9; in windows of 8 it is from 1 to 7"),
        ([1, 2], {"text_bytes": 0}, "`text_bytes` is 0"),
    ],
)
def test_scores_out_of_place(tokens: list[int], changes: Any, message: str) -> None:
    arguments = {"text_bytes": 2, **changes}
    with pytest.raises(TilusValueError, match=message):
        perplexity(model(), tokens, **arguments)
