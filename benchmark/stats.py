"""Intervals over prompts; pure, on top of scipy. The unit is the prompt, never a pair of frames or of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval and how it was made."""

    low: float
    high: float
    level: float
    method: str


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's interval of a mean over prompts; None for fewer than two."""
    x = _checked(values)
    if len(x) < 2:
        return None
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean() - half), float(x.mean() + half), level, "t over prompts")


def bca_interval(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Interval | None:
    """Bias-corrected and accelerated bootstrap of a mean over prompts (Efron 1987), for skewed values such
    as flow; None for fewer than two. Equal values give an interval of no width."""
    x = _checked(values)
    if len(x) < 2:
        return None
    method = f"BCa over prompts, {RESAMPLES} resamples, seed {seed}"
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), level, method)
    result = stats.bootstrap(
        (x,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(seed)
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high), level, method)


def wilson_interval(count: int, n: int, level: float = LEVEL) -> Interval | None:
    """Wilson's interval of a share count / n; None for n = 0."""
    if n == 0:
        return None
    low, high = stats.binomtest(count, n).proportion_ci(level, method="wilson")
    return Interval(float(low), float(high), level, "Wilson over prompts")


def _checked(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("an interval of values that are not all finite")
    return x
