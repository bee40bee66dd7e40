"""From a checkpoint's tensors to the weights of a model: checked, stacked and, if asked, quantised.

Layers that read the same input are one weight where their types agree: q, k and v are one product,
gate and up another. Where they do not agree (GGUF mixes types), each keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch

from tilus.dtypes import DType
from tilus.errors import TilusError, TilusTypeError, TilusValueError
from tilus.kernels.quantized import GROUPS, QuantizedWeight
from tilus.llm.config import ModelConfig
from tilus.llm.models.common import LinearRole, Roles
from tilus.llm.ops import Ops, Weight
from tilus.llm.quantize.rtn import quantize_rtn
from tilus.tensor import Tensor

Dense: TypeAlias = Literal["f32", "bf16"]
Progress: TypeAlias = Callable[[int, int], None]  # tensors read, of how many

_DENSE = {"f32": torch.float32, "bf16": torch.bfloat16}
_STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_COMPUTED = (".rotary_emb.inv_freq",)  # old checkpoints hold what follows from the config


class Source(Protocol):
    """What is asked of a checkpoint; see `tilus.llm.checkpoints.Checkpoint`."""

    config: dict[str, Any]
    names: list[str]

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""

    def load(self, name: str) -> torch.Tensor | QuantizedWeight:
        """A tensor."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: one weight, or several whose outputs follow each other."""

    parts: tuple[tuple[Weight, torch.Tensor | None], ...]  # weight [outputs, inputs], bias f32

    def __call__(self, x: torch.Tensor, ops: Ops) -> torch.Tensor:
        """f32 [rows, outputs] of f32 [rows, inputs]."""
        found = [ops.linear(x, weight, bias) for weight, bias in self.parts]
        return found[0] if len(found) == 1 else ops.join(found)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and biases."""
        return sum(w.nbytes + (0 if b is None else b.nbytes) for w, b in self.parts)


class Loader:
    """Reads a model's tensors.

    Args:
        checkpoint: where they come from.
        config: what the model is made of.
        roles: the tensors' names.
        weights: quantise every weight matrix to this type; None keeps what is stored.
        group_size: neighbours that share a scale then, None for whole rows. Rows that are no
            multiple of it have the next smaller size that divides them, or one scale.
        dense: what stays float is held in this type; None for f32, and bf16 where it is stored.
        progress: called after each tensor.
        prepare: makes what is held of each matrix.
    """

    def __init__(
        self,
        checkpoint: Source,
        config: ModelConfig,
        roles: Roles,
        *,
        weights: DType | None = None,
        group_size: int | None = 128,
        dense: Dense | None = None,
        progress: Progress | None = None,
        prepare: Callable[[Weight], Weight] = lambda weight: weight,
    ) -> None:
        if group_size is not None and group_size not in GROUPS:
            raise TilusValueError(f"`group_size` is {group_size}; it is one of {GROUPS} or None")
        if dense is not None and dense not in _DENSE:
            raise TilusValueError(f"`dense` is {dense!r}; it is one of {', '.join(_DENSE)}")
        self.checkpoint = checkpoint
        self.config = config
        self.weights = weights
        self.group_size = group_size
        self.dense = dense
        self.progress = progress
        self.prepare = prepare
        self.names = set(checkpoint.names)
        self.shapes = roles.shapes(config)
        if config.tied and roles.head not in self.names:
            del self.shapes[roles.head]
        self.read = 0

    def check(self) -> None:
        """Raise an error with a finding for each tensor that is missing, unknown or misshaped."""
        found: list[TilusError] = []
        family = self.config.family
        for name, shape in self.shapes.items():
            if name not in self.names:
                found.append(TilusValueError(f"tensor `{name}` {list(shape)} is missing"))
            elif (stored := tuple(self.checkpoint.shape(name))) != shape:
                found.append(
                    TilusValueError(
                        f"tensor `{name}` is {list(stored)}; the config makes it {list(shape)}"
                    )
                )
        for name in sorted(self.names - self.shapes.keys()):
            if not name.endswith(_COMPUTED):
                shown = repr(name) if len(name) <= 120 else f"{name[:120]!r}..."
                what = f"tensor {shown} has no place in this model of family {family}"
                found.append(TilusValueError(what))
        if found:
            raise TilusValueError.collect(found)

    def vector(self, name: str) -> torch.Tensor:
        """A norm's weight or a bias, f32."""
        return self._dense(name).float().clone()

    def table(self, name: str) -> Weight:
        """One weight matrix."""
        return self._kept([self._stored(name)], name)[0]

    def head(self, roles: Roles, embeddings: Weight) -> Weight:
        """The weight that makes logits: the embedding's where they are tied.

        As in transformers, a tied model whose file has a head of its own that differs uses it.
        """
        if self.config.tied:
            if roles.head not in self.names:
                return embeddings
            own, table = self._stored(roles.head), self.checkpoint.load(roles.embeddings)
            if isinstance(own, torch.Tensor) and isinstance(table, torch.Tensor):
                if torch.equal(own, table):
                    return embeddings
            return self._kept([own], roles.head)[0]
        return self.table(roles.head)

    def linear(self, role: LinearRole) -> Linear:
        """A layer of one or several tensors."""
        names = [f"{name}.weight" for name, _ in role.parts]
        kept = self._kept([self._stored(name) for name in names], ", ".join(names))
        if not role.bias:
            return Linear(tuple((weight, None) for weight in kept))
        bias = torch.cat([self.vector(f"{name}.bias") for name, _ in role.parts])
        biases = torch.split(bias, [weight.shape[0] for weight in kept])
        return Linear(tuple(zip(kept, (b.clone() for b in biases), strict=True)))

    def _stored(self, name: str) -> Weight:
        weight = self.checkpoint.load(name)
        self.read += 1
        if self.progress is not None:
            self.progress(self.read, len(self.shapes))
        if isinstance(weight, torch.Tensor) and weight.dtype not in _STORED:
            raise TilusTypeError(
                f"tensor `{name}` holds {str(weight.dtype).removeprefix('torch.')}; weights are "
                "f32, f16, bf16 or of a quantised format that is known"
            )
        return weight

    def _dense(self, name: str) -> torch.Tensor:
        weight = self._stored(name)
        return weight if isinstance(weight, torch.Tensor) else weight.dequantize()

    def _kept(self, parts: Sequence[Weight], names: str) -> list[Weight]:
        """The parts as they are held: in one weight if they can be, and ready for products."""
        try:
            return [self.prepare(weight) for weight in self._together(parts)]
        except TilusError as error:
            raise type(error)(f"tensor {names}: {error.first.message}") from None

    def _together(self, parts: Sequence[Weight]) -> list[Weight]:
        if self.weights is not None:
            rows = [p.float() if isinstance(p, torch.Tensor) else p.dequantize() for p in parts]
            group = group_for(parts[0].shape[1], self.group_size)
            return [quantize_rtn(torch.cat(rows), self.weights, group)]
        packed = [p for p in parts if isinstance(p, QuantizedWeight)]
        dense = [p for p in parts if isinstance(p, torch.Tensor)]
        if not packed:
            kind = _DENSE[self.dense] if self.dense else _common(dense)
            return [torch.cat([p.to(kind) for p in dense])]
        if not dense and len({_form(p) for p in packed}) == 1:
            return [stacked(packed)]
        return [one for part in parts for one in self._together([part])]


def group_for(inputs: int, group_size: int | None) -> int | None:
    """How many weights of a row share a scale: the group size, or the next that divides rows."""
    fits = [g for g in GROUPS if g <= (group_size or 0) and inputs % g == 0]
    return max(fits, default=None)


def _common(parts: Sequence[torch.Tensor]) -> torch.dtype:
    """bf16 where all are, else f32."""
    half = all(part.dtype == torch.bfloat16 for part in parts)
    return torch.bfloat16 if half else torch.float32


def _form(weight: QuantizedWeight) -> tuple[str, int, bool]:
    return weight.types, weight.group_size, weight.zeros is None


def stacked(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Weights of the same types, inputs and groups as one, their rows one below the other."""
    if len(parts) == 1:
        return parts[0]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantizedWeight(
        _rows([part.codes for part in parts]),
        _rows([part.scales for part in parts]),
        _rows(zeros) if zeros else None,
        parts[0].group_size,
    )


def _rows(parts: Sequence[Tensor]) -> Tensor:
    kind, shape = parts[0].dtype, (sum(p.shape[0] for p in parts), parts[0].shape[1])
    if any(p.numel * kind.bits % 8 for p in parts):
        return Tensor.from_codes(torch.cat([p.codes() for p in parts]), kind)
    return Tensor(kind, shape, torch.cat([p.storage for p in parts]))
