"""The model on native kernels, and its recorded steps, against the model on the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.llm import tiny
from tests.llm.tiny import one_thread
from tilus import dtypes
from tilus.kernels.kv_cache import PanelCache
from tilus.llm.batch import Batch, Sequence
from tilus.llm.decode import Pace
from tilus.llm.generate import Generator, Sampling
from tilus.llm.model import Model
from tilus.llm.ops import NATIVE, REFERENCE
from tilus.runtime.program import Graph

__all__ = ["one_thread"]  # for all tests here

PROMPT = [5, 99, 200, 7, 31, 8, 250, 1, 64, 12, 13]
HOT = Sampling(1.2, 60, 0.95, 0.01, seed=4)


def quantised(name: str, kind: dtypes.DType = dtypes.u4) -> Model:
    """Matrices of a tiny model in few bits."""
    return Model.load(tiny.case(name).checkpoint(), weights=kind, group_size=32)


def step_by_step(model: Model) -> Model:
    """The same model, whose steps are not recorded."""
    return replace(model, ops=replace(NATIVE, recordable=False))


@pytest.mark.parametrize("name", tiny.CASES)
def test_same_logits(name: str) -> None:
    native = Model.load(tiny.case(name).checkpoint())
    model = Model.load(tiny.case(name).checkpoint(), ops=REFERENCE)
    tokens, counts = tiny.case(name).tokens[:30], [17, 12, 1]
    assert isinstance(native.cache(1, tiny.BLOCK), PanelCache)
    want, got = tiny.our_logits(model, tokens, counts), tiny.our_logits(native, tokens, counts)
    assert tiny.difference(got, want) < 1e-5


@pytest.mark.parametrize(("kv", "slack"), [("f16", 1e-3), ("bf16", 3e-2), ("i8", 3e-3)])
def test_same_logits_from_caches_of_fewer_bits(kv: str, slack: float) -> None:
    """The reference rounds keys and values alike; native code rounds queries in bf16, too."""
    found = []
    for ops in (NATIVE, REFERENCE):
        model = Model.load(tiny.case("qwen3").checkpoint(), ops=ops)
        cache = model.cache(2, 64, kv)
        sequence = Sequence(PROMPT, 0, [1, 0])
        batch = Batch.of([(sequence, len(PROMPT))], 64, every_row=True)
        found.append(model.forward(batch, cache))
    assert 0 < tiny.difference(found[0], found[1]) < slack


def test_only_native_models_are_recorded() -> None:
    model = quantised("qwen3")
    assert model.recordable and Model.load(tiny.case("qwen3").checkpoint()).recordable
    assert not replace(model, ops=REFERENCE).recordable
    assert not quantised("llama-dynamic").recordable


@pytest.mark.parametrize("sampling", [Sampling(), HOT])
@pytest.mark.parametrize("name", ["llama3", "qwen2-window", "qwen3-mixed"])
def test_recorded_steps_are_the_same(name: str, sampling: Sampling) -> None:
    """Bit for bit: the same kernels run."""
    model = quantised(name)
    runs = [
        list(Generator(m, kv="i8").stream(PROMPT, max_tokens=30, sampling=sampling))
        for m in (model, step_by_step(model))
    ]
    assert runs[0] == runs[1] and len(set(runs[0])) > 3


def test_recorded_steps_of_several_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end one after the other, and outgrow what a step was recorded for."""
    monkeypatch.setattr("tilus.llm.generate.FEWEST", 1)
    model = quantised("llama2")
    prompts = [PROMPT, PROMPT[:3], PROMPT[2:]]
    samplings = [HOT, Sampling(), Sampling(0.7, seed=9)]
    alone = [
        Generator(step_by_step(model), capacity=64, block_size=16).generate(
            [p], max_tokens=40, sampling=s
        )[0]
        for p, s in zip(prompts, samplings, strict=True)
    ]
    stop = [alone[1].tokens[20]]
    generator = Generator(model, capacity=256, block_size=16)
    got = generator.generate(prompts, max_tokens=40, sampling=samplings, stop=stop)
    for one, whole in zip(got, alone, strict=True):
        assert one.tokens == whole.tokens[: len(one.tokens)] and len(one.tokens) <= 40
    assert got[1].finish == "stop"
    assert len(generator._decoders) > 3
    again = generator.generate(prompts, max_tokens=40, sampling=samplings, stop=stop)
    assert [c.tokens for c in again] == [c.tokens for c in got]


def test_layers_of_mixed_types_are_recorded() -> None:
    """Their parts are joined natively."""
    model, other = quantised("llama2"), quantised("llama2", dtypes.u8)
    linear = replace(
        model.layers[0].qkv, parts=(*model.layers[0].qkv.parts, *other.layers[0].gate_up.parts)
    )
    x = torch.randn(3, 64)
    parts = [NATIVE.linear(x, w, b) for w, b in linear.parts]
    with Graph() as graph:
        joined = linear(x, NATIVE)
    joined.zero_()
    graph.replay()
    assert torch.equal(joined, torch.cat(parts, -1))


def paced(costs: dict[int, float], steps: int, pace: Pace) -> list[int]:
    """The threads of some steps, whose seconds depend on them alone."""
    taken = []
    for _ in range(steps):
        taken.append(pace.threads())
        pace.took(taken[-1], costs[taken[-1]])
    return taken


def test_steps_are_taken_on_as_many_threads_as_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    pace = Pace()
    small = paced({8: 3.0, 1: 1.0}, 2000, pace)
    assert small[:2] == [8, 1] and small.count(8) < 12  # tried again, less and less often
    pace.took(1, 500.0)  # one step was disturbed
    assert pace.threads() == 1
    large = paced({8: 1.0, 1: 4.0}, 3000, pace)
    assert set(large[-100:]) == {8}
