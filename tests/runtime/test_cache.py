"""The disk cache: keyed by all that matters, never half an entry, never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tilus
from tilus import f32, i32
from tilus.options import options
from tilus.runtime import cache, program


@tilus.jit
def double(x: tilus.ptr[f32], n: i32, BLOCK: tilus.constexpr):
    X = tilus.global_view(x, f32, (n,))
    at = (tilus.block_idx(0) * BLOCK,)
    tilus.store_global(X, tilus.load_global(X, at, (BLOCK,)) * 2.0, at)


@pytest.fixture
def folder(tmp_path: Path):
    program._team()  # which has an entry of its own
    with options.scope(cache_dir=tmp_path):
        cache._warn.cache_clear()
        double.forget()
        yield tmp_path


def launch() -> None:
    double.forget()
    x = torch.arange(40, dtype=torch.float32)
    double[(2,)](x, 40, BLOCK=32)
    assert torch.equal(x, torch.arange(40) * 2.0)


def entries(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_one_entry_is_made_and_used(folder: Path) -> None:
    launch()
    (entry,) = entries(folder)
    before = entry.stat().st_mtime_ns
    launch()
    assert entries(folder) == [entry] and entry.stat().st_mtime_ns == before
    with options.scope(cache_dir=folder, always_compile=True):
        launch()
    assert entries(folder) == [entry] and entry.stat().st_mtime_ns > before


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_entry_is_made_again(folder: Path, damage: bytes | None) -> None:
    launch()
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    launch()
    assert entry.read_bytes()[:14] == cache.MAGIC and len(entry.read_bytes()) == len(whole)


def test_keys_differ_by_every_part_and_by_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {cache.key(p) for p in (("a", "b"), ("ab", ""), ("a",), ("b", "a"))}
    monkeypatch.setattr(cache, "source_hash", lambda: "other")
    keys.add(cache.key(("a", "b")))
    assert len(keys) == 5


def test_a_folder_that_cannot_be_written_to_is_said_once(folder: Path) -> None:
    blocked = folder / "file"
    blocked.write_text("not a folder")
    with options.scope(cache_dir=blocked):
        with pytest.warns(RuntimeWarning, match="cannot be kept in .*TILUS_CACHE_DIR"):
            launch()
        launch()  # without a second warning, which would be an error here
    assert os.listdir(folder) == ["file"]
