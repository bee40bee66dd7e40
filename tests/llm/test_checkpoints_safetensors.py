"""Safetensors folders: what is read, and that damaged and hostile ones are refused in one line."""

from __future__ import annotations

import json
import os
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.llm.refusals import refused
from tilus.errors import TilusError
from tilus.llm.checkpoints import open_checkpoint
from tilus.llm.checkpoints.limits import File
from tilus.llm.checkpoints.safetensors_file import TYPES, SafetensorsFile

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INDEX = "model.safetensors.index.json"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def model(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if tensors:
        save_file(tensors, folder / "model.safetensors")
    return folder


def sharded(folder: Path, weight_map: Any = None) -> Path:
    """Two files: a and b, c."""
    model(folder)
    save_file({"a": noise(2, 3)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": noise(4), "c": noise(1, 2)}, folder / "model-00002-of-00002.safetensors")
    place = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    index = {
        "metadata": {"total_size": 48},
        "weight_map": place if weight_map is None else weight_map,
    }
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_tensors_come_as_they_are_stored(tmp_path, kind: torch.dtype):
    want = {"x.weight": noise(3, 5).to(kind), "y": noise(2).to(kind), "z": noise().to(kind)}
    checkpoint = open_checkpoint(str(model(tmp_path / "m", **want)))
    assert checkpoint.format == "safetensors" and checkpoint.config == {"model_type": "llama"}
    assert checkpoint.tokenizer.folder == tmp_path / "m" and checkpoint.tokenizer.gguf is None
    assert sorted(checkpoint.names) == sorted(want)
    for name, tensor in want.items():
        got = checkpoint.load(name)
        assert isinstance(got, torch.Tensor) and got.dtype == kind
        assert torch.equal(got, tensor) and checkpoint.shape(name) == tuple(tensor.shape)


def test_shards(tmp_path):
    checkpoint = open_checkpoint(sharded(tmp_path / "m"))
    assert checkpoint.names == ["a", "b", "c"] and checkpoint.shape("c") == (1, 2)
    assert torch.equal(checkpoint.load("b"), noise(4))


def test_a_single_file_of_another_name(tmp_path):
    folder = model(tmp_path / "m")
    save_file({"a": noise(2)}, folder / "weights.safetensors")
    assert open_checkpoint(folder).names == ["a"]


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    folder = model(tmp_path / "m", a=noise(1 << 16), b=noise(4))
    sizes: list[int] = []
    read = File.read

    def counted(self: File, start: int, size: int) -> torch.Tensor:
        sizes.append(size)
        return read(self, start, size)

    monkeypatch.setattr(File, "read", counted)
    checkpoint = open_checkpoint(folder)
    checkpoint.load("b")
    assert sum(sizes) < 1000


def test_every_type_as_the_library_reads_it(tmp_path):
    path = tmp_path / "x.safetensors"
    raw = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=torch.Generator())
    want = {
        name: (raw < 128 if kind == torch.bool else raw.clone().view(kind))
        for name, kind in TYPES.items()
    }
    save_file(want, path, {"made by": "a test"})
    file = SafetensorsFile(path)
    assert file.metadata == {"made by": "a test"}
    for name, tensor in load_file(path).items():
        assert file.entries[name].dtype == name
        assert torch.equal(bits(file.load(name)), bits(tensor))


# --- damaged files ---


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


A = json.dumps(entry()).encode()
FILES = {
    "empty": (b"", "has 0 bytes"),
    "seven bytes": (bytes(7), "has 7 bytes"),
    "no header": (struct.pack("<Q", 100), "header would have 100 bytes"),
    "header of 2^63": (file({"a": entry()}, length=1 << 63), "9223372036854775808 bytes"),
    "header of 2^64 - 1": (file({"a": entry()}, length=(1 << 64) - 1), "18446744073709551615"),
    "header longer than the file": (file({"a": entry()}, length=200), "would have 200 bytes"),
    "header cut": (file({"a": entry()}, length=20), "not valid JSON"),
    "header of 0": (file(b""), "opening brace"),
    "header not UTF-8": (file(b'{"\xff": 1}'), "not valid JSON: 'utf-8'"),
    "header a list": (file([entry()]), "opening brace"),
    "header after a space": (file(b' {"a": ' + A + b"}"), "opening brace"),
    "header no JSON": (file(b"{'a': 1}"), "not valid JSON"),
    "header nested deep": (file(b'{"a": ' + b"[" * 100_000), "nested too deep"),
    "key twice": (file(b'{"a": ' + A + b', "a": ' + A + b"}"), "key 'a' is given twice"),
    "NaN": (file(b'{"a": NaN}'), "NaN is no number"),
    "1e999": (file(b'{"a": 1e999}'), "'1e999' is too large"),
    "integer of 5,000 digits": (file(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "half a surrogate pair": (file(b'{"\\ud800": ' + A + b"}"), "not valid JSON"),
    "entry a list": (file({"a": [1]}), "tensor 'a' is not described by"),
    "entry without dtype": (file({"a": {"shape": [2], "data_offsets": [0, 8]}}), "not described"),
    "dtype unknown": (file({"a": entry("F31")}), "unknown type 'F31'"),
    "dtype a number": (file({"a": entry(32)}), "unknown type 32"),
    "dtype of another width": (file({"a": entry("F16")}), r"F16 \[2\], which is not 8 bytes"),
    "shape no list": (file({"a": entry(shape=2)}), "not a list of extents"),
    "shape negative": (file({"a": entry(shape=[-2, -1])}), "not a list of extents"),
    "shape true": (file({"a": entry(shape=[True, 2])}), "not a list of extents"),
    "shape a fraction": (file({"a": entry(shape=[2.0])}), "not a list of extents"),
    "shape 2^64": (file({"a": entry(shape=[1 << 64])}), "not a list of extents"),
    "shape of 2^62 * 4": (file({"a": entry(shape=[1 << 62, 4])}), "which is not 8 bytes"),
    "shape that is small when cut": (
        file({"a": entry(shape=[1 << 33, 1 << 31, 2])}),
        "which is not 8 bytes",
    ),
    "shape of 0": (file({"a": entry(shape=[0, 4], offsets=[0, 0])}, b""), "no elements"),
    "shape of 100,000": (file({"a": entry(shape=[1] * 100_000)}), "has 100000 dimensions"),
    "offsets one": (file({"a": entry(offsets=[8])}), "not two positions"),
    "offsets negative": (file({"a": entry(offsets=[-8, 0])}), "not two positions"),
    "offsets swapped": (file({"a": entry(offsets=[8, 0])}), "which is not -8 bytes"),
    "offsets true": (file({"a": entry("U8", [1], [False, True])}), "not two positions"),
    "offsets 2^63": (
        file({"a": entry(offsets=[(1 << 63) - 8, (1 << 63)])}),
        "not two positions",
    ),
    "offsets beyond the file": (file({"a": entry(offsets=[8, 16])}), "ends beyond the file"),
    "data cut": (file({"a": entry()}, bytes(7)), "ends beyond the file"),
    "data left over": (file({"a": entry()}, bytes(9)), "is the file complete"),
    "a hole": (file({"a": entry(offsets=[8, 16])}, bytes(16)), "begins after bytes of no tensor"),
    "overlap": (
        file({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "tensor 'b' overlaps another",
    ),
    "the same bytes": (file({"a": entry(), "b": entry()}), "overlaps another"),
    "metadata no texts": (file({"__metadata__": {"a": 1}}, b""), "not texts by name"),
    "metadata a list": (file({"__metadata__": []}, b""), "not texts by name"),
    "no tensors": (file({}, b""), "holds no tensors"),
}
OURS = {  # what the library lets pass
    "key twice",
    "header after a space",
    "shape of 0",
    "no tensors",
}


@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES.keys())
def test_damaged_files(tmp_path, data: bytes, message: str):
    path = model(tmp_path / "m") / "model.safetensors"
    path.write_bytes(data)
    refused(lambda path: open_checkpoint(path.parent), path, message)


@pytest.mark.parametrize("name", FILES)
def test_the_library_refuses_them_too(tmp_path, name: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILES[name][0])
    with nullcontext() if name in OURS else pytest.raises(safetensors.SafetensorError):
        load_file(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\nb", "", "a/b", "\0"])
def test_names_are_only_names(tmp_path, name: str):
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(file({name: entry()}, struct.pack("<2f", 1, 2)))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names == [name] and checkpoint.load(name).tolist() == [1, 2]


def test_headers_have_a_limit(tmp_path):
    path = model(tmp_path / "m") / "model.safetensors"
    with path.open("wb") as sparse:
        sparse.write(struct.pack("<Q", 90 << 20))
        sparse.truncate(1 << 30)
    refused(lambda path: open_checkpoint(path.parent), path, "at most 33554432 are read")


def test_json_files_have_a_limit(tmp_path):
    folder = model(tmp_path / "m", a=noise(2))
    with (folder / "config.json").open("r+b") as sparse:
        sparse.truncate(1 << 30)
    refused(open_checkpoint, folder, "config.json has 1073741824 bytes; at most 33554432")


def test_a_name_that_is_not_there(tmp_path):
    folder = model(tmp_path / "m", a=noise(2))
    checkpoint = open_checkpoint(folder)
    refused(lambda _: checkpoint.load("b"), folder, "no tensor 'b'")
    refused(lambda _: checkpoint.shape("../a"), folder, "no tensor '../a'")


# --- damaged folders ---


def other_types(folder: Path) -> Path:
    model(folder, a=noise(2), **{"b.qweight": torch.zeros(2, dtype=torch.int32)})
    config = {"quantization_config": {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def pickled(folder: Path, *names: str) -> Path:
    model(folder)
    for name in names:
        (folder / name).write_bytes(b"\x80\x04.")
    return folder


def twice(folder: Path) -> Path:
    sharded(folder)
    save_file(
        {"a": noise(2, 3), "b": noise(4), "c": noise(1, 2)},
        folder / "model-00002-of-00002.safetensors",
    )
    return folder


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def config(folder: Path, text: str) -> Path:
    model(folder, a=noise(2))
    (folder / "config.json").write_text(text)
    return folder


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FOLDERS: dict[str, tuple[Any, str]] = {
    "nothing": (model, "holds no model"),
    "pickles": (
        lambda f: pickled(f, "pytorch_model-1.bin", "pytorch_model-2.bin"),
        "only has 'pytorch_model-1.bin', .* runs whatever code.*save_pretrained",
    ),
    "a .pt": (lambda f: pickled(f, "model.pt"), "runs whatever code"),
    "a .ckpt": (lambda f: pickled(f, "model.ckpt"), "runs whatever code"),
    "a GGUF file": (lambda f: pickled(f, "model-q4.gguf"), "pass the file itself"),
    "no config": (lambda f: without(model(f, a=noise(1)), "config.json"), "no such file"),
    "config cut": (lambda f: config(f, '{"a": '), "config.json is not valid JSON"),
    "config a list": (lambda f: config(f, "[]"), "config.json is not a JSON object"),
    "config nested deep": (lambda f: config(f, '{"a":' * 100_000), "nested too deep"),
    "config with NaN": (lambda f: config(f, '{"eps": NaN}'), "NaN is no number"),
    "config with a key twice": (lambda f: config(f, '{"a": 1, "a": 2}'), "'a' is given twice"),
    "quantised": (other_types, "quantised with 'gptq'.* type I32: 'b.qweight'; only F32, F16"),
    "two files, no index": (lambda f: without(sharded(f), INDEX), "2 safetensors files but no"),
    "a shard missing": (lambda f: without(sharded(f), TWO), f"lacks 1 of 2 files: '{TWO}'"),
    "a tensor in two shards": (twice, "holds tensors of another file: 'a'"),
    "an index without map": (lambda f: sharded(f, {}), "no weight_map"),
    "an index with a list": (lambda f: sharded(f, ["a"]), "no weight_map"),
    "a tensor missing": (
        lambda f: sharded(f, {"a": ONE, "b": TWO, "c": TWO, "d": TWO}),
        "disagree: missing 'd'$",
    ),
    "a tensor too many": (lambda f: sharded(f, {"a": ONE, "b": TWO}), "disagree: extra 'c'$"),
    "a tensor in another shard": (
        lambda f: sharded(f, {"a": TWO, "b": TWO, "c": ONE}),
        "disagree: in another file 'a', 'c'$",
    ),
    "a shard in another folder": (
        lambda f: sharded(f, {"a": "../model.safetensors"}),
        r"names the file '\.\./model.safetensors'",
    ),
    "a shard by its full path": (lambda f: sharded(f, {"a": "/x/a.safetensors"}), "beside it"),
    "a shard on another drive": (lambda f: sharded(f, {"a": "C:a.safetensors"}), "beside it"),
    "a shard of a windows path": (lambda f: sharded(f, {"a": "..\\a.safetensors"}), "beside it"),
    "a shard with a NUL": (lambda f: sharded(f, {"a": "a\0.safetensors"}), "beside it"),
    "a shard that is a pickle": (lambda f: sharded(f, {"a": "a.bin"}), "beside it"),
    "a shard that is a number": (lambda f: sharded(f, {"a": 1}), "names the file 1;"),
    "a shard that is a list": (lambda f: sharded(f, {"a": [ONE]}), "names the file a list of 1;"),
}


@pytest.mark.parametrize(("make", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_damaged_folders(tmp_path, make: Any, message: str):
    refused(open_checkpoint, make(tmp_path / "m"), message)


def test_a_file_that_is_no_model(tmp_path):
    for name, message in (
        ("model.safetensors", "pass the folder it is in"),
        ("model.bin", "is a pickle"),
        ("notes.txt", "neither a folder nor a GGUF file"),
    ):
        path = tmp_path / name
        path.write_bytes(b"some bytes")
        refused(open_checkpoint, path, message)
    refused(open_checkpoint, tmp_path / "none", "cannot be opened: no such file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_is_not_waited_for(tmp_path):
    folder = model(tmp_path / "m")
    os.mkfifo(folder / "model.safetensors")
    os.mkfifo(tmp_path / "model.gguf")
    refused(open_checkpoint, folder, "no regular file")
    refused(open_checkpoint, tmp_path / "model.gguf", "no regular file")


def test_links_as_in_the_cache_of_the_hub(tmp_path):
    model(tmp_path / "blobs", a=noise(2))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(tmp_path / "blobs" / name)
    assert torch.equal(open_checkpoint(folder).load("a"), noise(2))


def test_a_file_cut_after_it_was_opened(tmp_path):
    folder = model(tmp_path / "m", a=noise(100))
    checkpoint = open_checkpoint(folder)
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 4)
    refused(lambda _: checkpoint.load("a"), path, "changed after it was opened")


# --- random damage ---

RICH = file(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 2], [0, 16]),
        "b.weight": entry("BF16", [3], [16, 22]),
        "c": entry("F16", [], [22, 24]),
    },
    bytes(range(24)),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return model(tmp_path_factory.mktemp("safetensors") / "m") / "model.safetensors"


def survives(data: bytes, path: Path) -> bool:
    """Open and load everything; nothing but a TilusError may come."""
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path.parent)
        for name in checkpoint.names:
            checkpoint.load(name)
    except TilusError as error:
        assert "\n" not in str(error) and str(path.parent) in str(error)
        return False
    return True


@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), max_size=3))
def test_bytes_changed_at_random(scratch, changes: list[tuple[int, int]]):
    data = bytearray(RICH)
    for place, byte in changes:
        data[place] = byte
    if survives(bytes(data), scratch):  # then the library, the reference, reads the same
        checkpoint = open_checkpoint(scratch.parent)
        for name, tensor in load_file(scratch).items():
            got = checkpoint.load(name)
            assert got.dtype == tensor.dtype
            assert torch.equal(bits(got), bits(tensor))


@given(st.integers(0, len(RICH) - 1))
def test_files_cut_short(scratch, length: int):
    assert not survives(RICH[:length], scratch)


@given(st.binary(max_size=100))
def test_random_headers(scratch, data: bytes):
    assert not survives(file(b"{" + data), scratch)
