"""What every opened model offers, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilus.kernels.quantized import QuantizedWeight


@dataclass(frozen=True)
class TokenizerSource:
    """Where a model's tokenizer is described: in a folder's files or in GGUF metadata."""

    folder: Path | None = None
    gguf: dict[str, Any] | None = None  # all `tokenizer.*` keys


class Checkpoint(ABC):
    """One opened model; its tensors are read when they are asked for.

    Attributes:
        config: as in a Hugging Face config.json.
        names: of the tensors, as Hugging Face models name them.
        tokenizer: where its tokenizer is described.
        format: `safetensors`, `gguf` or `tilus`.
    """

    config: dict[str, Any]
    names: list[str]
    tokenizer: TokenizerSource
    format: str

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""

    @abstractmethod
    def stored(self, name: str) -> tuple[str, int]:
        """A tensor's type in the file, by our name or by GGUF's, and its bytes there."""

    @abstractmethod
    def load(self, name: str) -> torch.Tensor | QuantizedWeight:
        """A tensor in the float type it is stored in, or packed if it is quantised."""
