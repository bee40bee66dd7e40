"""Rotary tables beside those of transformers, at the sizes of published models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilus.llm.config import Keys, rope
from tilus.llm.rope import Tables, frequencies

HEAD = 128
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "factor": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
    "yarn-deepseek": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "beta_fast": 16,
        "truncate": False,
    },
    "yarn-own-attention": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.7,
    },
    "yarn-no-factor": {
        "rope_type": "yarn",
        "factor": None,
        "original_max_position_embeddings": 4096,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
MOST = 16384


def theirs(values: dict[str, Any], positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Frequencies, cosines and sines of transformers."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=2 * HEAD,
        num_attention_heads=2,
        max_position_embeddings=MOST,
        rope_parameters=dict(values),
    )
    embedding = LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), positions[None])
    half = HEAD // 2
    return embedding.inv_freq, cos[0, :, :half], sin[0, :, :half]


@pytest.mark.parametrize("name", KINDS)
def test_tables_are_those_of_transformers(name: str) -> None:
    """The last positions have f32 angles of some 1e4 radians, good to about 1e-3."""
    ours = rope(Keys({"rope_parameters": KINDS[name]}), MOST)
    near, far = torch.arange(64), torch.arange(MOST - 8, MOST)
    for positions, slack in ((near, 1e-5), (far, 4e-3)):
        f, cos, sin = theirs(KINDS[name], positions)
        torch.testing.assert_close(frequencies(ours, HEAD), f, rtol=1e-6, atol=0)
        for got, want in zip(Tables(ours, HEAD).up_to(MOST), (cos, sin), strict=True):
            torch.testing.assert_close(got[positions], want, rtol=0, atol=slack)


def test_lengths_beyond_the_original() -> None:
    ours = rope(Keys({"rope_parameters": KINDS["dynamic"]}), MOST)
    positions = torch.arange(3 * MOST - 8, 3 * MOST)
    f, cos, sin = theirs(KINDS["dynamic"], positions)
    assert not torch.equal(f, frequencies(ours, HEAD))
    torch.testing.assert_close(frequencies(ours, HEAD, 3 * MOST), f, rtol=1e-6, atol=0)
    places = torch.cat([torch.tensor([5, 6]), positions])
    got = Tables(ours, HEAD).rows(places, [7, 3 * MOST], [2, 8])
    torch.testing.assert_close(got[0][2:], cos, rtol=0, atol=1e-2)
    torch.testing.assert_close(got[1][2:], sin, rtol=0, atol=1e-2)
    short = Tables(ours, HEAD).up_to(7)
    assert torch.equal(got[0][:2], short[0][5:7]) and torch.equal(got[1][:2], short[1][5:7])


def test_tables_grow() -> None:
    tables = Tables(rope(Keys({}), MOST), HEAD)
    first = tables.up_to(3)
    assert tables.up_to(len(first[0]))[0] is first[0]
    grown = tables.up_to(len(first[0]) + 1)
    assert len(grown[0]) == 2 * len(first[0])
    assert torch.equal(grown[1][: len(first[1])], first[1])
