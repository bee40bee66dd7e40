"""Models on disk: `open_checkpoint` reads safetensors folders, GGUF files and our own format."""

from __future__ import annotations

from pathlib import Path

from tilus.errors import TilusValueError
from tilus.llm.checkpoints.checkpoint import Checkpoint, TokenizerSource
from tilus.llm.checkpoints.gguf_model import GgufCheckpoint
from tilus.llm.checkpoints.limits import File
from tilus.llm.checkpoints.safetensors_folder import PICKLES, SafetensorsCheckpoint

__all__ = ["Checkpoint", "TokenizerSource", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model; only headers are read.

    Args:
        path: a folder with safetensors files, a folder that `tilus quantize` wrote, or a GGUF file.

    Raises:
        TilusValueError: the files are damaged, incomplete or of a kind that is not read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        if (place / "tilus.json").exists():
            from tilus.llm.checkpoints.tilus_format import open as open_own

            return open_own(place)
        return SafetensorsCheckpoint(place)
    file = File.at(place)
    if file.read_bytes(0, min(4, file.size)) == b"GGUF" or place.suffix == ".gguf":
        return GgufCheckpoint(file)
    if place.suffix == ".safetensors":
        raise TilusValueError(f"{place} is one of a model's files; pass the folder it is in")
    if place.suffix in PICKLES:
        raise TilusValueError(
            f"{place} is a pickle, and loading one runs whatever code it holds; pass a folder of "
            "safetensors or a GGUF file"
        )
    raise TilusValueError(f"{place} is neither a folder nor a GGUF file")
