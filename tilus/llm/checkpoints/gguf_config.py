"""GGUF metadata as the config.json that the same model has on Hugging Face."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from tilus.errors import TilusNotImplementedError, TilusValueError
from tilus.llm.checkpoints.gguf_rope import divided
from tilus.llm.checkpoints.limits import is_count, shown

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
MOST = 1 << 31  # of any extent
MAX_LAYERS = 4096


class Metadata:
    """The keys of one architecture, read with their types and ranges checked."""

    def __init__(self, path: Path, keys: dict[str, Any]) -> None:
        self.path = path
        self.keys = keys
        name = keys.get("general.architecture")
        self.architecture = name if isinstance(name, str) else ""
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise TilusNotImplementedError(
                f"{path} is of the architecture {shown(self.architecture)}; known are {known}"
            )

    def get(self, key: str) -> Any:
        """A key of the architecture, or None."""
        return self.keys.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None, most: int = MOST) -> int:
        """An integer from 1 to `most`; of a list, which has one for each layer, the only value."""
        value = self.get(key)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self._wrong(key, value, f"an integer from 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def _wrong(self, key: str, value: Any, what: str) -> TilusValueError:
        name = f"{self.path}: {self.architecture}.{key}"
        if value is None:
            return TilusValueError(f"{name} is missing")
        return TilusValueError(f"{name} is {shown(value)}, not {what}")


def config(meta: Metadata, factors: torch.Tensor | None, names: set[str]) -> dict[str, Any]:
    """The config.

    Args:
        meta: the file's metadata.
        factors: what `rope_freqs.weight` divides the frequencies by, [head_dim / 2].
        names: of the file's tensors.
    """
    if meta.get("expert_count"):
        raise TilusNotImplementedError(f"{meta.path} is a mixture of experts, which is not run yet")
    hidden, heads = meta.count("embedding_length"), meta.count("attention.head_count")
    kv_heads = meta.count("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise TilusValueError(f"{meta.path}: {heads} heads cannot share {kv_heads} key-value heads")
    if hidden % heads and meta.get("attention.key_length") is None:
        raise TilusValueError(f"{meta.path}: {hidden} is no multiple of the {heads} heads")
    head_dim = meta.count("attention.key_length", hidden // heads)
    if head_dim % 2:
        raise TilusValueError(f"{meta.path}: heads of {head_dim} have no pairs to rotate")
    for key in ("attention.value_length", "rope.dimension_count"):
        if meta.count(key, head_dim) != head_dim:
            raise TilusNotImplementedError(
                f"{meta.path}: {meta.architecture}.{key} is {meta.get(key)} and the size of a head "
                f"{head_dim}; models where they differ are not run"
            )
    window = meta.get("attention.sliding_window") if meta.architecture == "llama" else None
    family = "mistral" if window else meta.architecture
    found = {
        "model_type": family,
        "architectures": [_CLASSES[family]],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.count("feed_forward_length"),
        "num_hidden_layers": meta.count("block_count", most=MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number("rope.freq_base", 10000.0),
        "rope_scaling": _scaling(meta, factors, head_dim),
        "max_position_embeddings": meta.count("context_length"),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_gate.bias" in names,
    }
    if window:
        found["sliding_window"] = meta.count("attention.sliding_window")
    for name in ("bos", "eos"):
        token = meta.keys.get(f"tokenizer.ggml.{name}_token_id")
        if is_count(token):
            found[f"{name}_token_id"] = token
    return found


def _scaling(meta: Metadata, factors: torch.Tensor | None, head_dim: int) -> dict[str, Any] | None:
    """`rope_scaling`."""
    kind = meta.get("rope.scaling.type")
    if factors is not None and not bool((factors == 1).all()):
        positive = bool(((factors > 0) & factors.isfinite()).all())
        if tuple(factors.shape) != (head_dim // 2,) or not positive:
            raise TilusValueError(
                f"{meta.path}: rope_freqs.weight is not {head_dim // 2} positive numbers"
            )
        theta = meta.number("rope.freq_base", 10000.0)
        return divided(factors.double(), theta, meta.count("context_length"))
    if kind is None and meta.get("rope.scale_linear") is not None:  # of older writers
        return {"rope_type": "linear", "factor": meta.number("rope.scale_linear")}
    if kind in (None, "none"):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": meta.number("rope.scaling.factor")}
    if kind != "yarn":
        raise TilusNotImplementedError(
            f"{meta.path}: rope scaling of the type {shown(kind)}; linear and yarn are known"
        )
    factor = meta.number("rope.scaling.factor")
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": meta.count("rope.scaling.original_context_length"),
        "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if meta.get("rope.scaling.attn_factor") is not None:
        extra = meta.number("rope.scaling.attn_factor")
        found["attention_factor"] = extra * (1 + 0.1 * math.log(max(factor, 1)))
    return found
