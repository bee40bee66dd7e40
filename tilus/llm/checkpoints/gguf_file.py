"""One GGUF file: its metadata and tensor descriptions, checked in full before anything is sized.

    "GGUF" | u32 version | u64 tensors | u64 keys
    key:    name, u32 type, value     (a text is u64 bytes, UTF-8; an array u32 type, u64 count)
    tensor: name, u32 dimensions, u64 extents (the last dimension first), u32 type, u64 offset
    padding to `general.alignment` | data, every tensor aligned

All numbers are Python's, so nothing overflows, and no count is believed before the file is known to
be long enough for it.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.gguf_types import GGML_TYPES, GgmlType
from tilus.llm.checkpoints.limits import File, listed, product, shown

VERSIONS = (2, 3)
MAX_HEADER = 256 << 20  # bytes before the data
MAX_VALUES = 4 << 20  # in all arrays together; the largest vocabularies need a third
MAX_ENTRIES = 1 << 16  # keys, and tensors
MAX_NAME = 1 << 10  # bytes of a key or of a tensor's name
MAX_TEXT = 64 << 20  # bytes of a text
MAX_DEPTH = 3  # arrays in arrays
MAX_DIMENSIONS = 4
_READ = 1 << 20  # bytes read at first

_NUMBERS = dict(
    enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "|b1", "", "", "<u8", "<i8", "<f8"))
)
_BOOL, _TEXT, _ARRAY = 7, 8, 9
_LEAST = {_TEXT: 8, _ARRAY: 12}  # bytes of a value that is no number


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a file."""

    name: str
    type: GgmlType
    shape: tuple[int, ...]  # the last dimension lies together in memory
    start: int  # of its bytes in the file
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """An opened file."""

    file: File
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def read(self, tensor: GgufTensor) -> torch.Tensor:
        """A tensor's bytes, u8."""
        return self.file.read(tensor.start, tensor.nbytes)


def read_gguf(file: File) -> GgufFile:
    """Read and check everything but the tensors' data."""
    cursor = _Cursor(file)
    if cursor.take(4, "its first four bytes") != b"GGUF":
        raise TilusValueError(f"{file.path} is no GGUF file: it does not begin with GGUF")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        why = "; it is for machines of the other byte order" if version & 0xFFFF == 0 else ""
        raise TilusValueError(
            f"{file.path} has GGUF version {version}{why}; versions 2 and 3 are read"
        )
    tensor_count, key_count = cursor.u64("the number of tensors"), cursor.u64("the number of keys")
    for count, what in ((tensor_count, "tensors"), (key_count, "keys")):
        if count > MAX_ENTRIES:
            raise TilusValueError(f"{file.path} has {count} {what}; at most {MAX_ENTRIES} are read")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.name("a key", metadata)
        kind = cursor.u32(f"the type of {shown(key)}")
        metadata[key] = cursor.value(kind, f"the value of {shown(key)}")
    described: dict[str, tuple[GgmlType, tuple[int, ...], int]] = {}
    for _ in range(tensor_count):
        name = cursor.name("a tensor's name", described)
        described[name] = cursor.tensor(f"tensor {shown(name)}")
    alignment = _alignment(file, metadata)
    data = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (ggml, shape, offset) in described.items():
        where = f"{file.path}: tensor {shown(name)}"
        nbytes = product(shape) // ggml.elements * ggml.nbytes
        if offset % alignment:
            raise TilusValueError(f"{where} is at {offset}, no multiple of {alignment}")
        if data + offset + nbytes > file.size:
            raise TilusValueError(
                f"{where} ends at {data + offset + nbytes}, but the file has {file.size} bytes; is "
                "it complete?"
            )
        tensors[name] = GgufTensor(name, ggml, shape, data + offset, nbytes)
    _check_overlap(file, tensors)
    return GgufFile(file, metadata, tensors)


def _alignment(file: File, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or value < 8 or value & (value - 1):
        raise TilusValueError(
            f"{file.path}: general.alignment is {shown(value)}, no power of two from 8 on"
        )
    return value


def _check_overlap(file: File, tensors: dict[str, GgufTensor]) -> None:
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise TilusValueError(f"{file.path}: tensors {listed((before, tensor.name))} overlap")
        end, before = tensor.start + tensor.nbytes, tensor.name


class _Cursor:
    """A place in the header, which is read piece by piece."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.at = 0
        self._data = b""
        self._values = MAX_VALUES  # that may still come

    def take(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self._data):
            self._fill(end, what)
        start, self.at = self.at, end
        return self._data[start:end]

    def _fill(self, end: int, what: str) -> None:
        if end > self.file.size:
            raise TilusValueError(
                f"{self.file.path} ends within {what}: it has {self.file.size} bytes, not {end}"
            )
        if end > MAX_HEADER:
            raise TilusValueError(
                f"{self.file.path} has more than {MAX_HEADER} bytes before its tensors"
            )
        have = len(self._data)
        upto = min(max(end, 2 * have, _READ), self.file.size, MAX_HEADER)
        self._data += self.file.read_bytes(have, upto - have)

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def text(self, what: str, most: int = MAX_TEXT) -> str:
        length = self.u64(what)
        if length > most:
            raise TilusValueError(
                f"{self.file.path}: {what} would have {length} bytes; at most {most} are read"
            )
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise TilusValueError(f"{self.file.path}: {what} is not UTF-8") from error

    def name(self, what: str, others: Container[str]) -> str:
        """A text that is not empty and not among others."""
        name = self.text(what, MAX_NAME)
        if not name:
            raise TilusValueError(f"{self.file.path}: {what} is empty")
        if name in others:
            raise TilusValueError(f"{self.file.path}: {what}, {shown(name)}, is given twice")
        return name

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == _TEXT:
            return self.text(what)
        if kind == _ARRAY:
            return self._array(what, depth)
        return self._numbers(kind, 1, what)[0]

    def _array(self, what: str, depth: int) -> list[Any]:
        if depth == MAX_DEPTH:
            raise TilusValueError(f"{self.file.path}: {what} has arrays nested too deep")
        kind, count = self.u32(what), self.u64(what)
        self._values -= count
        if self._values < 0:
            raise TilusValueError(
                f"{self.file.path}: with {what} its arrays have more than {MAX_VALUES} values"
            )
        if kind not in _LEAST:
            return self._numbers(kind, count, what)
        if self.at + count * _LEAST[kind] > self.file.size:
            raise TilusValueError(f"{self.file.path} is too short for {count} values of {what}")
        return [self.value(kind, what, depth + 1) for _ in range(count)]

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        code = _NUMBERS.get(kind)
        if not code:
            raise TilusValueError(f"{self.file.path}: {what} has the unknown type {kind}")
        number = np.dtype(code)
        data = self.take(count * number.itemsize, what)
        if kind == _BOOL and data.strip(b"\0\1"):
            raise TilusValueError(f"{self.file.path}: {what} is neither true nor false")
        found: list[Any] = np.frombuffer(data, number).tolist()
        return found

    def tensor(self, what: str) -> tuple[GgmlType, tuple[int, ...], int]:
        dimensions = self.u32(what)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise TilusValueError(
                f"{self.file.path}: {what} has {dimensions} dimensions; it can have 1 to "
                f"{MAX_DIMENSIONS}"
            )
        extents = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions, what))
        kind, offset = self.u32(what), self.u64(what)
        ggml = GGML_TYPES.get(kind)
        if ggml is None:
            raise TilusValueError(f"{self.file.path}: {what} has the unknown type {kind}")
        if 0 in extents or product(extents) >= 1 << 63:
            raise TilusValueError(f"{self.file.path}: {what} has the shape {list(extents[::-1])}")
        if extents[0] % ggml.elements:
            raise TilusValueError(
                f"{self.file.path}: {what} has rows of {extents[0]}, no multiple of the "
                f"{ggml.elements} that share a block of {ggml.name}"
            )
        return ggml, extents[::-1], offset
