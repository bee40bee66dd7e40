"""Layouts to try the laws on, and what each means by plain enumeration (the oracle)."""

from collections import defaultdict
from itertools import product
from math import prod

from hypothesis import assume
from hypothesis import strategies as st

from tilus.layouts import (
    Layout,
    SharedLayout,
    Swizzle,
    column_local,
    column_spatial,
    local,
    replicated,
    spatial,
)

LIMIT = 4096  # threads times slots of what is enumerated
SIZES = (1, 2, 2, 2, 3, 3, 4, 5, 6, 8)
POWERS = (1, 2, 2, 4, 8)


# -- the oracle: the definition, digit by digit, sharing no code with the package --------------


def meaning(modes, spatial_modes, local_modes):
    """{(thread, slot): index} for the fields of a layout, canonical or not."""
    sizes = [size for factors in modes for size in factors]

    def counted(names):
        ranges = [range(-name if name < 0 else sizes[name]) for name in names]
        return [dict(zip(names, digits, strict=True)) for digits in product(*ranges)]

    def counted_threads():  # like `counted`, but equal replication entries must not collide
        ranges = [range(-name if name < 0 else sizes[name]) for name in spatial_modes]
        for digits in product(*ranges):
            pairs = zip(spatial_modes, digits, strict=True)
            yield {name: digit for name, digit in pairs if name >= 0}

    slots = counted(local_modes)
    found = {}
    for t, thread_digits in enumerate(counted_threads()):
        for s, slot_digits in enumerate(slots):
            digits = thread_digits | slot_digits
            index, mode = [], 0
            for factors in modes:
                i = 0
                for size in factors:
                    i = i * size + digits.get(mode, 0)
                    mode += 1
                index.append(i)
            found[t, s] = tuple(index)
    return found


def mapping(f):
    """{(thread, slot): index} of a layout."""
    return meaning(f.modes, f.spatial, f.local)


def holders(f):
    """{index: set of (thread, slot)} of a layout."""
    found = defaultdict(set)
    for place, index in mapping(f).items():
        found[index].add(place)
    return dict(found)


def owners(f):
    """{index: set of threads} of a layout."""
    return {index: {t for t, _ in places} for index, places in holders(f).items()}


def ser(index, shape):
    """The row-major number of an index."""
    number = 0
    for i, extent in zip(index, shape, strict=True):
        number = number * extent + i
    return number


# -- strategies --------------------------------------------------------------------------------


@st.composite
def recipes(draw, rank=None, sizes=SIZES, replicas=True, max_modes=5):
    """(shape, modes, spatial, local), not canonical: ones, neighbours, several replications."""
    rank = draw(st.integers(0, 3)) if rank is None else rank
    count = draw(st.integers(0, max_modes)) if rank else 0
    modes = [[] for _ in range(rank)]
    for _ in range(count):
        modes[draw(st.integers(0, rank - 1))].append(draw(st.sampled_from(sizes)))
    order = draw(st.permutations(range(count)))
    threads = draw(st.integers(0, count))
    names = list(order[:threads])
    if replicas:
        for r in draw(st.lists(st.sampled_from(sizes[:6]), max_size=2)):
            names.insert(draw(st.integers(0, len(names))), -r)
    held = prod(prod(factors) for factors in modes) * prod(-n for n in names if n < 0)
    assume(held <= LIMIT)
    shape = tuple(prod(factors) for factors in modes)
    return shape, tuple(map(tuple, modes)), tuple(names), tuple(order[threads:])


def layouts(rank=None, sizes=SIZES, replicas=True, max_modes=5):
    """Layouts of any kind; small ones where several are multiplied (``max_modes=3``)."""
    return recipes(rank, sizes, replicas, max_modes).map(lambda recipe: Layout(*recipe))


def small(rank=None):
    """Layouts of which three can be multiplied and still enumerated."""
    return recipes(rank, (1, 2, 2, 3, 4), True, 2).map(lambda recipe: Layout(*recipe))


@st.composite
def respelled(draw, recipe):
    """Another recipe of the same mapping: modes and replications split, ones put in."""
    shape, modes, threads, slots = recipe
    split = {}  # old mode -> its parts, as (number, size)
    new_modes, number = [], 0
    for mode, (dim, size) in enumerate((d, s) for d, fs in enumerate(modes) for s in fs):
        parts = draw(factorisation(size))
        split[mode] = list(range(number, number + len(parts)))
        number += len(parts)
        while len(new_modes) <= dim:
            new_modes.append([])
        new_modes[dim] += parts
    new_modes += [[] for _ in range(len(modes) - len(new_modes))]

    def names(old):
        found = []
        for name in old:
            parts = split[name] if name >= 0 else [-r for r in draw(factorisation(-name))]
            found += parts
        return tuple(found)

    return shape, tuple(map(tuple, new_modes)), names(threads), names(slots)


@st.composite
def factorisation(draw, size):
    """Factors whose product is ``size``, ones among them."""
    parts = []
    while size > 1 and len(parts) < 3:
        part = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        parts.append(part)
        size //= part
    return [*parts, size]


@st.composite
def layouts_of(draw, size):
    """Layouts of one dimension of the given size, its primes in any order, none replicated."""
    primes = draw(st.permutations(prime_factors(size)))
    order = draw(st.permutations(range(len(primes))))
    cut = draw(st.integers(0, len(primes)))
    return Layout((size,), (tuple(primes),), order[:cut], order[cut:])


@st.composite
def partners(draw, sizes=SIZES):
    """Two layouts of one shape on one number of threads, often of sizes that do not divide."""
    f = draw(layouts(sizes=sizes))
    if draw(st.integers(0, 2)) == 0:  # every thread holds everything, in some order
        modes = tuple(tuple(draw(st.permutations(prime_factors(n)))) for n in f.shape)
        order = draw(st.permutations(range(sum(map(len, modes)))))
        f = Layout(f.shape, modes, (-f.num_threads,), order)
        assume(f.num_threads * f.num_slots <= LIMIT)
    primes = [[] for _ in f.shape]
    for dim, extent in enumerate(f.shape):
        primes[dim] = draw(st.permutations(prime_factors(extent)))
    order = draw(st.permutations(range(sum(map(len, primes)))))
    flat = [p for factors in primes for p in factors]
    rest, threads, slots = f.num_threads, [], []
    wanted = draw(st.booleans())  # many threads or few
    for mode in order:
        if rest % flat[mode] == 0 and (wanted or draw(st.booleans())):
            threads.append(mode)
            rest //= flat[mode]
        else:
            slots.append(mode)
    for r in draw(factorisation(rest)):
        threads.insert(draw(st.integers(0, len(threads))), -r)
    g = Layout(f.shape, tuple(map(tuple, primes)), tuple(threads), tuple(slots))
    assume(g.num_threads * g.num_slots <= LIMIT)
    return (f, g) if draw(st.booleans()) else (g, f)


def prime_factors(n):
    """The prime factors of n, ascending."""
    found, p = [], 2
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found


@st.composite
def primitives(draw, rank):
    """One primitive of the given rank (or a replication)."""
    kind = draw(st.sampled_from([spatial, local, column_spatial, column_local, replicated]))
    if kind is replicated:
        return replicated(draw(st.integers(1, 4)))
    return kind(*draw(st.lists(st.sampled_from((1, 2, 2, 3, 4)), min_size=rank, max_size=rank)))


@st.composite
def swizzles(draw):
    """A swizzle, or none."""
    if draw(st.booleans()):
        return None
    shift = draw(st.integers(1, 4))
    return Swizzle(draw(st.integers(0, 3)), draw(st.integers(0, 3)), shift)


@st.composite
def shared_recipes(draw, shape=None, padded=True):
    """(shape, modes, strides, swizzle): modes in any order, sometimes padded; injective."""
    if shape is None:
        shape, modes = draw(recipes(replicas=False))[:2]
    else:
        modes = tuple(tuple(draw(st.permutations(prime_factors(extent)))) for extent in shape)
    flat = [size for factors in modes for size in factors]
    strides = [0] * len(flat)
    step = 1
    for mode in draw(st.permutations(range(len(flat)))):
        if padded and draw(st.integers(0, 4)) == 0:
            step += draw(st.sampled_from((1, 2, 4, 8)))
        strides[mode] = step
        step *= flat[mode]
    return shape, modes, tuple(strides), draw(swizzles())


def shared_layouts(shape=None, padded=True):
    """Shared layouts of any kind."""
    return shared_recipes(shape, padded).map(lambda recipe: SharedLayout(*recipe))


@st.composite
def shared_by_rows(draw, shape):
    """Row-major, rows or more padded, sometimes swizzled: what kernels mostly use."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step = step * extent + draw(st.sampled_from((0, 0, 0, 1, 2, 4, 8)))
    return SharedLayout.strided(shape, strides[::-1]).with_swizzle(draw(swizzles()))


@st.composite
def stored(draw, sizes=SIZES):
    """A register layout, often with a vector along the last dimension, and where it is stored."""
    f = draw(layouts(sizes=sizes, max_modes=4))
    if f.rank:
        f = f * local(*[1] * (f.rank - 1), draw(st.sampled_from((1, 2, 4, 8, 16))))
    assume(f.num_threads * f.num_slots <= LIMIT)
    powers = sizes is POWERS
    if draw(st.booleans()):
        return f, draw(shared_by_rows(f.shape))
    if draw(st.booleans()):
        return f, draw(shared_layouts(f.shape, padded=not powers))
    return f, SharedLayout.column_major(*f.shape).with_swizzle(draw(swizzles()))


def tiny_shared():
    """Shared layouts of four elements: many of them are equal, in many spellings."""
    modes, small = st.sampled_from((((4,),), ((2, 2),), ((1, 4),))), st.integers(0, 2)
    swizzle = st.builds(Swizzle, small, st.integers(0, 1), st.integers(1, 2))
    return modes.flatmap(
        lambda m: st.builds(
            SharedLayout,
            st.just((4,)),
            st.just(m),
            st.tuples(*[st.integers(1, 6)] * len(m[0])),
            st.none() | swizzle,
        )
    )


@st.composite
def warp_accesses(draw):
    """A row-major tile of powers of two, and two ways in which a warp covers it."""
    rows, columns = (2 ** draw(st.integers(3, 6)) for _ in range(2))

    def access():
        vector = 2 ** draw(st.integers(0, 2))
        down = min(rows, 2 ** draw(st.integers(0, 5)))
        across = min(32 // down, columns // vector)
        lanes = draw(st.sampled_from([spatial, column_spatial]))(down, across)
        rest = local(rows // down, columns // vector // across)
        return rest * lanes * local(1, vector)

    return SharedLayout.row_major(rows, columns), access(), access()


def padded_accesses():
    """A way in which a warp covers a row-major tile, and that tile with padded rows."""
    return st.builds(
        lambda case, pad: (
            case[1],
            SharedLayout.strided(case[0].shape, (case[0].shape[1] + pad, 1)),
        ),
        warp_accesses(),
        st.sampled_from((4, 8, 12)),
    )
