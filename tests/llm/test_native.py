"""The model on native kernels against the model on the reference."""

from __future__ import annotations

import pytest

from tests.llm import tiny
from tests.llm.tiny import one_thread
from tilus.errors import TilusValueError
from tilus.kernels.cache import PagedCache
from tilus.kernels.kv_cache import PanelCache
from tilus.llm.generate import Generator
from tilus.llm.model import Model
from tilus.llm.ops import NATIVE

__all__ = ["one_thread"]  # for all tests here

NAMES = ["llama2", "llama3", "llama-dynamic", "mistral", "qwen2", "qwen2-window"]  # heads of 16


@pytest.mark.parametrize("name", NAMES)
def test_same_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "BLOCK", 16)
    model = Model.load(tiny.case(name, layers=2).checkpoint())
    native = Model.load(tiny.case(name, layers=2).checkpoint(), ops=NATIVE)
    tokens = tiny.case(name, layers=2).tokens[:30]
    counts = [17, 12, 1]
    assert isinstance(native.cache(1, tiny.BLOCK), PanelCache)
    want, got = tiny.our_logits(model, tokens, counts), tiny.our_logits(native, tokens, counts)
    assert tiny.difference(got, want) < 1e-5


def test_same_tokens() -> None:
    native = Model.load(tiny.case("qwen2-window", layers=2).checkpoint(), ops=NATIVE)
    plain = Model.load(tiny.case("qwen2-window", layers=2).checkpoint())
    assert isinstance(Generator(native).cache, PanelCache)
    prompt = [5, 99, 200, 7, 31, 8, 250, 1, 64, 12, 13]
    runs = [list(Generator(m).stream(prompt, max_tokens=20)) for m in (native, plain)]
    assert runs[0] == runs[1]


def test_what_does_not_fit_stays_with_the_reference() -> None:
    assert isinstance(NATIVE.cache(1, 2, 64, 2, 32, "bf16"), PanelCache)
    for page, dim, dtype in ((64, 8, "f32"), (5, 32, "f32"), (64, 32, "i8")):
        assert isinstance(NATIVE.cache(1, 2, page, 2, dim, dtype), PagedCache)
        with pytest.raises(TilusValueError, match="multiple of 16"):
            PanelCache(1, 2, page, 2, dim, dtype)
