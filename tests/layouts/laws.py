"""The laws of the layouts, each a check on drawn examples against the enumerated oracle.

``test_laws.py`` tries every one of them; ``test_mutations.py`` shows that they catch mistakes.
"""

from itertools import combinations, pairwise, product
from math import prod

import pytest
from hypothesis import strategies as st

import tilus.layouts as tl
from tests.layouts.strategies import (
    POWERS,
    factorisation,
    holders,
    layouts,
    layouts_of,
    mapping,
    meaning,
    owners,
    padded_accesses,
    partners,
    prime_factors,
    primitives,
    recipes,
    respelled,
    ser,
    shared_layouts,
    shared_recipes,
    small,
    stored,
    tiny_shared,
    warp_accesses,
)
from tilus.layouts import ConversionKind, Layout, LayoutError, SharedLayout, draw

LAWS = {}


def law(*strategies):
    """Enter a check under its name, with what it is tried on."""

    def enter(check):
        LAWS[check.__name__] = (strategies, check)
        return check

    return enter


def dims_of(f, data, **limits):
    """Some distinct dimensions of a layout."""
    if not f.rank:
        return ()
    return tuple(data.draw(st.lists(st.integers(0, f.rank - 1), unique=True, **limits)))


# -- meaning and equality ----------------------------------------------------------------------


@law(recipes())
def meaning_is_the_definition(recipe):
    f = Layout(*recipe)
    expected = meaning(*recipe[1:])
    assert len(expected) == f.num_threads * f.num_slots == f.size * f.replication
    assert {place: f.index(*place) for place in expected} == expected
    assert f.is_replicated == (f.replication > 1)
    for index, places in holders(f).items():
        assert f.threads(index) == tuple(sorted({t for t, _ in places}))
        assert {slot for _, slot in places} == {f.slot(index)}


@law(recipes(), st.data())
def equal_mappings_are_equal(recipe, data):
    f = Layout(*recipe)
    g = Layout(*data.draw(respelled(recipe)))
    assert f == g and hash(f) == hash(g) and f.canonical() == g.canonical()
    assert (f.modes, f.spatial, f.local) == (g.modes, g.spatial, g.local)


@law(recipes(max_modes=4), st.data())
def unequal_mappings_differ(recipe, data):
    shape, modes, threads, slots = recipe
    names = data.draw(st.permutations([*threads, *slots]))
    moved = [name for name in names if name < 0 or data.draw(st.booleans())]
    g = Layout(shape, modes, moved, [name for name in names if name not in moved])
    f = Layout(*recipe)
    assert (f == g) == (mapping(f) == mapping(g))


# -- product and division ----------------------------------------------------------------------


@law(small(), small())
def product_is_the_formula(f, g):
    h = f * g
    rank = max(f.rank, g.rank)
    outer, inner = mapping(f), mapping(g)
    g_shape = (1,) * (rank - g.rank) + g.shape

    def padded(index):
        return (0,) * (rank - len(index)) + index

    for (t, s), index in mapping(h).items():
        i = padded(outer[t // g.num_threads, s // g.num_slots])
        j = padded(inner[t % g.num_threads, s % g.num_slots])
        assert index == tuple(a * n + b for a, n, b in zip(i, g_shape, j, strict=True))
    assert h.num_threads == f.num_threads * g.num_threads
    assert h.num_slots == f.num_slots * g.num_slots


@law(small(), small(), small())
def product_is_associative(f, g, h):
    assert (f * g) * h == f * (g * h)


@law(layouts())
def empty_is_the_unit(f):
    assert f * tl.empty == f == tl.empty * f


@law(layouts(max_modes=3), layouts(max_modes=3))
def division_undoes_the_product(f, g):
    h = f * g
    lifted = (1,) * (h.rank - f.rank) + f.shape, (1,) * (h.rank - g.rank) + g.shape
    q = tl.divide_right(h, g)
    assert q is not None and q * g == h and q.shape == lifted[0]
    assert f.rank < h.rank or q == f
    q = tl.divide_left(h, f)
    assert q is not None and f * q == h and q.shape == lifted[1]
    assert g.rank < h.rank or q == g


@law(small(), partners())
def division_is_sound(f, pair):
    """Only g itself divides f * g, of all layouts with its shape and its threads."""
    g, other = pair
    q = tl.divide_right(f * g, other)
    assert (q is None) == (g != other) and (q is None or q * other == f * g)
    q = tl.divide_left(g * f, other)
    assert (q is None) == (g != other) and (q is None or other * q == g * f)


@law(small(), small())
def division_finds_products_only(h, g):
    q = tl.divide_right(h, g)
    assert q is None or q * g == h
    q = tl.divide_left(h, g)
    assert q is None or g * q == h


# -- dimensions --------------------------------------------------------------------------------


@law(layouts(), st.data())
def permute_moves_dimensions(f, data):
    perm = data.draw(st.permutations(range(f.rank)))
    g = tl.permute(f, perm)
    assert g.shape == tuple(f.shape[old] for old in perm)
    expected = {place: tuple(index[old] for old in perm) for place, index in mapping(f).items()}
    assert mapping(g) == expected


@law(layouts(), st.data())
def squeeze_undoes_unsqueeze(f, data):
    new = data.draw(st.lists(st.integers(0, f.rank + 1), unique=True, max_size=2))
    new = [dim for dim in new if dim < f.rank + len(new)]
    g = tl.unsqueeze(f, new)
    assert all(g.shape[dim] == 1 for dim in new)
    for place, index in mapping(g).items():
        assert f.index(*place) == tuple(i for dim, i in enumerate(index) if dim not in new)
    assert tl.squeeze(g, new) == f


@law(st.lists(st.sampled_from((1, 2, 2, 3, 4, 5)), max_size=5), st.data())
def reshape_keeps_row_major_order(sizes, data):
    """Any regrouping of the modes is found, and undone."""
    order = data.draw(st.permutations(range(len(sizes))))
    cut = data.draw(st.integers(0, len(sizes)))

    def grouped():
        places = st.lists(st.integers(0, len(sizes)), max_size=3).map(sorted)
        bounds = [0, *data.draw(places), len(sizes)]
        return tuple(tuple(sizes[a:b]) for a, b in pairwise(bounds))

    def made(modes):
        return Layout(tl.local(*map(prod, modes)).shape, modes, order[:cut], order[cut:])

    f, g = made(grouped()), made(grouped())
    assert tl.reshape(f, g.shape) == g
    assert tl.reshape(g, f.shape) == f


@law(st.integers(1, 64), st.data())
def reshape_of_a_primitive_is_one(size, data):
    old, new = data.draw(factorisation(size)), data.draw(factorisation(size))
    for primitive in (tl.local, tl.spatial):
        assert tl.reshape(primitive(*old), new) == primitive(*new)


@law(layouts() | layouts(1, (2, 3), max_modes=4), st.data())
def reshape_is_sound(f, data):
    primes = data.draw(st.permutations(prime_factors(f.size)))
    bounds = [0, *sorted(data.draw(st.lists(st.integers(0, len(primes)), max_size=2))), len(primes)]
    shape = tuple(prod(primes[a:b]) for a, b in pairwise(bounds))
    try:
        g = tl.reshape(f, shape)
    except LayoutError as error:
        assert "cannot be written" in str(error)
        return
    assert g.shape == shape
    for place, index in mapping(g).items():
        assert ser(index, shape) == ser(f.index(*place), f.shape)


@law(small(), small())
def concat_appends_dimensions(f, g):
    h = tl.concat(f, g)
    outer, inner = mapping(f), mapping(g)
    for (t, s), index in mapping(h).items():
        i = outer[t // g.num_threads, s // g.num_slots]
        assert index == i + inner[t % g.num_threads, s % g.num_slots]


# -- growing and shrinking ---------------------------------------------------------------------


@law(layouts(), st.data())
def reduce_leaves_all_who_took_part(f, data):
    dims = dims_of(f, data)
    g = tl.reduce(f, dims, keepdims=True)
    assert tl.reduce(f, dims) == tl.squeeze(g, dims)
    assert g.num_threads == f.num_threads
    expected = {}
    for index, threads in owners(f).items():
        kept = tuple(0 if dim in dims else i for dim, i in enumerate(index))
        expected[kept] = expected.get(kept, set()) | threads
    assert owners(g) == expected
    # The slots that remain keep their order.
    slots = [g.index(0, slot) for slot in range(g.num_slots)]
    first = [f.slot(index) for index in slots]
    assert first == sorted(first)


@law(layouts(), st.data())
def broadcast_repeats_the_slots(f, data):
    extra = data.draw(st.integers(0, 1))
    lifted = (1,) * extra + f.shape
    shape = tuple(n if n > 1 else data.draw(st.sampled_from((1, 2, 3))) for n in lifted)
    g = tl.broadcast(f, shape)
    assert g.shape == shape and g.num_threads == f.num_threads
    for (t, s), index in mapping(g).items():
        folded = tuple(min(i, n - 1) for i, n in zip(index, lifted, strict=True))[extra:]
        assert f.index(t, s % f.num_slots) == folded
    grown = [dim for dim, n in enumerate(lifted) if n == 1][:1]
    for dim in grown if not extra else ():
        assert tl.expand(f, dim, 3) == tl.broadcast(f, (*f.shape[:dim], 3, *f.shape[dim + 1 :]))


@law(layouts(), st.integers(1, 3), st.data())
def join_lays_tiles_side_by_side(f, count, data):
    if not f.rank:
        return
    dim = data.draw(st.integers(0, f.rank - 1))
    g = tl.join(f, dim, count)
    for (t, s), index in mapping(g).items():
        tile, slot = divmod(s, f.num_slots)
        inside = list(f.index(t, slot))
        inside[dim] += tile * f.shape[dim]
        assert index == tuple(inside)


@law(layouts(), st.data())
def slice_is_there_exactly_when_all_keep_the_same_slots(f, data):
    starts, shape = [], []
    for extent in f.shape:
        start = data.draw(st.integers(0, extent - 1))
        starts.append(start)
        shape.append(data.draw(st.integers(1, extent - start)))
    kept = {t: set() for t in range(f.num_threads)}
    for (t, s), index in mapping(f).items():
        if all(a <= i < a + n for i, a, n in zip(index, starts, shape, strict=True)):
            kept[t].add(s)
    if any(slots != kept[0] for slots in kept.values()):
        with pytest.raises(LayoutError, match="cuts the threads"):
            tl.slice_(f, starts, shape)
        return
    g, slots = tl.slice_(f, starts, shape)
    assert g.shape == tuple(shape) and sorted(slots) == sorted(kept[0])
    for (t, s), index in mapping(g).items():
        assert f.index(t, slots[s]) == tuple(i + a for i, a in zip(index, starts, strict=True))


# -- ownership and conversion ------------------------------------------------------------------


@law(partners() | partners((2, 3)))
def owns_compares_the_owners(pair):
    a, b = pair
    of_a = owners(a)
    assert tl.owns(a, b) == all(threads <= of_a[i] for i, threads in owners(b).items())


@law(partners(), st.sampled_from((1, 2, 3, 4, 8, 32)))
def conversion_is_right_and_cheapest(pair, warp):
    src, dst = pair
    found = tl.classify(src, dst, warp)
    wanted, held = mapping(dst), holders(src)
    own, same_warp, slot_of = True, True, {}
    for (t, s), index in wanted.items():
        source, slot = found.source(t, s)
        assert (source, slot) in held[index]
        threads = {thread for thread, _ in held[index]}
        own &= t in threads
        assert t not in threads or source == t
        same_warp &= any(thread // warp == t // warp for thread in threads)
        slot_of.setdefault(s, set()).add(slot)
    if own and all(len(slots) == 1 for slots in slot_of.values()):
        assert found.kind is ConversionKind.RENAME
        assert found.slots == tuple(slot_of[s].copy().pop() for s in range(dst.num_slots))
    else:
        assert found.kind is (ConversionKind.SHUFFLE if same_warp else ConversionKind.SHARED)
    for s in range(dst.num_slots):
        assert found.source_slots(s) == tuple(sorted(slot_of[s]))
    assert found.crosses_lanes == (not own)
    shuffles = sum(map(len, slot_of.values()))
    expected = shuffles if found.kind is ConversionKind.SHUFFLE and not own else 0
    assert found.num_shuffles == expected


@law(partners(POWERS), st.sampled_from((1, 4, 32)))
def powers_of_two_convert_by_terms(pair, warp):
    assert tl.classify(*pair, warp).thread_terms is not None


# -- memory ------------------------------------------------------------------------------------


@law(shared_recipes())
def shared_layout_is_the_definition(recipe):
    shared = SharedLayout(*recipe)
    shape, modes, strides, swizzle = recipe
    offsets = {}
    for digits in product(*[range(size) for factors in modes for size in factors]):
        rest, index = list(digits), []
        for factors in modes:
            index.append(ser(rest[: len(factors)], factors))
            rest = rest[len(factors) :]
        x = sum(d * stride for d, stride in zip(digits, strides, strict=True))
        if swizzle:
            bits, base, shift = swizzle
            x ^= x >> shift & ((1 << bits) - 1 << base)
        offsets[tuple(index)] = x
    assert shared.shape == shape
    assert {index: shared.offset(index) for index in offsets} == offsets
    assert max(offsets.values()) < shared.cosize
    assert shared.is_injective == (len(set(offsets.values())) == shared.size)


@law(shared_layouts(), st.integers(1, 3), st.data())
def shared_operations_keep_the_offsets(shared, count, data):
    perm = data.draw(st.permutations(range(shared.rank)))
    dim = data.draw(st.integers(0, shared.rank))
    ring, moved, wide = shared.prepend(count), shared.permute(perm), shared.unsqueeze(dim)
    stage = ring.offset((1, *(0,) * shared.rank)) if count > 1 else 0
    assert count == 1 or stage >= shared.cosize
    for index in tl.local(*shared.shape).indices():
        offset = shared.offset(index)
        assert moved.offset(tuple(index[old] for old in perm)) == offset
        assert wide.offset((*index[:dim], 0, *index[dim:])) == offset
        for k in range(count):
            assert ring.offset((k, *index)) == k * stage + offset


@law(st.lists(tiny_shared(), max_size=8))
def shared_layouts_are_equal_as_mappings(tiles):
    for a, b in combinations(tiles, 2):
        same = all(a.offset(i) == b.offset(i) for i in tl.local(*a.shape).indices())
        assert (a == b) == same and (not same or hash(a) == hash(b))


@law(stored(), st.sampled_from((1, 3, 4, 8, 16, 32)))
def vector_width_is_sound(pair, bits):
    f, shared = pair
    width = tl.vector_width(f, shared, bits)
    assert width == 1 or (width * bits in (8, 16, 32, 64, 128) and moves(f, shared, width))


@law(stored(POWERS), st.sampled_from((1, 4, 8, 16, 32)), st.sampled_from((4, 16, 64)))
def vector_width_is_the_largest(pair, bits, most):
    f, shared = pair
    widths = [w for w in (2**k for k in range(10)) if 8 <= w * bits <= 8 * most]
    expected = max((w for w in widths if moves(f, shared, w)), default=1)
    assert tl.vector_width(f, shared, bits, max_bytes=most) == expected


@law(layouts_of(12), st.permutations((2, 2, 3)), st.integers(1, 3))
def vector_width_is_sound_where_sizes_cross(f, primes, count):
    """Twelve elements in registers, and in memory in modes that do not divide those."""
    modes = (*primes[: count - 1], prod(primes[count - 1 :]))
    for strides in product((1, 2, 3, 4, 8), repeat=count):
        shared = SharedLayout((12,), (modes,), strides)
        assert moves(f, shared, tl.vector_width(f, shared, 8))


def moves(f, shared, width):
    """Whether every thread's slots lie consecutive and aligned in groups of ``width``."""
    if f.num_slots % width:
        return False
    for t in range(f.num_threads):
        offsets = [shared.offset(f.index(t, s)) for s in range(f.num_slots)]
        for k in range(0, len(offsets), width):
            if offsets[k] % width or offsets[k : k + width] != [
                *range(offsets[k], offsets[k] + width)
            ]:
                return False
    return True


@law(partners(POWERS), st.sampled_from((4, 8, 16, 32, 64)))
def an_exchange_has_no_conflicts(pair, bits):
    tile = tl.exchange_tile(*pair, bits)
    assert tile.is_injective and tile.cosize == tile.size
    for f in pair:
        assert counted_conflicts(f, tile, bits, tl.vector_width(f, tile, bits)) == 1


@law(layouts(), st.data())
def contiguous_run_is_the_largest(f, data):
    if not f.rank:
        return
    dim = data.draw(st.integers(0, f.rank - 1))
    held = mapping(f)

    def runs(n):
        return f.num_slots % n == 0 and all(
            held[t, k][dim] % n == 0
            and all(
                held[t, k + j] == (*held[t, k][:dim], held[t, k][dim] + j, *held[t, k][dim + 1 :])
                for j in range(n)
            )
            for t in range(f.num_threads)
            for k in range(0, f.num_slots, n)
        )

    assert tl.contiguous_run(f, dim) == max(n for n in range(1, f.num_slots + 1) if runs(n))


def counted_conflicts(f, shared, bits, width):
    """The degree of the worst phase: 32 lanes, 16 of 8 bytes, 8 of 16 bytes."""
    lanes = {64: 16, 128: 8}.get(width * bits, 32)
    worst = 0
    for warp in range(0, f.num_threads, 32):
        for first in range(warp, min(warp + 32, f.num_threads), lanes):
            for slot in range(0, f.num_slots, width):
                words = set()
                for t in range(first, min(first + lanes, warp + 32, f.num_threads)):
                    for j in range(width):
                        start = shared.offset(f.index(t, slot + j)) * bits
                        words |= {bit // 32 for bit in range(start, start + bits)}
                banks = [word % 32 for word in words]
                worst = max(worst, *map(banks.count, banks))
    return worst


@law(stored() | padded_accesses(), st.sampled_from((4, 8, 16, 32, 64)))
def bank_conflicts_are_counted(pair, bits):
    f, shared = pair
    width = tl.vector_width(f, shared, bits)
    assert tl.bank_conflicts(f, shared, bits) == counted_conflicts(f, shared, bits, width)


@law(stored(POWERS), st.sampled_from((4, 8, 16, 32, 64)))
def bank_conflicts_are_proved(pair, bits):
    bank_conflicts_are_counted(pair, bits)


@law(warp_accesses(), st.sampled_from((8, 16, 32)))
def a_found_swizzle_is_no_worse(case, bits):
    plain, *accesses = case
    found = tl.find_swizzle(plain, accesses, bits)
    assert found.with_swizzle(None) == plain
    widths = [tl.vector_width(f, plain, bits) for f in accesses]
    assert [tl.vector_width(f, found, bits) for f in accesses] == widths
    before, after = (
        sum(counted_conflicts(f, tile, bits, n) for f, n in zip(accesses, widths, strict=True))
        for tile in (plain, found)
    )
    assert after <= before and (after < before or found == plain)


# -- bit matrices ------------------------------------------------------------------------------


@law(layouts(sizes=POWERS))
def linear_form_has_the_same_meaning(f):
    linear = tl.to_linear(f)
    for (t, s), index in mapping(f).items():
        assert linear.index(t, s) == ser(index, f.shape)
    assert tl.from_linear(linear) == f
    assert linear.threads.rank == (f.num_threads // f.replication).bit_length() - 1


@law(st.integers(0, 6), st.data())
def matrices_invert_and_compose(size, data):
    m = tl.BitMatrix.identity(size)
    for _ in range(data.draw(st.integers(0, 12)) if size > 1 else 0):
        a, b = data.draw(st.permutations(range(size)))[:2]
        step = [1 << k for k in range(size)]
        step[a] |= 1 << b
        m = m @ tl.BitMatrix(size, tuple(step))
    assert m.rank == size and m.inverse() @ m == m @ m.inverse() == tl.BitMatrix.identity(size)
    columns = tuple(data.draw(st.lists(st.integers(0, 63), max_size=5)))
    any_matrix = tl.BitMatrix(6, columns)
    values = {any_matrix(x) for x in range(1 << len(columns))}
    assert len(values) == 2**any_matrix.rank


@law(partners(POWERS))
def conversion_is_composition(pair):
    """Without replication the source of (thread, slot) is inverse(src) @ dst."""
    src, dst = pair
    if src.is_replicated or dst.is_replicated:
        return
    there, here = tl.to_linear(src), tl.to_linear(dst)
    source = there.threads.beside(there.slots).inverse() @ here.threads.beside(here.slots)
    found = tl.classify(src, dst)
    for t, s in mapping(dst):
        number = source(s * dst.num_threads + t)
        assert found.source(t, s) == (number % src.num_threads, number // src.num_threads)


@law(recipes(sizes=POWERS).flatmap(lambda recipe: shared_layouts(recipe[0], padded=False)))
def shared_matrix_has_the_same_offsets(shared):
    matrix = tl.shared_to_linear(shared)
    assert matrix is not None
    for index in tl.local(*shared.shape).indices():
        assert matrix(ser(index, shared.shape)) == shared.offset(index)


# -- text and pictures -------------------------------------------------------------------------


@law(layouts())
def text_reads_back(f):
    assert tl.parse_layout(str(f)) == f == tl.parse_layout(f" {f} ".replace(",", " , "))


@law(st.integers(1, 3).flatmap(lambda rank: st.lists(primitives(rank), min_size=1, max_size=5)))
def text_is_a_shortest_product(factors):
    f = tl.empty
    for factor in factors:
        f = f * factor
    text = str(f)
    assert "layout(" not in text and text.count("*") < len(factors) + (f.size == 1)
    assert tl.parse_layout(text) == f


@law(shared_layouts())
def shared_text_reads_back(shared):
    assert tl.parse_shared_layout(str(shared)) == shared


@law(layouts(max_modes=3))
def table_shows_every_element(f):
    cells = [
        cell for line in draw.table(f).splitlines()[3:] for cell in line.split() if ":" in cell
    ]
    shown = [cell for cell in cells if cell.startswith("t")]
    expected = [
        f"{draw.threads_text(sorted({t for t, _ in places}))}:{next(iter(places))[1]}"
        for _, places in sorted(holders(f).items())
    ]
    assert shown == expected


__all__ = ["LAWS", "SharedLayout", "counted_conflicts"]
