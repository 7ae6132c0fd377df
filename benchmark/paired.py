"""Two results of one metric, prompt by prompt: on which scale they are set against each other, and the verdict.

`first` and `second` are float64 (n,), one value a prompt. A drop is first minus second on the scale; with the
better result first, it is what was lost. The interval, the test and the gate's bound all speak of the mean drop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from . import stats
from .stats import Cells, Interval, PValue

#: Pixels a frame. Less flow than this counts as this much, so that a ratio of flows exists. In the embedded
#: world's 440 rendered clips all that stand still have less, by a factor of 1000, and all that move have more.
FLOW_FLOOR = 0.01
#: Prompts below which BCa is not used: a bootstrap's interval is too narrow by sqrt((n - 1) / n) z / t.
BCA_LEAST = 100
CERTAIN = 1e6  # standard errors: past it the noncentral t, which is no number further out, is 0 or 1
POWER = 0.8  # at which an effect counts as one that could have been seen
BETTER, SAME, WORSE, UNDECIDED = "better", "same within margin", "worse", "undecided"


@dataclass(frozen=True)
class Scale:
    """How two results are set against each other. All functions take `first` and `second` to begin with.

    `drops` (n,) per prompt. `interval` of the mean drop at a level. `test` of no difference. `beyond`: p-value of
    "mean drop <= margin". `bound`: one-sided lower confidence bound of it at a level. `power`: chance that the
    bound at 1 - alpha passes a margin where the true mean drop is so much, at the n and spread seen. `inner`
    brings a drop as stated (a share lost, for ratios) onto the scale, `stated` back.
    """

    name: str
    drops: Callable[[np.ndarray, np.ndarray], np.ndarray]
    interval: Callable[[np.ndarray, np.ndarray, float], Interval | None]
    test: Callable[[np.ndarray, np.ndarray], PValue]
    beyond: Callable[[np.ndarray, np.ndarray, float], float]
    bound: Callable[[np.ndarray, np.ndarray, float], float]
    power: Callable[[np.ndarray, np.ndarray, float, float, float], float]
    inner: Callable[[float], float] = float
    stated: Callable[[float], float] = float


def subtract(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences as they are."""
    return first - second


def log_ratios(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of the logarithm of flow, each at least FLOW_FLOOR."""
    return np.log(np.maximum(first, FLOW_FLOOR)) - np.log(np.maximum(second, FLOW_FLOOR))


def log_interval(first: np.ndarray, second: np.ndarray, level: float) -> Interval | None:
    """BCa of the mean log ratio, Student's where prompts are too few for it."""
    drops = log_ratios(first, second)
    return (stats.bca_interval if len(drops) >= BCA_LEAST else stats.t_interval)(drops, level)


def t_power(drops: np.ndarray, distance: float, alpha: float) -> float:
    """Chance that Student's one-sided test at alpha rejects where the true mean lies `distance` beyond the
    margin, the spread being that of `drops`: the noncentral t's tail."""
    n, sd = len(drops), drops.std(ddof=1)
    if sd == 0:
        return float(distance > 0)
    reach = np.clip(distance * np.sqrt(n) / sd, -CERTAIN, CERTAIN)
    return float(1 - special.nctdtr(n - 1, reach, special.stdtrit(n - 1, 1 - alpha)))


def cells(first: np.ndarray, second: np.ndarray) -> Cells:
    """Counts of two yes-or-no answers (1 and 0) to the same prompts."""
    a, b = first > 0.5, second > 0.5
    return Cells(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))


def share_bound(first: np.ndarray, second: np.ndarray, level: float) -> float:
    """Newcombe's one-sided lower bound of the difference of shares."""
    found = stats.newcombe_interval(cells(first, second), 2 * level - 1)
    assert found is not None
    return found.low


def share_power(first: np.ndarray, second: np.ndarray, drop: float, margin: float, alpha: float) -> float:
    """Power for shares, by the normal limit, where any loss beyond the one seen turns yeses of `second` into
    noes at random.

    Of those yeses, `both` then differ and `second` no longer do, so that psi, the share of prompts that differ,
    grows by (both - second) / (both + second) of that loss. A single difference has the variance psi - drop^2.
    """
    found, drop = cells(first, second), min(drop, 1.0)
    yes = found.both + found.second
    turned = (found.both - found.second) / yes if yes else 1.0
    further = drop - (found.first - found.second) / found.n
    psi = np.clip((found.first + found.second) / found.n + further * turned, abs(drop), 1.0)
    spread = np.sqrt((psi - drop**2) / found.n)
    if spread == 0:
        return float(drop > margin)
    return float(special.ndtr((drop - margin) / spread + special.ndtri(alpha)))


def _of_means(
    name: str,
    drops: Callable[[np.ndarray, np.ndarray], np.ndarray],
    interval: Callable[[np.ndarray, np.ndarray, float], Interval | None],
    inner: Callable[[float], float] = float,
    stated: Callable[[float], float] = float,
) -> Scale:
    """A scale on which differences are averaged."""
    return Scale(
        name=name,
        drops=drops,
        interval=interval,
        test=lambda first, second: stats.sign_flip(drops(first, second)),
        beyond=lambda first, second, margin: stats.t_beyond(drops(first, second), margin),
        bound=lambda first, second, level: stats.t_bound(drops(first, second), level),
        power=lambda first, second, drop, margin, alpha: t_power(drops(first, second), drop - margin, alpha),
        inner=inner,
        stated=stated,
    )


DIFFERENCE = _of_means("difference", subtract, lambda first, second, level: stats.t_interval(first - second, level))
RATIO = _of_means(
    "ratio",
    log_ratios,
    log_interval,
    inner=lambda lost: float(-np.log1p(-lost)),
    stated=lambda drop: float(-np.expm1(-drop)),
)
SHARE = Scale(
    name="share",
    drops=subtract,
    interval=lambda first, second, level: stats.newcombe_interval(cells(first, second), level),
    test=lambda first, second: stats.mcnemar(cells(first, second)),
    beyond=lambda first, second, margin: stats.newcombe_beyond(cells(first, second), margin),
    bound=share_bound,
    power=share_power,
)
#: The scale of each metric, by its name without an estimator's suffix; all others are differences.
SCALES = {"optical_flow": RATIO, "dynamic_degree": SHARE}


def scale_of(metric: str, first: np.ndarray, second: np.ndarray) -> Scale:
    """The scale of a metric. Shares need an answer of yes or no to each prompt: with several seeds a prompt's
    mean is neither, and then they are differences like any other."""
    scale = SCALES.get(metric.removesuffix("_dis"), DIFFERENCE)
    if scale is SHARE and not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        return DIFFERENCE
    return scale


@dataclass(frozen=True)
class Pair:
    """One metric's values in the old and the new result, float64 (n,) over the same prompts in the same order;
    `direction` is the metric's, "higher" or "lower"."""

    metric: str
    direction: str
    old: np.ndarray
    new: np.ndarray

    @property
    def scale(self) -> Scale:
        return scale_of(self.metric, self.old, self.new)

    @property
    def loss(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second, so that a drop is a loss."""
        return (self.old, self.new) if self.direction == "higher" else (self.new, self.old)


def detectable(scale: Scale, first: np.ndarray, second: np.ndarray, margin: float, alpha: float) -> float:
    """The smallest true drop, on the scale, whose bound at 1 - alpha passes the margin with a chance of POWER at
    this n and spread; the margin itself where nothing spreads."""

    def short(drop: float) -> float:
        return scale.power(first, second, drop, margin, alpha) - POWER

    step = 1 - margin if scale is SHARE else float(scale.drops(first, second).std(ddof=1))
    if step == 0:
        return margin
    while short(margin + step) < 0:
        step *= 2
    return float(optimize.brentq(short, margin, margin + step))


def verdict(gain: Interval | None, margin: float | None) -> str:
    """What an interval of the mean gain (new over old, positive is better) says, on the scale of the margin.

    Same within margin: it lies between -margin and +margin. Else better: it lies above 0. Worse: below 0.
    Undecided: it holds 0 and reaches past the margin (or there is no margin, or no interval).
    """
    if gain is None:
        return UNDECIDED
    if margin is not None and -margin < gain.low and gain.high < margin:
        return SAME
    return BETTER if gain.low > 0 else WORSE if gain.high < 0 else UNDECIDED
