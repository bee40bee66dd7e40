"""Folders as Hugging Face models come in: config.json, safetensors files, tokenizer files.

The tensors are in model.safetensors, in the files that model.safetensors.index.json names, or in
the folder's only safetensors file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.checkpoint import Checkpoint, TokenizerSource
from tilus.llm.checkpoints.limits import listed, read_json, shown
from tilus.llm.checkpoints.safetensors_file import SafetensorsFile

FLOATS = ("F32", "F16", "BF16")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class SafetensorsCheckpoint(Checkpoint):
    """A model in a folder, its tensors f32, f16 or bf16."""

    format = "safetensors"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owner = _tensors(folder)
        self.names = list(self._owner)
        self.config = read_json(folder / "config.json")
        self.tokenizer = TokenizerSource(folder=folder)
        self._check_types()

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a tensor."""
        return self._file(name).entries[name].shape

    def stored(self, name: str) -> tuple[str, int]:
        """A tensor's type in the file, and its bytes there."""
        entry = self._file(name).entries[name]
        return entry.dtype.lower(), entry.nbytes

    def load(self, name: str) -> torch.Tensor:
        """A tensor in the type it is stored in."""
        return self._file(name).load(name)

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._owner:
            raise TilusValueError(f"{self.folder} has no tensor {shown(name)}")
        return self._owner[name]

    def _check_types(self) -> None:
        others = {
            name: kind
            for name, file in self._owner.items()
            if (kind := file.entries[name].dtype) not in FLOATS
        }
        if not others:
            return
        kinds = ", ".join(sorted(set(others.values())))
        how = self.config.get("quantization_config")
        method = how.get("quant_method") if isinstance(how, dict) else None
        made = f" (quantised with {shown(method)})" if method else ""
        raise TilusValueError(
            f"{self.folder}{made} has tensors of type {kinds}: {listed(others)}; only "
            f"{', '.join(FLOATS)} are read, so pass the model before it was quantised"
        )


def _tensors(folder: Path) -> dict[str, SafetensorsFile]:
    """The file of each tensor."""
    try:
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise TilusValueError(f"{folder} cannot be read: {error.strerror}") from error
    files = [name for name in found if name.endswith(".safetensors")]
    if SINGLE not in found and INDEX in found:
        return _sharded(folder)
    if SINGLE in found or len(files) == 1:
        file = SafetensorsFile(folder / (SINGLE if SINGLE in found else files[0]))
        if not file.entries:
            raise TilusValueError(f"{file.file.path} holds no tensors")
        return dict.fromkeys(file.entries, file)
    if files:
        raise TilusValueError(f"{folder} has {len(files)} safetensors files but no {INDEX}")
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles:
        raise TilusValueError(
            f"{folder} only has {listed(pickles)}: loading a pickle runs whatever code it holds, "
            "so none is read; convert it with transformers' save_pretrained, which writes "
            "safetensors"
        )
    ggufs = [name for name in found if name.endswith(".gguf")]
    if ggufs:
        raise TilusValueError(f"{folder} is a folder; pass the file itself: {listed(ggufs)}")
    raise TilusValueError(f"{folder} holds no model: it has no *.safetensors file")


def _sharded(folder: Path) -> dict[str, SafetensorsFile]:
    index = folder / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise TilusValueError(f"{index} has no weight_map from tensors to files")
    for name in places.values():
        if not _is_plain(name):
            raise TilusValueError(
                f"{index} names the file {shown(name)}; files are *.safetensors beside it"
            )
    shards = sorted(set(places.values()))
    missing = [name for name in shards if not (folder / name).exists()]
    if missing:
        raise TilusValueError(
            f"{folder} lacks {len(missing)} of {len(shards)} files: {listed(missing)}; download "
            "them again"
        )
    owner: dict[str, SafetensorsFile] = {}
    for shard in shards:
        file = SafetensorsFile(folder / shard)
        if twice := owner.keys() & file.entries.keys():
            raise TilusValueError(
                f"{file.file.path} holds tensors of another file: {listed(twice)}"
            )
        owner |= dict.fromkeys(file.entries, file)
    _compare(index, places, {name: file.file.path.name for name, file in owner.items()})
    return owner


def _is_plain(name: Any) -> bool:
    """Whether a name from an index is that of a safetensors file in the same folder."""
    if not isinstance(name, str) or not name.endswith(".safetensors"):
        return False
    return not any(c in "/\\:" or not c.isprintable() for c in name)


def _compare(index: Path, wanted: dict[str, str], found: dict[str, str]) -> None:
    """Refuse files that hold other tensors than their index says."""
    if wanted == found:
        return
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    moved = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    parts = [
        f"{what} {listed(names)}"
        for what, names in (("missing", missing), ("extra", extra), ("in another file", moved))
        if names
    ]
    raise TilusValueError(f"{index} and its files disagree: {'; '.join(parts)}")
