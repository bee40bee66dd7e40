"""Peers of whole models: which are fair, and that they compute the model they are timed for."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tilus import dtypes
from tilus.errors import TilusValueError
from tilus.llm import peers
from tilus.llm.batch import Batch, BlockPool, Sequence
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.checkpoints.gguf_types import GGML_TYPES
from tilus.llm.model import Model
from tilus.llm.models import family_of
from tilus.llm.ops import EXACT
from tilus.llm.peers import LlamaModel, available, bits_per_weight, nearest
from tilus.llm.shapes import SHAPES, config_of

TINY = config_of("llama-3.2-1b", 2) | {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
}
MODEL = family_of(TINY).config(TINY)
NUMBERS = {kind.name: number for number, kind in GGML_TYPES.items()}
TOKENS = [3, 310, 0, 44, 44, 7, 101]

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the packages llama-cpp-python and gguf",
)


# ---- which type is a fair peer ----------------------------------------------------------------


def test_bits_per_weight() -> None:
    assert bits_per_weight(dtypes.u4, None) == 4
    assert bits_per_weight(dtypes.u4, 128) == 4 + (16 + 8) / 128
    assert bits_per_weight(dtypes.f4e2m1, 32) == 4.5
    assert bits_per_weight(dtypes.bf16, 128) == 16


@pytest.mark.parametrize(
    "weights, want",
    [
        ("bf16", "BF16 F16"),
        ("u8", "Q8_0"),
        ("u7", "Q6_K"),
        ("u6", "Q6_K"),
        ("u5", "Q5_0 Q5_K"),
        ("u4", "IQ4_NL IQ4_XS Q4_0 Q4_K"),
        ("u3", "Q3_K"),
        ("u2", "Q2_K TQ2_0"),
        ("u1", "TQ1_0"),
    ],
)
def test_nearest(weights: str, want: str) -> None:
    for group in None, 128, 64:
        bits = bits_per_weight(dtypes.dtype(weights), group)
        found = [GGML_TYPES[number].name for number in nearest(bits, (2048, 8192))]
        assert " ".join(sorted(found)) == want, group


def test_nearest_has_whole_blocks() -> None:
    found = {GGML_TYPES[number].name for number in nearest(4.2, (896, 4864))}
    assert found == {"Q4_0", "IQ4_NL"}


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_llama", lambda: None)
    assert available(TINY, dtypes.u4) == []
    with pytest.raises(TilusValueError, match="llama-cpp-python and gguf"):
        LlamaModel(MODEL, NUMBERS["Q8_0"], False)


# ---- llama.cpp --------------------------------------------------------------------------------


@needs_llama
def test_available() -> None:
    found = {peer.name: peer.bits for peer in available(TINY, dtypes.u4)}
    assert found["llama.cpp-q4_0"] == found["llama.cpp-q4_K"] == found["llama.cpp-iq4_nl"] == 4.5
    assert found["llama.cpp-iq4_xs"] == 4.25
    assert [peer.name for peer in available(TINY, dtypes.bf16)] == [
        "llama.cpp-f16",
        "llama.cpp-bf16",
    ]


@needs_llama
@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"hidden_act": "gelu_new"},
        {"model_type": "mistral", "sliding_window": 32},
    ],
)
def test_unknown_models_have_no_peers(change: dict[str, object]) -> None:
    assert available(TINY | change, dtypes.u8) == []


@needs_llama
@pytest.mark.parametrize("weights", ["bf16", "u8", "u6", "u5", "u4", "u3", "u2", "u1"])
def test_times(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(peers, "write", partial(_seen, folders, peers.write))
    found = available(TINY, dtypes.dtype(weights))
    assert found
    for peer in found:
        with peer.open() as model:
            assert model.logits(TOKENS).isfinite().all()
            for kv in "bf16", "i8":
                assert model.prefill(40, kv) > 0
                assert model.decode(3, 150, kv) > 0
                assert model.decode(3, 150, kv) > 0
    assert {folder.parent for folder in folders} == {tmp_path}
    assert not list(tmp_path.iterdir())


def _seen(folders: list[Path], write: Callable[..., None], path: Path, *rest: object) -> None:
    folders.append(path.parent)
    write(path, *rest)


@needs_llama
def test_kv_is_checked() -> None:
    with (
        LlamaModel(MODEL, NUMBERS["Q8_0"], False) as model,
        pytest.raises(TilusValueError, match="`kv` is 'i4'; it is one of f32, f16, bf16, i8"),
    ):
        model.prefill(8, "i4")


@needs_llama
@pytest.mark.parametrize("kind, most", [("F16", 0.01), ("Q8_0", 0.02), ("Q4_K", 0.04)])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_model_is_ours(family: str, kind: str, most: float, tmp_path: Path) -> None:
    config = TINY | {"model_type": family, "head_dim": 64}
    if family != "llama":
        config |= {"rope_scaling": None, "sliding_window": None, "tie_word_embeddings": False}
    model, path = family_of(config).config(config), tmp_path / "model.gguf"
    peers.write(path, model, NUMBERS[kind])
    ours = Model.load(open_checkpoint(path), ops=EXACT)
    assert ours.config.rope.kind == model.rope.kind
    want = _logits(ours, TOKENS)
    for repacked in False, True:
        with LlamaModel(model, NUMBERS[kind], repacked) as theirs:
            error = (theirs.logits(TOKENS) - want).square().mean().sqrt()
        assert error < most * want.square().mean().sqrt()


def _logits(model: Model, tokens: list[int]) -> torch.Tensor:
    pool, sequence = BlockPool(1, 64), Sequence(tokens)
    assert pool.fit(sequence, len(tokens))
    batch = Batch.of([(sequence, len(tokens))], 64)
    return model.forward(batch, model.cache(1, 64))[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_can_be_described(shape: str) -> None:
    assert peers._known(family_of(SHAPES[shape]).config(SHAPES[shape]))


@needs_llama
def test_a_filled_cache_holds_all_tokens() -> None:
    with LlamaModel(MODEL, NUMBERS["Q8_0"], False) as model:
        context = peers._Context(model, 200, peers.KV["bf16"], True)
        api, sizes = peers._need().api, {}
        for tokens in 64, 150:
            api.llama_memory_clear(context._memory, False)
            assert context._fill(tokens) <= tokens
            sizes[tokens] = api.llama_state_seq_get_size(context._handle, 0)
        context.close()
    keys_and_values = 2 * MODEL.layers * MODEL.kv_rows * 2  # bytes of a token
    assert (sizes[150] - sizes[64]) // 86 in range(keys_and_values, keys_and_values + 32)
