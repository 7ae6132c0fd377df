"""Motion metrics and intervals against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pdmd.benchmark import metrics, stats


def test_mean_magnitude_and_clip_mean() -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0] = (3, 4)
    assert metrics.mean_magnitude(flow) == pytest.approx(5 / 4)
    assert metrics.clip_magnitude([1.0, 2.0, 6.0]) == 3.0
    with pytest.raises(ValueError, match="one frame"):
        metrics.clip_magnitude([])


@pytest.mark.parametrize(
    ("fps", "n"), [(1, 1), (8, 1), (11.9, 1), (12, 2), (16, 2), (20, 2), (24, 3), (25, 3), (30, 4)]
)
def test_frame_interval_rounds_halves_to_even(fps: float, n: int) -> None:
    assert metrics.frame_interval(fps) == n


def test_pair_score_is_the_mean_of_the_top_twentieth() -> None:
    field = np.zeros((10, 10, 2), np.float32)
    field.reshape(-1, 2)[:7, 0] = [9, 8, 7, 6, 5, 4, 3]  # int(0.05 * 100) = 5
    assert metrics.pair_score(field) == pytest.approx(7.0)
    field = np.zeros((7, 7, 2), np.float32)
    field[3, 3] = (0, -2)  # int(0.05 * 49) = 2
    assert metrics.pair_score(field) == pytest.approx(1.0)


def test_nan_is_an_error_and_not_static() -> None:
    field = np.full((10, 10, 2), np.nan, np.float32)
    for call in (lambda: metrics.pair_score(field), lambda: metrics.mean_magnitude(field)):
        with pytest.raises(ValueError, match="nan"):
            call()
    with pytest.raises(ValueError, match="nan"):
        metrics.dynamic([1.0, math.nan], 64, 64)
    with pytest.raises(ValueError, match="too few"):
        metrics.pair_score(np.zeros((4, 4, 2), np.float32))


@pytest.mark.parametrize(
    ("over", "pairs", "expected"),
    [
        (4, 16, True),  # n = 17: round(4.25) = 4 pairs needed
        (3, 16, False),
        (0, 1, True),  # n = 2: round(0.5) = 0 pairs needed, so always dynamic
        (0, 0, False),  # one frame: the check never runs
        (0, 2, False),  # n = 3: round(0.75) = 1
        (1, 2, True),
        (1, 5, False),  # n = 6: round(1.5) = 2
        (2, 9, True),  # n = 10: round(2.5) = 2, the even one
    ],
)
def test_dynamic_needs_a_quarter_of_the_frames(over: int, pairs: int, expected: bool) -> None:
    scores = [1.6] * over + [1.4] * (pairs - over)  # threshold 6 * 64 / 256 = 1.5
    verdict = metrics.dynamic(scores, 64, 100)
    assert verdict.threshold == 1.5
    assert verdict.dynamic is expected
    assert verdict.scores == tuple(scores)


def test_the_threshold_is_strict_and_quirks_are_flagged() -> None:
    assert not metrics.dynamic([1.5] * 16, 64, 64).dynamic
    assert "always dynamic" in (metrics.quirk(2) or "")
    assert "never dynamic" in (metrics.quirk(1) or "")
    assert metrics.quirk(3) is None


def test_the_verdict_equals_the_reference_loop() -> None:
    def reference(scores: list[float], threshold: float, needed: int) -> bool:  # the rule as VBench walks it
        count = 0
        for value in scores:
            count += value > threshold
            if count >= needed:
                return True
        return False

    rng = np.random.default_rng(0)
    for _ in range(300):
        scores = list(rng.uniform(0, 3, rng.integers(0, 24)))
        expected = reference(scores, 6 * 64 / 256, round(4 * ((len(scores) + 1) / 16.0)))
        assert metrics.dynamic(scores, 64, 64).dynamic is expected


def test_intervals_against_known_numbers() -> None:
    t = stats.t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert t is not None
    assert (t.low, t.high) == pytest.approx(
        (3 - 1.96324, 3 + 1.96324), abs=1e-4
    )  # t(4) = 2.77645, s / sqrt 5 = 0.70711
    w = stats.wilson_interval(5, 10)
    assert w is not None
    assert (w.low, w.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert stats.wilson_interval(0, 0) is None
    assert stats.t_interval([1.0]) is None


def test_bca_is_seeded_leans_with_the_skew_and_takes_equal_values() -> None:
    x = np.random.default_rng(1).lognormal(size=60)
    a, b = stats.bca_interval(x), stats.bca_interval(x)
    assert a is not None
    assert a == b
    assert a.low < x.mean() < a.high
    assert a.high - x.mean() > x.mean() - a.low
    same = stats.bca_interval([2.0] * 5)
    assert same is not None
    assert (same.low, same.high) == (2.0, 2.0)
    with pytest.raises(ValueError, match="finite"):
        stats.bca_interval([1.0, math.nan])
