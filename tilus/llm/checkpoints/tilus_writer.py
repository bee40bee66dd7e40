"""Writing folders in our own format: where every byte goes is known before the first is written.

So tensors are written one at a time and in any order, and a job that was killed goes on where it
was, with the same bytes as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.checkpoint import TokenizerSource
from tilus.llm.checkpoints.limits import File, product
from tilus.llm.checkpoints.safetensors_file import TYPES
from tilus.llm.checkpoints.tilus_format import (
    CONFIG,
    DESCRIPTION,
    VERSION,
    VOCABULARY,
    Entry,
    checksum,
)

SHARD_BYTES = 2_000_000_000  # of a file, unless a single tensor has more

# What belongs to a model beside its tensors; whatever else lies there is left.
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)


@dataclass(frozen=True)
class Shard:
    """A safetensors file: what is in it, and where."""

    name: str
    entries: tuple[Entry, ...]

    @cached_property
    def _ordered(self) -> list[tuple[str, str, tuple[int, ...], int]]:
        """(name, type, shape, bytes) of its tensors; wide elements first, so all are aligned."""
        found = [
            (part, kind, shape, product(shape) * TYPES[kind].itemsize)
            for entry in self.entries
            for part, (kind, shape) in entry.parts.items()
        ]
        return sorted(found, key=lambda item: -TYPES[item[1]].itemsize)

    @cached_property
    def header(self) -> bytes:
        """The bytes before the data."""
        said: dict[str, Any] = {"__metadata__": {"format": "tilus"}}
        at = 0
        for name, kind, shape, nbytes in self._ordered:
            offsets = [at, at + nbytes]
            said[name] = {"dtype": kind, "shape": list(shape), "data_offsets": offsets}
            at += nbytes
        text = json.dumps(said, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """(start, bytes) of each tensor in the file."""
        found, at = {}, len(self.header)
        for name, _, _, nbytes in self._ordered:
            found[name] = (at, nbytes)
            at += nbytes
        return found

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(nbytes for _, nbytes in self.places.values())


def _shards(entries: Iterable[Entry], limit: int) -> list[Shard]:
    """The entries, in order, in files of at most `limit` bytes."""
    filled: list[list[Entry]] = []
    rest = -1
    for entry in entries:
        need = entry_bytes(entry) + 512 + 4 * len(entry.name)  # with its part of the header
        if need > rest:
            filled.append([])
            rest = limit - 512
        filled[-1].append(entry)
        rest -= need
    if len(filled) == 1:
        return [Shard("model.safetensors", tuple(filled[0]))]
    return [
        Shard(f"model-{i:05}-of-{len(filled):05}.safetensors", tuple(group))
        for i, group in enumerate(filled, 1)
    ]


def entry_bytes(entry: Entry) -> int:
    """Bytes of a tensor's data."""
    return sum(product(shape) * TYPES[kind].itemsize for kind, shape in entry.parts.values())


class Writer:
    """Writes a folder.

    Args:
        folder: exists; what is there of earlier writing is kept.
        entries: all tensors that will be written.
        limit: bytes of a file, unless a single tensor has more.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], limit: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.entries = {entry.name: entry for entry in entries}
        self.shards = _shards(entries, limit)
        self._shard_of = {entry.name: shard for shard in self.shards for entry in shard.entries}

    def prepare(self) -> None:
        """Make the files at their full size, with headers."""
        for shard in self.shards:
            path = self.folder / shard.name
            path.touch()
            with open(path, "r+b") as file:
                file.truncate(shard.size)
                file.write(shard.header)

    def put(self, name: str, data: Sequence[torch.Tensor]) -> int:
        """Write the bytes of a tensor's parts, u8; their checksum."""
        shard, entry = self._shard_of[name], self.entries[name]
        with open(self.folder / shard.name, "r+b") as file:
            for part, piece in zip(entry.parts, data, strict=True):
                start, nbytes = shard.places[part]
                assert piece.numel() == nbytes, f"{part} has {piece.numel()} bytes, not {nbytes}"
                file.seek(start)
                file.write(piece.cpu().numpy().data)
        return checksum(data)

    def checksum(self, name: str) -> int:
        """The checksum of what is in a tensor's place."""
        shard = self._shard_of[name]
        file = File.at(self.folder / shard.name)
        return checksum(file.read(*shard.places[part]) for part in self.entries[name].parts)

    def finish(
        self,
        config: Mapping[str, Any],
        tokenizer: TokenizerSource,
        said: Mapping[str, Mapping[str, Any]],
        made: Mapping[str, Any],
    ) -> list[str]:
        """Write everything else, and wait until all is on the disk.

        Args:
            config: of the model.
            tokenizer: whose files are copied, or whose GGUF metadata is written.
            said: for each tensor, what goes into its description: its checksum and more.
            made: how the folder was made.

        Returns:
            A sentence on each file that was left out.
        """
        left = []
        if tokenizer.folder is not None:
            left = _copy_plain(tokenizer.folder, self.folder)
        elif tokenizer.gguf is not None:
            _write_json(self.folder / VOCABULARY, tokenizer.gguf)
        _write_json(self.folder / CONFIG, config)
        tensors = {
            name: {**entry.described(), "file": self._shard_of[name].name, **said[name]}
            for name, entry in self.entries.items()
        }
        description = {
            "format": "tilus",
            "version": VERSION,
            "made": made,
            "files": {shard.name: shard.size for shard in self.shards},
            "tensors": tensors,
        }
        _write_json(self.folder / DESCRIPTION, description)
        for path in (*sorted(self.folder.iterdir()), self.folder):
            sync(path)
        return left


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    try:
        path.write_text(_json(value) + "\n", encoding="utf-8")
    except (TypeError, ValueError) as error:
        raise TilusValueError(f"{path.name} cannot be written as JSON: {error}") from error


def _json(value: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of the two outer levels."""
    if not isinstance(value, Mapping) or not value or depth == 2:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    indent = " " * (depth + 1)
    rows = [f"{indent}{json.dumps(str(k))}: {_json(v, depth + 1)}" for k, v in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent[1:]}}}"


def _copy_plain(source: Path, target: Path) -> list[str]:
    """Copy what belongs to a model; a sentence on each link that leads elsewhere, which is not."""
    left = []
    home = source.resolve()
    # A model in the Hugging Face cache is links to files of the same model.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    for name in COPIED:
        path = source / name
        if not path.is_file():
            continue
        if not any(path.resolve().is_relative_to(place) for place in (home, blobs)):
            left.append(f"{path} is a link out of its folder and was not copied")
            continue
        shutil.copyfile(path, target / name)
    return left
