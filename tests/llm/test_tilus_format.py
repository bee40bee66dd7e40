"""Our own folders: every type comes back bit for bit, what is malformed is refused in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import load_file

from tests.llm.folders import CONFIG
from tests.llm.refusals import refused
from tilus import dtypes
from tilus.dtypes import NARROW_TYPES, Kind
from tilus.errors import TilusNotImplementedError, TilusValueError
from tilus.kernels.quantized import SCALES, QuantizedWeight, quantize_weight
from tilus.llm.checkpoints import TokenizerSource, open_checkpoint, tilus_format
from tilus.llm.checkpoints.tilus_format import Entry, TilusCheckpoint, checksum
from tilus.llm.checkpoints.tilus_writer import Writer, entry_bytes
from tilus.tensor import Tensor

Weights = dict[str, torch.Tensor | QuantizedWeight]
WEIGHTS = [t for t in NARROW_TYPES if t not in (dtypes.bool_, dtypes.e8m0)]
TERNARY = dtypes.lut(2, [-1, 0, 1, 0], name="ternary")


def write(folder: Path, weights: Weights, limit: int = 1 << 30) -> Path:
    """A folder with these tensors."""
    folder.mkdir(exist_ok=True)
    entries = [Entry.of(name, tensor) for name, tensor in weights.items()]
    writer = Writer(folder, entries, limit)
    writer.prepare()
    said = {}
    for entry in reversed(entries):  # in any order
        crc = writer.put(entry.name, entry.bytes_of(weights[entry.name]))
        assert crc == writer.checksum(entry.name)
        said[entry.name] = {"crc32": crc, "error": None}
    assert writer.finish(CONFIG, TokenizerSource(folder=folder), said, {"by": "a test"}) == []
    return folder


def equal(a: torch.Tensor | QuantizedWeight, b: torch.Tensor | QuantizedWeight) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    pairs = [(a.codes, b.codes), (a.scales, b.scales)]
    if a.zeros is not None and b.zeros is not None:
        pairs.append((a.zeros, b.zeros))
    alike = a.types == b.types and a.group_size == b.group_size
    return alike and all(x.equal(y) for x, y in pairs)


def every_kind() -> Weights:
    """Every element type, scale type, zero point type and group size."""
    generator = torch.Generator().manual_seed(0)

    def random(n: int, k: int) -> torch.Tensor:
        return torch.randn(n, k, generator=generator)

    found: Weights = {}
    for kind in [*WEIGHTS, TERNARY]:
        name = str(kind).partition("(")[0]
        found[f"types.{name}"] = quantize_weight(random(3, 48), kind, group_size=16)
        if kind.kind is Kind.UINT:
            for scales in ("f16", "bf16", "f32"):
                found[f"zeros.{name}.{scales}"] = quantize_weight(
                    random(5, 32), kind, group_size=32, scale_dtype=scales, zero_point="float"
                )
    for scale in SCALES:
        for group in (16, 32, 64, 128, 256, None):
            found[f"scales.{scale}.{group}"] = quantize_weight(
                random(2, 256), "i3", group_size=group, scale_dtype=scale
            )
    for dense in (torch.float32, torch.float16, torch.bfloat16):
        found[f"dense.{str(dense)[6:]}"] = random(3, 5).to(dense)
    found |= {"dense.scalar": torch.tensor(2.5), "dense.cube": random(6, 4).reshape(2, 3, 4)}
    return found


@pytest.mark.parametrize("limit", [1 << 30, 3000])
def test_every_type_comes_back_bit_for_bit(limit: int, tmp_path: Path) -> None:
    weights = every_kind()
    checkpoint = open_checkpoint(write(tmp_path / "q", weights, limit))
    assert checkpoint.format == "tilus" and checkpoint.config == CONFIG
    assert checkpoint.names == list(weights)
    for name, tensor in weights.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert equal(checkpoint.load(name), tensor), name
    files = list((tmp_path / "q").glob("*.safetensors"))
    assert (len(files) == 1) == (limit > 3000)
    assert isinstance(checkpoint, TilusCheckpoint) and checkpoint.made == {"by": "a test"}


def test_the_safetensors_library_reads_the_files(tmp_path: Path) -> None:
    """And what docs/model-format.md says of the bytes gives the weights."""
    weights = every_kind()
    del weights["dense.bfloat16"]  # which NumPy lacks
    weights = {n: w for n, w in weights.items() if "bf16" not in n}
    folder = write(tmp_path / "q", weights)
    stored = load_file(folder / "model.safetensors")
    said = json.loads((folder / "tilus.json").read_text())
    assert set(stored) == {part for name, t in weights.items() for part in Entry.of(name, t).parts}
    for name, entry in said["tensors"].items():
        tensor = weights[name]
        if isinstance(tensor, torch.Tensor):
            np.testing.assert_array_equal(stored[name], tensor.numpy())
            continue
        kind, (n, k) = dtypes.dtype(entry["type"]), entry["shape"]
        stream = np.unpackbits(stored[f"{name}.codes"], bitorder="little")
        codes = stream[: n * k * kind.bits].reshape(n * k, kind.bits) @ (1 << np.arange(kind.bits))
        w = kind.decode(codes.astype(np.uint8)).astype(np.float32).reshape(n, k)
        scales = stored[f"{name}.scales"]
        if scales.dtype == np.uint8:
            scales = dtypes.dtype(entry["scales"]).decode(scales)
        group = entry["group_size"] or k
        if entry["zeros"]:
            w = w - np.repeat(stored[f"{name}.zeros"].astype(np.float32), group, 1)
        w = w * np.repeat(scales.astype(np.float32), group, 1)
        np.testing.assert_array_equal(w, tensor.dequantize().numpy())


def test_tensors_are_aligned(tmp_path: Path) -> None:
    folder = write(tmp_path / "q", every_kind())
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():
            assert file.get_tensor(name).data_ptr() % file.get_tensor(name).element_size() == 0
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            width = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}[entry["dtype"]]
            assert entry["data_offsets"][0] % width == 0


def test_bytes_of_an_entry() -> None:
    for name, tensor in every_kind().items():
        entry = Entry.of(name, tensor)
        data = entry.bytes_of(tensor)
        assert sum(part.numel() for part in data) == entry_bytes(entry) == tensor.nbytes
    assert checksum([torch.tensor([1, 2]).to(torch.uint8), torch.tensor([3]).to(torch.uint8)]) == (
        checksum([torch.tensor([1, 2, 3]).to(torch.uint8)])
    )


def test_types_that_are_not_stored() -> None:
    with pytest.raises(TilusNotImplementedError, match="tensor 'x' is int64; only f32, f16, bf16"):
        Entry.of("x", torch.arange(3))


def test_the_tokenizer_of_a_gguf_file(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    entry = Entry.of("x", torch.ones(2))
    writer = Writer(folder, [entry])
    writer.prepare()
    crc = writer.put("x", entry.bytes_of(torch.ones(2)))
    words = {"tokenizer.ggml.tokens": ["a", "▁b", "\n"], "tokenizer.ggml.scores": [0.5, -1.0, 1e-3]}
    writer.finish(CONFIG, TokenizerSource(gguf=words), {"x": {"crc32": crc}}, {})
    assert open_checkpoint(folder).tokenizer == TokenizerSource(gguf=words)
    with pytest.raises(TilusValueError, match=r"tokenizer\.gguf\.json cannot be written as JSON"):
        writer.finish(CONFIG, TokenizerSource(gguf={"x": b"bytes"}), {"x": {"crc32": crc}}, {})


# --- what is refused ---


def sample(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(4, 64, generator=generator)
    return write(
        folder,
        {
            "a.weight": quantize_weight(w, "u4", group_size=32),
            "b.weight": quantize_weight(w, "f8e4m3", group_size=None, scale_dtype="e8m0"),
            "c.weight": quantize_weight(w, "u2", group_size=16, zero_point="float"),
            "norm.weight": torch.ones(64),
        },
    )


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """What changes the description."""

    def edit(folder: Path) -> None:
        said = json.loads((folder / "tilus.json").read_text())
        change(said)
        (folder / "tilus.json").write_text(json.dumps(said))

    return edit


def put(*keys: str, value: Any) -> Callable[[Path], None]:
    """What sets an item of the description."""

    def change(said: dict[str, Any]) -> None:
        for key in keys[:-1]:
            said = said[key]
        said[keys[-1]] = value

    return edited(change)


def drop(*keys: str) -> Callable[[Path], None]:
    """What removes an item of the description."""

    def change(said: dict[str, Any]) -> None:
        for key in keys[:-1]:
            said = said[key]
        del said[keys[-1]]

    return edited(change)


def renamed(old: str, new: str) -> Callable[[Path], None]:
    """What gives a tensor another name."""
    return edited(lambda said: said["tensors"].update({new: said["tensors"].pop(old)}))


def of_a(**values: Any) -> Callable[[Path], None]:
    """What changes the entry of a.weight."""
    return edited(lambda said: said["tensors"]["a.weight"].update(values))


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    """What replaces a file's content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, count: int) -> Callable[[Path], None]:
    """What cuts a file off, or makes it longer."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:count] if count < 0 else data + b"\0" * count)

    return change


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """What changes the header of the safetensors file."""

    def edit(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + length])
        change(said)
        new = json.dumps(said).encode()
        data = len(new).to_bytes(8, "little") + new + data[8 + length :]
        (folder / "model.safetensors").write_bytes(data)
        put("files", "model.safetensors", value=len(data))(folder)

    return edit


ENTRY = "tensors", "a.weight"
MALFORMED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (text("tilus.json", "{"), "tilus.json is not valid JSON"),
    "empty": (text("tilus.json", ""), "tilus.json is not valid JSON"),
    "a list": (text("tilus.json", "[]"), "tilus.json is not a JSON object"),
    "not UTF-8": (text("tilus.json", b'{"format": "\xff"}'), "tilus.json is not valid JSON"),
    "a key twice": (text("tilus.json", '{"format": "tilus", "format": 1}'), "given twice"),
    "NaN": (text("tilus.json", '{"format": NaN}'), "NaN is no number of JSON"),
    "deep": (text("tilus.json", '{"a":' * 100_000), "nested too deep"),
    "another format": (put("format", value="gguf"), "`format` is not tilus"),
    "no version": (drop("version"), "`version` is not a number"),
    "a version that is true": (put("version", value=True), "`version` is not a number"),
    "a version that is text": (put("version", value="1"), "`version` is not a number"),
    "version 0": (put("version", value=0), "there is no version 0"),
    "a later version": (put("version", value=2), "of version 2 of the format; this program reads"),
    "no tensors": (drop("tensors"), "`tensors` is not an object"),
    "tensors in a list": (put("tensors", value=[]), "`tensors` is not an object"),
    "none": (put("tensors", value={}), "it has no tensors"),
    "no files": (drop("files"), "`files` is not an object"),
    "made by a text": (put("made", value="me"), "`made` is not an object"),
    "a file elsewhere": (put("files", "../model.safetensors", value=1), "files are called"),
    "an absolute file": (put("files", "/etc/passwd", value=1), "files are called"),
    "a file too many": (
        put("files", "model-00002-of-00002.safetensors", value=1),
        "lacks 1 of 2 files: 'model-00002-of-00002.safetensors'",
    ),
    "a negative size": (put("files", "model.safetensors", value=-1), "is not a number"),
    "another size": (put("files", "model.safetensors", value=7), "bytes; tilus.json says 7"),
    "cut off": (cut("model.safetensors", -1), "ends beyond the file"),
    "too long": (cut("model.safetensors", 1), "is the file complete?"),
    "no safetensors": (text("model.safetensors", "x"), "has 1 bytes"),
    "a name with a path": (renamed("a.weight", "../a.weight"), "a name is words with dots"),
    "an absolute name": (renamed("a.weight", "/a.weight"), "a name is words with dots"),
    "a name of dots": (renamed("a.weight", "a..weight"), "a name is words with dots"),
    "no name": (renamed("a.weight", ""), "a name is words with dots"),
    "a long name": (renamed("a.weight", "a" * 300), "a name is words with dots"),
    "a name with a line": (renamed("a.weight", "a\nb"), "a name is words with dots"),
    "another name": (renamed("a.weight", "z.weight"), "lacks the tensor 'z.weight.codes'"),
    "no entry": (put(*ENTRY, value=None), "is not described by an object"),
    "a tensor too many": (put("tensors", "z", value={"shape": [1]}), "`type` is not the name"),
    "a tensor left out": (
        drop(*ENTRY),
        "does not describe: 'a.weight.codes', 'a.weight.scales', 'a.weight.zeros'",
    ),
    "no type": (drop(*ENTRY, "type"), "`type` is not the name of an element type"),
    "an unknown type": (of_a(type="u9"), "`type` is 'u9', no element type"),
    "a long type": (of_a(type="u" * 9999), "`type` is not the name of an element type"),
    "another type": (of_a(type="u5"), "is U8 [128]; tilus.json makes it U8 [160]"),
    "wide codes": (of_a(type="f16"), "`dtype` is f16; weights have at most 8 bits"),
    "codes of scales": (of_a(type="e8m0"), "weights have at most 8 bits"),
    "dense codes": (drop(*ENTRY, "scales"), "is u4 without scales"),
    "no shape": (drop(*ENTRY, "shape"), "`shape` is not a list"),
    "a shape of text": (of_a(shape=["4", 64]), "`shape` is not a list"),
    "a negative shape": (of_a(shape=[-4, -64]), "`shape` is not a list"),
    "a shape of truth": (of_a(shape=[True, 64]), "`shape` is not a list"),
    "no elements": (of_a(shape=[4, 0]), "which no tensor has"),
    "a huge shape": (of_a(shape=[1 << 40, 1 << 40]), "which no tensor has"),
    "a wrapping shape": (of_a(shape=[1 << 62, 1 << 62]), "which no tensor has"),
    "many dimensions": (of_a(shape=[1] * 9), "`shape` is not a list of up to 8"),
    "a vector": (of_a(shape=[256]), "only matrices are quantised"),
    "another shape": (of_a(shape=[8, 32]), "makes it F16 [8, 1]"),
    "another dense shape": (put("tensors", "norm.weight", "shape", value=[8, 8]), "F32 [8, 8]"),
    "a group of 3": (of_a(group_size=3), "`group_size` is 3, which does not divide"),
    "a group too large": (of_a(group_size=128), "`group_size` is 128, which does not divide"),
    "a negative group": (of_a(group_size=-32), "`group_size` is -32"),
    "a group of text": (of_a(group_size="32"), "`group_size` is '32'"),
    "no group": (drop(*ENTRY, "group_size"), "`group_size` is None"),
    "another group": (of_a(group_size=16), "is F16 [4, 2]; tilus.json makes it F16 [4, 4]"),
    "unknown scales": (of_a(scales="u8"), "`scale_dtype` is u8"),
    "scales of text": (of_a(scales="x"), "`scales` is 'x', no element type"),
    "other scales": (of_a(scales="bf16"), "tilus.json makes it BF16 [4, 2]"),
    "no zeros": (of_a(zeros=None), "does not describe: 'a.weight.zeros'"),
    "unknown zeros": (of_a(zeros="i8"), "u4 codes have no zero points of type i8"),
    "zeros of floats": (
        put("tensors", "b.weight", "zeros", value="u8"),
        "f8e4m3 codes have no zero points",
    ),
    "no file": (drop(*ENTRY, "file"), "`file` is none of `files`"),
    "another file": (of_a(file="model-00001-of-00001.safetensors"), "`file` is none of `files`"),
    "a file in a list": (of_a(file=["model.safetensors"]), "`file` is none of `files`"),
    "no checksum": (drop(*ENTRY, "crc32"), "`crc32` is not a checksum"),
    "a large checksum": (of_a(crc32=1 << 32), "`crc32` is not a checksum"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be opened"),
    "no file there": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "lacks 1 of 1 files: 'model.safetensors'",
    ),
    "a folder for a file": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        "config.json is no regular file",
    ),
    "overlapping tensors": (
        header(lambda said: said["c.weight.codes"].update(said["a.weight.zeros"])),
        "overlaps another",
    ),
    "another stored type": (
        header(lambda said: said["a.weight.scales"].update(dtype="BF16")),
        "is BF16 [4, 2]; tilus.json makes it F16 [4, 2]",
    ),
    "a tensor renamed": (
        header(lambda said: said.update(z=said.pop("a.weight.scales"))),
        "lacks the tensor 'a.weight.scales'",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_folders_are_refused(case: str, tmp_path: Path) -> None:
    break_it, message = MALFORMED[case]
    folder = sample(tmp_path / "q")
    open_checkpoint(folder)
    break_it(folder)
    refused(open_checkpoint, folder, re.escape(message))


def poke(name: str, value: list[int], fix: bool = True) -> Callable[[Path], None]:
    """What overwrites the first bytes of a stored tensor, and may fix the checksums."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        start = 8 + length + json.loads(data[8 : 8 + length])[name]["data_offsets"][0]
        data[start : start + len(value)] = bytes(value)
        path.write_bytes(data)
        if not fix:
            return
        said = json.loads((folder / "tilus.json").read_text())
        checkpoint = tilus_format.open(folder)
        for tensor, entry in checkpoint.entries.items():
            file = checkpoint._places[tensor]
            parts = [file.entries[part] for part in entry.parts]
            crc = checksum(file.file.read(part.start, part.nbytes) for part in parts)
            said["tensors"][tensor]["crc32"] = crc
        (folder / "tilus.json").write_text(json.dumps(said))

    return change


DAMAGED: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a bit of the codes": (poke("a.weight.codes", [255], False), "a.weight", "checksum differs"),
    "a bit of a norm": (poke("norm.weight", [1], False), "norm.weight", "checksum differs"),
    "scales that are NaN": (
        poke("a.weight.scales", [0, 0x7E]),
        "a.weight",
        "scales that are NaN or infinite",
    ),
    "scales that are infinite": (
        poke("a.weight.scales", [0, 0x7C]),
        "a.weight",
        "scales that are NaN or infinite",
    ),
    "e8m0 scales that are NaN": (
        poke("b.weight.scales", [255]),
        "b.weight",
        "scales that are NaN or infinite",
    ),
    "codes that are NaN": (
        poke("b.weight.codes", [0x7F]),
        "b.weight",
        "weights that are NaN or infinite",
    ),
    "zero points that are NaN": (
        poke("c.weight.zeros", [0, 0x7E]),
        "c.weight",
        "zero points that are NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tensors_are_refused(case: str, tmp_path: Path) -> None:
    damage, name, message = DAMAGED[case]
    folder = sample(tmp_path / "q")
    damage(folder)
    checkpoint = open_checkpoint(folder)
    refused(lambda _: checkpoint.load(name), folder, re.escape(repr(name)) + ".*" + message)
    for other in set(checkpoint.names) - {name}:
        checkpoint.load(other)


def test_what_a_later_version_may_add(tmp_path: Path) -> None:
    folder = sample(tmp_path / "q")
    before = open_checkpoint(folder)
    edited(lambda said: said.update(later={"x": 1}))(folder)
    of_a(later=[1, 2])(folder)
    (folder / "something.else").write_text("")
    after = open_checkpoint(folder)
    for name in before.names:
        assert equal(before.load(name), after.load(name))


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    folder = sample(tmp_path / "q")
    checkpoint = open_checkpoint(folder)
    cut("model.safetensors", -30)(folder)
    with pytest.raises(TilusValueError, match="changed after it was opened"):
        checkpoint.load("a.weight")


def test_unknown_names(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sample(tmp_path / "q"))
    for ask in (checkpoint.shape, checkpoint.load):
        with pytest.raises(TilusValueError, match="has no tensor 'x'"):
            ask("x")


def test_zero_points_are_kept_as_they_are(tmp_path: Path) -> None:
    """Also those that are no codes, and scales below zero: both have a meaning."""
    codes = Tensor.from_codes(torch.arange(32, dtype=torch.uint8).reshape(2, 16) % 16, dtypes.u4)
    scales = Tensor.from_torch(torch.tensor([[-0.5], [0.0]], dtype=torch.float16))
    zeros = Tensor.from_torch(torch.tensor([[200], [16]], dtype=torch.uint8))
    weight = QuantizedWeight(codes, scales, zeros, 16)
    loaded = open_checkpoint(write(tmp_path / "q", {"x": weight})).load("x")
    assert equal(loaded, weight)
