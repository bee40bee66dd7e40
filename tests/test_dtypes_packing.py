"""Packed codes against one big Python integer holding the same bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilus.dtypes import pack, unpack


@st.composite
def streams(draw):
    bits = draw(st.integers(1, 64))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), draw(st.integers(0, 70))


@given(streams())
def test_packing_is_one_stream_of_bits(case):
    bits, codes, offset = case
    stream = sum(code << (i * bits) for i, code in enumerate(codes))
    packed = pack(np.array(codes, np.uint64), bits)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == stream.to_bytes((len(codes) * bits + 7) // 8, "little")

    kind = next(k for k in (8, 16, 32, 64) if bits <= k)
    back = unpack(packed, bits, len(codes))
    assert back.tolist() == codes and back.dtype == np.dtype(f"u{kind // 8}")

    noise = (1 << offset) - 1 | 0b101 << (offset + len(codes) * bits)
    moved = stream << offset | noise
    data = np.frombuffer(moved.to_bytes((moved.bit_length() + 7) // 8, "little"), np.uint8)
    assert unpack(data, bits, len(codes), bit_offset=offset).tolist() == codes


@pytest.mark.parametrize("bits", [*range(1, 18), 31, 32, 33, 63, 64])
def test_many_elements_pack(bits):
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits - 1, 10_001, dtype=np.uint64, endpoint=True)
    packed = pack(codes.reshape(73, 137), bits)
    assert packed.size == (10_001 * bits + 7) // 8
    assert packed[-1] >> ((10_001 * bits - 1) % 8 + 1) == 0
    np.testing.assert_array_equal(unpack(packed, bits, 10_001), codes)
    np.testing.assert_array_equal(unpack(packed, bits, 9_998, bit_offset=3 * bits), codes[3:])
    np.testing.assert_array_equal(unpack(packed[::-1][::-1], bits, 7), codes[:7])


def test_packing_errors():
    with pytest.raises(ValueError, match="bits must be 1 to 64, not 65"):
        pack(np.zeros(1, np.uint64), 65)
    with pytest.raises(ValueError, match="a code of 3 bits is 0 to 7, but codes contains 8"):
        pack(np.array([8], np.uint8), 3)
    with pytest.raises(ValueError, match="data has 2 bytes, but 5 codes of 3 bits from bit 2"):
        unpack(np.zeros(2, np.uint8), 3, 5, bit_offset=2)
    with pytest.raises(TypeError, match="data must be uint8, not int8"):
        unpack(np.zeros(2, np.int8), 3, 1)
    with pytest.raises(ValueError, match="must not be negative"):
        unpack(np.zeros(2, np.uint8), 3, -1)
