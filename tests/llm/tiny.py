"""Tiny random models of every family, written and run by transformers, and ours beside them.

Every parameter is random, and the configurations are extreme, so that a rule left out shows: large
eps, small windows, factors far from 1, positions beyond the original context. Matrices and biases
have sigma .15, norms 1: with .15 all keys would weigh the same, and positions hardly count.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tilus.kernels.cache import PagedCache
from tilus.llm.batch import Batch, Sequence
from tilus.llm.model import Model

SIGMA = 0.15
COUNTS = (20, 20, *[1] * 8)  # tokens of each pass: prefill, a chunk, decode
BLOCK = 16
TOLERANCE = 1e-4  # relative to the largest logit

COMMON: dict[str, Any] = dict(
    vocab_size=257,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-2,
    max_position_embeddings=64,
)


def rope(kind: str, theta: float = 100.0, **values: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **values}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {"num_key_value_heads": 4, "rope_parameters": rope("default", 1e4)}),
    "llama3": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
        },
    ),
    "llama-linear": (
        "Llama",
        {"hidden_act": "gelu_pytorch_tanh", "rope_parameters": rope("linear", factor=4.0)},
    ),
    "llama-dynamic": (
        "Llama",
        {"max_position_embeddings": 24, "rope_parameters": rope("dynamic", factor=3.0)},
    ),
    "llama-yarn": (
        "Llama",
        {
            "head_dim": 24,
            "rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=40),
        },
    ),
    "mistral-window": (
        "Mistral",
        {"head_dim": 24, "num_key_value_heads": 1, "sliding_window": 5},
    ),
    "mistral": ("Mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"rope_parameters": rope("default", 1e6)}),
    "qwen2-window": (
        "Qwen2",
        {
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 2,
            "rope_parameters": rope(
                "yarn",
                factor=8.0,
                original_max_position_embeddings=16,
                beta_fast=1.5,
                beta_slow=0.2,
                truncate=False,
                mscale=0.7,
                mscale_all_dim=1.3,
            ),
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3-mixed": (
        "Qwen3",
        {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
}


class Folder:
    """What was in a safetensors folder as a checkpoint that a test can change."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.config = config
        self.tensors = tensors

    @property
    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def load(self, name: str) -> Any:
        return self.tensors[name]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on more, and much slower beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Case:
    """A model of transformers, what it was saved as, and its logits."""

    theirs: Any
    config: str  # JSON
    tensors: dict[str, torch.Tensor]
    tokens: list[int]
    logits: torch.Tensor  # [tokens, vocabulary], in passes of COUNTS tokens

    def checkpoint(self) -> Folder:
        return Folder(json.loads(self.config), dict(self.tensors))


def randomised(theirs: Any, seed: int) -> Any:
    """The model with all parameters and all buffers that are saved drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    saved = theirs.state_dict()
    with torch.no_grad():
        for name, tensor in saved.items():
            sigma = 1.0 if name.endswith("norm.weight") else SIGMA
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * sigma)
    theirs.tie_weights()
    return theirs.eval()


@cache
def case(name: str, layers: int = 4) -> Case:
    """One of CASES, made once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        family, changes = CASES[name]
        values = {**COMMON, "num_hidden_layers": layers, **changes}
        config = getattr(transformers, f"{family}Config")(**values)
        config._attn_implementation = "eager"
        theirs = randomised(getattr(transformers, f"{family}ForCausalLM")(config), len(name))
        with TemporaryDirectory() as name:
            theirs.save_pretrained(name)
            written = (Path(name) / "config.json").read_text()
            tensors = load_file(Path(name) / "model.safetensors")
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(0, config.vocab_size, (sum(COUNTS),), generator=generator)
        return Case(
            theirs, written, tensors, tokens.tolist(), their_logits(theirs, tokens.tolist())
        )


def their_logits(theirs: Any, tokens: list[int], counts: Any = COUNTS) -> torch.Tensor:
    """Logits [tokens, vocabulary] of transformers, the tokens computed in passes."""
    from transformers import DynamicCache

    kept, found = DynamicCache(config=theirs.config), []
    with torch.no_grad():
        forget(theirs)
        for part in torch.tensor(tokens).split(list(counts)):
            found.append(theirs(part[None], past_key_values=kept, use_cache=True).logits[0])
    return torch.cat(found)


def forget(theirs: Any) -> None:
    """Dynamic RoPE of transformers keeps the longest length it saw, until a short one comes."""
    theirs(torch.zeros(1, 1, dtype=torch.int64))


def our_logits(
    model: Model, tokens: list[int], counts: Any = COUNTS, kv: str = "f32"
) -> torch.Tensor:
    """The same of ours, with the cache's blocks in no order and tokens known as they come."""
    cache, sequence = paged(model, len(tokens), kv)
    found = []
    for count in counts:
        sequence.tokens = tokens[: sequence.computed + count]
        batch = Batch.of([(sequence, count)], BLOCK, every_row=True)
        found.append(model.forward(batch, cache))
        sequence.computed += count
    return torch.cat(found)


def paged(model: Model, length: int, kv: str = "f32") -> tuple[Any, Sequence]:
    """A cache with other blocks than are needed, full of garbage, and an empty sequence."""
    needed = -(-length // BLOCK)
    cache = model.cache(needed + 3, BLOCK, kv)
    if isinstance(cache, PagedCache):
        for data in (cache.k, cache.v):
            data.fill_(100)
    order = torch.randperm(needed + 3, generator=torch.Generator().manual_seed(5))
    return cache, Sequence([], 0, order[:needed].tolist())


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((got - want).abs().max() / want.abs().max())
