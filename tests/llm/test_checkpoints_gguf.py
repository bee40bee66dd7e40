"""GGUF files that are damaged or made to harm are refused, each with one line."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.llm.gguf_bytes import (
    ARRAY,
    BOOL,
    LLAMA,
    Q4_0,
    Q8_0,
    TEXT,
    U8,
    U32,
    Raw,
    Stored,
    array,
    f32,
    gguf,
    llama,
    tensors,
    text,
)
from tests.llm.refusals import refused
from tilus.errors import TilusError
from tilus.llm.checkpoints import Checkpoint, open_checkpoint
from tilus.llm.checkpoints import gguf_file as limits

HUGE = (1 << 64) - 1
VALID = llama()


def load(path: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(path)
    return {name: checkpoint.load(name) for name in checkpoint.names}


def with_key(key: str | bytes | Raw, value: Any) -> bytes:
    return gguf([*LLAMA.items(), (key, value)], tensors())


def with_tensor(tensor: Stored) -> bytes:
    return gguf(LLAMA, [*tensors(), tensor])


def changed(name: str, **fields: Any) -> bytes:
    """The tiny model with fields of one tensor changed."""
    found = tensors()
    for tensor in found:
        if tensor.name == name:
            for field, value in fields.items():
                setattr(tensor, field, value)
    return gguf(LLAMA, found)


def nested(depth: int) -> Raw:
    data = struct.pack("<IQ", U8, 0)
    for _ in range(depth):
        data = struct.pack("<IQ", ARRAY, 1) + data
    return Raw(ARRAY, data)


def test_the_file_that_is_damaged_below_is_sound(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(VALID)
    assert len(load(path)) == 11


EXTRA = "blk.0.attn_q.bias"
HEADER = {
    "empty": (b"", "begin with GGUF|ends within"),
    "three bytes": (b"GGU", "ends within"),
    "magic": (gguf(LLAMA, tensors(), magic=b"GGML"), "begin with GGUF"),
    "version 0": (gguf(LLAMA, tensors(), version=0), "version 0"),
    "version 1": (gguf(LLAMA, tensors(), version=1), "version 1; versions 2 and 3 are read"),
    "version 4": (gguf(LLAMA, tensors(), version=4), "version 4"),
    "big endian": (gguf(LLAMA, tensors(), version=3 << 24), "other byte order"),
    "no counts": (b"GGUF" + struct.pack("<I", 3), "ends within the number of tensors"),
    "2^64 - 1 tensors": (gguf(LLAMA, [], count=HUGE), "18446744073709551615 tensors"),
    "2^64 - 1 keys": (gguf(LLAMA, [], keys=HUGE), "18446744073709551615 keys"),
    "2^16 keys that are not there": (gguf([], [], keys=1 << 16), "a key is empty"),
    "one key too many": (gguf(LLAMA, [], keys=len(LLAMA) + 1), "a key"),
    "one tensor too many": (gguf(LLAMA, tensors(), count=12), "a tensor's name"),
    "one tensor too few": (gguf(LLAMA, tensors(), count=10), "lacks 'output_norm.weight'"),
    "no metadata": (gguf({}, []), "architecture ''"),
}
KEYS = {
    "key of 2^64 - 1 bytes": (
        with_key(Raw(TEXT, text(b"", HUGE)), 1),
        "a key would have 18446744073709551615 bytes",
    ),
    "key longer than the file": (
        gguf([(Raw(TEXT, text(b"k", 1000)), 1)], []),
        "ends within a key",
    ),
    "key too long": (with_key("k" * 2000, 1), "a key would have 2000 bytes"),
    "key empty": (with_key("", 1), "a key is empty"),
    "key twice": (with_key("general.alignment", 32), "'general.alignment', is given twice"),
    "key not UTF-8": (with_key(b"\xff\xfe", 1), "a key is not UTF-8"),
    "key with a line end": (with_key("a\nb", Raw(99, b"")), r"'a\\nb' has the unknown type 99"),
    "type 13": (with_key("x", Raw(13, b"")), "unknown type 13"),
    "type 2^32 - 1": (with_key("x", Raw((1 << 32) - 1, b"")), "unknown type 4294967295"),
    "text of 2^64 - 1 bytes": (with_key("x", Raw(TEXT, text(b"", HUGE))), "bytes; at most"),
    "text longer than the file": (with_key("x", Raw(TEXT, text(b"a", 1 << 20))), "ends within"),
    "text not UTF-8": (with_key("x", Raw(TEXT, text(b"\xff"))), "'x' is not UTF-8"),
    "text half a surrogate pair": (with_key("x", Raw(TEXT, text(b"\xed\xa0\x80"))), "not UTF-8"),
    "bool 2": (with_key("x", Raw(BOOL, b"\2")), "neither true nor false"),
    "bools 2": (with_key("x", array(BOOL, b"\0\1\2", 3)), "neither true nor false"),
    "array of 2^64 - 1": (with_key("x", array(U8, b"", HUGE)), "more than 4194304 values"),
    "array of 2^61 u64": (with_key("x", array(10, b"", 1 << 61)), "more than 4194304 values"),
    "array longer than the file": (with_key("x", array(U32, b"", 1 << 21)), "ends within"),
    "texts longer than the file": (with_key("x", array(TEXT, b"", 1 << 21)), "too short for"),
    "arrays longer than the file": (with_key("x", array(ARRAY, b"", 1 << 21)), "too short for"),
    "array of type 77": (with_key("x", array(77, b"", 1)), "unknown type 77"),
    "arrays 4 deep": (with_key("x", nested(3)), "nested too deep"),
    "arrays 10,000 deep": (with_key("x", nested(10_000)), "nested too deep"),
    "alignment 0": (llama({"general.alignment": 0}), "general.alignment is 0, no"),
    "alignment 48": (llama({"general.alignment": 48}), "power of two"),
    "alignment text": (llama({"general.alignment": "32"}), "power of two"),
    "alignment true": (llama({"general.alignment": True}), "power of two"),
    "alignment 2^31": (llama({"general.alignment": 1 << 31}), "ends at 2147483840, but the file"),
    "alignment negative": (
        llama({"general.alignment": Raw(5, struct.pack("<i", -32))}),
        "power of two",
    ),
}
NORM = "blk.0.attn_norm.weight"
TENSORS = {
    "name too long": (with_tensor(Stored("n" * 2000, (8,))), "name would have 2000 bytes"),
    "name empty": (with_tensor(Stored("", (8,))), "name is empty"),
    "name not UTF-8": (with_tensor(Stored(b"\xff", (8,))), "name is not UTF-8"),
    "name twice": (with_tensor(tensors()[0]), "'token_embd.weight', is given twice"),
    "name of a path": (with_tensor(Stored("../../etc/passwd", (8,), bytes(32))), "unknown"),
    "0 dimensions": (with_tensor(Stored(EXTRA, (), bytes(4))), "has 0 dimensions"),
    "5 dimensions": (with_tensor(Stored(EXTRA, (1,) * 5, bytes(4))), "has 5 dimensions"),
    "2^32 - 1 dimensions": (
        with_tensor(Stored(EXTRA, (8,), dimensions=(1 << 32) - 1)),
        "has 4294967295 dimensions",
    ),
    "extent 0": (with_tensor(Stored(EXTRA, (0, 8))), r"has the shape \[0, 8\]"),
    "extent 2^64 - 1": (with_tensor(Stored(EXTRA, (HUGE,))), "has the shape"),
    "product 2^64 + 0": (with_tensor(Stored(EXTRA, (1 << 32, 1 << 32))), "has the shape"),
    "product beyond 2^64, small when cut": (
        with_tensor(Stored(EXTRA, (1 << 62, 4, 1, 8), bytes(32))),
        "has the shape",
    ),
    "bytes beyond 2^64": (with_tensor(Stored(EXTRA, ((1 << 62) + 8,))), "but the file has"),
    "offset beyond 2^64": (
        with_tensor(Stored(EXTRA, (8,), bytes(32), offset=HUGE - 31)),
        "but the file has",
    ),
    "type 31": (with_tensor(Stored(EXTRA, (8,), type=31)), "unknown type 31"),
    "type 2^32 - 1": (with_tensor(Stored(EXTRA, (8,), type=(1 << 32) - 1)), "unknown type"),
    "type I32": (changed(NORM, type=26), "is I32, which weights do not come in"),
    "rows no multiple of a block": (
        changed("blk.0.attn_q.weight", type=Q4_0),
        "rows of 8, no multiple of the 32",
    ),
    "norm of another width": (
        gguf(LLAMA, [*tensors({NORM: None}), Stored(NORM, (32,), bytes(34), Q8_0)]),
        "is .32.; the metadata asks for .8.",
    ),
    "offset misaligned": (changed(NORM, offset=4), "at 4, no multiple of 32"),
    "offset beyond the file": (changed(NORM, offset=1 << 40), "is it complete"),
    "tensors that overlap": (changed(NORM, offset=0), "overlap"),
    "tensors on top of each other": (
        gguf(LLAMA, [*tensors(), Stored(EXTRA, (8,), offset=0)]),
        "overlap",
    ),
    "data cut off": (VALID[:-1], "is it complete"),
    "data missing": (VALID[:1600], "is it complete|ends within"),
}
MODELS = {
    "another architecture": (llama({"general.architecture": "falcon"}), "'falcon'; known are"),
    "architecture a number": (llama({"general.architecture": 7}), "known are"),
    "experts": (llama({"llama.expert_count": 8}), "mixture of experts"),
    "one of several files": (llama({"split.count": 3}), "llama-gguf-split --merge"),
    "no width": (llama({"llama.embedding_length": None}), "llama.embedding_length is missing"),
    "width 0": (llama({"llama.embedding_length": 0}), " 0, not an integer from 1"),
    "width as text": (llama({"llama.embedding_length": "8"}), "not an integer"),
    "width true": (llama({"llama.embedding_length": True}), " True, not an integer"),
    "width a fraction": (llama({"llama.embedding_length": 8.5}), " 8.5, not an integer"),
    "width of layers": (
        llama({"llama.feed_forward_length": [12, 13]}),
        "is a list of 2, not an integer",
    ),
    "another width": (llama({"llama.embedding_length": 16}), "the metadata asks for"),
    "0 heads": (llama({"llama.attention.head_count": 0}), "head_count is 0, not"),
    "2^32 - 1 heads": (llama({"llama.attention.head_count": (1 << 32) - 1}), "not an integer"),
    "3 heads": (llama({"llama.attention.head_count": 3}), "no multiple of the 3 heads"),
    "more key-value heads": (llama({"llama.attention.head_count_kv": 4}), "cannot share 4"),
    "odd heads": (llama({"llama.attention.key_length": 3}), "heads of 3"),
    "values of another size": (llama({"llama.attention.value_length": 2}), "differ"),
    "part of a head turns": (llama({"llama.rope.dimension_count": 2}), "differ"),
    "10^9 layers": (llama({"llama.block_count": 10**9}), "is 1000000000, not an integer from 1"),
    "2 layers": (llama({"llama.block_count": 2}), "lacks 'blk.1.attn_k.weight'.* and 6 more"),
    "a layer too many": (gguf(LLAMA, tensors({"blk.1.ffn_up.weight": (12, 8)})), "unknown"),
    "eps missing": (llama({"llama.attention.layer_norm_rms_epsilon": None}), "is missing"),
    "eps NaN": (llama({"llama.attention.layer_norm_rms_epsilon": float("nan")}), "is nan, not"),
    "eps 0": (llama({"llama.attention.layer_norm_rms_epsilon": 0.0}), "positive"),
    "theta infinite": (llama({"llama.rope.freq_base": float("inf")}), "is inf, not a positive"),
    "another scaling": (llama({"llama.rope.scaling.type": "su"}), "type 'su'"),
    "linear without factor": (llama({"llama.rope.scaling.type": "linear"}), "factor is missing"),
    "divisors of another size": (
        gguf(LLAMA, tensors({"rope_freqs.weight": (3,)})),
        "not 2 positive numbers",
    ),
    "divisors negative": (
        gguf(LLAMA, [*tensors(), Stored("rope_freqs.weight", (2,), struct.pack("<2f", 1, -1))]),
        "not 2 positive numbers",
    ),
    "divisors quantised": (
        gguf(LLAMA, [*tensors(), Stored("rope_freqs.weight", (32,), bytes(34), Q8_0)]),
        "must be F32",
    ),
    "no embedding": (gguf(LLAMA, tensors({"token_embd.weight": None})), "'token_embd.weight'"),
    "fewer rows than tokens": (gguf(LLAMA, tensors({"token_embd.weight": (5, 8)})), "5 rows"),
    "another vocabulary": (llama({"llama.vocab_size": 7}), "do not suit its vocabulary"),
    "tokens no list": (llama({"tokenizer.ggml.tokens": 6}), "do not suit its vocabulary"),
    "a tensor missing": (gguf(LLAMA, tensors({"blk.0.attn_v.weight": None})), "lacks 'blk.0.attn"),
    "a tensor of another shape": (
        gguf(LLAMA, tensors({"blk.0.attn_q.weight": (8, 4)})),
        r"is \[8, 4\]; the metadata asks for \[8, 8\]",
    ),
    "a tensor of another family": (
        gguf(LLAMA, tensors({"blk.0.attn_q_norm.weight": (4,)})),
        "has unknown 'blk.0.attn_q_norm.weight'",
    ),
}
CASES = {
    f"{part}: {name}": case
    for part, cases in (("header", HEADER), ("keys", KEYS), ("tensors", TENSORS), ("", MODELS))
    for name, case in cases.items()
}


@pytest.mark.parametrize(("data", "message"), CASES.values(), ids=CASES.keys())
def test_refused_with_one_line(tmp_path, data: bytes, message: str):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    refused(load, path, message)


WIDE = {**LLAMA, "llama.embedding_length": 32}
WIDE_SHAPES: dict[str, tuple[int, ...] | None] = {
    "token_embd.weight": (6, 32),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.ffn_gate.weight": (12, 32),
    "blk.0.ffn_up.weight": (12, 32),
    "blk.0.ffn_down.weight": (32, 12),
    "output_norm.weight": (32,),
}


def wide(path: Path, tensor: Stored) -> Path:
    """A model of blocks' width, one tensor replaced."""
    path.write_bytes(gguf(WIDE, [*tensors({**WIDE_SHAPES, str(tensor.name): None}), tensor]))
    return path


def test_scales_that_are_no_numbers(tmp_path):
    bad = Stored("blk.0.ffn_up.weight", (12, 32), bytes(11 * 18) + b"\xff" * 18, Q4_0)
    path = wide(tmp_path / "model.gguf", bad)
    assert open_checkpoint(path).shape("model.layers.0.mlp.up_proj.weight") == (12, 32)
    refused(load, path, "tensor 'blk.0.ffn_up.weight': has scales that are NaN or infinite")


def test_a_quantised_norm(tmp_path):
    path = wide(tmp_path / "model.gguf", Stored(NORM, (32,), bytes(34), Q8_0))
    refused(open_checkpoint, path, "is Q8_0 with the shape .32.; only matrices are quantised")


def test_a_name_that_is_not_there(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(VALID)
    refused(lambda path: open_checkpoint(path).load("lm_head.weight"), path, "no tensor 'lm_head")
    refused(lambda path: open_checkpoint(path).shape("x" * 999), path, r"no tensor 'x+\.\.\.'")


def test_a_header_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_HEADER", 1 << 20)
    path = tmp_path / "model.gguf"
    path.write_bytes(with_key("x", "a" * (2 << 20)))
    refused(load, path, "more than 1048576 bytes before its tensors")


def test_a_header_read_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(with_key("tokenizer.x", ["text"] * 500))
    whole = open_checkpoint(path)
    monkeypatch.setattr(limits, "_READ", 1)
    pieces = open_checkpoint(path)
    assert pieces.config == whole.config and pieces.tokenizer == whole.tokenizer
    assert torch.equal(pieces.load("model.norm.weight"), whole.load("model.norm.weight"))


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(VALID)
    checkpoint = open_checkpoint(path)
    path.write_bytes(VALID[:-100])
    refused(lambda _: checkpoint.load("model.norm.weight"), path, "changed after it was opened")
    path.unlink()
    refused(lambda _: checkpoint.load("model.norm.weight"), path, "cannot be read: no such file")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 128])
def test_versions_and_alignments(tmp_path, version: int, alignment: int):
    path = tmp_path / "model.gguf"
    keys = {**LLAMA, "general.alignment": alignment}
    path.write_bytes(gguf(keys, tensors(), version=version, alignment=alignment))
    found = load(path)
    want = {t.name: np.frombuffer(t.data, "<f4").reshape(t.shape) for t in tensors()}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_array_equal(found[ours].numpy(), want[theirs])


def survives(data: bytes, path: Path) -> Checkpoint | None:
    """Open and load everything; nothing but a TilusError may come."""
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(path)
    except TilusError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    return open_checkpoint(path)


RICH = gguf(
    {**LLAMA, "llama.rope.scaling.type": "none", "x.y": [["a", "b"], ["c"]], "x.z": [1.5, 2.5]},
    [*tensors(), f32("rope_freqs.weight", (2,), np.random.default_rng(1))],
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), max_size=4))
def test_bytes_changed_at_random(scratch, changes: list[tuple[int, int]]):
    data = bytearray(RICH)
    for place, byte in changes:
        data[place] = byte
    survives(bytes(data), scratch)


@given(st.integers(0, 1100), st.integers(0, 63))
def test_bits_changed_in_the_header(scratch, place: int, bit: int):
    data = bytearray(RICH)
    data[place + bit // 8] ^= 1 << bit % 8
    survives(bytes(data), scratch)


@given(st.integers(0, len(RICH) - 25))  # the last tensor is followed by 24 bytes of padding
def test_files_cut_short(scratch, length: int):
    assert survives(RICH[:length], scratch) is None


@given(st.binary(max_size=200))
def test_random_bytes_after_the_magic(scratch, data: bytes):
    assert survives(b"GGUF\3\0\0\0" + data, scratch) is None
