"""Single instructions in Python's unbounded integers and fractions: slow, and easy to read."""

import math
from fractions import Fraction

import numpy as np

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def signed(x, bits=32):
    """The bits of `x` as a two's complement number."""
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def bits_of(x, low, count):
    return (x >> low) & ((1 << count) - 1)


# Integers


def prmt(a, b, selector, mode=""):
    source = [(b << 32 | a) >> (8 * k) & 255 for k in range(8)]
    if mode == "":
        out = 0
        for k in range(4):
            nibble = selector >> (4 * k) & 15
            byte = source[nibble & 7]
            if nibble & 8:
                byte = 255 if byte & 128 else 0
            out |= byte << (8 * k)
        return out
    order = {
        "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        "rc8": [[0] * 4, [1] * 4, [2] * 4, [3] * 4],
        "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
    }[mode][selector & 3]
    return sum(source[at] << (8 * k) for k, at in enumerate(order))


def lop3(a, b, c, table, bits=32):
    out = 0
    for k in range(bits):
        index = (a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)
        out |= (table >> index & 1) << k
    return out


def shf(low, high, count, left, wrap):
    n = count & 31 if wrap else min(count, 32)
    both = high << 32 | low
    return (both << n >> 32 if left else both >> n) & M32


def bfe(a, position, length, bits=32, is_signed=False):
    position, length = position & 255, length & 255
    top = min(position + length - 1, bits - 1)
    fill = a >> top & 1 if is_signed and length else 0
    out = 0
    for k in range(bits):
        inside = k < length and position + k <= bits - 1
        out |= (a >> (position + k) & 1 if inside else fill) << k
    return out


def bfi(a, b, position, length, bits=32):
    position, length = position & 255, length & 255
    for k in range(length):
        if position + k < bits:
            b = b & ~(1 << (position + k)) | (a >> k & 1) << (position + k)
    return b


def bytes_of(x, is_signed):
    out = [x >> (8 * k) & 255 for k in range(4)]
    return [signed(v, 8) for v in out] if is_signed else out


def c_div(a, b):
    """Division as C does it."""
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def integer_row(x, y):
    """What integers.cu writes for one thread."""
    sx, sy = signed(x), signed(y)
    high_x = [signed(x & 0xFFFF, 16), signed(x >> 16, 16)]
    mul24 = signed(x & 0xFFFFFF, 24) * signed(y & 0xFFFFFF, 24)
    umul24 = (x & 0xFFFFFF) * (y & 0xFFFFFF)
    ub = bytes_of(y, False)
    ux = [x & 0xFFFF, x >> 16]
    del high_x
    ffs = (y & -y).bit_length()
    return [
        prmt(x, y, (0x5341 ^ (y & 0x7777)) & 0xFFFF),
        lop3(x, y, (x * 31 + y) & M32, 0xE8),
        shf(x, y, y & 63, True, True),
        shf(x, y, y & 63, False, False),
        x.bit_count() + 100 * (32 - x.bit_length()) + 10000 * ffs,
        int(f"{x:032b}"[::-1], 2),
        sum(p * q for p, q in zip(bytes_of(x, True), bytes_of(y, True), strict=True)) + 12345,
        sum(p * q for p, q in zip(ux, ub[2:], strict=True)) + 99,
        x * y >> 32,
        sx * sy >> 32,
        abs(sx - sy) + 5,
        mul24 + umul24,
        bfe(x, y & 31, y >> 8 & 31, is_signed=True),
        bfi(x, y, x & 31, x >> 8 & 31),
        (c_div(sx, signed(y | 1)) ^ x % (y | 1)) & M32,
        (sx + sy + 1 >> 1 ^ x << (y & 31) ^ sx >> (y & 31)) & M32,
        max(sx, sy) - min(x, y) + abs(sx),
        x.bit_length() - 1,
        (x & 255) + signed(y & 0xFFFF, 16) + signed(x >> 8 & 255, 8),
        max(-(1 << 31), min((1 << 31) - 1, sx + sy)),
    ]


def wide_row(x, y):
    """What wide_integers.cu writes for one thread."""
    sx, sy = signed(x, 64), signed(y, 64)
    wide = (x * y + (y << 64 | x)) & ((1 << 128) - 1)
    as_f64 = int(float(x))
    as_f32 = int(float(np.float32(sy)))
    rounded = round_half_even(Fraction(float(sx) * 0.37))
    return [
        x * y >> 64,
        sx * sy >> 64,
        x // (y | 1) + x % (y | 1),
        c_div(sx, signed(y | 1, 64)),
        x.bit_count() + 100 * (64 - y.bit_length()) + 100000 * (x & -x).bit_length(),
        int(f"{x:064b}"[::-1], 2) ^ (x << (y & 63)) & M64 ^ (sx >> (y & 63)) & M64,
        wide & M64,
        wide >> 64,
        min(as_f64, M64) ^ max(as_f32, 0),
        rounded + int(np.float32(y >> 40)),
        (x & M32) * (y & M32) + signed(x) * signed(y),
        max(x, y) - min(sx, sy),
    ]


# Floats


def round_half_even(x):
    whole = math.floor(x)
    rest = x - whole
    return whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


def round_fraction(x, mantissa, least, largest, mode="rn"):
    """A fraction rounded to a float format: `least` is the smallest normal exponent."""
    if x == 0:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent  # 2^exponent <= |x| < 2^(exponent + 1)
    exponent = max(exponent, least)
    unit = Fraction(2) ** (exponent - mantissa)
    scaled = x / unit
    if mode == "rna":
        n = math.floor(abs(scaled) + Fraction(1, 2)) * (1 if x > 0 else -1)
    else:
        n = {"rn": round_half_even, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}[mode](
            scaled
        )
    out = n * unit
    if abs(out) > largest:
        toward = mode == "rz" or (mode == "rm" and x > 0) or (mode == "rp" and x < 0)
        size = float(largest) if toward else math.inf
        return size if x > 0 else -size
    return math.copysign(float(out), x) if out == 0 else float(out)


F32_MAX = Fraction(float(np.finfo(np.float32).max))
F64_MAX = Fraction(float(np.finfo(np.float64).max))
FORMATS = {
    "f16": (10, -14, Fraction(65504)),
    "bf16": (7, -126, Fraction(2) ** 127 * Fraction(255, 128)),
    "tf32": (10, -126, Fraction(2) ** 127 * Fraction(2047, 1024)),
    "f32": (23, -126, F32_MAX),
    "f64": (52, -1022, F64_MAX),
}


def to(name, x, mode="rn"):
    return round_fraction(x, *FORMATS[name], mode)


def special(function, *values):
    """IEEE 754 decides, in float64, where the result is no number or is a zero."""
    with np.errstate(all="ignore"):
        return float(function(*(np.float64(v) for v in values)))


def exactly(name, native, exact, values, mode="rn"):
    """`exact` of fractions rounded once; `native` says what zeros and infinities do."""
    values = [float(v) for v in values]
    plain = special(native, *values)
    if not all(map(math.isfinite, values)) or not math.isfinite(plain):
        if not all(map(math.isfinite, values)) or math.isnan(plain):
            return plain
    try:
        x = exact(*map(Fraction, values))
    except ZeroDivisionError:
        return plain
    return to(name, x, mode) if x else plain


def fma_values(a, b, c, kind):
    """a * b + c of float64 arrays, rounded once to float16 or bfloat16."""
    name = "f16" if kind == np.float16 else "bf16"
    rows = zip(a.flat, b.flat, c.flat, strict=True)
    out = [exactly(name, lambda x, y, z: x * y + z, lambda x, y, z: x * y + z, r) for r in rows]
    return np.array(out).reshape(a.shape).astype(kind)


def maximum(x, y):
    """The greater; a number beats NaN, +0 beats -0."""
    out = np.where((x > y) | ((x == y) & ~np.signbit(x)), x, y)
    return np.where(np.isnan(x), y, np.where(np.isnan(y), x, out))


def minimum(x, y):
    out = np.where((x < y) | ((x == y) & np.signbit(x)), x, y)
    return np.where(np.isnan(x), y, np.where(np.isnan(y), x, out))


def minimum_nan(x, y):
    return np.where(np.isnan(x) | np.isnan(y), np.nan, minimum(x, y))


def to_integer(x, bits, is_signed=True, rounding=np.trunc):
    """cvt to an integer: saturates, NaN is 0."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    rounded = rounding(np.nan_to_num(x, nan=0.0, posinf=1e30, neginf=-1e30))
    return [min(max(int(v), low), high) for v in np.atleast_1d(rounded)]


def flush(x):
    return math.copysign(0.0, x) if abs(x) < float(np.finfo(np.float32).tiny) else x


def float_row(x, y, z):
    """What float_corners.cu writes for one thread: floats, doubles."""
    x, y, z = float(x), float(y), float(z)

    def fma(mode):
        return exactly("f32", lambda a, b, c: a * b + c, lambda a, b, c: a * b + c, (x, y, z), mode)

    def two(native, exact, values, mode):
        return exactly("f32", native, exact, values, mode)

    def add(a, b):
        return a + b

    def mul(a, b):
        return a * b

    def div(a, b):
        return np.float64(a) / np.float64(b) if isinstance(a, float) else a / b

    ftz_sum = special(add, flush(x), flush(y))
    ftz_sum = flush(to("f32", Fraction(ftz_sum)) if math.isfinite(ftz_sum) else ftz_sum)
    ftz_product = two(mul, mul, (flush(x), flush(y)), "rn")
    root = two_sqrt(abs(x), "rp")
    n_y = to_integer(y, 32, False, np.ceil)[0]
    n_x = to_integer(x, 32, True, np.rint)[0]
    f32 = np.float32
    with np.errstate(all="ignore"):
        integral = f32(
            f32(f32(f32(np.rint(x)) + f32(np.trunc(y)) * f32(2)) + f32(np.floor(z)) * f32(4))
            + f32(np.ceil(x)) * f32(8)
        )
        counts = f32(f32(n_x) + f32(n_y))
        codes = int(f32(x).view(np.uint32)), signed(int(f32(y).view(np.uint32)))
        ints = f32(to("f32", Fraction(codes[0]), "rz")) - f32(to("f32", Fraction(codes[1]), "rp"))
        copied = f32(math.copysign(x, y)) + f32(1.0 if math.isfinite(z) else 2.0)
    nan = math.isnan(x)
    floats = [
        fma("rn"),
        fma("rz"),
        fma("rp"),
        fma("rm"),
        two(add, add, (x, y), "rz"),
        two(add, add, (x, z), "rp"),
        two(mul, mul, (x, y), "rm"),
        two(np.divide, lambda a, b: a / b, (x, y), "rn"),
        two(np.divide, lambda a, b: a / b, (x, y), "rz"),
        root,
        two(lambda b: np.float64(1) / b, lambda b: 1 / b, (y,), "rm"),
        float(minimum(x, y)),
        float(maximum(x, z)),
        float(minimum_nan(x, y)),
        flush(ftz_product),
        0.0 if math.isnan(ftz_sum) else min(max(ftz_sum, 0.0), 1.0),
        counts,
        integral,
        ints,
        copied,
        (x < y) + 2 * (x != y or nan) + 4 * (not x >= z) + 8 * nan,
    ]
    return floats, doubles(x, y, z)


def two_sqrt(x, mode):
    """A square root to f32, directed: the neighbours of the nearest are tried."""
    if not math.isfinite(x) or x == 0:
        return x
    root = np.float32(math.sqrt(x))
    while Fraction(float(root)) ** 2 < Fraction(x):
        root = np.nextafter(root, np.float32(np.inf))
    while Fraction(float(np.nextafter(root, np.float32(0)))) ** 2 >= Fraction(x):
        root = np.nextafter(root, np.float32(0))
    return float(root)


def doubles(x, y, z):
    def op(native, exact, values, mode="rn"):
        return exactly("f64", native, exact, values, mode)

    def fma(a, b, c):
        return a * b + c

    down = x * 1.1
    lowered = to("f32", Fraction(down), "rm") if math.isfinite(down) and down else down
    return [
        op(fma, fma, (x, special(lambda a: a * 1.1, y), special(lambda a: a * 1e-9, z))),
        op(lambda a, b: a + b, lambda a, b: a + b, (x, y * 1e-10), "rz"),
        special(lambda a, b: a / (b * 3.0), x, y),
        special(lambda a: np.sqrt(np.abs(a) * 7.0), z),
        lowered + int(to_integer(z * 0.3, 32, True, np.floor)[0]),
    ]
