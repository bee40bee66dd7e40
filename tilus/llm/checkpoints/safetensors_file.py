"""One safetensors file: its header, checked in full, and its tensors, read one at a time.

    u64 n | n bytes of JSON: name -> {dtype, shape, data_offsets} | data

The data has neither holes nor overlaps. Beyond what the `safetensors` library checks, we refuse
tensors without elements, and headers above `MAX_JSON` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.limits import MAX_JSON, File, is_count, parse_json, product, shown

TYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    dtype: str  # a key of `TYPES`
    shape: tuple[int, ...]
    start: int  # of its bytes in the file
    nbytes: int


class SafetensorsFile:
    """An opened file.

    Attributes:
        entries: the tensors by name.
        metadata: what the writer noted.
    """

    def __init__(self, path: Path) -> None:
        self.file = File.at(path)
        self.metadata: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}
        self._read_header()

    def load(self, name: str) -> torch.Tensor:
        """A tensor, in the type it is stored in."""
        entry = self.entries[name]
        data = self.file.read(entry.start, entry.nbytes)
        return data.view(TYPES[entry.dtype]).reshape(entry.shape)

    def _read_header(self) -> None:
        path, size = self.file.path, self.file.size
        if size < 8:
            raise TilusValueError(f"{path} has {size} bytes; a safetensors file has 8 and a header")
        length = int.from_bytes(self.file.read_bytes(0, 8), "little")
        if length > min(MAX_JSON, size - 8):
            raise TilusValueError(
                f"{path}: its header would have {length} bytes; the file has {size - 8} after the "
                f"length, and at most {MAX_JSON} are read"
            )
        data = self.file.read_bytes(8, length)
        if not data.startswith(b"{"):
            raise TilusValueError(f"{path}: its header does not begin with an opening brace")
        for name, value in parse_json(data, f"{path}: its header").items():
            if name == "__metadata__":
                self.metadata = self._metadata(value)
            else:
                self.entries[name] = self._entry(name, value, 8 + length)
        end = 8 + length
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].start):
            if entry.start != end:
                what = (
                    "begins after bytes of no tensor" if entry.start > end else "overlaps another"
                )
                raise TilusValueError(f"{path}: tensor {shown(name)} {what}")
            end += entry.nbytes
        if end != size:
            raise TilusValueError(
                f"{path} has {size} bytes, but its tensors end at {end}; is the file complete?"
            )

    def _metadata(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise TilusValueError(f"{self.file.path}: its __metadata__ are not texts by name")
        return value

    def _entry(self, name: str, value: Any, data: int) -> Entry:
        where = f"{self.file.path}: tensor {shown(name)}"
        if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
            raise TilusValueError(f"{where} is not described by dtype, shape and data_offsets")
        kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(kind, str) or kind not in TYPES:
            raise TilusValueError(f"{where} has the unknown type {shown(kind)}")
        if not isinstance(shape, list) or not all(map(is_count, shape)):
            raise TilusValueError(f"{where} has a shape that is not a list of extents")
        if len(shape) > MAX_DIMENSIONS:
            raise TilusValueError(f"{where} has {len(shape)} dimensions")
        if 0 in shape:
            raise TilusValueError(f"{where} has no elements: its shape is {shape}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
            raise TilusValueError(f"{where} has data_offsets that are not two positions")
        nbytes = product(shape) * TYPES[kind].itemsize
        if offsets[1] - offsets[0] != nbytes:
            raise TilusValueError(
                f"{where} is {kind} {shape}, which is not {offsets[1] - offsets[0]} bytes"
            )
        if data + offsets[1] > self.file.size:
            raise TilusValueError(f"{where} ends beyond the file")
        return Entry(kind, tuple(shape), data + offsets[0], nbytes)
