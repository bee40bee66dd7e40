"""Rounding to the nearest code, with scales and zero points searched for the least squared error.

Plain rounding takes the scale with which the codes just span a group's weights. A smaller one clips
the largest weights and rounds all others more finely; often that is the smaller error. For every
group this tries some scales (and zero points) around the plain ones. Each trial rounds once, then
solves for the scale and zero point that fit the codes so found best (least squares); what is stored
is compared, not what was solved for. Where nothing is better, plain rounding stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from tilus import dtypes
from tilus.dtypes import DType, Kind
from tilus.kernels.fit import fit_sums, fits
from tilus.kernels.quantized import QuantizedWeight, Scheme, check_weight
from tilus.tensor import Tensor

CHUNK = 1 << 20  # weights quantised at a time
COARSE = (1.12, 0.93, 0.86, 0.78, 0.69, 0.6, 0.51, 0.42, 0.34, 0.27)  # times the plain scale
FINE = (0.95, 0.98, 1.02, 1.05)  # times the best so far
SETTLE = 2  # rounds of rounding and solving at the end


def quantize_rtn(
    weight: torch.Tensor | QuantizedWeight,
    dtype: DType | str,
    group_size: int | None,
    scale_dtype: DType | str = "f16",
    clip_search: bool = True,
    zero_point: bool | Literal["float"] | None = None,
) -> QuantizedWeight:
    """Quantise a weight matrix by rounding to the nearest code, with the best scales found.

    Args:
        weight: float [n, k], finite; or a quantised one, which is quantised again.
        dtype: the element type of the codes, at most 8 bits.
        group_size: 16, 32, 64, 128 or 256 neighbours along k share a scale; 0 or None: a whole row.
        scale_dtype: f16, bf16, f32, e8m0 or f8e4m3.
        clip_search: False for the plain scales of `tilus.kernels.quantize_weight`.
        zero_point: as in `quantize_weight`.

    Returns:
        A weight whose squared error is in no group above that of plain rounding.

    Raises:
        TilusTypeError, TilusValueError: an argument is out of place, by name.
    """
    scheme = Scheme.of(dtype, scale_dtype, zero_point)
    n, k, group = check_weight(weight, group_size or None)
    made = QuantizedWeight(
        _empty(scheme.codes, n, k),
        _empty(scheme.scales, n, k // group),
        _empty(scheme.zeros, n, k // group) if scheme.zeros is not None else None,
        group_size or 0,
    )
    start = 0
    for rows in _chunks(weight):
        groups = rows.reshape(len(rows), k // group, group)
        scale, zero = scheme.nearest(groups)
        if clip_search:
            scale, zero = _Search(scheme, groups).run(scale, zero)
        part = _rows(made, start, start + len(rows))
        _fill(part.codes, scheme.scaled(groups, scale, zero))
        _fill(part.scales, scale)
        if part.zeros is not None and zero is not None:
            _fill(part.zeros, zero)
        start += len(rows)
    return made


def _empty(kind: DType, n: int, columns: int) -> Tensor:
    storage = torch.empty(kind.storage_bytes(n * columns), dtype=torch.uint8)
    return Tensor(kind, (n, columns), storage)


def _fill(out: Tensor, values: torch.Tensor) -> None:
    out.storage.copy_(Tensor.from_float(values.reshape(out.shape), out.dtype).storage)


def squared_errors(
    weight: torch.Tensor | QuantizedWeight, quantized: QuantizedWeight
) -> tuple[float, float]:
    """The sums of the squares of (weight - quantized) and of the weight."""
    error = signal = 0.0
    for before, after in zip(_chunks(weight), _chunks(quantized), strict=True):
        error += float((before - after).double().square().sum())
        signal += float(before.double().square().sum())
    return error, signal


def _chunks(weight: torch.Tensor | QuantizedWeight) -> Iterator[torch.Tensor]:
    """The rows of a weight in f32, some at a time: a multiple of 8, so whole bytes of codes."""
    n, k = weight.shape
    step = max(8, CHUNK // k // 8 * 8)
    for start in range(0, n, step):
        stop = min(start + step, n)
        if isinstance(weight, torch.Tensor):
            yield weight[start:stop].detach().float()
        else:
            yield _rows(weight, start, stop).dequantize()


def _rows(weight: QuantizedWeight, start: int, stop: int) -> QuantizedWeight:
    """Some rows of a quantised weight, from a multiple of 8 on, without a copy."""

    def cut(t: Tensor) -> Tensor:
        columns = t.shape[1]
        first = start * columns * t.dtype.bits // 8
        last = first + t.dtype.storage_bytes((stop - start) * columns)
        return Tensor(t.dtype, (stop - start, columns), t.storage[first:last])

    zeros = cut(weight.zeros) if weight.zeros is not None else None
    return QuantizedWeight(cut(weight.codes), cut(weight.scales), zeros, weight.group_size)


@lru_cache(maxsize=64)
def _table(kind: DType) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of a codebook in order, and the middles between them."""
    values = torch.tensor(sorted(set(kind.values)), dtype=torch.float32)
    return values, (values[1:] + values[:-1]) / 2


def nearest_values(scaled: torch.Tensor, kind: DType) -> torch.Tensor:
    """The values of a float or codebook nearest to numbers; of two that are as near, either."""
    if kind.kind is Kind.LUT:
        values, middles = _table(kind)
        return values[torch.bucketize(scaled, middles, out_int32=True)]
    x = scaled.clamp(-kind.max, kind.max)
    power = (x.view(torch.int32) & 0x7F800000).view(torch.float32)  # 2^floor(log2 |x|), or 0
    step = power.clamp_min_(2.0 ** (1 - kind.bias)).mul_(2.0**-kind.mantissa_bits)
    return x.div_(step).round_().mul_(step).clamp_(-kind.max, kind.max)


@dataclass(frozen=True)
class _Fit:
    """Scales and zero points as stored, and the squared error of each group with them."""

    scale: torch.Tensor  # [n, groups], as all others
    zero: torch.Tensor | None
    error: torch.Tensor

    def or_better(self, other: _Fit) -> _Fit:
        """Of each group, the fit with the smaller error."""
        better = other.error < self.error
        zero = None
        if self.zero is not None and other.zero is not None:
            zero = torch.where(better, other.zero, self.zero)
        return _Fit(
            torch.where(better, other.scale, self.scale),
            zero,
            torch.where(better, other.error, self.error),
        )


class _Search:
    """The search for the scales and zero points of some groups, f32 [n, k / g, g]."""

    def __init__(self, scheme: Scheme, groups: torch.Tensor) -> None:
        self.scheme = scheme
        self.groups = groups

    def run(
        self, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The best scales and zero points, beginning with the plain ones."""
        plain, *refined = self.tried(scale, zero)
        best = _best(plain, refined)
        for start in self.starts(scale, zero):
            for factor in COARSE:
                best = _best(best, self.tried(*self.times(*start, factor)))
        for scale, zero in self.neighbours(best):
            best = _best(best, self.tried(scale, zero))
        for factor in FINE:
            best = _best(best, self.tried(*self.times(best.scale, best.zero, factor)))
        for _ in range(SETTLE):
            best = _best(best, self.tried(best.scale, best.zero))
        found = _best(plain, self.tried(best.scale, best.zero)[:1])
        return found.scale, found.zero

    def starts(
        self, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Where to begin: what is plain; with a zero point that is not a code, around the mean."""
        yield scale, zero
        if zero is not None and self.scheme.zeros != dtypes.u8:
            mean = self.groups.mean(2)
            spread = (self.groups - mean[:, :, None]).abs().amax(2)
            middle = self.scheme.codes.max / 2
            around = self.stored(torch.maximum(spread / middle, mean.abs() / 1024))
            yield around, self.stored_zero(middle - _ratio(mean, around))

    def neighbours(self, best: _Fit) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """What else is as near to the best so far: other zero points, scales below zero."""
        kind = self.scheme.codes
        if best.zero is not None and self.scheme.zeros == dtypes.u8:
            for step in (-1, 1):
                yield best.scale, self.stored_zero(best.zero + step)
        elif best.zero is None and kind.is_signed and self.scheme.scales.is_signed:
            if abs(kind.max + kind.min) > 0.02 * kind.max:  # i4: -8 to 7
                for factor in (1, -kind.max / kind.min):  # the far end may now be the near one
                    yield self.stored(-best.scale * factor), None

    def times(
        self, scale: torch.Tensor, zero: torch.Tensor | None, factor: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Other scales; with a zero point that is not a code, around the middle of the codes."""
        changed = self.stored(scale * factor)
        if zero is not None and self.scheme.zeros != dtypes.u8:
            middle = self.scheme.codes.max / 2
            zero = self.stored_zero(middle - (middle - zero) * _ratio(scale, changed))
        return changed, zero

    def tried(self, scale: torch.Tensor, zero: torch.Tensor | None) -> list[_Fit]:
        """These scales and zero points, then what fits the codes that they give better.

        With p = code - zero, w = scale p + r. Another scale s and a zero point that is c less make
        it w = s (p + c) + r - (s - scale) p - s c: its error follows from a few sums.
        """
        size = self.groups.shape[2]
        rr, rp, pp, r1, p1 = self.sums(scale, zero)
        alone = self.stored(scale + _ratio(rp, pp))
        found = [_Fit(scale, zero, rr)]
        if zero is None:
            ds = alone - scale
            return [*found, _Fit(alone, None, rr - 2 * ds * rp + ds * ds * pp)]
        slope = scale + _ratio(rp - r1 * p1 / size, pp - p1 * p1 / size)
        moved = self.stored_zero(zero - _ratio(r1 - (slope - scale) * p1, slope * size))
        for candidate in (zero, moved):
            c = zero - candidate
            rq = rp + c * r1 - scale * c * (p1 + size * c)
            s = self.stored(scale + _ratio(rq, pp + 2 * c * p1 + size * c * c))
            ds, db = s - scale, s * c
            error = rr - 2 * (ds * rp + db * r1) + ds * ds * pp + 2 * ds * db * p1 + size * db * db
            found.append(_Fit(s, candidate, error))
        return found

    def sums(self, scale: torch.Tensor, zero: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The sums of r r, r p, p p, r and p of each group, [n, k / g] each."""
        groups, codes = self.groups, self.scheme.codes
        if fits(groups.shape[2]):
            return fit_sums(groups, scale, zero, codes)
        p = self.scheme.scaled(groups, scale, zero)
        if not codes.is_integer:
            p = nearest_values(p, codes)
        if zero is not None:
            p -= zero[:, :, None]
        r = torch.addcmul(groups, p, scale[:, :, None], value=-1)
        return (r * r).sum(2), (r * p).sum(2), (p * p).sum(2), r.sum(2), p.sum(2)

    def stored(self, scale: torch.Tensor) -> torch.Tensor:
        """Scales as their type holds them, at most the largest it has."""
        kind = self.scheme.scales
        return self.scheme.stored_scale(scale.clamp(kind.min, kind.max))

    def stored_zero(self, zero: torch.Tensor) -> torch.Tensor:
        """Zero points as their type holds them, at most the largest it has."""
        kind = self.scheme.zeros
        assert kind is not None
        return self.scheme.stored_zero(zero.clamp(kind.min, kind.max))


def _best(fit: _Fit, others: Iterable[_Fit]) -> _Fit:
    for other in others:
        fit = fit.or_better(other)
    return fit


def _ratio(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x / y, and 0 where y is 0."""
    return torch.where(y == 0, 0.0, x / torch.where(y == 0, 1.0, y))
