"""Construction: what is refused, and that the canonical form is unique."""

import importlib.util
from itertools import permutations, product
from math import prod
from pathlib import Path

import pytest

from tests.layouts.strategies import meaning, prime_factors
from tilus.layouts import (
    Layout,
    LayoutError,
    SharedLayout,
    Swizzle,
    column_spatial,
    empty,
    local,
    replicated,
    spatial,
)


def ordered_factorisations(n):
    """Every way to write n as an ordered product of factors > 1."""
    if n == 1:
        yield ()
    for first in range(2, n + 1):
        if n % first == 0:
            for rest in ordered_factorisations(n // first):
                yield (first, *rest)


def spellings(shape, replication):
    """Every recipe of a shape and a replication, canonical or not."""
    for modes in product(*map(ordered_factorisations, shape)):
        count = sum(map(len, modes))
        for copies in ordered_factorisations(replication):
            names = [*range(count), *(-r for r in copies)]
            for order in permutations(names):
                for cut in range(len(names) + 1):
                    if all(name >= 0 for name in order[cut:]):
                        yield modes, order[:cut], order[cut:]


def all_layouts(limit, max_rank=2):
    """Every layout of size * replication <= limit, each once."""
    shapes = [()]
    for rank in range(1, max_rank + 1):
        shapes += [s for s in product(range(1, limit + 1), repeat=rank) if prod(s) <= limit]
    for shape in shapes:
        for replication in range(1, limit // prod(shape) + 1):
            yield from {Layout(shape, *spelling) for spelling in spellings(shape, replication)}


@pytest.mark.parametrize("shape", [(), (1,), (8,), (12,), (2, 4), (6, 2), (3, 1, 4), (2, 2, 2)])
@pytest.mark.parametrize("replication", [1, 2, 6])
def test_canonical_form_is_unique(shape, replication):
    """Over every recipe there is: one mapping, one canonical form; one form, one mapping."""
    forms = {}
    for spelling in spellings(shape, replication):
        f = Layout(shape, *spelling)
        fields = (f.modes, f.spatial, f.local)
        key = frozenset(meaning(*spelling).items())
        assert forms.setdefault(key, fields) == fields
        assert Layout(shape, *fields) == f and hash(Layout(shape, *fields)) == hash(f)
    assert len(set(forms.values())) == len(forms)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((4,), ((4,),), (), ()), "mode 0 (size 4, dimension 0) stands in neither list"),
        (((4,), ((2, 2),), (0, 0), (1,)), "mode 0 stands 2 times in the lists"),
        (((4,), ((2, 2),), (0,), (1, 2)), "mode 2 is not there: the modes are 0..1"),
        (((4,), ((2, 3),), (0,), (1,)), "dimension 0: modes (2, 3) make 6, not 4"),
        (((4, 4), ((4,),), (0,), ()), "1 groups of modes for the 2 dimensions of (4, 4)"),
        (((4,), ((4,),), (), (0, -2)), "replication (-2) is spatial"),
        (((0,), ((0,),), (0,), ()), "must be >= 1"),
        (((2.0,), ((2,),), (0,), ()), "must be >= 1"),
    ],
)
def test_a_wrong_layout_is_refused(fields, message):
    with pytest.raises(LayoutError) as error:
        Layout(*fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: replicated(0),
        lambda: spatial(4).index(4, 0),
        lambda: spatial(4).index(0, 1),
        lambda: spatial(4).index(-1, 0),
        lambda: spatial(4).threads((4,)),
        lambda: spatial(4).slot((0, 0)),
        lambda: SharedLayout((4,), ((4,),), ()),
        lambda: SharedLayout((4,), ((4,),), (-1,)),
        lambda: SharedLayout.row_major(4).offset((4,)),
        lambda: SharedLayout.row_major(4).permute((1,)),
        lambda: SharedLayout.row_major(4).unsqueeze(2),
        lambda: SharedLayout.row_major(4).with_swizzle(Swizzle(1, 0, 0)),
    ],
)
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(LayoutError):
        wrong()


def test_fields_are_canonical_and_cannot_be_changed():
    f = Layout((8, 1), ((1, 2, 4), (1,)), (1, -2, -3, -1), (2,))
    assert (f.modes, f.spatial, f.local) == (((2, 4), ()), (0, -6), (1,))
    assert f.canonical() is f and f.mode_sizes == (2, 4) and f.replication == 6
    with pytest.raises(AttributeError):
        f.shape = (1,)  # type: ignore[misc]


def test_a_product_with_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        spatial(4) * 2


def test_shape_is_part_of_the_mapping():
    assert spatial(4) != spatial(4, 1) and local(1) != empty != local(1, 1)
    assert column_spatial(4, 1) == spatial(4, 1)
    assert spatial(4) != SharedLayout.row_major(4) != spatial(4)


def test_a_swizzle_that_cannot_act_is_dropped():
    tile = SharedLayout.row_major(4, 8)
    assert tile.with_swizzle(Swizzle(2, 3, 2)).swizzle is None
    assert tile.with_swizzle(Swizzle(3, 1, 2)).swizzle == Swizzle(2, 1, 2)
    # A stride of 3 is a stride of 2 that a swizzle moves.
    swizzled = SharedLayout((2,), ((2,),), (2,), Swizzle(1, 0, 1))
    assert swizzled == SharedLayout((2,), ((2,),), (3,))


@pytest.mark.parametrize("swizzle", [Swizzle(3, 3, 3), Swizzle(2, 1, 1), Swizzle(1, 0, 4)])
def test_a_swizzle_keeps_its_promises(swizzle):
    for start in range(0, 4 * swizzle.period, swizzle.block):
        block = [*range(start, start + swizzle.block)]
        assert sorted(map(swizzle, block)) == block
    for x in range(2 * swizzle.period):
        assert swizzle(x + swizzle.period) == swizzle(x) + swizzle.period
        assert swizzle(x) % (1 << swizzle.base) == x % (1 << swizzle.base)


def test_the_package_refuses_its_bare_name():
    path = Path(__file__).parents[2] / "tilus" / "layouts" / "__init__.py"
    spec = importlib.util.spec_from_file_location("layouts", path)
    with pytest.raises(ImportError, match=r"as tilus\.layouts, not as layouts"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_prime_factors_of_the_oracle():
    assert prime_factors(360) == [2, 2, 2, 3, 3, 5]
