"""Models with every GGUF type: our logits are those of transformers with the decoded weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.llm import tiny
from tests.llm.gguf_bytes import LLAMA, Stored
from tests.llm.gguf_bytes import gguf as file_of
from tilus.kernels import QuantizedWeight
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.checkpoints.gguf_types import GGML_TYPES, GgmlType
from tilus.llm.model import Model
from tilus.llm.ops import EXACT

transformers = pytest.importorskip("transformers")

HIDDEN, VOCAB = 256, 48
KEYS = {
    **LLAMA,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}
SHAPES = {
    "token_embd.weight": (VOCAB, HIDDEN),
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_up.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, HIDDEN),
    "output.weight": (VOCAB, HIDDEN),
}
NORMS = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
# Where a block has its f16 scales; types that are not here have other ones.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
NUMBERS = {t.name: number for number, t in GGML_TYPES.items()}
KINDS = [t for t in GGML_TYPES.values() if t.dense or t.packed]
TOKENS = [3, 47, 0, 11, 29]


def decoded(ggml: GgmlType, blocks: np.ndarray) -> np.ndarray:
    return gguf.dequantize(blocks, gguf.GGMLQuantizationType[ggml.name])


def stored(ggml: GgmlType, name: str, shape: tuple[int, ...], seed: int) -> Stored:
    """Random weights of about tiny.SIGMA."""
    rng = np.random.default_rng(seed)
    if ggml.dense is not None:
        values = rng.standard_normal(shape).astype(np.float32) * tiny.SIGMA
        data = gguf.quantize(values, gguf.GGMLQuantizationType[ggml.name])
        return Stored(name, shape, data.tobytes(), NUMBERS[ggml.name])
    count = shape[0] * shape[1] // ggml.elements
    blocks = rng.integers(0, 256, (count, ggml.nbytes), dtype=np.uint8)
    if ggml.name == "MXFP4":
        blocks[:, 0] = rng.integers(122, 126, count)
    elif ggml.name == "NVFP4":
        blocks[:, :4] = rng.integers(0x0C, 0x1C, (count, 4))
    else:
        scales = rng.uniform(0.5, 1.5, (count, 1)).astype("<f2")
        for _ in range(2):
            for place in SCALES[ggml.name]:
                blocks[:, place : place + 2] = scales.view(np.uint8)
            scales *= np.float16(tiny.SIGMA / decoded(ggml, blocks).std())
    return Stored(name, shape, blocks.tobytes(), NUMBERS[ggml.name])


def in_order(name: str, weight: np.ndarray) -> np.ndarray:
    """Rows of q and k as on Hugging Face."""
    heads = {"attn_q": 4, "attn_k": 2}.get(name.split(".")[-2])
    if heads is None:
        return weight
    turned = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1)
    return turned.swapaxes(1, 2).reshape(weight.shape)


def theirs(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    settings = transformers.LlamaConfig(**config)
    settings._attn_implementation = "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.LlamaForCausalLM(settings)
    model.load_state_dict(weights, assign=True)
    return model.eval()


@pytest.mark.parametrize("ggml", KINDS, ids=lambda t: t.name)
def test_logits_follow(tmp_path: Path, ggml: GgmlType):
    matrices = [
        stored(ggml, name, shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())
    ]
    norms = [stored(GGML_TYPES[0], name, (HIDDEN,), 20 + i) for i, name in enumerate(NORMS)]
    path = tmp_path / "model.gguf"
    path.write_bytes(file_of(KEYS, [*matrices, *norms]))
    checkpoint = open_checkpoint(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    weights = {}
    for name in checkpoint.names:
        there = names.get_name(name, try_suffixes=(".weight",))
        tensor = next(t for t in [*matrices, *norms] if t.name == there)
        kind = GGML_TYPES[tensor.type]
        rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        blocks = np.frombuffer(tensor.data, np.uint8).reshape(rows, -1)
        values = in_order(tensor.name, decoded(kind, blocks)).reshape(tensor.shape)
        weights[name] = torch.from_numpy(values.copy())
    model = Model.load(checkpoint, dense="f32", ops=EXACT)
    packed = [isinstance(w, QuantizedWeight) for w, _ in model.layers[0].qkv.parts]
    assert packed == [ggml.packed is not None]  # q, k and v are one product
    want = tiny.their_logits(theirs(weights, checkpoint.config), TOKENS, (5,))
    got = tiny.our_logits(model, TOKENS, (5,))
    assert want.std() > 0.01
    assert tiny.difference(got, want) < tiny.TOLERANCE
