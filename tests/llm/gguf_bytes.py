"""GGUF files made by hand, so that every field can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
U8, U16, U32, F32_VALUE, BOOL, TEXT, ARRAY, U64 = 0, 2, 4, 6, 7, 8, 9, 10


def text(value: str | bytes, length: int | None = None) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data) if length is None else length) + data


@dataclass
class Raw:
    """A value as the file holds it."""

    type: int
    data: bytes


def array(type: int, data: bytes, count: int) -> Raw:
    return Raw(ARRAY, struct.pack("<IQ", type, count) + data)


def value(v: Any) -> Raw:
    if isinstance(v, Raw):
        return v
    if isinstance(v, bool):
        return Raw(BOOL, bytes([v]))
    if isinstance(v, int):
        return Raw(U32, struct.pack("<I", v))
    if isinstance(v, float):
        return Raw(F32_VALUE, struct.pack("<f", v))
    if isinstance(v, str):
        return Raw(TEXT, text(v))
    items = [value(item) for item in v]
    return array(items[0].type, b"".join(item.data for item in items), len(items))


@dataclass
class Stored:
    """A tensor: extents in the order of NumPy, and where it says that it is."""

    name: str | bytes
    shape: tuple[int, ...]
    data: bytes = b""
    type: int = F32
    offset: int | None = None  # after the one before, aligned
    dimensions: int | None = None


def f32(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Stored:
    return Stored(name, shape, rng.standard_normal(shape).astype("<f4").tobytes())


def gguf(
    metadata: Mapping[str, Any] | Iterable[tuple[str | bytes | Raw, Any]],
    tensors: Iterable[Stored],
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: int | None = None,
    count: int | None = None,
    alignment: int = 32,
) -> bytes:
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    tensors = list(tensors)
    head = magic + struct.pack("<I", version)
    head += struct.pack("<Q", len(tensors) if count is None else count)
    head += struct.pack("<Q", len(pairs) if keys is None else keys)
    for key, v in pairs:
        raw = value(v)
        head += (
            (key.data if isinstance(key, Raw) else text(key))
            + struct.pack("<I", raw.type)
            + raw.data
        )
    data = b""
    for t in tensors:
        offset = len(data) if t.offset is None else t.offset
        head += text(t.name)
        head += struct.pack("<I", len(t.shape) if t.dimensions is None else t.dimensions)
        head += struct.pack(f"<{len(t.shape)}Q", *t.shape[::-1])
        head += struct.pack("<IQ", t.type, offset)
        data += t.data + bytes(-len(t.data) % alignment)
    return head + bytes(-len(head) % alignment) + data


LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.alignment": 32,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.block_count": 1,
    "llama.feed_forward_length": 12,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 0.01,
    "llama.rope.freq_base": 500.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "c", "d", "e", "<s>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 3],
    "tokenizer.ggml.bos_token_id": 5,
    "tokenizer.ggml.add_bos_token": True,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (6, 8),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (4, 8),
    "blk.0.attn_v.weight": (4, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_norm.weight": (8,),
    "blk.0.ffn_gate.weight": (12, 8),
    "blk.0.ffn_up.weight": (12, 8),
    "blk.0.ffn_down.weight": (8, 12),
    "output_norm.weight": (8,),
}


def tensors(changed: Mapping[str, tuple[int, ...] | None] | None = None) -> list[Stored]:
    """The tensors of the tiny model, with some shapes changed, added or (None) left out."""
    rng = np.random.default_rng(0)
    shapes = {**SHAPES, **(changed or {})}
    return [f32(name, shape, rng) for name, shape in shapes.items() if shape is not None]


def llama(changed: Mapping[str, Any] | None = None) -> bytes:
    """A tiny model, with some keys changed, added or (None) left out."""
    keys = {key: v for key, v in {**LLAMA, **(changed or {})}.items() if v is not None}
    return gguf(keys, tensors())
