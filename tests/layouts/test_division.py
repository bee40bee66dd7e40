"""Division finds every quotient there is."""

from collections import defaultdict
from math import prod
from random import Random

from tests.layouts.test_layout import all_layouts
from tilus.layouts import Layout, divide_left, divide_right, replicated, spatial


def random_layout(random):
    """Any layout of up to three dimensions, replications and threes and fives among its modes."""
    rank = random.randint(0, 3)
    modes = [[] for _ in range(rank)]
    for _ in range(random.randint(0, 4) if rank else 0):
        modes[random.randrange(rank)].append(random.choice((2, 2, 3, 4, 5, 6, 12)))
    names = list(range(sum(map(len, modes))))
    random.shuffle(names)
    cut = random.randint(0, len(names))
    threads = names[:cut]
    for _ in range(random.choice((0, 0, 1, 2))):
        threads.insert(random.randint(0, len(threads)), -random.choice((2, 3, 4, 6)))
    shape = tuple(map(prod, modes))
    return Layout(shape, tuple(map(tuple, modes)), tuple(threads), tuple(names[cut:]))


def test_3000_of_3000_quotients_are_found():
    random = Random(2026)
    replicas = odd = 0
    for _ in range(3000):
        f, g = random_layout(random), random_layout(random)
        h = f * g
        right, left = divide_right(h, g), divide_left(h, f)
        assert right is not None and right * g == h
        assert left is not None and f * left == h
        replicas += h.is_replicated
        odd += h.num_threads & (h.num_threads - 1) != 0
    assert replicas > 1000 and odd > 1000  # the hard cases were among them


def test_every_quotient_of_small_layouts_is_found_and_no_other():
    """All pairs of layouts of up to 12 places: a quotient exists iff it is found."""
    layouts = [f for f in all_layouts(12, max_rank=1) if f.rank == 1]
    layouts += [f for f in all_layouts(6) if f.rank == 2]
    rights, lefts = defaultdict(set), defaultdict(set)
    for f in layouts:
        for g in layouts:
            if f.rank == g.rank and f.size * f.replication * g.size * g.replication <= 12:
                rights[f * g, g].add(f)
                lefts[f * g, f].add(g)
    found = 0
    for h in layouts:
        for g in layouts:
            if h.rank == g.rank:
                right, left = divide_right(h, g), divide_left(h, g)
                assert rights.get((h, g), set()) == ({right} - {None})
                assert lefts.get((h, g), set()) == ({left} - {None})
                found += right is not None
    assert len(layouts) >= 300 and found > 900


def test_a_cut_may_go_through_what_the_product_merged():
    assert divide_right(replicated(12) * spatial(4), replicated(3) * spatial(4)) == replicated(
        4
    ) * spatial(1)
    assert divide_left(spatial(12, 2), spatial(3, 1)) == spatial(4, 2)
    assert divide_left(spatial(12), spatial(2, 6)) is None  # of higher rank
