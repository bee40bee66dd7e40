"""Small programs that CPython and the front end must agree on.

Each takes a place for its results (`put(O, i, value)` stores one of up to 8) and three integers.
`trange` and `srange` are `tilus.range` and `tilus.static_range`, in CPython plain `range`.
"""

# ruff: noqa: B007, B905, E741, F821, F842, RUF021, UP037
# long because: every construct of the kernel language has a program here.

from typing import NamedTuple

from tests.frontend.harness import O_, I, put, srange, to_i32, trange
from tilus import constexpr, i32, i64


class State(NamedTuple):
    best: int
    rest: tuple[int, int]


TABLE = (3, 1, 4, 1, 5)
WORDS = {"one": 1, "two": 2}
LIMIT = 7


def arithmetic(O: O_, a: I, b: I, c: I):
    put(O, 0, a + b * c - 3)
    put(O, 1, (a // 3) + (a % 3) - (a // -4) + (a % -4))
    put(O, 2, -a + +b - abs(c) + ~a)
    put(O, 3, (a & b) | (b ^ c))
    put(O, 4, (a << 3) + (b >> 2))
    put(O, 5, a**0 + a**1 + b**2 + c**3)
    put(O, 6, min(a, b, c) * 100 + max(a, b))
    q, r = divmod(a, 7)
    put(O, 7, q * 10 + r)


def division_by_run_time(O: O_, a: I, b: I, c: I):
    if b != 0:
        put(O, 0, a // b)
        put(O, 1, a % b)
    put(O, 2, a // b if b else -1)
    put(O, 3, (b != 0 and a // b > 1) + 0 if False else 5)


def compile_time_arithmetic(O: O_, a: I, b: I, c: I):
    big = 2**70
    put(O, 0, big % 1000 + 7 // 2 + -7 // 2 + -7 % 3)
    put(O, 1, int(3.9) + round(2.5) + len("abc") + sum((1, 2, 3)))
    put(O, 2, int(1e3) + (5 if "a" < "b" else 6) + WORDS["two"])
    put(O, 3, TABLE[1] + TABLE[-1] + sum(TABLE[1:3]) + max(TABLE))
    put(O, 4, a + big // 2**68)


def augmented(O: O_, a: I, b: I, c: I):
    x = a
    x += b
    x -= 3
    x *= 2
    put(O, 0, x)
    x //= 3
    x %= 11
    put(O, 1, x)
    x <<= 2
    x >>= 1
    x |= 1
    x &= 29
    x ^= c
    put(O, 2, x)
    x **= 2
    put(O, 3, x)
    n = 3
    n **= 2
    n //= 2
    put(O, 4, n + a)


def swaps(O: O_, a: I, b: I, c: I):
    a, b = b, a
    put(O, 0, a * 100 + b)
    a, (b, c) = c, (a, b)
    put(O, 1, a * 10000 + b * 100 + c)
    x = y = a + b
    x += 1
    put(O, 2, x * 100 + y)
    first, *rest = a, b, c
    put(O, 3, first - rest[0] + rest[1] * len(rest))
    [p, q] = [a, b]
    *init, last = (a, b, c, 4)
    put(O, 4, p + q + last + init[2])


def branches(O: O_, a: I, b: I, c: I):
    x = 0
    if a > b:
        x = a
    elif a == b:
        x = 1
        y = 5
    else:
        x = b * 2
    put(O, 0, x)
    if a > 0:
        y = a
        if b > 0:
            z = 1
        else:
            z = y
    else:
        y = -a
        z = 2
    put(O, 1, y * 10 + z)
    if a:
        put(O, 2, 1)
    if not a:
        put(O, 2, 2)
    w = 3
    if a > 5:
        w = 3
    put(O, 3, w)


def branch_changes_type_but_nobody_reads(O: O_, a: I, b: I, c: I):
    t = "text"
    if a > 0:
        t = a
        put(O, 0, t)
    else:
        t = (a, b)
        put(O, 0, t[1])
    t = 4
    put(O, 1, t)


def ternaries(O: O_, a: I, b: I, c: I):
    put(O, 0, a if a > b else b)
    put(O, 1, 1 if a > 0 else 2 if b > 0 else 3)
    x = (a + 1 if a > b else b - 1) * 2
    put(O, 2, x)
    put(O, 3, TABLE[0] if True else a // 0)
    put(O, 4, (a if b else c) if a else 9)


def chains(O: O_, a: I, b: I, c: I):
    put(O, 0, 1 if 0 <= a < 5 else 0)
    put(O, 1, 1 if a < b < c else 0)
    put(O, 2, 1 if a <= b == c else 0)
    put(O, 3, 1 if -10 < a <= b + 1 < 12 != c else 0)
    put(O, 4, 1 if not 0 < a < 3 else 0)
    put(O, 5, 1 if 3 > 2 > 1 < a else 0)
    put(O, 6, 1 if 1 > 2 > a else 0)


def logic(O: O_, a: I, b: I, c: I):
    put(O, 0, 1 if a > 0 and b > 0 or c > 0 else 0)
    put(O, 1, 1 if not (a > 0 or b > 0) and c else 0)
    put(O, 2, a and b)
    put(O, 3, a or b or c)
    put(O, 4, (a and 7) or c)
    put(O, 5, 5 and a)
    put(O, 6, 0 or a)
    put(O, 7, 1 if b != 0 and a // b > 2 and a % b == 0 else 0)


def short_circuit_guards(O: O_, a: I, b: I, c: I):
    i = 0
    while i < 5 and TABLE_at(i) != a:
        i += 1
    put(O, 0, i)
    put(O, 1, b == 0 or a // b > 1)
    put(O, 2, 1 if b == 0 or (a // b if b > 1 else a % b) else 0)


def TABLE_at(i):
    r = 0
    for k, v in enumerate(TABLE):
        if i == k:
            r = v
    return r


def loop_forms(O: O_, a: I, b: I, c: I):
    s = 0
    for i in range(10):
        s += i * a
    put(O, 0, s)
    s = 0
    for i in range(2, 9):
        s = s * 2 + i
    put(O, 1, s)
    s = 0
    for i in range(10, 0, -1):
        s = s * 2 - i
    put(O, 2, s)
    s = 0
    for i in range(10, -10, -3):
        s += i * i
    put(O, 3, s)
    s = 5
    for i in range(3, 3):
        s = undefined_name
    put(O, 4, s)
    s = 0
    for i in range(-5, 6, 4):
        s = s * 10 + i
    put(O, 5, s)


def run_time_bounds(O: O_, a: I, b: I, c: I):
    s = 1
    for i in range(a):
        s = (s * 3 + i) % 1009
    put(O, 0, s)
    s = 1
    for i in range(a, b):
        s = (s * 3 + i) % 1009
    put(O, 1, s)
    s = 1
    for i in range(b, a, -1):
        s = (s * 3 + i) % 1009
    put(O, 2, s)
    s = 1
    for i in range(a, b, 3):
        s = (s * 3 + i) % 1009
    put(O, 3, s)
    s = 1
    for i in range(a, b, -4):
        s = (s * 3 + i) % 1009
    put(O, 4, s)
    s = 1
    if c != 0:
        for i in range(a, b, c):
            s = (s * 3 + i) % 1009
    put(O, 5, s)
    s = 1
    for i in trange(0, a, 5, unroll=2):
        s = (s * 3 + i) % 1009
    put(O, 6, s)
    s = 1
    for i in range(2, a, 7):
        s = (s * 3 + i) % 1009
    put(O, 7, s)


def loop_variable_after(O: O_, a: I, b: I, c: I):
    i = -1
    for i in range(a):
        pass
    put(O, 0, i)
    for j in range(4):
        k = j * a
    put(O, 1, j * 1000 + k)
    for i in range(5):
        if i == a:
            break
    put(O, 2, i)
    i = 50
    for i in range(b, b + 3):
        i = i * 2
        put(O, 3, i)
    put(O, 4, i)


def loop_variable_reassigned(O: O_, a: I, b: I, c: I):
    s = 0
    for i in range(6):
        s += i
        i = 100
        i += a
        s += i
    put(O, 0, s)


def breaks_and_continues(O: O_, a: I, b: I, c: I):
    s = 0
    for i in range(20):
        if i == a:
            continue
        if i > b and i > 3:
            break
        s += i
    put(O, 0, s)
    n = 0
    while True:
        n += 1
        if n % 2 == 0:
            continue
        if n > a:
            break
    put(O, 1, n)
    t = 0
    for i in range(5):
        for j in range(5):
            if j == i:
                continue
            if j > a:
                break
            t += i * 10 + j
        else:
            t += 1000
        if i == b:
            break
    put(O, 2, t)


def else_clauses(O: O_, a: I, b: I, c: I):
    for i in range(5):
        if i == a:
            break
    else:
        i = 99
    put(O, 0, i)
    n = 0
    while n < 6:
        if n == b:
            break
        n += 1
    else:
        n = 77
    put(O, 1, n)
    for i in range(3):
        n += 1
    else:
        n += 10
    put(O, 2, n)
    for x in (1, 2, 3):
        if x == 2:
            break
    else:
        x = 50
    put(O, 3, x)
    for x in (1, 2):
        pass
    else:
        x = 51
    put(O, 4, x)


def whiles(O: O_, a: I, b: I, c: I):
    x, y = abs(a) + 1, abs(b) + 1
    while y:
        x, y = y, x % y
    put(O, 0, x)
    n = abs(c) + 1
    steps = 0
    while n != 1 and steps < 50:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    put(O, 1, steps)
    k = 0
    while (m := k * k) < 40:
        k += 1
    put(O, 2, m)
    while False:
        k = unknown
    put(O, 3, k)


def first_value_inside(O: O_, a: I, b: I, c: I):
    n = 0
    while True:
        square = n * n
        if square >= a:
            root = n
            break
        n += 1
    put(O, 0, square * 100 + root)


def nested(O: O_, a: I, b: I, c: I):
    total = 0
    for i in range(4):
        row = 0
        for j in range(i, 6, 2):
            k = 0
            while k < j:
                k += 2
                if k == a:
                    break
                row += k
            total += row
        if total > 100:
            total -= b
    put(O, 0, total)


def kernel_return(O: O_, a: I, b: I, c: I):
    put(O, 0, 1)
    if a > 10:
        return
    put(O, 1, 2)
    for i in range(10):
        if i == b:
            put(O, 2, i)
            return
        for j in range(3):
            if j * i == c:
                return
    put(O, 3, 4)
    return


def sign(x):
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0


def collatz(n, limit=10, *more, scale=1):
    count = 0
    while n != 1 and count < limit:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        count += 1
    return count * scale, n


def classify(x, low, high):
    if x < low:
        if x < low - 5:
            kind = 1
        else:
            return 20 + x
        kind += 1
    elif x > high:
        return 30
    else:
        kind = 4
    return kind * 100


def nothing(x):
    if x > 3:
        return
    x + 1


def sum_all(*xs, **named):
    total = 0
    for x in xs:
        total += x
    for name, x in named.items():
        total = total * 2 + x
    return total


def helpers(O: O_, a: I, b: I, c: I):
    put(O, 0, sign(a) * 100 + sign(b) * 10 + sign(-3))
    n, last = collatz(abs(b) + 1)
    put(O, 1, n * 1000 + last)
    put(O, 2, collatz(abs(c) + 1, 5, scale=2)[0])
    put(O, 3, classify(a, -3, 6))
    put(O, 4, sum_all(a, b, *(c, 1), x=a, **{"y": b, "z": 2}))
    put(O, 5, sum(sign(x) for x in (a, b, c)))
    put(O, 6, 1 if nothing(a) is None else 2)


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def tree(xs):
    if len(xs) == 1:
        return xs[0]
    half = len(xs) // 2
    return tree(xs[:half]) + 2 * tree(xs[half:])


def recursion(O: O_, a: I, b: I, c: I):
    put(O, 0, fibonacci(7) + a)
    put(O, 1, tree((a, b, c, 1, a)))


def comprehensions(O: O_, a: I, b: I, c: I):
    xs = [i * a for i in range(4)]
    put(O, 0, sum(xs))
    ys = tuple(x + y for x in xs for y in (b, 1) if True)
    put(O, 1, len(ys) * 100 + ys[3])
    zs = {k: v * 2 for k, v in zip("ab", (a, c))}
    put(O, 2, zs["b"] - zs["a"])
    i = 7
    put(O, 3, sum([i for i in range(3) if i % 2 == 0]) + i)
    put(O, 4, len({x % 3 for x in range(10)}))
    put(O, 5, sum(x * y for x, y in zip((a, b), (b, c))))
    put(O, 6, [[r * s for r in range(3)] for s in (1, 2)][1][2])
    put(O, 7, max(x for x in (a, b, c)))


def unrolled(O: O_, a: I, b: I, c: I):
    s = 0
    for i, x in enumerate((a, b, c)):
        s = s * 3 + x * i
    put(O, 0, s)
    for k in srange(1, 7, 2):
        s += k * a
    put(O, 1, s)
    for x, y in zip([a, b], reversed((1, 2))):
        s += x * y
    put(O, 2, s)
    for name, value in WORDS.items():
        if name == "two":
            continue
        s += value
    put(O, 3, s)
    for t in TABLE:
        if t == 4:
            break
        s += t
    put(O, 4, s)
    for t in ((a, 1), (b, 2)):
        u, v = t
        if u > 0:
            s += u * v
        else:
            s -= v
    put(O, 5, s)
    put(O, 6, t[1])


def containers(O: O_, a: I, b: I, c: I):
    xs = [a, b]
    xs = [*xs, c, *range(2)]
    put(O, 0, len(xs) * 1000 + xs[-1] * 10 + xs[2])
    d = {"x": a, **{"y": b}}
    d = {**d, "x": 5}
    put(O, 1, d["x"] * 10 + d["y"])
    t = (a,) * 3 + (b,)
    put(O, 2, t[2] + t[3] + len(t[1:]))
    put(O, 3, 1 if "y" in d and 3 not in (1, 2) else 0)
    x = (a, (b, c))
    if a > 0:
        x = (b, (c, a))
    put(O, 4, x[0] * 7 + x[1][1])
    for i in range(3):
        x = (x[1][0], (x[1][1], x[0]))
    put(O, 5, x[0] * 7 + x[1][1])


def strings(O: O_, a: I, b: I, c: I):
    """Docstrings, f-strings and assertions of compile-time values."""
    name = f"{LIMIT:03d}-{'x'!r}-{TABLE[0]}"
    put(O, 0, len(name) + a)
    assert name == "007-'x'-3", f"not {name}"
    assert a < 1000, "small"
    put(O, 1, 1 if name.startswith("007") else 0)
    ...
    put(O, 2, int("12") + ord("a"))


def lifted_numbers(O: O_, a: I, b: I, c: I):
    first = True
    n = 0
    for i in range(a, a + 4):
        if first:
            n += 100
            first = False
        n += 1
    put(O, 0, n)
    flag = False
    for i in range(6):
        flag = not flag
    put(O, 1, 1 if flag else 0)
    best = -1000
    for i in range(5):
        if i * a % 7 > best:
            best = i * a % 7
    put(O, 2, best)
    constant = 3
    for i in range(4):
        if LIMIT < 0:
            constant = 4
        n += TABLE[constant]
    put(O, 3, n)


def typed(O: O_, a: I, b: I, c: I):
    x: i32 = 0
    x += a
    y: "i32" = 5
    z: int = 6
    k: constexpr = 2
    w: i32
    put(O, 0, x * y + z * TABLE[k])
    big: i64 = 2
    big = big * 3
    put(O, 1, to_i32(big) + int(a > 0) + (1 if bool(b) else 0))


def reused_names(O: O_, a: I, b: I, c: I):
    t = (a, b)
    put(O, 0, t[0])
    for i in range(3):
        t = i * a
        put(O, 1, t)
    for i in range(2):
        t = (i, i, b)
        put(O, 2, t[2])
    for t in range(3):
        put(O, 3, t)


def chain_of_types(O: O_, a: I, b: I, c: I):
    p = q = r = s = t = u = 0
    wide: i64 = 3
    for i in range(8):
        p, q, r, s, t, u = q, r, s, t, u, wide
        wide = wide + a
    put(O, 0, to_i32(p + q * 2 + u))


def named_tuples(O: O_, a: I, b: I, c: I):
    state = State(a, (b, 1))
    for i in range(3):
        if state.best < i * c:
            state = State(best=i * c, rest=(i, state.best))
        else:
            state = State(state.best, rest=(c, i))
    put(O, 0, state.best)
    put(O, 1, state.rest[0] * 10 + state.rest[1])


def any_and_all(O: O_, a: I, b: I, c: I):
    put(O, 0, 1 if any(x > 0 for x in (a, b)) else 0)
    put(O, 1, 1 if all((a > 0, b > 0, True)) else 0)
    put(O, 2, 1 if any(()) or all([]) else 0)
    put(O, 3, 1 if isinstance((a, b), tuple) and isinstance(3, int) else 0)


def conditional_breaks_carry(O: O_, a: I, b: I, c: I):
    x, y = a, b
    for i in range(8):
        if x > y:
            x -= 2
            if i == c:
                y = 1000
                break
            continue
        y -= 1
        x, y = y, x
        if x == 3:
            break
    put(O, 0, x)
    put(O, 1, y)


def either_branch_leaves(O: O_, a: I, b: I, c: I):
    s = 0
    for i in range(10):
        if i == a:
            v = 1
        elif i < b:
            continue
        else:
            break
        s += v * 10 + i
    put(O, 0, s)


def walrus(O: O_, a: I, b: I, c: I):
    if (n := a + b) > 3 and (n := n * 2) < 30:
        put(O, 0, n)
    put(O, 1, n)
    put(O, 2, (k := n + 1) * k)


def deep_unpacking(O: O_, a: I, b: I, c: I):
    for (i, j), k in (((a, 1), b), ((c, 2), a)):
        put(O, j, i * 10 + k)
    x, y = (y, x) if (x := a) > (y := b) else (x, y)
    put(O, 3, x)
    put(O, 4, y)


def big_products(O: O_, a: I, b: I, c: I):
    wide: i64 = 1
    for i in range(10):
        wide = wide * 10 + a
    put(O, 0, to_i32(wide % 1000007))


def loop_over_host_range(O: O_, a: I, b: I, c: I):
    r = range(1, 20, 4)
    s = 0
    for i in r:
        s += i * a
    put(O, 0, s + r[2] + len(r))


def starts_as_number(O: O_, a: I, b: I, c: I):
    x = 0
    if a > 3:
        x = 1
    elif a > 1:
        x = b
    put(O, 0, x)
    y = 10 if a > b else 20
    put(O, 1, y + a)
    z = a if a > b else 20
    put(O, 2, z)


PROGRAMS = [
    f for f in list(globals().values())
    if callable(f) and getattr(f, "__module__", "") == __name__ and "O" in f.__annotations__
]  # fmt: skip
