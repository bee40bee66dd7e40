"""Elementary functions: the stated error bounds, and what happens at the edges."""

import re

import numpy as np
import pytest
import torch

from tests.codegen.fit import FITS
from tests.codegen.jit import HERE, MACHINES, Kernels
from tilus.codegen.llvm import mathlib
from tilus.codegen.llvm.lanes import Lanes
from tilus.codegen.llvm.mathlib import FUNCTIONS, function

INF, NAN = np.inf, np.nan
GRID = 5003  # every so many of the 2^32 floats; a prime
LANES = {"exp": 13, "log": 1, "sin": 5, "cos": 0}  # 64 for the others; 0 is a scalar


def erf(x):
    return torch.special.erf(torch.from_numpy(x)).numpy()


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


# The exact function (in f64), and the greatest error in units of the last place.
BOUNDS = {
    "exp": (np.exp, 1.1),
    "exp2": (np.exp2, 1.1),
    "log": (np.log, 1.0),
    "log2": (np.log2, 1.2),
    "sigmoid": (sigmoid, 2.3),
    "tanh": (np.tanh, 2.7),
    "erf": (erf, 1.3),
    "sin": (np.sin, 2.1),
    "cos": (np.cos, 2.1),
}

# Where the function turns special: thresholds of overflow and underflow, the change of method.
_EDGES = (
    *(0.0, 2.0**-149, 2.0**-126, 2.0**-140, 1e-30, 2.0**-25, 2.0**-12, 0.9, 1.0, 2.0**0.5, 2.0),
    *(88.72283, 87.33654, 103.27893, 103.97207, 128.0, 126.0, 149.0, 150.0, 151.0, 89.0, 104.0),
    *(3.92, 4.0, 9.01, 9.1, 2.0**20, 2.0**23, 1e5, 3.4028235e38, np.pi, np.pi / 2, np.e, INF),
)


@pytest.fixture(scope="module")
def floats():
    codes = np.arange(0, 2**32, GRID, dtype=np.uint64).astype(np.uint32)
    edges = np.float32([s * e for e in _EDGES for s in (1, -1)]).view(np.uint32)
    near = [edges + np.uint32(d) for d in (*range(4), *range(2**32 - 3, 2**32))]
    rng = np.random.default_rng(2)
    usual = np.float32(rng.uniform(-110, 110, 60000))
    with np.errstate(invalid="ignore"):
        around_one = np.float32(1 + rng.standard_normal(20000) / 8)
        angles = np.float32(rng.integers(0, 700000, 20000) * (np.pi / 2))
    parts = [codes.view(np.float32), *(n.view(np.float32) for n in near)]
    return np.concatenate([*parts, usual, around_one, angles, np.float32([NAN])])


def errors(got, exact):
    """|got - exact| in units of the last place of the exact result; 0 where both are special."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        exponent = np.frexp(np.abs(exact))[1] - 1
        exponent = np.where(np.isfinite(exact) & (exact != 0), np.maximum(exponent, -126), -126)
        difference = np.abs(got.astype(np.float64) - exact) / np.ldexp(1.0, exponent - 23)
    alike = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(np.isfinite(difference), difference, np.where(alike, 0, INF))


@pytest.mark.parametrize("machine", HERE)
def test_error_bounds(machine, floats):
    assert set(BOUNDS) == FUNCTIONS
    kernels = Kernels(MACHINES[machine])
    for name in BOUNDS:
        lanes = LANES.get(name, 64) if machine in ("host", "sse2") else 64
        emit = lambda w, x, name=name: function(name, Lanes(w, x)).v  # noqa: E731
        kernels.add(name, ["float"], "float", lanes, emit)
    kernels.compile()
    assert kernels.calls <= {"sin", "cos"}
    for name, (reference, bound) in BOUNDS.items():
        x = floats[:: 1 if machine in ("host", "sse2") else 7]
        if name in ("sin", "cos") and machine != "host":
            x = x[np.abs(x) <= 2**20]
        got = kernels.run(name, x)
        with np.errstate(all="ignore"):
            exact = reference(x.astype(np.float64))
        error = errors(got, exact)
        i = int(error.argmax())
        assert error[i] <= bound, (name, error[i], x[i], got[i], exact[i])


# At each argument, the exact result; the sign of a zero counts.
SPECIAL = {
    "exp": "0:1 -0:1 inf:inf -inf:0 88.72284:inf -104:0 1e30:inf",
    "exp2": "0:1 -0:1 inf:inf -inf:0 128:inf -149:1.4e-45 -150:0",
    "log": "1:0 0:-inf -0:-inf inf:inf -1:nan -inf:nan",
    "log2": "1:0 0:-inf -0:-inf inf:inf -1e-40:nan 1.4e-45:-149 8:3",
    "sigmoid": "0:0.5 -0:0.5 inf:1 -inf:0 -100:3.7835059e-44",
    "tanh": "0:0 -0:-0 inf:1 -inf:-1 1.4e-45:1.4e-45 10:1",
    "erf": "0:0 -0:-0 inf:1 -inf:-1 5:1 -4.5:-1",
    "sin": "0:0 -0:-0 inf:nan -inf:nan 1.4e-45:1.4e-45",
    "cos": "0:1 -0:1 inf:nan -inf:nan",
}


@pytest.mark.parametrize("machine", HERE)
def test_special_values(machine):
    kernels = Kernels(MACHINES[machine])
    for name in SPECIAL:
        emit = lambda w, x, name=name: function(name, Lanes(w, x)).v  # noqa: E731
        kernels.add(name, ["float"], "float", 16, emit)
    kernels.compile()
    for name, cases in SPECIAL.items():
        pairs = [case.split(":") for case in (cases + " nan:nan").split()]
        x, want = np.float32(pairs).T.copy()
        got = kernels.run(name, x)
        same = (got == want) & (np.signbit(got) == np.signbit(want))
        same |= np.isnan(got) & np.isnan(want)
        assert same.all(), (name, x[~same], got[~same], want[~same])


def test_powers_of_two_are_exact():
    kernels = Kernels(MACHINES[HERE[0]])
    for name in ("exp2", "log2"):
        emit = lambda w, x, name=name: function(name, Lanes(w, x)).v  # noqa: E731
        kernels.add(name, ["float"], "float", 16, emit)
    kernels.compile()
    exponents = np.arange(-149, 128).astype(np.float32)
    powers = np.ldexp(np.float32(1), exponents.astype(np.int32))
    assert np.array_equal(kernels.run("exp2", exponents), powers)
    assert np.array_equal(kernels.run("log2", powers), exponents)


def test_double_precision():
    kernels = Kernels(MACHINES[HERE[0]])
    for name, lanes in zip(BOUNDS, (8, 3, 1, 0, 8, 4, 5, 4, 2), strict=True):
        emit = lambda w, x, name=name: function(name, Lanes(w, x)).v  # noqa: E731
        kernels.add(name, ["double"], "double", lanes, emit)
    kernels.compile()
    x = np.concatenate([np.random.default_rng(6).uniform(-30, 30, 999), [0, -0.0, INF, -INF, NAN]])
    for name, (reference, _) in BOUNDS.items():
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(kernels.run(name, x), reference(x), rtol=4e-16, atol=5e-324)


def test_polynomials_are_as_good_as_stated():
    claims = re.findall(r"  2\^(-\d+\.\d)", mathlib.__doc__)
    for (name, fit), claim in zip(FITS.items(), claims, strict=True):
        assert fit.error(fit.coefficients, count=101) < float(claim) + 0.1, name
