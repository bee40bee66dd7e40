"""Native code on disk: used again only where nothing it was made from has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tilus
from tilus import f32, i32
from tilus.errors import Trap
from tilus.lang.jit import JitFunction
from tilus.options import options
from tilus.runtime import program

FACTOR = 3.0
NAMES = {"a": 1}


@tilus.jit
def scaled(x):
    return x * FACTOR


@tilus.jit
def work(x: tilus.ptr[f32], n: i32, BLOCK: tilus.constexpr):
    """x = 3 x, for even n."""
    tilus.device_assert(n % 2 == 0, "n is odd")
    X = tilus.global_view(x, f32, (n,))
    at = (tilus.block_idx(0) * BLOCK,)
    tilus.store_global(X, scaled(tilus.load_global(X, at, (BLOCK,))), at)


@tilus.jit
def with_object(x: tilus.ptr[f32], WHAT: tilus.constexpr):
    X = tilus.global_view(x, f32, (4,))
    tilus.store_global(X, tilus.full(f32, (4,), WHAT.value), (0,))


@tilus.jit
def with_dictionary(x: tilus.ptr[f32]):
    X = tilus.global_view(x, f32, (4,))
    tilus.store_global(X, tilus.full(f32, (4,), NAMES["a"]), (0,))


@pytest.fixture(autouse=True)
def translations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels that were translated; the disk begins empty."""
    program._team()
    seen: list[str] = []
    translate = JitFunction.translate

    def counted(self: Any, *args: Any) -> Any:
        seen.append(self.__name__)
        return translate(self, *args)

    monkeypatch.setattr(JitFunction, "translate", counted)
    with options.scope(cache_dir=tmp_path):
        yield seen


def run(n: int = 64) -> torch.Tensor:
    work.forget()
    x = torch.ones(n)
    work[(2,)](x, n, BLOCK=32)
    return x


def test_read_without_translating(translations: list[str]) -> None:
    assert (run() == 3).all() and (run() == 3).all()
    assert translations == ["work"]
    with options.scope(always_compile=True):
        run()
    assert translations == ["work"] * 2


def test_specialised_apart(translations: list[str]) -> None:
    for n in (64, 62, 64, 62):
        assert (run(n) == 3).all()
    assert translations == ["work"] * 2


def test_a_changed_global_counts(translations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    assert (run() == 5).all() and (run() == 5).all()
    assert translations == ["work"] * 2
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert (run() == 3).all()


def test_a_global_changed_after_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    run()  # from disk, so that the list of globals is, too
    monkeypatch.setitem(globals(), "FACTOR", 7.0)
    x = torch.ones(64)
    work[(2,)](x, 64, BLOCK=32)
    assert (x == 7).all()


def test_another_helper_counts(translations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run()

    @tilus.jit
    def other(x):
        return x + 10.0

    monkeypatch.setitem(globals(), "scaled", other)
    assert (run() == 11).all() and translations == ["work"] * 2


def test_faults_are_kept_with_their_place() -> None:
    found = []
    for _ in range(2):
        with pytest.raises(Trap, match="n is odd") as caught:
            run(63)
        found.append(str(caught.value))
    assert found[0] == found[1] and "test_kept.py" in found[0]


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_objects_of_the_user_are_never_trusted(translations: list[str], value: float) -> None:
    """Their class could change while their text does not."""

    @dataclasses.dataclass(frozen=True)
    class What:
        @property
        def value(self) -> float:
            return value

    for _ in range(2):
        with_object.forget()
        x = torch.zeros(4)
        with_object[1](x, WHAT=What())
        assert (x == value).all()
    assert translations == ["with_object"] * 2


def test_nor_is_what_has_no_text(translations: list[str]) -> None:
    for value in (1, 2):
        NAMES["a"] = value
        with_dictionary.forget()
        x = torch.zeros(4)
        with_dictionary[1](x)
        assert (x == value).all()
    assert translations == ["with_dictionary"] * 2


def test_a_damaged_entry_is_made_again(translations: list[str], tmp_path: Path) -> None:
    run()
    (entry,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    assert (run() == 3).all() and translations == ["work"] * 2
