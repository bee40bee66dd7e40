"""Reading config.json: both generations of keys, and refusals that name the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.llm.tiny import CASES, COMMON, case, one_thread
from tilus.errors import TilusValueError
from tilus.llm.config import Rope
from tilus.llm.models import FAMILIES, family_of

__all__ = ["one_thread"]  # for all tests here


def old_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as transformers 4 wrote it."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["torch_dtype"] = config["dtype"]
    old["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    if old["rope_scaling"]:
        old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    return old


@pytest.mark.parametrize("name", [name for name in CASES if name != "qwen3-mixed"])
def test_both_generations_of_configs_are_read(name: str) -> None:
    new = case(name).checkpoint().config
    old = old_keys(new)
    assert "rope_parameters" in new and "rope_parameters" not in old
    family = family_of(new)
    assert family.config(old) == family.config(new)
    del old["model_type"]
    assert family_of(old) is family


BAD = [
    ({"num_attention_heads": 0}, "`num_attention_heads` is 0; .* from 1 to 1024"),
    ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000; .* from 1 to 1024"),
    ({"num_hidden_layers": 2.0}, r"`num_hidden_layers` is 2\.0; it must be a whole number"),
    ({"num_hidden_layers": True}, "`num_hidden_layers` is True"),
    ({"num_hidden_layers": "4"}, "`num_hidden_layers` is '4'"),
    ({"num_key_value_heads": 3}, "`num_key_value_heads` is 3; it must be a divisor of the 4"),
    ({"num_key_value_heads": -1}, "`num_key_value_heads` is -1"),
    ({"hidden_size": 66, "head_dim": None}, "`hidden_size` is 66; it must be a multiple of the 4"),
    ({"hidden_size": 2**63}, "`hidden_size`"),
    ({"hidden_size": None}, "config.json has no `hidden_size`; it must be a whole number"),
    ({"hidden_size": 12, "head_dim": None}, "`hidden_size` is 12; .* an even number"),
    ({"head_dim": 17}, "`head_dim` is 17; it must be an even number"),
    ({"head_dim": 0}, "`head_dim` is 0"),
    ({"vocab_size": -5}, "`vocab_size` is -5"),
    ({"vocab_size": [1] * 999}, r"`vocab_size` is \[1, 1, .{1,80}; it must be a whole"),
    ({"intermediate_size": 10**30}, "`intermediate_size`"),
    ({"rms_norm_eps": float("nan")}, "`rms_norm_eps` is nan; it must be a number from 0 to 1"),
    ({"rms_norm_eps": -1e-6}, "`rms_norm_eps`"),
    ({"rms_norm_eps": True}, "`rms_norm_eps` is True"),
    ({"max_position_embeddings": 10**12}, "`max_position_embeddings`"),
    ({"hidden_act": "relu"}, "`hidden_act` is 'relu'; it must be one of silu"),
    ({"hidden_act": 3}, "`hidden_act` is 3"),
    ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes'; it must be true or false"),
    ({"attention_bias": 1}, "`attention_bias` is 1"),
    ({"rope_parameters": [1]}, "`rope_parameters` is .*; it must be an object"),
    ({"rope_parameters": {"full_attention": {}}}, "one RoPE for each kind of layer"),
    ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters: `rope_type` is 'longrope'"),
    ({"rope_scaling": {"type": "su"}}, "rope_scaling: `type` is 'su'; it must be one of default"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling has no `factor`"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "`factor` is 0; it must be a number"),
    ({"rope_scaling": {"type": "llama3", "factor": 8}}, "rope_scaling has no `low_freq_factor`"),
    (
        {
            "rope_scaling": {
                "type": "llama3",
                "factor": 8,
                "low_freq_factor": 4,
                "high_freq_factor": 4,
            }
        },
        "`high_freq_factor` is 4; it must be above `low_freq_factor`, 4",
    ),
    ({"rope_parameters": {"rope_theta": 0}}, "`rope_theta` is 0"),
    ({"rope_parameters": {"rope_theta": float("inf")}}, "`rope_theta` is inf"),
    ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` is 0.5; it must be 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_absurd_configs_are_refused_by_key(change: dict[str, Any], message: str) -> None:
    config = {**COMMON, "model_type": "llama", **change}
    with pytest.raises(TilusValueError, match=message) as caught:
        FAMILIES["llama"].config(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention"] * 3}, "`layer_types` is .* a list of 4"),
        ({"layer_types": ["linear_attention"] * 4}, "a list of 4, each full_attention or sliding"),
        ({"layer_types": ["sliding_attention"] * 4}, "give no window"),
        ({"use_sliding_window": True, "sliding_window": 0}, "`sliding_window` is 0"),
        ({"use_sliding_window": 1}, "`use_sliding_window` is 1"),
        ({"max_window_layers": -1}, "`max_window_layers` is -1"),
    ],
)
def test_absurd_windows_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TilusValueError, match=message):
        FAMILIES["qwen2"].config({**COMMON, **change})


def test_unknown_families_are_refused_by_name() -> None:
    known = "the known families are llama, mistral, qwen2, qwen3"
    with pytest.raises(TilusValueError, match=f"is of the family 'gpt_oss'; {known}"):
        family_of({"model_type": "gpt_oss"})
    with pytest.raises(TilusValueError, match=f"is of the family 'NewModel'; {known}"):
        family_of({"architectures": ["NewModel"]})
    with pytest.raises(TilusValueError, match=f"config.json has no `model_type`; {known}"):
        family_of({"architectures": [1]})


def test_a_windowless_mistral_and_defaults() -> None:
    config = FAMILIES["mistral"].config({**COMMON, "sliding_window": None})
    assert config.windows == (None,) * 4
    assert FAMILIES["mistral"].config(dict(COMMON)).windows == (4096,) * 4
    plain = FAMILIES["llama"].config({**COMMON, "num_key_value_heads": None})
    assert plain.kv_heads == plain.heads and plain.rope == Rope() and not plain.tied
    assert FAMILIES["qwen3"].config(dict(COMMON)).head_dim == 128


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({}, 64),
        ({"rope_type": "linear", "factor": 4}, 256),
        ({"rope_type": "dynamic", "factor": 2}, 128),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16}, 64),
    ],
)
def test_how_long_sequences_may_be(scaling: dict[str, Any], context: int) -> None:
    assert FAMILIES["llama"].config({**COMMON, "rope_scaling": scaling}).context == context


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama-3.2-1B": (
        {
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64,
            "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 128256,
            "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
        },
        {"rope": Rope("llama3", 5e5, 32.0, 8192, 1.0, 4.0), "tied": True, "context": 131072},
    ),
    "Mistral-7B-v0.1": (
        {
            "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "vocab_size": 32000, "hidden_act": "silu",
        },
        {"rope": Rope(), "windows": (4096,) * 32, "head_dim": 128, "qkv_bias": False},
    ),
    "Qwen2.5-7B with YaRN": (
        {
            "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
            "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
            "max_position_embeddings": 32768, "max_window_layers": 28, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "sliding_window": 131072, "use_sliding_window": False,
            "rope_scaling": {
                "factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"
            },
            "tie_word_embeddings": False, "vocab_size": 152064, "hidden_act": "silu",
        },
        {"qkv_bias": True, "output_bias": False, "windows": (None,) * 28, "context": 131072},
    ),
    "Qwen3-0.6B": (
        {
            "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
            "max_position_embeddings": 40960, "max_window_layers": 28, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None,
            "use_sliding_window": False, "tie_word_embeddings": True, "vocab_size": 151936,
            "attention_bias": False, "hidden_act": "silu",
        },
        {"qk_norm": True, "q_rows": 2048, "kv_rows": 1024, "rope": Rope(theta=1e6)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str) -> None:
    values, expected = PUBLISHED[name]
    config = family_of(values).config(values)
    assert {key: getattr(config, key) for key in expected} == expected


def test_no_key_is_overlooked() -> None:
    """Of what transformers writes for these families; training's keys mean nothing here."""
    known = {
        *COMMON, "architectures", "attention_bias", "attention_dropout", "bos_token_id", "dtype",
        "eos_token_id", "head_dim", "hidden_act", "initializer_range", "layer_types",
        "max_window_layers", "mlp_bias", "model_type", "pad_token_id", "pretraining_tp",
        "rope_parameters", "sliding_window", "tie_word_embeddings", "transformers_version",
        "use_cache", "use_sliding_window",
    }  # fmt: skip
    for name in CASES:
        keys = case(name).checkpoint().config.keys()
        assert keys <= known, f"{name}: what do {keys - known} mean?"
