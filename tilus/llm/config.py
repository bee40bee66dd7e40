"""What a model is made of, read from a Hugging Face config.json with every value checked.

`Keys` reads single values and says which key is wrong; a family (`tilus.llm.models`) makes a
`ModelConfig` of them. Both generations of keys are read: `rope_theta` and `rope_scaling`, and
`rope_parameters`, which holds both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilus.errors import TilusValueError

# What no model exceeds: greater values are mistakes, or meant to exhaust memory.
MOST_LAYERS = 1024
MOST_HEADS = 1024
WIDEST = 1 << 20  # of hidden states and inside an MLP
WIDEST_HEAD = 1024
MOST_TOKENS = 1 << 24  # in a vocabulary
LONGEST = 1 << 30  # positions


@dataclass(frozen=True)
class Rope:
    """How positions become angles; `tilus.llm.rope` has the formulas."""

    kind: str = "default"  # default, linear, dynamic, yarn, llama3
    theta: float = 10_000.0
    factor: float = 1.0
    original: int = 0  # positions before scaling: dynamic, yarn, llama3
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: the ramp's ends are whole
    attention_factor: float = 1.0  # yarn: what cos and sin are multiplied by

    @property
    def depends_on_length(self) -> bool:
        """Whether a position's angles change with the length of its sequence."""
        return self.kind == "dynamic"


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer of the Llama kind, with what its families change."""

    family: str
    vocab_size: int
    hidden_size: int
    inner_size: int  # inside an MLP
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope: Rope
    max_positions: int  # as trained
    tied: bool  # the head's weight is the embedding's
    activation: str = "silu"  # of `tilus.kernels.reference.gated`
    qkv_bias: bool = False
    output_bias: bool = False  # of attention
    mlp_bias: bool = False
    qk_norm: bool = False  # an RMS norm of each head's query and key before rotation
    windows: tuple[int | None, ...] = ()  # for each layer, how many tokens a token sees

    @property
    def scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        return 1 / math.sqrt(self.head_dim)

    @property
    def q_rows(self) -> int:
        """Numbers in a token's queries."""
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Numbers in a token's keys, and in its values."""
        return self.kv_heads * self.head_dim

    @property
    def context(self) -> int:
        """How many tokens a sequence may have, with the scaling of its positions."""
        rope = self.rope
        if rope.kind == "yarn":
            return max(self.max_positions, int(rope.original * rope.factor))
        if rope.kind in ("linear", "dynamic"):
            return int(self.max_positions * rope.factor)
        return self.max_positions


class Keys:
    """The keys of a config.json; a value out of place is an error that names its key."""

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, must: str) -> TilusValueError:
        """An error about a key's value, which `must` be something else."""
        if key not in self:
            return TilusValueError(f"{self.where} has no `{key}`; it must be {must}")
        value = repr(self.values[key])
        shown = value if len(value) <= 60 else f"{value[:60]}..."
        return TilusValueError(f"{self.where}: `{key}` is {shown}; it must be {must}")

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """A whole number from `low` to `high`."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.error(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number from `low` to `high`."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or type(value) is bool or not low <= value <= high:
            raise self.error(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def word(self, key: str, known: Mapping[str, str], default: str) -> str:
        """One of the words in `known`, as what it stands for."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in known:
            raise self.error(key, f"one of {', '.join(known)}")
        return known[value]

    def part(self, key: str) -> Keys:
        """The keys of an object inside; none if there is no such key."""
        value = self.values.get(key)
        if value is None:
            return Keys({}, f"{self.where}, {key}")
        if not isinstance(value, Mapping):
            raise self.error(key, "an object")
        return Keys(value, f"{self.where}, {key}")


def rope(keys: Keys, max_positions: int) -> Rope:
    """The RoPE of a model, from either generation of keys.

    `rope_scaling` comes before `rope_parameters`, and `original_max_position_embeddings` of the
    model before that of the scaling, as in transformers.
    """
    scaling = keys.part("rope_scaling")
    inside = scaling if scaling.values else keys.part("rope_parameters")
    if any(isinstance(value, Mapping) for value in inside.values.values()):
        raise TilusValueError(
            f"{inside.where} has one RoPE for each kind of layer; only one is known"
        )
    theta_from = inside if "rope_theta" in inside else keys
    theta = theta_from.number("rope_theta", 1.0001, 1e15, 10_000.0)
    for where in (inside, keys):
        if where.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
            raise where.error("partial_rotary_factor", "1: heads are rotated as a whole")
    names = {name: name for name in ("default", "linear", "dynamic", "yarn", "llama3")}
    kind = inside.word("rope_type" if "rope_type" in inside else "type", names, "default")
    if kind == "default":
        return Rope(theta=theta)
    has_own = "original_max_position_embeddings" in keys
    original = (keys if has_own else inside).integer(
        "original_max_position_embeddings", LONGEST, max_positions
    )
    if kind == "dynamic":
        original = max_positions
    if kind == "yarn" and "factor" not in inside:
        factor = max_positions / original
    else:
        factor = inside.number("factor", 1.0, 1e6)
    if kind == "llama3":
        low = inside.number("low_freq_factor", 1e-6, 1e6)
        high = inside.number("high_freq_factor", 1e-6, 1e6)
        if high <= low:
            raise inside.error("high_freq_factor", f"above `low_freq_factor`, {low:g}")
        return Rope(kind, theta, factor, original, low, high)
    if kind == "yarn":
        return Rope(
            kind,
            theta,
            factor,
            original,
            beta_fast=_or(inside.number("beta_fast", 0.0, 1e6, 32.0), 32.0),
            beta_slow=_or(inside.number("beta_slow", 0.0, 1e6, 1.0), 1.0),
            truncate=inside.flag("truncate", True),
            attention_factor=_yarn_attention(inside, factor),
        )
    return Rope(kind, theta, factor, original if kind == "dynamic" else 0)


def _or(value: float, default: float) -> float:
    """0 stands for the default."""
    return value or default


def _yarn_attention(keys: Keys, factor: float) -> float:
    """What YaRN multiplies cos and sin by (Peng et al., "YaRN", 2023, eq. 22, and DeepSeek's)."""
    if "attention_factor" in keys:
        return keys.number("attention_factor", 0.0, 1e3)

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    above = keys.number("mscale", 0.0, 1e3, 0.0)
    below = keys.number("mscale_all_dim", 0.0, 1e3, 0.0)
    return scale(above) / scale(below) if above and below else scale(1.0)
