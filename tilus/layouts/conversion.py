"""What it takes to bring a tile from one register layout to another.

``classify(src, dst)`` says, for each (thread, slot) of ``dst``, from which thread and slot of
``src`` its element comes, and how far that is:

    RENAME    every thread already holds what it needs, in the same slots on every thread: free
    SHUFFLE   the source lies in the same warp (or in the thread itself, but in a slot that differs
              from thread to thread)
    SHARED    some element crosses warps: through shared memory (``exchange.exchange_tile``)

A worked table, with warps of 32::

    src                     dst                        kind      from
    local(2,2)              column_local(2,2)          RENAME    slots 0, 2, 1, 3
    replicated(4)*local(4)  spatial(4)                 SHUFFLE   thread t, slot t: selects only
    spatial(4)              replicated(4)*local(4)     SHUFFLE   slot l: thread l; 4 shuffles
    spatial(64)*local(2)    local(2)*spatial(64)       SHARED

Where the source is replicated the owner is chosen digit by digit to be the thread itself, so that
replication never makes a conversion dearer.

Laws, with ``s, k = conversion.source(t, l)``:

    it is right      src.index(s, k) == dst.index(t, l)
    it is cheapest   RENAME iff owns(src, dst) and k does not depend on t;
                     SHUFFLE iff not RENAME and some owner of each element shares the warp of t

The source is a sum of digits (``Term``) when the two layouts have a common refinement, which powers
of two always have; then nothing is enumerated and a backend can emit the sum as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from tilus.layouts.layout import REPLICA, Layout, LayoutError
from tilus.layouts.refine import refine


class ConversionKind(Enum):
    """How far the elements travel."""

    RENAME = "rename"
    SHUFFLE = "shuffle"
    SHARED = "shared"


class Term(NamedTuple):
    """``(x // divisor % size) * weight`` with x the thread or the slot of the destination."""

    of_thread: bool
    divisor: int
    size: int
    weight: int

    def __call__(self, thread: int, slot: int) -> int:
        """The value of the term."""
        return (thread if self.of_thread else slot) // self.divisor % self.size * self.weight

    @property
    def is_own(self) -> bool:
        """Whether this part of the source thread is that of the destination thread."""
        return self.of_thread and self.divisor == self.weight


@dataclass(frozen=True)
class Conversion:
    """From where each slot of ``dst`` takes its element.

    The source thread is the sum of ``thread_terms`` and the source slot that of ``slot_terms``;
    both are None when the sizes of the layouts do not allow such a form (use ``source`` then).
    """

    kind: ConversionKind
    src: Layout
    dst: Layout
    warp_size: int
    thread_terms: tuple[Term, ...] | None
    slot_terms: tuple[Term, ...] | None

    def source(self, thread: int, slot: int) -> tuple[int, int]:
        """The thread and slot of ``src`` from which ``dst`` fills this thread and slot.

        >>> from tilus.layouts import *
        >>> classify(spatial(4) * local(2), local(2) * spatial(4)).source(1, 0)
        (0, 1)
        """
        if self.thread_terms is None or self.slot_terms is None:
            return _nearest(self.src, self.dst, thread, slot, self.warp_size)
        return (
            sum(term(thread, slot) for term in self.thread_terms),
            sum(term(thread, slot) for term in self.slot_terms),
        )

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """For a RENAME, the source slot of each destination slot, the same in every thread.

        >>> from tilus.layouts import *
        >>> classify(local(2, 2), column_local(2, 2)).slots
        (0, 2, 1, 3)
        """
        if self.kind is not ConversionKind.RENAME:
            raise LayoutError(f"a {self.kind.value} has no one slot order for all threads")
        return tuple(self.source(0, slot)[1] for slot in range(self.dst.num_slots))

    def sources(self, slot: int) -> tuple[tuple[int, int], ...]:
        """The source thread and slot of one destination slot, for every thread."""
        return tuple(self.source(thread, slot) for thread in range(self.dst.num_threads))

    def source_slots(self, slot: int) -> tuple[int, ...]:
        """The source slots that some thread needs for one destination slot, ascending.

        A backend shuffles each of them once, then selects by thread.
        """
        if self.slot_terms is None:
            return tuple(sorted({source for _, source in self.sources(slot)}))
        found = [sum(term(0, slot) for term in self.slot_terms if not term.of_thread)]
        for term in self.slot_terms:
            if term.of_thread:
                found = [base + value * term.weight for base in found for value in range(term.size)]
        return tuple(sorted(found))

    @cached_property
    def crosses_lanes(self) -> bool:
        """Whether some thread takes an element from another thread."""
        if self.thread_terms is not None:
            return not all(term.is_own for term in self.thread_terms)
        return any(
            source != thread
            for slot in range(self.dst.num_slots)
            for thread, (source, _) in enumerate(self.sources(slot))
        )

    @cached_property
    def num_shuffles(self) -> int:
        """How many shuffle instructions the conversion takes when each moves one slot."""
        if self.kind is not ConversionKind.SHUFFLE or not self.crosses_lanes:
            return 0
        return sum(len(self.source_slots(slot)) for slot in range(self.dst.num_slots))


def classify(src: Layout, dst: Layout, warp_size: int = 32) -> Conversion:
    """The cheapest way from ``src`` to ``dst``, two layouts of one shape on as many threads.

    >>> from tilus.layouts import *
    >>> classify(replicated(8) * local(4), replicated(8) * local(4)).kind.name
    'RENAME'
    >>> classify(spatial(8, 4), column_spatial(8, 4)).kind.name
    'SHUFFLE'
    >>> classify(spatial(64) * local(2), local(2) * spatial(64)).kind.name
    'SHARED'
    """
    if src.shape != dst.shape or src.num_threads != dst.num_threads:
        raise LayoutError(
            f"convert: {src.shape} on {src.num_threads} threads and {dst.shape} on "
            f"{dst.num_threads} threads are not one tile on one set of threads"
        )
    if warp_size < 1:
        raise LayoutError(f"convert: a warp of {warp_size} threads")
    refined = refine((src, dst), (warp_size,))
    if refined is None:
        return Conversion(
            _kind_by_enumeration(src, dst, warp_size), src, dst, warp_size, None, None
        )
    there, here = refined
    origin = {(d.dim, d.stride): (True, d.weight) for d in here.spatial if d.dim != REPLICA}
    origin |= {(d.dim, d.stride): (False, d.weight) for d in here.local}
    thread_terms = [
        Term(True, d.weight, d.size, d.weight)
        if d.dim == REPLICA
        else Term(*origin[d.dim, d.stride], d.size, d.weight)
        for d in there.spatial
    ]
    slot_terms = [Term(*origin[d.dim, d.stride], d.size, d.weight) for d in there.local]
    if any(not term.is_own for term in thread_terms if term.weight >= warp_size):
        kind = ConversionKind.SHARED
    elif all(term.is_own for term in thread_terms) and not any(t.of_thread for t in slot_terms):
        kind = ConversionKind.RENAME
    else:
        kind = ConversionKind.SHUFFLE
    return Conversion(kind, src, dst, warp_size, _joined(thread_terms), _joined(slot_terms))


def _joined(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Fewer terms with the same sum."""
    joined: list[Term] = []
    for term in terms:
        step = (term.of_thread, term.divisor * term.size, term.weight * term.size)
        if joined and (joined[-1].of_thread, joined[-1].divisor, joined[-1].weight) == step:
            term = term._replace(size=joined.pop().size * term.size)
        joined.append(term)
    return tuple(joined)


def _nearest(src: Layout, dst: Layout, thread: int, slot: int, warp_size: int) -> tuple[int, int]:
    """The owner that costs least: the thread itself, else the nearest, its own warp first."""
    index = dst.index(thread, slot)
    owner = min(
        src.threads(index),
        key=lambda t: (t // warp_size != thread // warp_size, abs(t - thread)),
    )
    return owner, src.slot(index)


def _kind_by_enumeration(src: Layout, dst: Layout, warp_size: int) -> ConversionKind:
    renames = True
    for slot in range(dst.num_slots):
        first = _nearest(src, dst, 0, slot, warp_size)[1]
        for thread in range(dst.num_threads):
            source, source_slot = _nearest(src, dst, thread, slot, warp_size)
            if source // warp_size != thread // warp_size:
                return ConversionKind.SHARED
            renames = renames and source == thread and source_slot == first
    return ConversionKind.RENAME if renames else ConversionKind.SHUFFLE
