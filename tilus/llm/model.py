"""A decoder-only transformer: tokens of several sequences in, logits out, keys and values kept.

    x = embedding[tokens]
    for each layer:
        x = x + output(attention(rope(qkv(norm(x)))))
        x = x + down(act(gate(norm(x))) * up(norm(x)))
    logits = head(norm(x))

All of it is done by the functions of an `Ops`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tilus.dtypes import DType
from tilus.errors import TilusValueError
from tilus.kernels.quantized import QuantizedWeight
from tilus.llm.batch import Batch
from tilus.llm.config import ModelConfig
from tilus.llm.models import family_of
from tilus.llm.models.common import LayerRoles
from tilus.llm.ops import NATIVE, Cache, Ops, Weight
from tilus.llm.rope import Angles, Tables
from tilus.llm.weights import Dense, Linear, Loader, Progress, Source


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; norms are f32."""

    input_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear

    @staticmethod
    def load(roles: LayerRoles, loader: Loader) -> Layer:
        """The tensors of a layer."""
        return Layer(
            loader.vector(roles.input_norm),
            loader.linear(roles.qkv),
            None if roles.q_norm is None else loader.vector(roles.q_norm),
            None if roles.k_norm is None else loader.vector(roles.k_norm),
            loader.linear(roles.output),
            loader.vector(roles.mlp_norm),
            loader.linear(roles.gate_up),
            loader.linear(roles.down),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        norms = (self.input_norm, self.q_norm, self.k_norm, self.mlp_norm)
        linears = (self.qkv, self.output, self.gate_up, self.down)
        return sum(n.nbytes for n in norms if n is not None) + sum(w.nbytes for w in linears)


@dataclass(eq=False)
class Model:
    """A language model in memory."""

    config: ModelConfig
    embeddings: Weight  # [vocabulary, hidden]
    layers: list[Layer]
    norm: torch.Tensor
    head: Linear
    ops: Ops = NATIVE

    def __post_init__(self) -> None:
        self.tables = Tables(self.config.rope, self.config.head_dim)

    @staticmethod
    def load(
        checkpoint: Source,
        *,
        weights: DType | None = None,
        group_size: int | None = 128,
        dense: Dense | None = None,
        ops: Ops = NATIVE,
        progress: Progress | None = None,
    ) -> Model:
        """Read a model.

        Args:
            checkpoint: an opened one; see `tilus.llm.checkpoints`.
            weights: quantise every weight matrix, embeddings and head included, to this type;
                None keeps what is stored.
            group_size: 16, 32, 64, 128 or 256 neighbours share a scale then; None: a whole row.
                Rows that are no multiple of it have the next smaller size that divides them.
            dense: `f32` or `bf16`, for weights that stay float; None for bf16 where it is stored,
                and f32 elsewhere.
            ops: what computes.
            progress: called with the tensors read so far, and how many there are.

        Raises:
            TilusValueError: the family is unknown, a key of the config is out of place, or tensors
                are missing, unknown or misshaped: all of them are named.
        """
        where = "the GGUF file" if getattr(checkpoint, "format", "") == "gguf" else "config.json"
        family = family_of(checkpoint.config, where)
        config = family.config(checkpoint.config, where)
        roles = family.roles(config)
        loader = Loader(
            checkpoint,
            config,
            roles,
            weights=weights,
            group_size=group_size,
            dense=dense,
            progress=progress,
            prepare=ops.prepare,
        )
        loader.check()
        embeddings = loader.table(roles.embeddings)
        layers = [Layer.load(layer, loader) for layer in roles.layers]
        norm = loader.vector(roles.norm)
        head = Linear(((loader.head(roles, embeddings), None),))
        return Model(config, embeddings, layers, norm, head, ops)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights; a table that is also the head counts once."""
        tied = self.head.parts[0][0] is self.embeddings
        tables = self.head.nbytes + (0 if tied else self.embeddings.nbytes)
        return tables + self.norm.nbytes + sum(layer.nbytes for layer in self.layers)

    @property
    def recordable(self) -> bool:
        """Whether a `tilus.Graph` can record a pass: all of it is native."""
        linears = [self.head]
        for layer in self.layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        native = all(isinstance(w, QuantizedWeight) for linear in linears for w, _ in linear.parts)
        return native and self.ops.recordable and not self.config.rope.depends_on_length

    def cache(self, blocks: int, block_size: int = 64, dtype: str = "f32") -> Cache:
        """An empty cache of the right shape; see `tilus.kernels.cache.PagedCache`."""
        c = self.config
        return self.ops.cache(c.layers, blocks, block_size, c.kv_heads, c.head_dim, dtype)

    def forward(self, batch: Batch, cache: Cache) -> torch.Tensor:
        """Logits f32 [wanted rows, vocabulary]; the new tokens' keys and values go to the cache.

        The caller adds to `computed` of the batch's sequences.
        """
        x = self.hidden(batch, cache)
        return self.head(x if batch.wanted is None else x[batch.wanted], self.ops)

    def hidden(self, batch: Batch, cache: Cache) -> torch.Tensor:
        """What the head reads: the last layer's output after the last norm, f32 [rows, hidden]."""
        config = self.config
        if not len(batch.tokens):
            return torch.empty(0, config.hidden_size)
        if not 0 <= int(batch.tokens.min()) <= int(batch.tokens.max()) < config.vocab_size:
            bad = [t for t in batch.tokens.tolist() if not 0 <= t < config.vocab_size]
            raise TilusValueError(
                f"token {bad[0]} is not in the vocabulary of {config.vocab_size} tokens"
            )
        if config.rope.depends_on_length:
            angles = self.tables.rows(batch.positions, batch.totals, batch.counts)
            where = torch.arange(len(batch.tokens), dtype=torch.int32)
        else:
            angles = self.tables.up_to(int(batch.lengths.max()))
            where = batch.positions
        return self.passed(batch, cache, angles, where)

    def passed(
        self, batch: Batch, cache: Cache, angles: Angles, where: torch.Tensor
    ) -> torch.Tensor:
        """As `hidden`, with the angles given, and the row of theirs for each token, i32 [rows].

        Nothing of the batch is looked at here: it is what a graph records.
        """
        config, ops = self.config, self.ops
        x = ops.embedding(batch.tokens, self.embeddings)
        y = ops.rms_norm(x, self.layers[0].input_norm, config.norm_eps)
        norms = [layer.input_norm for layer in self.layers[1:]] + [self.norm]
        for i, (layer, next_norm) in enumerate(zip(self.layers, norms, strict=True)):
            q = ops.rope_store(
                layer.qkv(y, ops),
                where,
                batch.slots,
                *angles,
                cache,
                i,
                layer.q_norm,
                layer.k_norm,
                config.norm_eps,
            )
            mixed = ops.attention(
                q,
                cache,
                i,
                batch.block_table,
                batch.query_start,
                batch.lengths,
                config.scale,
                config.windows[i],
            )
            y, x = ops.rms_norm(
                layer.output(mixed.flatten(1), ops), layer.mlp_norm, config.norm_eps, x
            )
            y = ops.gated(layer.gate_up(y, ops), config.activation)
            y, x = ops.rms_norm(layer.down(y, ops), next_norm, config.norm_eps, x)
        out: torch.Tensor = y
        return out
