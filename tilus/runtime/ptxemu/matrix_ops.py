"""ldmatrix, stmatrix and mma: what a warp does together.

Fragments. With g = lane / 4 and t = lane % 4, and e elements in a 32-bit register (one in an f64):

    A  register (row block r, k block q)   row g + 8 r, columns e t .. e t + e - 1 of block q
    B  register (k block q)                rows e t .. of block q, column g
    C  register pair (row block r)         row g + 8 r, columns 2 t and 2 t + 1

where a k block has 4 e elements, and registers of A count row blocks first.

Sums. Products are exact; each element's products and then C are summed in float64 in ascending k,
and the sum is rounded once to the accumulator's type. Hardware rounds (or cuts) more often.
Integers are exact and wrap, or saturate with .satfinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilus.runtime.ptxemu.floats import narrow, wide64
from tilus.runtime.ptxemu.memory_ops import space_of
from tilus.runtime.ptxemu.syntax import Instruction, Operand, Vector
from tilus.runtime.ptxemu.table import Modifiers, Step, machine, not_emulated
from tilus.runtime.ptxemu.traps import PtxTrap
from tilus.runtime.ptxemu.types import B32, TYPES, U32, Array, Mask, Type

if TYPE_CHECKING:
    from tilus.runtime.ptxemu.block import Block


# ldmatrix and stmatrix: 8x8 matrices of 16-bit elements; lane 8 j + r has the address of row r of
# matrix j, and lane l holds elements 2 (l % 4) and the next of row l / 4.


@machine("ldmatrix", "stmatrix")
def _ldmatrix(i: Instruction, m: Modifiers, b: Block) -> Step:
    load = i.opcode == "ldmatrix"
    m.flag("sync")
    m.flag("aligned")
    m.flag("m8n8")
    count = int(m.choice("x1", "x2", "x4")[1:])
    trans = m.flag("trans")
    space = space_of(m)
    m.type()
    items, where = (i.args[0], i.args[1]) if load else (i.args[1], i.args[0])
    registers = items.items if isinstance(items, Vector) else (items,)
    # The lane that a row's word belongs to; transposed, the one that gets its first half.
    row, word = np.arange(8)[:, None], np.arange(4)
    owner = 8 * word + row // 2 if trans else 4 * row + word
    giver = np.arange(8 * count)
    if space != "shared" or len(registers) != count:
        raise not_emulated(i)
    address = b.address(i, where)
    outs = [b.writer(i, r, B32) for r in registers] if load else []
    sources = [] if load else [b.source(i, r, U32) for r in registers]

    def run(mask: Mask) -> None:
        warps = _whole_warps(b, mask, i)
        giving = (warps[:, None] * 32 + giver).reshape(-1)
        at = address(giving).view(np.int64)
        b.shared.check_place(at, 16, giving, i)
        b.shared.count_wavefronts(at, 16, giving, i)
        words_at = (at[:, None] + 4 * np.arange(4)).reshape(-1)
        who = (warps[:, None, None, None] * 32 + owner).repeat(count, axis=1).reshape(-1)
        if load:
            b.shared.note_read(words_at, 4, who, i, False)
            rows = b.shared.gather(words_at, 4, 1).reshape(-1, count, 8, 4)
            rows = np.ascontiguousarray(rows).view(np.uint16)  # [warps, count, 8, 8]
            if trans:
                rows = rows.swapaxes(2, 3)
            lanes = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, count, 32)
            for k, write in enumerate(outs):
                if mask is None:
                    write(lanes[:, k].reshape(-1), None)
                    continue
                full = np.zeros((b.padded >> 5, 32), np.uint32)
                full[warps] = lanes[:, k]
                write(full.reshape(-1), mask)
        else:
            b.shared.note_write(words_at, 4, who, i, False)
            held = np.stack([s.reshape(-1, 32)[warps] for s in sources], axis=1)
            rows = held.view(np.uint16).reshape(-1, count, 8, 8)
            if trans:
                rows = rows.swapaxes(2, 3)
            words = np.ascontiguousarray(rows).view(np.uint32).reshape(-1)
            b.shared.views[4][words_at // 4] = words

    return b.barriers.together(i, b.here, _everyone(b), run)


def _everyone(b: Block) -> Array:
    return np.full(b.padded, 0xFFFFFFFF, np.uint32)


def _whole_warps(b: Block, mask: Mask, i: Instruction) -> Array:
    """The warps of a mask, all of whose lanes must be in it."""
    if mask is None:
        return np.arange(b.padded >> 5)
    lanes = mask.reshape(-1, 32)
    some, every = lanes.any(axis=1), lanes.all(axis=1)
    if not np.array_equal(some, every):
        warp = int(np.argmax(some & ~every))
        message = f"{int(lanes[warp].sum())} of 32 lanes run {i.opcode}, which is for whole warps"
        raise PtxTrap("divergent", message, i, warp * 32 + int(np.argmax(lanes[warp])))
    return np.flatnonzero(some)


# mma


@dataclass(frozen=True)
class _Element:
    """How a multiplicand's elements lie in registers."""

    bits: int
    decode: Callable[[Array], Array]  # unsigned words of one element each -> float64


def _element(name: str) -> _Element | None:
    if name in ("s8", "s4"):
        half = np.uint8(1 << (int(name[1:]) - 1))
        return _Element(int(name[1:]), lambda x: ((x ^ half) - half).view(np.int8).astype(float))
    if name in ("u8", "u4", "b1"):
        return _Element(int(name[1:]), lambda x: x.astype(np.float64))
    if name in ("f16", "bf16", "tf32", "e4m3", "e5m2", "f64"):
        t = TYPES[name]
        return _Element(t.bits, lambda x: wide64(x.view(t.dtype), t))
    return None


_SHAPES = {
    (16, 8, 16, 16), (16, 8, 8, 16), (16, 8, 8, 32), (16, 8, 4, 32),
    (16, 8, 32, 8), (16, 8, 16, 8), (8, 8, 16, 8), (16, 8, 64, 4), (16, 8, 32, 4), (8, 8, 32, 4),
    (8, 8, 128, 1), (16, 8, 128, 1), (16, 8, 256, 1),
    (8, 8, 4, 64), (16, 8, 4, 64), (16, 8, 8, 64), (16, 8, 16, 64),
}  # fmt: skip


@machine("mma")
def _mma(i: Instruction, m: Modifiers, b: Block) -> Step:
    m.flag("sync")
    m.flag("aligned")
    shape = next((x for x in m.left if x[0] == "m" and "n" in x and "k" in x), "")
    m.flag(shape)
    if not m.flag("row") or not m.flag("col"):
        raise not_emulated(i)
    saturate = m.flag("satfinite")
    bits_op = m.choice("xor", "and")
    m.flag("popc", "kind::f8f6f4")
    d_name, a_name, b_name, c_name = m.left[:4]
    del m.left[:4]
    rows, rest = shape[1:].split("n")
    columns, depth = rest.split("k")
    mm, nn, kk = int(rows), int(columns), int(depth)
    a_kind, b_kind = _element(a_name), _element(b_name)
    if a_kind is None or b_kind is None or (mm, nn, kk, a_kind.bits) not in _SHAPES:
        raise not_emulated(i)
    d_type, c_type = TYPES[d_name], TYPES[c_name]
    d_ops, a_ops, b_ops, c_ops = (_items(x) for x in i.args)
    read_a = _multiplicand(i, b, a_ops, a_kind, mm // 8, kk)
    read_b = _multiplicand(i, b, b_ops, b_kind, 1, kk)
    read_c, write_d = _reader(i, b, c_ops, c_type, mm), _writer(i, b, d_ops, d_type, mm)

    def run(mask: Mask) -> None:
        warps = _whole_warps(b, mask, i)
        x, y = read_a(warps), read_b(warps)  # [warps, m, k], [warps, n, k]
        total = read_c(warps)
        total += _popc_xor(x, y) if bits_op == "xor" else x @ y.swapaxes(1, 2)
        if d_type.is_float:
            out = narrow(total, d_type)
        elif saturate:
            out = np.clip(total, -(2.0**31), 2.0**31 - 1).astype(np.int32)
        else:
            out = total.astype(np.int64).astype(np.int32)
        write_d(out, warps, mask)

    return b.barriers.together(i, b.here, _everyone(b), run)


def _popc_xor(x: Array, y: Array) -> Array:
    out: Array = (x[:, :, None, :] != y[:, None, :, :]).sum(axis=3).astype(np.float64)
    return out


def _items(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


def _multiplicand(
    i: Instruction,
    b: Block,
    items: tuple[Operand, ...],
    kind: _Element,
    row_blocks: int,
    depth: int,
) -> Callable[[Array], Array]:
    """A function from warps to the float64 values [warps, rows, k] of A, or of B transposed."""
    width = max(kind.bits, 32)
    each = width // kind.bits  # elements of a register
    k_blocks = depth // (4 * each)
    if len(items) != row_blocks * k_blocks:
        raise not_emulated(i, "this number of registers")
    sources = [b.source(i, item, TYPES[f"b{width}"]).reshape(-1, 32) for item in items]
    word = sources[0].dtype
    small = np.uint8 if kind.bits <= 8 else np.dtype(f"u{kind.bits // 8}")
    shifts = (kind.bits * np.arange(max(8 // kind.bits, 1))).astype(np.uint8)
    ones = np.uint8((1 << min(kind.bits, 8)) - 1)

    def read(warps: Array) -> Array:
        words = _gathered(sources, warps, word)  # [registers, warps, lane]
        parts = words.view(small)
        if kind.bits < 8:
            parts = (parts[..., None] >> shifts) & ones
        values = kind.decode(parts.reshape(k_blocks, row_blocks, -1, 8, 4, each))
        # [k block, row block, warps, g, t, element] -> [warps, row block, g, k block, t, element]
        return values.transpose(2, 1, 3, 0, 4, 5).reshape(-1, 8 * row_blocks, depth)

    return read


def _gathered(sources: list[Array], warps: Array, kind: np.dtype[Any]) -> Array:
    """Registers [warps of the block, ..] of some warps: [registers, warps, ..]."""
    out = np.empty((len(sources), warps.size, *sources[0].shape[1:]), kind)
    whole = warps.size == sources[0].shape[0]
    for k, source in enumerate(sources):
        out[k] = source if whole else source[warps]
    return out


def _reader(
    i: Instruction, b: Block, items: tuple[Operand, ...], t: Type, rows: int
) -> Callable[[Array], Array]:
    """A function from warps to the float64 values [warps, rows, 8] of C."""
    packed = TYPES["f16x2"] if t.name == "f16" else t
    if len(items) * packed.lanes != rows // 4:
        raise not_emulated(i, "this number of registers")
    sources = [b.source(i, item, packed).reshape(-1, 32, packed.lanes) for item in items]

    def read(warps: Array) -> Array:
        held = _gathered(sources, warps, np.dtype(np.float64))
        if packed.lanes == 1:  # registers 2 r and 2 r + 1 hold the pair of row block r
            held = held.reshape(-1, 2, warps.size, 32).transpose(2, 0, 3, 1)
        else:
            held = held.swapaxes(0, 1)
        return held.reshape(warps.size, rows, 8)

    return read


def _writer(
    i: Instruction, b: Block, items: tuple[Operand, ...], t: Type, rows: int
) -> Callable[[Array, Array, Mask], None]:
    """A function that puts values [warps, rows, 8] into the registers of D."""
    packed = TYPES["f16x2"] if t.name == "f16" else t
    if len(items) * packed.lanes != rows // 4:
        raise not_emulated(i, "this number of registers")
    writers = [b.writer(i, item, packed) for item in items]

    def write(values: Array, warps: Array, mask: Mask) -> None:
        held = values.reshape(warps.size, rows // 8, 32, 2)
        for k, put in enumerate(writers):
            one = held[:, k] if packed.lanes == 2 else held[:, k // 2, :, k % 2]
            if mask is None:
                put(one.reshape(b.padded, 2) if packed.lanes == 2 else one.reshape(-1), None)
                continue
            full = np.zeros((b.padded >> 5, *one.shape[1:]), one.dtype)
            full[warps] = one
            put(full.reshape(b.padded, 2) if packed.lanes == 2 else full.reshape(-1), mask)

    return write
