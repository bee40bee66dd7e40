"""Our own folders, which `tilus quantize` writes: what is in them, and reading them.

docs/model-format.md describes them. Nothing is believed before it is checked: the description
against what it may say, the files against the description, and a tensor's bytes against their
checksum when it is loaded.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tilus import dtypes
from tilus.dtypes import DType, Kind
from tilus.errors import TilusError, TilusNotImplementedError, TilusValueError
from tilus.kernels.quantized import GROUPS, QuantizedWeight, Scheme
from tilus.llm.checkpoints.checkpoint import Checkpoint, TokenizerSource
from tilus.llm.checkpoints.limits import is_count, listed, product, read_json, shown
from tilus.llm.checkpoints.safetensors_file import SafetensorsFile
from tilus.tensor import Tensor, to_torch

VERSION = 1  # of the format; readers refuse later ones
DESCRIPTION = "tilus.json"
CONFIG = "config.json"
VOCABULARY = "tokenizer.gguf.json"  # the tokenizer of a model that was a GGUF file

DENSE = {dtypes.f32: "F32", dtypes.f16: "F16", dtypes.bf16: "BF16"}
STORED = {**DENSE, dtypes.f8e4m3: "U8", dtypes.e8m0: "U8", dtypes.u8: "U8"}
ZEROS = (dtypes.u8, dtypes.f16, dtypes.bf16, dtypes.f32)
MAX_DIMENSIONS = 8
MAX_NAME = 256  # characters of a tensor's name
MAX_TYPE = 1 << 13  # characters of an element type: a codebook of 8 bits needs half of it

_NAME = re.compile(r"\w[\w-]*(\.[\w-]+)*", re.ASCII)
_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """What the description says of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: DType  # of its elements, or of its codes
    scales: DType | None = None  # None: it is not quantised
    zeros: DType | None = None
    group_size: int = 0

    @staticmethod
    def of(name: str, tensor: torch.Tensor | QuantizedWeight) -> Entry:
        """The entry for a tensor."""
        if isinstance(tensor, QuantizedWeight):
            zeros = tensor.zeros.dtype if tensor.zeros is not None else None
            return Entry(
                name, tensor.shape, tensor.dtype, tensor.scales.dtype, zeros, tensor.group_size
            )
        kinds = {to_torch(kind): kind for kind in DENSE}
        if tensor.dtype not in kinds:
            raise TilusNotImplementedError(
                f"tensor {shown(name)} is {str(tensor.dtype).removeprefix('torch.')}; only "
                f"{', '.join(map(str, DENSE))} and quantised ones are stored"
            )
        return Entry(name, tuple(tensor.shape), kinds[tensor.dtype])

    @property
    def parts(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each tensor that stands for it in a safetensors file, by name."""
        if self.scales is None:
            return {self.name: (DENSE[self.dtype], self.shape)}
        n, k = self.shape
        groups = (n, k // (self.group_size or k))
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            f"{self.name}.codes": ("U8", (self.dtype.storage_bytes(n * k),)),
            f"{self.name}.scales": (STORED[self.scales], groups),
        }
        if self.zeros is not None:
            found[f"{self.name}.zeros"] = (STORED[self.zeros], groups)
        return found

    def described(self) -> dict[str, Any]:
        """The entry as the description has it."""
        entry: dict[str, Any] = {"shape": list(self.shape), "type": str(self.dtype)}
        if self.scales is not None:
            entry["group_size"] = self.group_size
            entry["scales"] = str(self.scales)
            entry["zeros"] = str(self.zeros) if self.zeros is not None else None
        return entry

    def bytes_of(self, tensor: torch.Tensor | QuantizedWeight) -> list[torch.Tensor]:
        """The bytes of each part, u8, in the order of `parts`."""
        if isinstance(tensor, torch.Tensor):
            return [Tensor.from_torch(tensor).storage]
        parts = (tensor.codes, tensor.scales, tensor.zeros)
        return [part.storage for part in parts if part is not None]

    def tensor_of(self, data: list[torch.Tensor]) -> torch.Tensor | QuantizedWeight:
        """The tensor with these bytes."""
        if self.scales is None:
            return Tensor(self.dtype, self.shape, data[0]).to_torch()
        n, k = self.shape
        groups = (n, k // (self.group_size or k))
        return QuantizedWeight(
            Tensor(self.dtype, (n, k), data[0]),
            Tensor(self.scales, groups, data[1]),
            Tensor(self.zeros, groups, data[2]) if self.zeros is not None else None,
            self.group_size,
        )


def checksum(data: Iterable[torch.Tensor]) -> int:
    """The CRC-32 of bytes, u8, one after the other."""
    value = 0
    for part in data:
        value = zlib.crc32(part.numpy().data, value)
    return value


def is_plain(name: str) -> bool:
    """Whether a tensor's name is made of words with dots between them."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def open(path: str | Path) -> TilusCheckpoint:
    """Open a folder in this format; only headers are read.

    Raises:
        TilusValueError: it is of a later version, damaged or incomplete.
    """
    return TilusCheckpoint(Path(path))


class TilusCheckpoint(Checkpoint):
    """A model in a folder of our own.

    Attributes:
        entries: what is said of each tensor.
        made: how it was quantised, for people to read.
    """

    format = "tilus"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where = folder / DESCRIPTION
        said = read_json(self._where)
        self._check_version(said)
        self.made = self._get(said, "made", dict, "an object") if "made" in said else {}
        self._files = self._open_files(said)
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, SafetensorsFile] = {}
        self._checksums: dict[str, int] = {}
        for name, value in self._get(said, "tensors", dict, "an object").items():
            self._add(name, value)
        if not self.entries:
            raise TilusValueError(f"{self._where}: it has no tensors")
        self._compare()
        self.names = list(self.entries)
        self.config = read_json(folder / CONFIG)
        vocabulary = folder / VOCABULARY
        if vocabulary.exists():
            self.tokenizer = TokenizerSource(gguf=read_json(vocabulary))
        else:
            self.tokenizer = TokenizerSource(folder=folder)

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""
        return self._entry(name).shape

    def stored(self, name: str) -> tuple[str, int]:
        """A tensor's type in the file, and its bytes there: codes, scales and zero points."""
        entry, file = self._entry(name), self._places[name]
        return str(entry.dtype), sum(file.entries[part].nbytes for part in entry.parts)

    def load(self, name: str) -> torch.Tensor | QuantizedWeight:
        """A tensor in its float type, or packed."""
        entry, file = self._entry(name), self._places[name]
        found = [file.entries[part] for part in entry.parts]
        data = [file.file.read(part.start, part.nbytes) for part in found]
        where = f"{file.file.path}: tensor {shown(name)}"
        if checksum(data) != self._checksums[name]:
            raise TilusValueError(f"{where} is damaged: its checksum differs; copy the file again")
        tensor = entry.tensor_of(data)
        if isinstance(tensor, QuantizedWeight):
            _check_finite(where, tensor)
        return tensor

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise TilusValueError(f"{self.folder} has no tensor {shown(name)}")
        return self.entries[name]

    def _get(self, said: dict[str, Any], key: str, kind: type[_T], what: str) -> _T:
        value = said.get(key)
        if type(value) is not kind:
            raise TilusValueError(f"{self._where}: `{key}` is not {what}")
        return value

    def _check_version(self, said: dict[str, Any]) -> None:
        if said.get("format") != "tilus":
            raise TilusValueError(f"{self._where}: `format` is not tilus")
        version = self._get(said, "version", int, "a number")
        if version < 1:
            raise TilusValueError(f"{self._where}: there is no version {version} of the format")
        if version > VERSION:
            raise TilusNotImplementedError(
                f"{self._where} is of version {version} of the format; this program reads up to "
                f"{VERSION}, so it needs a later one"
            )

    def _open_files(self, said: dict[str, Any]) -> dict[str, SafetensorsFile]:
        files = self._get(said, "files", dict, "an object")
        for name, size in files.items():
            if not _FILE.fullmatch(name):
                raise TilusValueError(
                    f"{self._where}: `files` has {shown(name)}; files are called "
                    "model-00001-of-00002.safetensors"
                )
            if not is_count(size):
                raise TilusValueError(f"{self._where}: the size of {name} is not a number")
        missing = [name for name in files if not (self.folder / name).exists()]
        if missing:
            raise TilusValueError(
                f"{self.folder} lacks {len(missing)} of {len(files)} files: {listed(missing)}"
            )
        opened = {name: SafetensorsFile(self.folder / name) for name in files}
        for name, file in opened.items():
            if file.file.size != files[name]:
                raise TilusValueError(
                    f"{file.file.path} has {file.file.size} bytes; {DESCRIPTION} says {files[name]}"
                )
        return opened

    def _add(self, name: str, value: Any) -> None:
        """Check what is said of a tensor, and that the file has it."""
        where = f"{self._where}: tensor {shown(name)}"
        if not is_plain(name):
            raise TilusValueError(f"{where}: a name is words with dots between them")
        if not isinstance(value, dict):
            raise TilusValueError(f"{where} is not described by an object")
        entry = _read_entry(where, name, value)
        crc: Any = value.get("crc32")
        place = value.get("file")
        if not is_count(crc, (1 << 32) - 1):
            raise TilusValueError(f"{where}: `crc32` is not a checksum")
        if not isinstance(place, str) or place not in self._files:
            raise TilusValueError(f"{where}: `file` is none of `files`")
        file = self._files[place]
        for part, (kind, shape) in entry.parts.items():
            stored = file.entries.get(part)
            if stored is None:
                raise TilusValueError(f"{file.file.path} lacks the tensor {shown(part)}")
            if (stored.dtype, stored.shape) != (kind, shape):
                raise TilusValueError(
                    f"{file.file.path}: tensor {shown(part)} is {stored.dtype} "
                    f"{list(stored.shape)}; {DESCRIPTION} makes it {kind} {list(shape)}"
                )
        self.entries[name] = entry
        self._places[name] = file
        self._checksums[name] = crc

    def _compare(self) -> None:
        """Refuse tensors that are not described, or stand for two."""
        used: set[tuple[SafetensorsFile, str]] = set()
        for name, entry in self.entries.items():
            keys = {(self._places[name], part) for part in entry.parts}
            if used & keys:
                raise TilusValueError(f"{self._where}: tensor {shown(name)} shares its data")
            used |= keys
        for file in self._files.values():
            extra = {part for part in file.entries if (file, part) not in used}
            if extra:
                raise TilusValueError(
                    f"{file.file.path} has tensors that {DESCRIPTION} does not describe: "
                    f"{listed(extra)}"
                )


def _read_entry(where: str, name: str, value: dict[str, Any]) -> Entry:
    """An entry of the description; keys that are not known here are left alone."""
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(is_count, shape)):
        raise TilusValueError(f"{where}: `shape` is not a list of up to {MAX_DIMENSIONS} extents")
    if not 1 <= product(shape) < 1 << 48:
        raise TilusValueError(f"{where}: `shape` is {shown(str(shape))}, which no tensor has")
    kind = _read_type(where, "type", value.get("type"))
    if "scales" not in value:
        if kind not in DENSE:
            raise TilusValueError(f"{where} is {kind} without scales")
        return Entry(name, tuple(shape), kind)
    scales = _read_type(where, "scales", value["scales"])
    zeros = value.get("zeros")
    zero_kind = None if zeros is None else _read_type(where, "zeros", zeros)
    if len(shape) != 2:
        raise TilusValueError(f"{where}: `shape` is {shape}; only matrices are quantised")
    try:
        Scheme.of(kind, scales)
    except TilusError as error:
        raise TilusValueError(f"{where}: {error.first.message}") from error
    if zero_kind is not None and (zero_kind not in ZEROS or kind.kind is not Kind.UINT):
        raise TilusValueError(f"{where}: {kind} codes have no zero points of type {zero_kind}")
    group = value.get("group_size")
    if not is_count(group) or group not in (0, *GROUPS) or (group and shape[1] % group):
        raise TilusValueError(
            f"{where}: `group_size` is {group!r:.60}, which does not divide rows of "
            f"{shape[1]} or is none of {(0, *GROUPS)}"
        )
    return Entry(name, (shape[0], shape[1]), kind, scales, zero_kind, group)


def _read_type(where: str, key: str, name: Any) -> DType:
    if not isinstance(name, str) or len(name) > MAX_TYPE:
        raise TilusValueError(f"{where}: `{key}` is not the name of an element type")
    try:
        return dtypes.dtype(name)
    except ValueError as error:
        raise TilusValueError(f"{where}: `{key}` is {shown(name)}, no element type") from error


def _check_finite(where: str, weight: QuantizedWeight) -> None:
    for what, tensor in (("scales", weight.scales), ("zero points", weight.zeros)):
        if tensor is not None and not torch.isfinite(tensor.to_float()).all():
            raise TilusValueError(f"{where} has {what} that are NaN or infinite")
    if weight.dtype.has_nan:  # and so of 8 bits
        finite = np.isfinite(weight.dtype.decode(np.arange(256, dtype=np.uint8)))
        if not finite[weight.codes.storage.numpy()].all():
            raise TilusValueError(f"{where} has weights that are NaN or infinite")
