"""Simulated results of two models, shaped like real ones, whose truth is known.

What they imitate, read off 220 clips of the embedded world rendered twice and 120 clips of its teacher sampled
twice (DIS, 2026-11): flow has a coefficient of variation of 0.9 to 1.1, a skewness of 1.2 to 1.5, up to a tenth
still clips at exactly zero, and log flows (floor 0.01 px) of two draws of one prompt differ by 0.63 to 0.66 (SD);
dynamic degree differs on 8 to 18 % of prompts; fidelity of one clip, k of m factors, differs by up to 0.35 (SD).
Cosines lie near 1, as in the paper's table; their spread and LPIPS's are assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize

from .paired import Pair

TRUTH = 100_000  # draws that stand for the truth
SAMPLE_NOISE = 0.45  # SD of log flow over draws of one prompt
SAMPLES = 8  # of a prompt, diversity
OPEN_FACTORS = (2, 4, 6)  # values of the factors that a prompt leaves open
STILL = 0.1  # share of still clips


@dataclass(frozen=True)
class Shape:
    """A metric of two models on n prompts: `draw(rng, n, effect)` gives values (n,) of the old and the new one,
    which loses the more the greater the effect in [0, 1]; at 0 both are draws of one model."""

    metric: str
    direction: str
    draw: Callable[[np.random.Generator, int, float], tuple[np.ndarray, np.ndarray]]

    def pair(self, rng: np.random.Generator, n: int, effect: float) -> Pair:
        """Both models' values as a comparison joins them."""
        return Pair(self.metric, self.direction, *self.draw(rng, n, effect))

    def loss(self, effect: float) -> float:
        """The true mean drop on the metric's scale, over TRUTH prompts."""
        pair = self.pair(np.random.default_rng(0), TRUTH, effect)
        return float(pair.scale.drops(*pair.loss).mean())


@cache
def effect_for(shape: Shape, loss: float) -> float:
    """The effect whose true mean drop, on the metric's scale, is `loss`. Raises ValueError for one out of reach."""
    if loss == 0:
        return 0.0
    base = shape.loss(0.0)  # nothing but the rounding of TRUTH draws
    return float(optimize.brentq(lambda effect: shape.loss(effect) - base - loss, 0.0, 0.99, xtol=1e-3))


def flow(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels a frame: gamma over prompts, log-normal over draws; still prompts are still in both."""
    level = rng.gamma(2.5, 0.04, n) * (rng.random(n) >= STILL)
    old, new = np.exp(SAMPLE_NOISE * rng.normal(size=(2, n)))
    return level * old, level * new * (1 - effect)


def heavy_flow(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """The same with log-normal levels: a tail far heavier than any result has shown."""
    level = np.exp(0.75 * rng.normal(size=n) - 2.7) * (rng.random(n) >= STILL)
    old, new = np.exp(SAMPLE_NOISE * rng.normal(size=(2, n)))
    return level * old, level * new * (1 - effect)


def dynamic(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 a clip; most prompts are surely one or the other."""
    chance, old, new = rng.beta(0.236, 0.377, n), *rng.random((2, n))
    return (old < chance).astype(float), (new < chance * (1 - effect)).astype(float)


def fidelity(mean: float, samples: int) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Shares k / m of 1 to 6 stated factors, over so many samples of each prompt."""

    def draw(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
        chance, factors = rng.beta(6 * mean, 6 * (1 - mean), n), samples * rng.integers(1, 7, n)
        return rng.binomial(factors, chance) / factors, rng.binomial(factors, chance * (1 - effect)) / factors

    return draw


def cosine(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean cosine of a prompt's pairs, skewed towards 1."""
    apart = 1 - rng.beta(12, 3, n)
    old, new = np.exp(0.12 * rng.normal(size=(2, n)))
    return 1 - apart * old, 1 - apart * new * (1 - effect)


def lpips(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean LPIPS of a prompt's pairs."""
    apart = rng.beta(20, 18, n)
    old, new = np.exp(0.06 * rng.normal(size=(2, n)))
    return apart * old, apart * new * (1 - effect)


def entropies(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean normalised entropy of the open factors over SAMPLES draws; the effect is the chance of a draw to fall
    back on the factor's first value."""
    found = []
    for lost in (0.0, effect):
        total = np.zeros(n)
        for values in OPEN_FACTORS:
            chances = np.full(values, (1 - lost) / values)
            chances[0] += lost
            shares = rng.multinomial(SAMPLES, chances, n) / SAMPLES
            logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
            total -= (shares * logs).sum(1) / np.log(min(SAMPLES, values))
        found.append(total / len(OPEN_FACTORS))
    return found[0], found[1]


MOTION = (
    Shape("fidelity", "higher", fidelity(0.9, 1)),
    Shape("optical_flow", "higher", flow),
    Shape("dynamic_degree", "higher", dynamic),
)
DIVERSITY = (
    Shape("fidelity", "higher", fidelity(0.9, SAMPLES)),
    Shape("dinov3_similarity", "lower", cosine),
    Shape("lpips", "higher", lpips),
    Shape("factor_diversity", "higher", entropies),
)
#: Suite -> its metrics and its number of prompts.
SUITES = {"motion": (MOTION, 220), "diversity": (DIVERSITY, 21)}
