"""Arrays to numbers. Pure functions; docs/metrics.md defines every one.

Dynamic degree follows VBench (vbench/dynamic_degree.py, DynamicDegree) to the letter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.stats import binom

KEPT_FPS = 8  # VBench thins a clip to about this many frames a second
TOP_SHARE = 0.05  # of the pixels, whose mean scores a pair
STILL_PIXELS = 6 / 256  # a pair scores as moving above this share of the short side
LENGTH_TOLERANCE = 1e-3  # of an embedding that should have length one


@dataclass(frozen=True)
class Dynamic:
    """VBench's verdict on one clip: `scores` per kept pair and `threshold` in pixels, `kept` frames,
    `needed` pairs over the threshold."""

    dynamic: bool
    scores: tuple[float, ...]
    threshold: float
    kept: int
    needed: int


def mean_magnitude(flow: np.ndarray) -> float:
    """Mean length of the vectors (H, W, 2), pixels. Raises ValueError where a vector is not finite."""
    return _finite(float(np.linalg.norm(flow, axis=-1).mean(dtype=np.float64)), "mean flow")


def clip_magnitude(pairs: Sequence[float]) -> float:
    """Mean over a clip's frame pairs of their mean magnitudes, pixels a frame."""
    if not pairs:
        raise ValueError("a clip of one frame has no flow")
    return _finite(math.fsum(pairs) / len(pairs), "mean flow")


def frame_interval(fps: float | Fraction) -> int:
    """VBench keeps every n-th frame, n = max(1, round(fps / 8)); ties go to the even number."""
    if fps <= 0:
        raise ValueError(f"frames a second must be positive, not {fps}")
    return max(1, round(float(fps) / KEPT_FPS))


def pair_score(padded: np.ndarray) -> float:
    """VBench's score of a pair: the mean of the int(0.05 h w) longest vectors of the padded field (h, w, 2).

    Where VBench lets NaN pass, and reads the clip as static, this raises ValueError.
    """
    length = np.sort(np.linalg.norm(padded, axis=-1), axis=None)
    count = int(length.size * TOP_SHARE)
    if count == 0:
        raise ValueError(f"{length.size} pixels are too few to score: their top 5 % is no pixel")
    return _finite(float(length[-count:].mean(dtype=np.float64)), "dynamic degree")


def dynamic(scores: Sequence[float], height: int, width: int) -> Dynamic:
    """VBench's verdict from the scores of the kept pairs of a clip of height x width (unpadded, not upscaled).

    Dynamic where at least round(4 n / 16) pairs score strictly above 6 min(H, W) / 256, n the kept frames.
    VBench stops at the first pair that reaches the count, so that with one pair (n = 2, count 0) a clip is
    always dynamic, and without a pair never. Raises ValueError for a score that is not finite.
    """
    scores = tuple(_finite(float(score), "dynamic degree") for score in scores)
    kept = len(scores) + 1
    threshold, needed = STILL_PIXELS * min(height, width), round(4 * kept / 16)
    over = sum(score > threshold for score in scores)
    return Dynamic(bool(scores) and over >= needed, scores, threshold, kept, needed)


def quirk(kept: int) -> str | None:
    """What the report must say of VBench's verdict on a clip of so many kept frames, if anything."""
    if kept == 1:
        return "one frame: never dynamic (VBench's rule)"
    if round(4 * kept / 16) == 0:
        return "two frames: always dynamic (VBench's rule)"
    return None


def cosines(embeddings: np.ndarray) -> np.ndarray:
    """Cosine similarity of all pairs, float64 (n, n), of embeddings (n, d) of length one.

    Raises ValueError for any other length, such as that of an embedding that failed.
    """
    e = embeddings.astype(np.float64)
    lengths = np.linalg.norm(e, axis=-1)
    if not (abs(lengths - 1) < LENGTH_TOLERANCE).all():
        raise ValueError(f"embeddings must have length one, these have {lengths.min():.3g} to {lengths.max():.3g}")
    e /= lengths[:, None]
    return e @ e.T


def pair_mean(matrix: np.ndarray) -> float:
    """Mean over the n (n - 1) / 2 pairs i < j of a symmetric (n, n). Raises ValueError for fewer than two."""
    n = len(matrix)
    if n < 2:
        raise ValueError("one image has no pair")
    return _finite(float(matrix[np.triu_indices(n, 1)].mean()), "mean over pairs")


def entropy(readings: Sequence[str | None], values: int) -> float:
    """How evenly n readings of a factor spread over its `values` values, in [0, 1].

    H / log(min(n, values)), H the entropy of the shares of the readings. A reading that is not legible (None)
    counts as one more of the commonest value: of all values it could have, the one that gives the least.
    Raises ValueError for fewer than two readings or values, of which no spread can be told.
    """
    n = len(readings)
    if min(n, values) < 2:
        raise ValueError(f"{n} readings of a factor with {values} values have no spread")
    counts = sorted(Counter(r for r in readings if r is not None).values())
    counts[-1:] = [n - sum(counts[:-1])]
    return max(0.0, -math.fsum(c / n * math.log(c / n) for c in counts) / math.log(min(n, values)))


def expected_entropy(n: int, values: int) -> float:
    """The expectation of `entropy` where the n readings are drawn evenly and independently: what a model
    that leaves nothing out scores. By linearity, over the binomial count of each value."""
    counts = np.arange(1, n + 1)
    each = -(binom.pmf(counts, n, 1 / values) * counts / n * np.log(counts / n)).sum()
    return values * float(each) / math.log(min(n, values))


def factor_entropies(
    readings: Sequence[Mapping[str, str | None]], stated: Iterable[str], values: Mapping[str, int]
) -> dict[str, float]:
    """The entropy of each factor of `values` (name to number of values) that a prompt does not state, over
    the readings of its samples. Raises ValueError for a prompt that leaves none open."""
    stated = set(stated)
    found = {name: entropy([r[name] for r in readings], n) for name, n in values.items() if name not in stated}
    if not found:
        raise ValueError("the prompt leaves no factor open")
    return found


def mean(values: Iterable[float]) -> float:
    """Mean over samples, each equal. Raises ValueError for none, or for one that is not finite."""
    values = list(values)
    if not values:
        raise ValueError("the mean of no sample")
    return _finite(math.fsum(values) / len(values), "mean")


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}: the estimator failed on this clip")
    return value
