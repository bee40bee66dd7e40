"""Where the polynomials of `tilus.codegen.llvm.mathlib` come from: `python -m tests.codegen.fit`.

Each minimises the greatest weighted error on an interval by Lawson's iteration, a weighted least
squares whose weights grow where the error is large. The coefficients are rounded to f32 one at a
time, lowest power first, and the rest fitted anew.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

from tilus.codegen.llvm import mathlib

mp.mp.dps = 40


@dataclass
class Fit:
    """`weight * (target - polynomial)` is to be small from `low` to `high`."""

    coefficients: tuple[float, ...]  # as they are used
    target: Callable
    weight: Callable
    low: float
    high: float

    def points(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chebyshev points, and the target and the weight there."""
        nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
        x = (self.low + self.high) / 2 + (self.high - self.low) / 2 * nodes
        exact = [mp.mpf(float(t)) for t in x]
        return x, *(np.array([float(f(t)) for t in exact]) for f in (self.target, self.weight))

    def error(self, coefficients: tuple[float, ...], count: int = 801) -> float:
        """The greatest error, as a power of two."""
        x, target, weight = self.points(count)
        powers = np.arange(len(coefficients))
        rest = target - (x[:, None] ** powers) @ np.float32(coefficients).astype(np.float64)
        return float(np.log2(np.abs(weight * rest).max()))

    def solve(self) -> tuple[float, ...]:
        """The coefficients anew."""
        x, rest, weight = self.points(801)
        left, found = list(range(len(self.coefficients))), []
        while left:
            found.append(np.float32(lawson(x, rest, weight, left)[0]))
            rest = rest - float(found[-1]) * x ** left.pop(0)
        return tuple(found)


def lawson(x, y, weight, powers) -> np.ndarray:
    """Coefficients of these powers that nearly minimise the greatest weighted error."""
    columns = x[:, None] ** np.array(powers) * weight[:, None]
    share = np.ones(len(x)) / len(x)
    best, found = np.inf, np.zeros(len(powers))
    for _ in range(400):
        root = np.sqrt(share)
        c = np.linalg.lstsq(columns * root[:, None], y * weight * root, rcond=None)[0]
        error = np.abs(columns @ c - y * weight)
        if error.max() < best:
            best, found = error.max(), c
        share = share * (error + 1e-3 * error.max())
        share /= share.sum()
    return found


def of_root(f: Callable) -> Callable:
    return lambda s: f(mp.sqrt(s))


LN2 = mp.log(2)
_HALF = float(LN2 / 2) * 1.001
_LOG = (0.5**0.5 - 1, 2**0.5 - 1)
_ANGLE = (float(mp.pi / 4) * 1.001) ** 2

FITS = {
    "EXP": Fit(
        mathlib.EXP,
        lambda r: (mp.exp(r) - 1 - r) / r**2,
        lambda r: r * r * mp.exp(-r),
        *(-_HALF, _HALF),
    ),
    "EXP2": Fit(
        mathlib.EXP2,
        lambda r: (mp.mpf(2) ** r - 1) / r,
        lambda r: abs(r) * mp.mpf(2) ** -r,
        *(-0.5005, 0.5005),
    ),
    "LOG": Fit(
        mathlib.LOG,
        lambda f: (mp.log(1 + f) - f + f * f / 2) / f**3,
        lambda f: abs(f) ** 3 / abs(mp.log(1 + f)),
        *_LOG,
    ),
    "LOG2": Fit(
        mathlib.LOG2,
        lambda f: (mp.log(1 + f) / f / LN2 - 1 / LN2) / f,
        lambda f: abs(f**2 * LN2 / mp.log(1 + f)),
        *_LOG,
    ),
    "SIN": Fit(
        mathlib.SIN,
        of_root(lambda r: (mp.sin(r) / r - 1) / r**2),
        of_root(lambda r: r**3 / mp.sin(r)),
        *(0, _ANGLE),
    ),
    "COS": Fit(
        mathlib.COS,
        of_root(lambda r: (mp.cos(r) - 1 + r**2 / 2) / r**4),
        of_root(lambda r: r**4 / mp.cos(r)),
        *(0, _ANGLE),
    ),
    "ERF_SMALL": Fit(
        mathlib.ERF_SMALL,
        of_root(lambda t: mp.erf(t) / t - 1),
        of_root(lambda t: t / mp.erf(t)),
        *(0, 0.81),
    ),
    "ERF_LARGE": Fit(
        mathlib.ERF_LARGE,
        lambda t: -mp.log(mp.erfc(t)) / t,
        lambda t: t * mp.erfc(t) / mp.erf(t),
        *(0.9, 4),
    ),
}

if __name__ == "__main__":
    for name, fit in FITS.items():
        found = fit.solve()
        print(f"{name} = ({', '.join(f'{c:.9g}' for c in found)})")
        print(f"    error 2^{fit.error(found):.1f}; in use: 2^{fit.error(fit.coefficients):.1f}")
