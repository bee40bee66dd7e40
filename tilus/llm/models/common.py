"""What families share: how a config.json is read, and what tensors a model has.

The methods of `Family` describe Llama; a family overrides those that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tilus.errors import TilusValueError
from tilus.llm import config as limits
from tilus.llm.config import Keys, ModelConfig, rope

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class LinearRole:
    """One linear layer: the tensors whose rows, one below the other, are its weight."""

    parts: tuple[tuple[str, int], ...]  # names without `.weight`, and their rows
    inputs: int
    bias: bool = False

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Its tensors, and their shapes."""
        for name, rows in self.parts:
            yield f"{name}.weight", (rows, self.inputs)
            if self.bias:
                yield f"{name}.bias", (rows,)


@dataclass(frozen=True)
class LayerRoles:
    """The tensors of one layer: linear layers, and the names of norms."""

    input_norm: str
    qkv: LinearRole
    q_norm: str | None
    k_norm: str | None
    output: LinearRole
    mlp_norm: str
    gate_up: LinearRole
    down: LinearRole


@dataclass(frozen=True)
class Roles:
    """The tensors of a model."""

    embeddings: str
    layers: tuple[LayerRoles, ...]
    norm: str
    head: str  # may be absent where the head is tied

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        hidden = (config.hidden_size,)
        table = (config.vocab_size, config.hidden_size)
        found: dict[str, tuple[int, ...]] = {self.embeddings: table, self.norm: hidden}
        found[self.head] = table
        for layer in self.layers:
            found[layer.input_norm] = found[layer.mlp_norm] = hidden
            for name in (layer.q_norm, layer.k_norm):
                if name is not None:
                    found[name] = (config.head_dim,)
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down):
                found.update(linear.shapes())
        return found


class Family:
    """A family of models; these are the rules of Llama."""

    name: ClassVar[str]  # the `model_type` of a config.json
    architecture: ClassVar[str]  # the class in transformers, where there is no `model_type`
    qk_norm: ClassVar[bool] = False
    default_head_dim: ClassVar[int | None] = None

    # ---- config.json ------------------------------------------------------------------------

    def config(self, values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """A model's description.

        Args:
            values: what the config.json holds.
            where: what errors call it.
        """
        keys = Keys(values, where)
        hidden = keys.integer("hidden_size", limits.WIDEST)
        heads = keys.integer("num_attention_heads", limits.MOST_HEADS)
        kv_heads = keys.integer("num_key_value_heads", limits.MOST_HEADS, heads)
        if heads % kv_heads:
            raise keys.error("num_key_value_heads", f"a divisor of the {heads} attention heads")
        layers = keys.integer("num_hidden_layers", limits.MOST_LAYERS)
        positions = keys.integer("max_position_embeddings", limits.LONGEST, 2048)
        qkv, output, mlp = self.biases(keys)
        return ModelConfig(
            family=self.name,
            vocab_size=keys.integer("vocab_size", limits.MOST_TOKENS),
            hidden_size=hidden,
            inner_size=keys.integer("intermediate_size", limits.WIDEST),
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=self.head_dim(keys, hidden, heads),
            norm_eps=keys.number("rms_norm_eps", 0.0, 1.0, 1e-6),
            rope=rope(keys, positions),
            max_positions=positions,
            tied=keys.flag("tie_word_embeddings", False),
            activation=keys.word("hidden_act", ACTIVATIONS, "silu"),
            qkv_bias=qkv,
            output_bias=output,
            mlp_bias=mlp,
            qk_norm=self.qk_norm,
            windows=self.windows(keys, layers),
        )

    def head_dim(self, keys: Keys, hidden: int, heads: int) -> int:
        """The size of a head: its own, or what each head's share of the hidden state is."""
        must = f"an even number from 4 to {limits.WIDEST_HEAD}"
        if "head_dim" in keys or self.default_head_dim is not None:
            size = keys.integer("head_dim", limits.WIDEST_HEAD, self.default_head_dim, low=4)
            if size % 2:
                raise keys.error("head_dim", must)
            return size
        size, rest = divmod(hidden, heads)
        if rest:
            raise keys.error("hidden_size", f"a multiple of the {heads} attention heads")
        if size % 2 or not 4 <= size <= limits.WIDEST_HEAD:
            raise keys.error("hidden_size", f"{heads} attention heads times {must}")
        return size

    def biases(self, keys: Keys) -> tuple[bool, bool, bool]:
        """Whether there are biases on q, k and v; on the output of attention; in the MLP."""
        attention = keys.flag("attention_bias", False)
        return attention, attention, keys.flag("mlp_bias", False)

    def windows(self, keys: Keys, layers: int) -> tuple[int | None, ...]:
        """For each layer, how many tokens a token sees; None for all."""
        return (None,) * layers

    # ---- tensors ----------------------------------------------------------------------------

    def roles(self, config: ModelConfig) -> Roles:
        """The names of a model's tensors."""
        layers = tuple(self.layer(config, f"model.layers.{i}") for i in range(config.layers))
        return Roles("model.embed_tokens.weight", layers, "model.norm.weight", "lm_head.weight")

    def layer(self, config: ModelConfig, prefix: str) -> LayerRoles:
        """The names of a layer's tensors."""
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        hidden, inner = config.hidden_size, config.inner_size
        q, kv = config.q_rows, config.kv_rows
        qkv = ((f"{attention}.q_proj", q), (f"{attention}.k_proj", kv), (f"{attention}.v_proj", kv))
        gate_up = ((f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner))
        return LayerRoles(
            input_norm=f"{prefix}.input_layernorm.weight",
            qkv=LinearRole(qkv, hidden, config.qkv_bias),
            q_norm=f"{attention}.q_norm.weight" if config.qk_norm else None,
            k_norm=f"{attention}.k_norm.weight" if config.qk_norm else None,
            output=LinearRole(((f"{attention}.o_proj", hidden),), q, config.output_bias),
            mlp_norm=f"{prefix}.post_attention_layernorm.weight",
            gate_up=LinearRole(gate_up, hidden, config.mlp_bias),
            down=LinearRole(((f"{mlp}.down_proj", hidden),), inner, config.mlp_bias),
        )


def layer_windows(keys: Keys, layers: int) -> tuple[int | None, ...]:
    """Qwen's rule: `layer_types` says which layers have the window, else the last ones do."""
    width = None
    if keys.flag("use_sliding_window", False) and "sliding_window" in keys:
        width = keys.integer("sliding_window", limits.LONGEST)
    if "layer_types" not in keys:
        first = keys.integer("max_window_layers", limits.LONGEST, 28, low=0)
        return tuple(width if i >= first else None for i in range(layers))
    kinds = keys.values["layer_types"]
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or set(map(str, kinds)) - {FULL, SLIDING}
    ):
        raise keys.error("layer_types", f"a list of {layers}, each {FULL} or {SLIDING}")
    if SLIDING in kinds and width is None:
        raise TilusValueError(
            f"{keys.where}: `layer_types` names {SLIDING}, but `use_sliding_window` and "
            "`sliding_window` give no window"
        )
    return tuple(width if kind == SLIDING else None for kind in kinds)
