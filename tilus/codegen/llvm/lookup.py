"""Tables of at most 256 entries, looked up for every lane of a vector of codes.

What one instruction of x86 can look up, by the features of the machine:

    pshufb      ssse3 (16 lanes), avx2 (32), avx512bw (64)    16 bytes
    vpermb      avx512vbmi                                    64 bytes; vpermi2b 128
    vpermw      avx512bw                                      32 entries of 16 bits; vpermi2w 64
    vpermd      avx512f                                       16 entries of 32 bits; vpermi2d 32

Larger byte tables are cut: two `vpermi2b` and a choice by bit 7, or one `pshufb` for each 16 bytes.
The index of part k is (index ^ 16k) + 0x70 with saturation, of which bit 7 is set, and so gives 0,
unless the index lies in that part. Where nothing fits, the lanes load from memory one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilus.codegen.llvm.lanes import Lanes, like
from tilus.codegen.llvm.writer import BITS, I8, I16, I32, I64, V, Writer, vector


def by_chunks(xs: Sequence[Lanes], size: int, f: Callable[..., Lanes]) -> Lanes:
    """`f` of runs of `size` lanes of all `xs`, joined; the last run is filled up with anything."""
    w, lanes = xs[0].w, xs[0].lanes
    columns = []
    for x in xs:
        if not x.is_vector:
            x = Lanes(w, w.splat(x.v, 1))
        columns.append(_runs(x, size))
    parts = [f(*row) for row in zip(*columns, strict=True)]
    whole = w.join([part.v for part in parts])
    if not xs[0].is_vector:
        return Lanes(w, w.extract(whole, 0))
    return Lanes(w, w.part(whole, 0, lanes))


def _runs(x: Lanes, size: int) -> list[Lanes]:
    """Runs of `size` lanes, the last one filled up with anything."""
    masks = [
        [i if i < x.lanes else -1 for i in range(start, start + size)]
        for start in range(0, x.lanes, size)
    ]
    return [Lanes(x.w, x.w.shuffle(x.v, None, mask)) for mask in masks]


def table(x: Lanes, entries: Sequence[int], element: str) -> Lanes:
    """A constant vector, read from the module's tables, where equal ones are one."""
    place = x.w.module.table(element, [_signed(e, BITS[element]) for e in entries])
    return Lanes(x.w, x.w.load(vector(element, len(entries)), place, 64))


def _signed(n: int, bits: int) -> int:
    return (n + (1 << (bits - 1)) & ((1 << bits) - 1)) - (1 << (bits - 1))


# bytes to bytes


def lookup(w: Writer, x: V, entries: Sequence[int], bits: int) -> V:
    """`entries[x]`, bytes looked up by codes below 2^bits in i8 lanes."""
    if len(entries) != 1 << bits:
        raise ValueError(f"a table for codes of {bits} bits has {1 << bits} entries")
    return lookup_bytes(Lanes(w, x), entries).v


def lookup_bytes(x: Lanes, entries: Sequence[int]) -> Lanes:
    """`entries[x]`, 2 to 256 of them."""
    if len(set(entries)) == 1:
        return x.of(entries[0])
    if x.is_vector and x.has("avx512vbmi") and len(entries) > 16:
        return by_chunks([x], 64, lambda part: _vpermb(part, entries))
    if x.is_vector and x.has("ssse3"):
        size = _shuffle_width(x)
        return by_chunks([x], size, lambda part: _pshufb(part, entries))
    return load_each(x, entries, I8)


def _shuffle_width(x: Lanes) -> int:
    if x.lanes > 32 and x.has("avx512bw"):
        return 64
    return 32 if x.lanes > 16 and x.has("avx2") else 16


def _vpermb(x: Lanes, entries: Sequence[int]) -> Lanes:
    """64 lanes."""
    if len(entries) <= 64:
        one = table(x, list(entries) * (64 // len(entries)), I8)
        return one.call_exactly("llvm.x86.avx512.permvar.qi.512", x)

    def half(start: int) -> Lanes:
        low, high = (table(x, entries[i : i + 64], I8) for i in (start, start + 64))
        return low.call_exactly("llvm.x86.avx512.vpermi2var.qi.512", x, high)  # bit 7 is ignored

    if len(entries) == 128 or entries[128:] == entries[:128]:
        return half(0)
    if all(a ^ b == 0x80 for a, b in zip(entries, entries[128:], strict=False)):
        return half(0) ^ (x & 0x80)  # signs
    return x.lt(0).select(half(128), half(0))


def _pshufb(x: Lanes, entries: Sequence[int]) -> Lanes:
    """16, 32 or 64 lanes."""
    name = {
        16: "llvm.x86.ssse3.pshuf.b.128",
        32: "llvm.x86.avx2.pshuf.b",
        64: "llvm.x86.avx512.pshuf.b.512",
    }[x.lanes]

    def sixteen(start: int) -> Lanes:
        part = [*entries[start : start + 16]]
        part *= 16 // len(part)  # the same in every run of 16 lanes
        return table(x, part * (x.lanes // 16), I8)

    if len(entries) <= 16:
        return sixteen(0).call_exactly(name, x)
    total: Lanes | None = None
    for start in range(0, len(entries), 16):
        if any(entries[start : start + 16]):
            inside = (x ^ start if start else x).call("uadd.sat", x.of(0x70))
            found = sixteen(start).call_exactly(name, inside)
            total = found if total is None else total | found
    return total or x.of(0)


def load_each(x: Lanes, entries: Sequence[int], element: str) -> Lanes:
    """The entries loaded lane by lane."""
    w = x.w
    place = w.module.table(element, [_signed(e, BITS[element]) for e in entries])

    def one(index: V) -> V:
        return w.load(
            element, w.gep(place, w.cast("zext", index, I64), element), BITS[element] // 8
        )

    if not x.is_vector:
        return Lanes(w, one(x.v))
    out = V(like(x.v, element), "poison")
    for lane in range(x.lanes):
        found = one(w.extract(x.v, lane))
        out = w.op(out.type, f"insertelement {out}, {found}, i64 {lane}")
    return Lanes(w, out)


# bytes to wider entries


def is_quick(x: Lanes, count: int) -> bool:
    """Whether `lookup_wide` takes a few instructions for each byte that differs between entries."""
    if not x.is_vector:
        return False
    return x.has("avx512vbmi") or (count <= 16 and x.has("ssse3"))


def lookup_wide(x: Lanes, entries: Sequence[int], element: str) -> Lanes:
    """`entries[x]` as integers of 16, 32 or 64 bits."""
    count = len(entries)
    if x.is_vector and element == I32 and count <= 32 and x.has("avx512f"):
        return by_chunks([x.resized(I32)], 16, lambda part: _permute(part, entries, "d"))
    if x.is_vector and element == I16 and count <= 64 and x.has("avx512bw"):
        if count <= 32 or not x.has("avx512vbmi"):
            return by_chunks([x.zext(I16)], 32, lambda part: _permute(part, entries, "hi"))
    if x.element == I8 and element in (I16, I32) and is_quick(x, count):
        size = 64 if count > 16 and x.has("avx512vbmi") else _shuffle_width(x)
        return by_chunks([x], size, lambda part: _planes(part, entries, element))
    return load_each(x, entries, element)


def _permute(x: Lanes, entries: Sequence[int], letter: str) -> Lanes:
    """`vpermd` or `vpermw` of one 512-bit vector, or their forms with two tables."""
    size = x.lanes
    if len(entries) <= size:
        one = table(x, list(entries) * (size // len(entries)), x.element)
        kind = {"d": "si", "hi": "hi"}[letter]
        return one.call_exactly(f"llvm.x86.avx512.permvar.{kind}.512", x)
    low, high = table(x, entries[:size], x.element), table(x, entries[size:], x.element)
    return low.call_exactly(f"llvm.x86.avx512.vpermi2var.{letter}.512", x, high)


def _planes(x: Lanes, entries: Sequence[int], element: str) -> Lanes:
    """Looked up a byte at a time, the bytes then interleaved.

    `vpunpck` interleaves within 16 bytes, so its results are runs of 16 / width codes, each from
    its own 16 bytes. The codes are put in the order that makes the results increasing.
    """
    w, width, rows = x.w, BITS[element] // 8, x.lanes // 16
    run = 16 // width
    order = [
        (rows * column + row) * run + i
        for row in range(rows)
        for column in range(width)
        for i in range(run)
    ]
    x = Lanes(w, w.shuffle(x.v, None, order))
    parts = [lookup_bytes(x, [e >> 8 * k & 0xFF for e in entries]) for k in range(width)]
    if width == 2:
        return _joined(_interleaved(parts[0], parts[1], I16))
    low, high = _interleaved(parts[0], parts[1], I16), _interleaved(parts[2], parts[3], I16)
    pairs = zip(low, high, strict=True)
    return _joined([whole for a, b in pairs for whole in _interleaved(a, b, I32)])


def _interleaved(a: Lanes, b: Lanes, element: str) -> list[Lanes]:
    """Lanes of `a` and `b` in turn, as wider lanes: the low, then the high halves of 16 bytes."""
    w, row = a.w, 128 // a.bits
    out = []
    for half in (0, row // 2):
        starts = [r + half + i for r in range(0, a.lanes, row) for i in range(row // 2)]
        mixed = w.shuffle(a.v, b.v, [s + n for s in starts for n in (0, a.lanes)])
        out.append(Lanes(w, w.bitcast(mixed, vector(element, a.lanes // 2))))
    return out


def _joined(parts: Sequence[Lanes]) -> Lanes:
    w = parts[0].w
    return Lanes(w, w.join([part.v for part in parts]))


# words to bytes and halves


def low_bytes(x: Lanes, signed: bool = False) -> Lanes:
    """i32 lanes that are values of i8 (or of u8) as i8.

    LLVM would truncate 16 lanes at a time by `vpmovdb`; 64 are packed by four instructions.
    """
    if not (x.is_vector and x.lanes > 32 and x.has("avx512bw")):
        return x.resized(I8)
    first = f"llvm.x86.avx512.pack{'ss' if signed else 'us'}dw.512"
    second = f"llvm.x86.avx512.pack{'ss' if signed else 'us'}wb.512"

    def pack(part: Lanes) -> Lanes:
        w = part.w
        a, b, c, d = (Lanes(w, w.part(part.v, i, 16)) for i in range(0, 64, 16))
        words = vector(I16, 32)
        ab, cd = a.call_exactly(first, b, result=words), c.call_exactly(first, d, result=words)
        mixed = ab.call_exactly(second, cd, result=vector(I8, 64))
        order = [row * 16 + k * 4 + i for k in range(4) for row in range(4) for i in range(4)]
        return Lanes(w, w.shuffle(mixed.v, None, order))

    return by_chunks([x], 64, pack)


def high_halves(x: Lanes) -> Lanes:
    """The upper 16 bits of i32 lanes."""
    if not (x.is_vector and x.lanes > 16 and x.has("avx512bw")):
        return (x >> 16).resized(I16)
    halves = x.w.bitcast(x.v, vector(I16, 2 * x.lanes))
    return Lanes(x.w, x.w.shuffle(halves, None, range(1, 2 * x.lanes, 2)))
