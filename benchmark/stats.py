"""Intervals and tests over prompts; pure, on top of scipy. The unit is the prompt, never a pair of frames or
of seeds. `python -m pdmd.benchmark.simulate` measures how often each of them is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

LEVEL = 0.95
RESAMPLES = 9999
EXACT_LIMIT = 21  # differences whose 2^n signs are counted out; more are sampled
TIE = 1e-9  # of the sum of absolute differences: sums nearer than this to the observed one are as extreme
SYMMETRIC = 1e-6  # skewness below which its correction is nothing but rounding
SURE = 8.0  # standard deviations beyond which a p-value is not resolved


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval and how it was made."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class PValue:
    """A two-sided p-value of "no difference" and how it was made."""

    p: float
    method: str


@dataclass(frozen=True)
class Cells:
    """Prompts by two yes-or-no answers: yes to both, to the first only, to the second only, to neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither


@dataclass(frozen=True)
class Step:
    """Holm's decision on one hypothesis: its adjusted p-value, the `level` that a confidence bound of it has
    in this step, and whether it is rejected."""

    adjusted: float
    level: float
    rejected: bool


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Student's interval of a mean over prompts; None for fewer than two."""
    x = _checked(values)
    if len(x) < 2:
        return None
    half = special.stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean() - half), float(x.mean() + half), level, "t over prompts")


def hall_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Student's interval of a mean over prompts, its skewness removed (Hall 1992, J. R. Statist. Soc. B 54:221,
    the cubic transformation); for values that pile up at one end, such as cosines near 1 or flow near 0. None
    for fewer than two.

    With U = (mean - mu) / s and g the skewness, U + g U^2 / 3 + g^2 U^3 / 27 + g / 6n is t / sqrt(n) to second
    order; this is its inverse at both quantiles.
    """
    x = _checked(values)
    if (plain := t_interval(x, level)) is None or np.ptp(x) == 0:
        return plain
    n, s, g = len(x), x.std(ddof=1), ((x - x.mean()) ** 3).mean() / x.std() ** 3
    if abs(g) < SYMMETRIC:
        return plain
    y = special.stdtrit(n - 1, [(1 + level) / 2, (1 - level) / 2]) / np.sqrt(n)
    low, high = x.mean() - s * 3 / g * (np.cbrt(1 + g * (y - g / (6 * n))) - 1)
    return Interval(float(low), float(high), level, "t over prompts, skewness removed")


def bca_interval(values: ArrayLike, level: float = LEVEL, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Bias-corrected and accelerated bootstrap of a mean over prompts (Efron 1987); None for fewer than two.
    Equal values give an interval of no width."""
    x = _checked(values)
    if len(x) < 2:
        return None
    method = f"BCa over prompts, {resamples} resamples, seed {seed}"
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), level, method)
    result = stats.bootstrap(
        (x,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed)
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high), level, method)


def wilson_interval(count: int, n: int, level: float = LEVEL) -> Interval | None:
    """Wilson's interval of a share count / n; None for n = 0."""
    if n == 0:
        return None
    low, high = stats.binomtest(count, n).proportion_ci(level, method="wilson")
    return Interval(float(low), float(high), level, "Wilson over prompts")


def newcombe_interval(cells: Cells, level: float = LEVEL) -> Interval | None:
    """Newcombe's interval of (share of first) - (share of second) over the same prompts; None for n = 0."""
    if cells.n == 0:
        return None
    low, high = _newcombe(cells, float(special.ndtri((1 + level) / 2)))
    return Interval(low, high, level, "Newcombe over prompts, method 10")


def newcombe_beyond(cells: Cells, margin: float) -> float:
    """p-value of "(share of first) - (share of second) <= margin": the level at which the one-sided limit of
    Newcombe's interval touches the margin."""
    difference = (cells.first - cells.second) / cells.n
    if difference == margin:
        return 0.5
    side = int(difference < margin)  # the margin lies above the estimate: its upper limit gets there

    def gap(z: float) -> float:
        return (_newcombe(cells, z)[side] - margin) * (-1) ** side

    z = SURE if gap(SURE) > 0 else float(optimize.brentq(gap, 0.0, SURE))
    return float(special.ndtr(z if side else -z))


def _newcombe(cells: Cells, z: float) -> tuple[float, float]:
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10: Wilson's limits of both shares at z standard
    deviations, joined by their correlation phi with its continuity correction."""
    n, first, second = cells.n, cells.both + cells.first, cells.both + cells.second
    agreement: float = cells.both * cells.neither - cells.first * cells.second
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    margins = first * (n - first) * second * (n - second)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    below1, above1 = _wilson_arms(first / n, n, z)
    below2, above2 = _wilson_arms(second / n, n, z)
    down = math.sqrt(below1**2 - 2 * phi * below1 * above2 + above2**2)
    up = math.sqrt(above1**2 - 2 * phi * above1 * below2 + below2**2)
    return (first - second) / n - down, (first - second) / n + up


def _wilson_arms(share: float, n: int, z: float) -> tuple[float, float]:
    """How far Wilson's limits at z lie below and above a share (Wilson 1927)."""
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share - (middle - half), middle + half - share


def mcnemar(cells: Cells) -> PValue:
    """McNemar's exact test that both shares are equal: the prompts that differ are a fair coin's."""
    differ = cells.first + cells.second
    return PValue(float(stats.binomtest(cells.first, differ).pvalue) if differ else 1.0, "McNemar, exact")


def sign_flip(differences: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> PValue:
    """Sign-flip permutation test that paired differences are symmetric about zero, on their mean.

    Exact up to EXACT_LIMIT differences other than zero (whose sign means nothing); above that, signs are
    drawn and the p-value counts the observed ones among them, so that it is never zero. The same p-values as
    scipy.stats.permutation_test with permutation_type "samples", which takes minutes for 21 and seconds for 220.
    """
    x = _checked(differences)
    x = x[x != 0]
    if len(x) <= EXACT_LIMIT:
        return PValue(_exact_sign_flip(x), "sign flip, exact")
    signs = np.random.default_rng(seed).integers(0, 2, (resamples, len(x)), np.int8) * 2 - 1
    above = (abs(signs @ x) >= abs(x.sum()) - TIE * abs(x).sum()).sum()
    return PValue((int(above) + 1) / (resamples + 1), f"sign flip, {resamples} draws, seed {seed}")


def _exact_sign_flip(x: np.ndarray) -> float:
    """Share of the 2^n signings whose sum is as far from zero as that of x. Sums of the halves are met in the
    middle: sorted, they need 2^(n/2) numbers in place of 2^n."""
    reached = abs(x.sum()) - TIE * abs(x).sum()
    left, right = _signed_sums(x[: len(x) // 2]), np.sort(_signed_sums(x[len(x) // 2 :]))
    above = (len(right) - np.searchsorted(right, reached - left)).sum()
    return min(1.0, 2 * int(above) / 2 ** len(x))  # the signings' sums are symmetric


def _signed_sums(x: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in x:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def t_beyond(differences: ArrayLike, margin: float) -> float:
    """p-value of "the mean difference is <= margin", Student's, one-sided, n >= 2. Equal differences leave no doubt."""
    x = _checked(differences)
    if np.ptp(x) == 0:
        return float(x[0] <= margin)
    return float(special.stdtr(len(x) - 1, (margin - x.mean()) / x.std(ddof=1) * np.sqrt(len(x))))


def t_bound(differences: ArrayLike, level: float) -> float:
    """Student's one-sided lower confidence bound of a mean difference, n >= 2."""
    x = _checked(differences)
    return float(x.mean() - special.stdtrit(len(x) - 1, level) * x.std(ddof=1) / np.sqrt(len(x)))


def holm(p_values: Sequence[float], alpha: float) -> list[Step]:
    """Holm's step-down over all hypotheses (Scand. J. Statist. 6:65, 1979): the chance to reject any true one
    is at most alpha. In the order given."""
    steps: list[Step | None] = [None] * len(p_values)
    adjusted, left = 0.0, len(p_values)
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        adjusted = max(adjusted, min(1.0, left * p_values[i]))
        steps[i] = Step(adjusted, 1 - alpha / left, adjusted <= alpha)
        left -= 1
    return [step for step in steps if step is not None]


def _checked(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("an interval of values that are not all finite")
    return x
