"""Shapes of published models, and random weights for them: what measuring speed needs.

The numbers are those of the models' config.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.quantized import QuantizedWeight, Scheme
from tilus.llm.models import family_of
from tilus.llm.weights import group_for
from tilus.tensor import Tensor, to_torch


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _shape(family: str, sizes: tuple[int, ...], tied: bool, **more: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    config: dict[str, Any] = dict(zip(names + heads, sizes, strict=True))
    config["rms_norm_eps"] = 1e-6 if family.startswith("qwen") else 1e-5
    return {"model_type": family, **config, "tie_word_embeddings": tied, **more}


# vocabulary, hidden, inside the MLP, layers, heads, heads of keys and values, context; tied
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": _shape("llama", (32000, 4096, 11008, 32, 32, 32, 4096), False),
    "llama-3-8b": _shape(
        "llama", (128256, 4096, 14336, 32, 32, 8, 8192), False, rope_theta=500000.0
    ),
    "llama-3.2-1b": _shape(
        "llama",
        (128256, 2048, 8192, 16, 32, 8, 131072),
        True,
        head_dim=64,
        rope_theta=500000.0,
        rope_scaling=_llama3(32.0),
    ),
    "llama-3.2-3b": _shape(
        "llama",
        (128256, 3072, 8192, 28, 24, 8, 131072),
        True,
        head_dim=128,
        rope_theta=500000.0,
        rope_scaling=_llama3(32.0),
    ),
    "mistral-7b": _shape(  # 0.3
        "mistral",
        (32768, 4096, 14336, 32, 32, 8, 32768),
        False,
        rope_theta=1e6,
        sliding_window=None,
    ),
    "qwen2.5-0.5b": _shape("qwen2", (151936, 896, 4864, 24, 14, 2, 32768), True, rope_theta=1e6),
    "qwen2.5-1.5b": _shape("qwen2", (151936, 1536, 8960, 28, 12, 2, 32768), True, rope_theta=1e6),
    "qwen2.5-7b": _shape("qwen2", (152064, 3584, 18944, 28, 28, 4, 32768), False, rope_theta=1e6),
    "qwen3-0.6b": _shape(
        "qwen3", (151936, 1024, 3072, 28, 16, 8, 40960), True, head_dim=128, rope_theta=1e6
    ),
    "qwen3-4b": _shape(
        "qwen3", (151936, 2560, 9728, 36, 32, 8, 40960), True, head_dim=128, rope_theta=1e6
    ),
    "qwen3-8b": _shape(
        "qwen3", (151936, 4096, 12288, 36, 32, 8, 40960), False, head_dim=128, rope_theta=1e6
    ),
}


def config_of(shape: str, layers: int | None = None) -> dict[str, Any]:
    """The config.json of a shape, perhaps with fewer layers."""
    if shape not in SHAPES:
        raise TilusValueError(f"`shape` is {shape!r}; it is one of {', '.join(SHAPES)}")
    config = SHAPES[shape]
    most = config["num_hidden_layers"]
    if layers is not None and not 1 <= layers <= most:
        raise TilusValueError(f"`layers` is {layers}; {shape} has {most}")
    return config | {"num_hidden_layers": layers or most}


@dataclass
class RandomModel:
    """A checkpoint without files: random weights of one type, made when they are asked for.

    No float matrix is made on the way. Weights have a variance of one over their inputs, so that
    numbers stay of one size from layer to layer, as in a trained model.

    Args:
        config: as in a config.json.
        weights: the type of all matrices, at most 8 bits; or bf16 or f32.
        group_size: weights that share a scale, None for whole rows; as `Model.load` has it.
    """

    config: dict[str, Any]
    weights: DType
    group_size: int | None = 128

    def __post_init__(self) -> None:
        family = family_of(self.config)
        config = family.config(self.config)
        roles = family.roles(config)
        self._shapes = roles.shapes(config)
        if config.tied:
            del self._shapes[roles.head]
        self.names = list(self._shapes)
        self._generator = torch.Generator().manual_seed(0)

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""
        return self._shapes[name]

    def load(self, name: str) -> torch.Tensor | QuantizedWeight:
        """Random weights; norms are 1, biases 0."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("norm.weight")))
        n, k = shape
        if self.weights.bits > 8:
            kind = to_torch(self.weights)
            rows = torch.randn(min(n, 256), k, dtype=kind, generator=self._generator)
            return (rows / math.sqrt(k)).repeat(-(-n // len(rows)), 1)[:n].contiguous()
        return self._quantised(n, k)

    def _quantised(self, n: int, k: int) -> QuantizedWeight:
        scheme = Scheme.of(self.weights)
        group = group_for(k, self.group_size)
        values = _finite(scheme.codes)
        middle = (scheme.codes.max + 1) / 2 if scheme.zeros is not None else 0.0
        spread = float((values[1] - middle).square().mean().sqrt()) or 1.0
        groups = (n, k // (group or k))
        scale = torch.rand(groups, generator=self._generator) * 0.2 + 0.9
        zeros = torch.full(groups, middle) if scheme.zeros is not None else None
        return QuantizedWeight(
            self._codes(values[0], n, k),
            Tensor.from_float(scale / (spread * math.sqrt(k)), scheme.scales),
            Tensor.from_float(zeros, scheme.zeros) if zeros is not None and scheme.zeros else None,
            group or 0,
        )

    def _codes(self, finite: torch.Tensor, n: int, k: int) -> Tensor:
        """Random codes; a stretch of them again and again, from a random place on."""
        kind = self.weights
        drawn = torch.randint(len(finite), (1 << 20,), generator=self._generator)
        stretch = Tensor.from_codes(finite[drawn], kind).storage
        size = kind.storage_bytes(n * k)
        start = int(torch.randint(drawn.numel() // 8, (1,), generator=self._generator))
        repeated = stretch.roll(start * kind.bits).repeat(-(-size // len(stretch)))
        return Tensor(kind, (n, k), repeated[:size].clone())


def _finite(kind: DType) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes of a type that are numbers, and these numbers."""
    codes = torch.arange(1 << kind.bits, dtype=torch.uint8)
    values = Tensor.from_codes(codes, kind).to_float()
    kept = torch.isfinite(values)
    return codes[kept], values[kept]
