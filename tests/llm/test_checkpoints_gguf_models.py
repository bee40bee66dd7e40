"""GGUF models under Hugging Face's names, values and configs; transformers is the oracle."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.llm.gguf_bytes import LLAMA, Stored, tensors
from tests.llm.gguf_bytes import gguf as file_of
from tests.llm.gguf_bytes import llama as tiny_file
from tests.llm.refusals import refused
from tilus import dtypes
from tilus.kernels import QuantizedWeight
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.checkpoints.gguf_rope import divided

HIDDEN, INNER, HEADS, KV_HEADS, VOCAB, LAYERS = 64, 96, 4, 2, 70, 2
HEAD = {"llama": 16, "qwen2": 16, "qwen3": 24}  # qwen3: not hidden / heads
QUANTISED = gguf.GGMLQuantizationType


def parts(family: str, tied: bool = False) -> dict[str, torch.Tensor]:
    """Random tensors of a family, by the names on Hugging Face."""
    head = HEAD[family]
    q, kv = HEADS * head, KV_HEADS * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (HIDDEN,),
            f"{at}.post_attention_layernorm.weight": (HIDDEN,),
            f"{at}.self_attn.q_proj.weight": (q, HIDDEN),
            f"{at}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"{at}.self_attn.v_proj.weight": (kv, HIDDEN),
            f"{at}.self_attn.o_proj.weight": (HIDDEN, q),
            f"{at}.mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{at}.mlp.up_proj.weight": (INNER, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, INNER),
        }
        if family == "qwen2":
            shapes |= {f"{at}.self_attn.{x}_proj.bias": (n,) for x, n in (("q", q), ("k", kv))}
            shapes[f"{at}.self_attn.v_proj.bias"] = (kv,)
        if family == "qwen3":
            shapes |= {f"{at}.self_attn.{x}_norm.weight": (head,) for x in "qk"}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As llama.cpp's converter stores q and k: row i of a half beside row i of the other."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).transpose(1, 2).reshape(weight.shape)


def stored_name(name: str, layers: int = LAYERS) -> str:
    """The name in a GGUF file, by the package's own table."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    found = table.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, name
    return found


def written(
    path: Path,
    family: str,
    values: dict[str, torch.Tensor],
    kind: QUANTISED = QUANTISED.F32,
    **keys: Any,
) -> Path:
    """A file as llama.cpp's converter makes it, matrices of the type `kind`."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD[family])
    writer.add_value_length(HEAD[family])
    writer.add_rope_dimension_count(HEAD[family])
    writer.add_layer_norm_rms_eps(0.25)
    writer.add_rope_freq_base(1234.5)
    writer.add_vocab_size(VOCAB)
    writer.add_token_list([f"token {i}" for i in range(VOCAB)])
    writer.add_eos_token_id(7)
    for key, value in keys.items():
        getattr(writer, f"add_{key}")(value)
    for name, tensor in values.items():
        if family == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            tensor = permuted(tensor, HEADS if ".q_proj" in name else KV_HEADS)
        data = tensor.numpy()
        if tensor.dim() == 2 and kind != QUANTISED.F32:
            writer.add_tensor(stored_name(name), gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", HEAD)
def test_names_values_and_config(tmp_path, family: str):
    values = parts(family)
    checkpoint = open_checkpoint(written(tmp_path / "m.gguf", family, values))
    assert checkpoint.format == "gguf" and sorted(checkpoint.names) == sorted(values)
    for name, want in values.items():
        got = checkpoint.load(name)
        assert isinstance(got, torch.Tensor) and torch.equal(got, want), name
        assert checkpoint.shape(name) == tuple(want.shape)
    assert checkpoint.config == {
        "model_type": family,
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD[family],
        "rms_norm_eps": 0.25,
        "rope_theta": 1234.5,
        "rope_scaling": None,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "attention_bias": family == "qwen2",
        "mlp_bias": False,
        "vocab_size": VOCAB,
        "eos_token_id": 7,
    }
    keys = checkpoint.tokenizer.gguf
    assert checkpoint.tokenizer.folder is None and keys is not None
    assert keys["tokenizer.ggml.tokens"][3] == "token 3"


@pytest.mark.parametrize("family", HEAD)
def test_transformers_reads_the_same(tmp_path, family: str):
    transformers = pytest.importorskip("transformers")
    reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    path = written(tmp_path / "m.gguf", family, parts(family, tied=family == "qwen3"))
    checkpoint = open_checkpoint(path)
    kind = getattr(transformers, checkpoint.config["architectures"][0])
    with torch.device("meta"):
        empty = kind(kind.config_class(**checkpoint.config))
    loaded = reader.load_gguf_checkpoint(path, return_tensors=True, model_to_load=empty)
    assert loaded["tensors"].keys() == set(checkpoint.names)
    for name, want in loaded["tensors"].items():
        got = checkpoint.load(name)
        assert isinstance(got, torch.Tensor) and torch.equal(got, want), name
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.named_parameters()}
    assert shapes == {name: checkpoint.shape(name) for name in checkpoint.names}
    same = loaded["config"].keys() & checkpoint.config.keys()
    assert {"rope_theta", "num_key_value_heads", "rms_norm_eps", "vocab_size"} < same
    for key in same - {"architectures"}:
        assert loaded["config"][key] == checkpoint.config[key], key


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_rows_of_packed_weights_in_order(tmp_path, kind: str):
    values = parts("llama")
    type = QUANTISED[kind]
    checkpoint = open_checkpoint(written(tmp_path / "m.gguf", "llama", values, type))
    for name, tensor in values.items():
        got = checkpoint.load(name)
        size = (gguf.quantize(tensor.numpy(), type) if tensor.dim() == 2 else tensor.numpy()).nbytes
        assert checkpoint.stored(name) == (kind if tensor.dim() == 2 else "F32", size)
        if tensor.dim() == 1:
            assert isinstance(got, torch.Tensor) and got.dtype == torch.float32
            continue
        want = torch.from_numpy(gguf.dequantize(gguf.quantize(tensor.numpy(), type), type))
        if kind in ("F16", "BF16"):
            assert isinstance(got, torch.Tensor)
            assert got.dtype == (torch.float16 if kind == "F16" else torch.bfloat16)
            assert torch.equal(got.float(), want)
        else:
            assert isinstance(got, QuantizedWeight) and got.shape == tuple(tensor.shape)
            torch.testing.assert_close(got.dequantize(), want, rtol=1e-6, atol=1e-6)


def test_a_tied_head(tmp_path):
    checkpoint = open_checkpoint(written(tmp_path / "m.gguf", "qwen2", parts("qwen2", tied=True)))
    assert checkpoint.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in checkpoint.names


def test_biases_of_llama_are_in_order_too(tmp_path):
    values = parts("llama")
    for i in range(LAYERS):
        for x, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            values[f"model.layers.{i}.self_attn.{x}_proj.bias"] = torch.randn(rows)
        for x, rows in (("gate", INNER), ("up", INNER), ("down", HIDDEN)):
            values[f"model.layers.{i}.mlp.{x}_proj.bias"] = torch.randn(rows)
    checkpoint = open_checkpoint(written(tmp_path / "m.gguf", "llama", values))
    assert checkpoint.config["attention_bias"] and checkpoint.config["mlp_bias"]
    for name, want in values.items():
        assert torch.equal(checkpoint.load(name), want), name  # type: ignore[arg-type]


def test_the_size_of_a_head_by_default(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_file({"llama.rope.freq_base": None, "llama.vocab_size": 6}))
    config = open_checkpoint(path).config
    assert config["head_dim"] == 4 and config["rope_theta"] == 10000.0 and config["vocab_size"] == 6


def test_one_value_for_all_layers(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_file({"llama.attention.head_count_kv": [1, 1]}))
    assert open_checkpoint(path).config["num_key_value_heads"] == 1


def test_a_window_makes_it_mistral(tmp_path):
    path = written(tmp_path / "m.gguf", "llama", parts("llama"), sliding_window=5)
    config = open_checkpoint(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 5)
    assert config["architectures"] == ["MistralForCausalLM"]


# --- scaling of positions ---


def scaling(path: Path, **keys: Any) -> Any:
    path.write_bytes(tiny_file({f"llama.rope.{key}": value for key, value in keys.items()}))
    return open_checkpoint(path).config["rope_scaling"]


def test_linear_and_yarn(tmp_path):
    path = tmp_path / "m.gguf"
    assert scaling(path, **{"scaling.type": "none"}) is None
    linear = {"rope_type": "linear", "factor": 4.0}
    assert scaling(path, **{"scaling.type": "linear", "scaling.factor": 4.0}) == linear
    assert scaling(path, scale_linear=4.0) == linear
    yarn = {
        "scaling.type": "yarn",
        "scaling.factor": 4.0,
        "scaling.original_context_length": 16,
    }
    want = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    assert scaling(path, **yarn) == want
    more = {
        "scaling.attn_factor": 0.5,
        "scaling.yarn_beta_fast": 8.0,
        "scaling.yarn_beta_slow": 2.0,
    }
    want |= {"beta_fast": 8.0, "beta_slow": 2.0}
    want["attention_factor"] = 0.5 * (1 + 0.1 * math.log(4))
    assert scaling(path, **yarn, **more) == want


def llama3(
    theta: float, dim: int, factor: float, original: float, low: float, high: float
) -> torch.Tensor:
    """The divisors that llama.cpp's converter stores."""
    wave = 2 * math.pi * theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    smooth = (original / wave - low) / (high - low)
    found = 1 / ((1 - smooth) / factor + smooth)
    found = torch.where(wave < original / high, 1.0, found)
    return torch.where(wave > original / low, factor, found)


@pytest.mark.parametrize(("dim", "factor"), [(64, 32.0), (128, 8.0)])
def test_the_divisors_of_llama_3(dim: int, factor: float):
    found = divided(llama3(500000.0, dim, factor, 8192, 1.0, 4.0).double(), 500000.0, 131072)
    assert found == {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


@given(
    st.sampled_from([16, 24, 64, 128]),
    st.floats(100, 1e7),
    st.floats(1.5, 64),
    st.integers(16, 100_000),
    st.floats(0.25, 4),
    st.floats(1.5, 16),
)
def test_the_parameters_of_any_divisors(
    dim: int, theta: float, factor: float, original: int, low: float, ratio: float
):
    divisors = llama3(theta, dim, factor, original, low, low * ratio)
    found = divided(divisors.double(), theta, 1 << 17)
    if found["rope_type"] == "longrope":  # the same by definition
        assert found["long_factor"] == found["short_factor"] == divisors.double().tolist()
        slope = (divisors > 1.01) & (divisors < 0.99 * divisors.max())
        assert slope.sum() < 2 or divisors.max() < 0.99 * factor
        return
    assert type(found["original_max_position_embeddings"]) is int
    again = llama3(
        theta,
        dim,
        found["factor"],
        found["original_max_position_embeddings"],
        found["low_freq_factor"],
        found["high_freq_factor"],
    )
    torch.testing.assert_close(again, divisors, rtol=3e-5, atol=0)


@pytest.mark.parametrize("original", [1 << 20, 300])
def test_transformers_scales_the_same(tmp_path, original: int):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    llama = pytest.importorskip("transformers").LlamaConfig
    want = {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": original,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    keys = {**LLAMA, "llama.embedding_length": 8, "llama.attention.key_length": 32}
    shapes = {
        "blk.0.attn_q.weight": (64, 8),
        "blk.0.attn_k.weight": (32, 8),
        "blk.0.attn_v.weight": (32, 8),
        "blk.0.attn_output.weight": (8, 64),
    }
    divisors = llama3(500.0, 32, 8.0, original, 1.0, 4.0)
    data = divisors.numpy().astype("<f4").tobytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(file_of(keys, [*tensors(shapes), Stored("rope_freqs.weight", (16,), data)]))
    ours = open_checkpoint(path).config
    if original == 1 << 20:  # no wave is so long
        assert ours["rope_scaling"] is None
        return
    found, expected = (
        rope.ROPE_INIT_FUNCTIONS["llama3"](llama(**{**ours, "rope_scaling": scaled}), "cpu")[0]
        for scaled in (ours["rope_scaling"], want)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


# --- types that are converted ---


def ternary(path: Path) -> Path:
    """A tiny model, one matrix of it TQ2_0."""
    shapes: dict[str, tuple[int, ...] | None] = {
        "blk.0.ffn_gate.weight": (256, 8),
        "blk.0.ffn_up.weight": (256, 8),
        "blk.0.ffn_down.weight": None,
    }
    down = np.random.default_rng(2).integers(-1, 2, (8, 256)).astype(np.float32) * 0.5
    data = gguf.quantize(down, QUANTISED.TQ2_0).tobytes()
    stored = Stored("blk.0.ffn_down.weight", (8, 256), data, QUANTISED.TQ2_0)
    keys = {**LLAMA, "llama.feed_forward_length": 256}
    path.write_bytes(file_of(keys, [*tensors(shapes), stored]))
    return path


def test_converted_types_are_announced(tmp_path):
    path = ternary(tmp_path / "m.gguf")
    with pytest.warns(UserWarning, match="TQ2_0 to lut2_ternary in groups of 256") as found:
        checkpoint = open_checkpoint(path)
    assert len(found) == 1 and "\n" not in str(found[0].message)
    assert found[0].filename == __file__
    weight = checkpoint.load("model.layers.0.mlp.down_proj.weight")
    assert isinstance(weight, QuantizedWeight) and weight.dtype.bits == 2
    assert weight.scales.dtype == dtypes.f16
    assert sorted(weight.dequantize().unique().tolist()) == [-0.5, 0, 0.5]


def test_converted_types_need_the_package(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name)
    )
    refused(open_checkpoint, ternary(tmp_path / "m.gguf"), "TQ2_0, .* pip install gguf")
