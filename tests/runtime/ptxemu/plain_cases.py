"""What the programs about control flow, memory and threads compute, in NumPy."""

import numpy as np

from tests.runtime.ptxemu.harness import Case, case

RNG = np.random.default_rng


def ints(seed, low, high, *shape, kind=np.int32):
    return RNG(seed).integers(low, high, shape, kind, endpoint=False)


@case
def vector_add():
    x, y = (RNG(k).random(1000, np.float32) for k in (1, 2))
    buffers = {"x": x, "y": y, "z": np.zeros(1000, np.float32)}
    return Case(buffers, {"z": 2 * x + y}, grid=3, more=[1000])


def collatz_steps(n, limit):
    count = 0
    while n != 1:
        if n & 1:
            if n > 0x50000000:
                return -1
            n = 3 * n + 1
        else:
            n >>= 1
            if n % 3 == 0:
                extra = 0
                for k in range(n & 7):
                    extra ^= k * k
                count += extra & 1
        count += 1
        if count >= limit:
            break
    return count


@case
def divergence():
    start = ints(3, 1, 5000, 192).astype(np.uint32)
    start[:3] = [1, 0x50000001, 97]
    steps = np.array([collatz_steps(int(n), 60) for n in start], np.int32)
    buffers = {"start": start, "steps": np.zeros(192, np.int32)}
    return Case(buffers, {"steps": steps}, grid=3, block=64, more=[60], kernel="collatz")


@case
def tree_reduce():
    x = ints(4, -1000, 1000, 3, 256)
    buffers = {"x": x, "sums": np.zeros(3, np.int32)}
    return Case(buffers, {"sums": x.sum(axis=1, dtype=np.int32)}, grid=3, block=256)


@case
def warp_reduce():
    x = ints(5, -99, 99, 2, 256).astype(np.float32)
    zeros = np.zeros(2, np.float32)
    buffers = {"x": x, "sums": zeros.copy(), "greatest": zeros.copy()}
    expected = {"sums": x.sum(axis=1), "greatest": x.max(axis=1)}
    return Case(buffers, expected, grid=2, block=256)


@case
def scan():
    x = ints(6, -50, 50, 2, 160)
    expected = {"y": np.cumsum(x, axis=1, dtype=np.int32)}
    return Case({"x": x, "y": np.zeros_like(x)}, expected, grid=2, block=160)


def lanes_where(bits):
    return sum(1 << k for k in range(32) if bits[k])


@case
def votes():
    x = ints(7, 0, 12, 2, 32)
    x[1] = 260 + (np.arange(32) & 3)
    out = np.zeros((11, 64), np.uint32)
    for w in range(2):
        v = x[w]
        here = slice(32 * w, 32 * w + 32)
        out[0, here] = lanes_where(v & 1)
        out[1, here] = (v == 7).any()
        out[2, here] = 1
        out[3, here] = [lanes_where(v == u) for u in v]
        out[4, here] = 0  # they agree: every lane, plus one
        out[5, here] = v.sum()
        out[6, here] = v.min()
        out[7, here] = np.bitwise_xor.reduce(v)
        two = v & 2 != 0
        first = int(v[np.argmax(two)])
        out[8, here] = np.where(two, lanes_where(two) + first, 0)
        lane = np.arange(32)
        out[9, here] = v[(lane & ~7) | ((lane + 3) & 7)]
    out[10] = (x & 1).sum() + 1000 * (x == 7).any() + 10000
    return Case({"x": x, "out": np.zeros_like(out)}, {"out": out}, block=64)


@case
def histogram():
    x = ints(8, 0, 256, 3001, kind=np.uint8)
    x[::3] = 5
    bins = np.bincount(x & 63, minlength=64).astype(np.uint32)
    buffers = {"x": x, "bins": np.zeros(64, np.uint32)}
    return Case(buffers, {"bins": bins}, grid=3, block=96, more=[3001])


@case
def atomics():
    x = ints(9, -500, 500, 96)
    out = np.array([0, 999, -999, -1, 0, 0, 0, 50], np.int32)
    final = [
        x.sum(),
        x.min(),
        x.max(),
        np.bitwise_and.reduce(x | 0x10),
        np.bitwise_or.reduce(x & 0xFF),
        np.bitwise_xor.reduce(x),
        96,
        (50 - 96) % 100,
    ]
    halves = np.array([96, (x & 3).sum()], np.float16)
    brains = (np.array([48, (x & 1).sum()], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = sum(3 << k for k in range(32))
    buffers = {
        "x": x,
        "out": out,
        "most": np.zeros(1, np.float32),
        "h": np.zeros(2, np.float16),
        "b": np.zeros(2, np.uint16),
        "d": np.zeros(1),
        "wide": np.zeros(1, np.uint64),
    }
    expected = {
        "out": np.array(final, np.int32),
        "most": np.float32([x.max() / 2]),
        "h": halves,
        "b": brains,
        "d": np.array([float(x.sum())]),
        "wide": np.array([wide], np.uint64),
    }
    return Case(buffers, expected, grid=3, block=32)


@case
def spin_lock():
    x = ints(10, 0, 100, 6 * 8)
    total = np.array([x.sum(), sum(3**k for k in range(6))], np.int32)
    buffers = {"total": np.zeros(2, np.int32), "x": x}
    return Case(buffers, {"total": total}, grid=6, block=32)


@case
def semaphore():
    values = [3]
    for me in range(1, 5):
        values.append(values[-1] * 3 + me)
    values = np.array(values, np.int32)
    zeros = np.zeros(5, np.int32)
    buffers = {
        "flags": zeros.copy(),
        "values": zeros.copy(),
        "out": zeros.copy(),
        "tickets": np.zeros(1, np.uint32),
        "seen": np.zeros((5, 64), np.int32),
    }
    seen = values[:, None] + np.arange(64, dtype=np.int32)
    expected = {"values": values, "out": values * 2, "flags": zeros + 1, "seen": seen}
    return Case(buffers, expected, grid=5, block=64)


@case
def functions():
    x = ints(11, 1, 1000, 64)
    y, z = [], []
    for i, v in enumerate(x.tolist()):
        a, b, count = v, np.float32(v), 0
        for _ in range((v & 1) + (i & 3)):
            a, b, count = int(np.gcd(a, 84)) + 1, b * np.float32(0.25), count + 1
        y.append(a * 100 + count)
        z.append((float(b) + i) / 2)
    buffers = {"x": x, "y": np.zeros(64, np.int32), "z": np.zeros(64)}
    return Case(buffers, {"y": np.array(y, np.int32), "z": np.array(z)}, block=64)


@case
def switch_table():
    x, y = ints(12, 0, 10, 64), ints(13, 0, 1000, 128)
    out = y.copy()
    for i in range(64):
        v, a = int(x[i]), int(y[i])
        r = i
        if v == 0:
            r = a + 1
        elif v == 1:
            r = (a * 7) ^ i
        elif v == 2:
            for k in range(i):
                r = (r * 3 + k) & 0xFFFFFFFF
        elif v in (3, 4):
            r = (a - i) ** 2 if v == 3 else i * i
        elif v == 5:
            r = ~i
        elif v == 6:
            r = a % 5 + int(y[i ^ 1])
        elif v == 7:
            r = i << (i & 7)
        elif v == 8:
            r = a.bit_count() * 3
        else:
            r = -1
        out[64 + i] = np.uint32(r & 0xFFFFFFFF).view(np.int32)
    return Case({"x": x, "y": y}, {"y": out}, block=64)


@case
def transpose():
    x = RNG(14).random((2, 32, 32), np.float32)
    expected = {"y": x.swapaxes(1, 2).copy()}
    buffers = {"x": x, "y": np.zeros_like(x)}
    return Case(buffers, expected, grid=2, block=256, more=[1], dynamic=32 * 33 * 4)


@case
def local_memory():
    x = ints(15, 0, 8, 64)
    primes, offsets = [2, 3, 5, 7, 11, 13, 17, 19], [-1, 100, 7, -300]
    y = []
    for i, v in enumerate(x.tolist()):
        start = i & 56
        own = [(start + k) ** 2 for k in range(8)] if i & 1 else [v * p for p in primes]
        total = sum(own[(v + k) & 7] * (k + 1) for k in range(8))
        y.append(total + offsets[i & 3] + b"tilus"[i % 5])
    buffers = {"x": x, "y": np.zeros(64, np.int32)}
    return Case(buffers, {"y": np.array(y, np.int32)}, block=64)


@case
def cp_async():
    tiles, valid = 6, 200
    x = ints(16, -20, 20, 2, tiles, 512).astype(np.float32)
    used = x.copy()
    used[:, tiles - 1, valid:] = 0
    sums = np.zeros((2, 128), np.float32)
    t = np.arange(128)
    for k in range(tiles):
        for j in range(4):
            sums += used[:, k][:, (t + 7 + j * 128) & 511] * (k + 1)
    buffers = {"x": x, "y": np.zeros((2, 128), np.float32)}
    return Case(buffers, {"y": sums}, grid=2, more=[tiles, valid])


@case
def named_barriers():
    rounds = 5
    x = ints(17, 0, 1000, rounds, 32)
    y = np.zeros((3, 32), np.int32)
    for k in range(rounds):
        for warp in range(3):
            y[warp] += x[k, (np.arange(32) + warp + 1) & 31] + 1
    buffers = {"x": x, "y": np.zeros_like(y)}
    return Case(buffers, {"y": y}, more=[rounds])


@case
def warp_exchange():
    x = ints(18, -100, 100, 4, 32)
    v = x.copy()
    lane = np.arange(32)
    for k in range(3):
        v = v * 2 + v[:, lane ^ (k + 1)]
    low = v[:, :16]
    v[:, :16] = low + low[:, ::-1]
    return Case({"x": x, "y": np.zeros_like(x)}, {"y": v})


@case
def prints():
    x = np.arange(32, dtype=np.int32)
    return Case({"x": x}, {}, block=32, more=[32])
