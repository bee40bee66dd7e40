"""Codes in and out of dense bytes: code i is bits [i * bits, (i+1) * bits), little-endian.

With `avx512vbmi`, 64 codes of any width take three instructions: `vpermb` spreads `bits` bytes into
each 64-bit lane, `vpmultishiftqb` takes the eight bytes that start at bits 0, b, 2b.. of it, and an
`and` cuts them. Otherwise widths 1, 2 and 4 halve: a byte's low and high half, one after the other;
the rest shuffle the two bytes that hold each code into 16 bits, move the code to their top by a
shift that differs between lanes (before AVX-512 a multiplication) and down by one that does not.

Vectors are filled up to a power of two of lanes first: LLVM 22 may not come back from a shuffle of
<20 x i8> to <40 x i8> for AVX-512 without VBMI.
"""

from __future__ import annotations

from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.writer import I8, I16, I32, I64, V, Writer, vector


def unpack(w: Writer, packed: V, bits: int, lanes: int) -> V:
    """The first `lanes` codes of a vector of bytes, zero-extended to i8."""
    need = (lanes * bits + 7) // 8
    if not 1 <= bits <= 8 or packed.element != I8 or packed.lanes < need:
        raise ValueError(f"{lanes} codes of {bits} bits are not in a {packed.type}")
    if bits == 8:
        return w.part(packed, 0, lanes)
    x = Lanes(w, packed)
    if x.has("avx512vbmi"):
        codes = _multishift(x, bits, lanes)
    elif bits in (1, 2, 4):
        codes = _halved(x, bits, lanes)
    else:
        codes = _windows(x, bits, lanes)
    return w.part(codes.v, 0, lanes)


def _power(n: int) -> int:
    """The least power of two not below `n`, at least 16."""
    return 1 << max(4, (n - 1).bit_length())


def _resized(x: Lanes, lanes: int, count: int) -> Lanes:
    """The first `count` lanes, followed by anything up to `lanes`."""
    mask = [i if i < count else -1 for i in range(lanes)]
    return Lanes(x.w, x.w.shuffle(x.v, None, mask))


def _multishift(x: Lanes, bits: int, lanes: int) -> Lanes:
    """In runs of 64 codes, the last of 16, 32 or 64."""
    w, parts = x.w, []
    for start in range(0, lanes, 64):
        rest = lanes - start
        size = 64 if rest > 32 or not x.has("avx512vl") else 32 if rest > 16 else 16
        first = start * bits // 8
        spread = [
            min(first + i // 8 * bits + min(i % 8, bits - 1), x.lanes - 1) for i in range(size)
        ]
        words = Lanes(w, w.shuffle(x.v, None, spread))
        offsets = words.each([i % 8 * bits for i in range(size)])
        name = f"llvm.x86.avx512.pmultishift.qb.{size * 8}"
        parts.append((offsets.call_exactly(name, words) & ((1 << bits) - 1)).v)
    return Lanes(w, w.join(parts))


def _halved(x: Lanes, bits: int, lanes: int) -> Lanes:
    """Bytes to nibbles to pairs to bits."""
    need = (lanes * bits + 7) // 8
    x, width = _resized(x, _power(need), need), 8
    while width > bits:
        width //= 2
        low, high = x & ((1 << width) - 1), x >> width
        pairs = [i + half * x.lanes for i in range(x.lanes) for half in range(2)]
        x = Lanes(x.w, x.w.shuffle(low.v, high.v, pairs))
    return x


def _windows(x: Lanes, bits: int, lanes: int) -> Lanes:
    """In runs of at most 64 codes, which fill whole bytes."""
    w, parts = x.w, []
    for start in range(0, lanes, 64):
        size = min(64, _power(lanes - start))
        places = [(start + i) * bits // 8 + k for i in range(size) for k in range(2)]
        pairs = w.shuffle(x.v, None, [min(p, x.lanes - 1) for p in places])
        window = Lanes(w, w.bitcast(pairs, vector(I16, size)))
        top = window << window.each([16 - bits - i * bits % 8 for i in range(size)])
        parts.append((top >> (16 - bits)).resized(I8).v)
    return Lanes(w, w.join(parts))


def unpack_interleaved(w: Writer, packed: V, bits: int) -> list[V]:
    """For 1, 2 or 4 bits, element r: the codes at bits [r * bits, (r+1) * bits) of each byte."""
    if bits not in (1, 2, 4):
        raise ValueError(f"codes of {bits} bits do not lie at the same places of every byte")
    x = Lanes(w, packed)
    mask = (1 << bits) - 1
    return [(x >> at & mask if at + bits < 8 else x >> at).v for at in range(0, 8, bits)]


def pack(w: Writer, codes: V, bits: int) -> V:
    """The bytes of codes below 2^bits in i8 lanes; unused high bits of the last byte are 0.

    Neighbours are joined in lanes of 16, then 32, then 64 bits, which leaves 8 codes as the low
    `bits` bytes of each.
    """
    if not 1 <= bits <= 8 or codes.element != I8:
        raise ValueError(f"a {codes.type} does not hold codes of {bits} bits")
    if bits == 8:
        return codes
    lanes, size = codes.lanes, _power(codes.lanes)
    zero = V(codes.type, "zeroinitializer")
    mask = [i if i < lanes else lanes for i in range(size)]
    x = Lanes(w, w.shuffle(codes, zero, mask) if size > lanes else codes)
    for element, width in ((I16, bits), (I32, 2 * bits), (I64, 4 * bits)):
        total = int(element[1:])
        x = Lanes(w, w.bitcast(x.v, vector(element, size * 8 // total)))
        x = (x & ((1 << total // 2) - 1)) | (x >> total // 2 << width)
    as_bytes = w.bitcast(x.v, vector(I8, size))
    kept = [i // bits * 8 + i % bits for i in range((lanes * bits + 7) // 8)]
    return w.shuffle(as_bytes, None, kept)
