"""Diversity metrics against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pdmd.benchmark import metrics


def test_the_mean_is_over_pairs_and_no_image_meets_itself() -> None:
    matrix = np.array([[9.0, 1, 2], [1, 9, 6], [2, 6, 9]])
    assert metrics.pair_mean(matrix) == 3
    with pytest.raises(ValueError, match="no pair"):
        metrics.pair_mean(np.ones((1, 1)))
    with pytest.raises(ValueError, match="nan"):
        metrics.pair_mean(np.full((2, 2), np.nan))


def test_cosines_against_known_angles() -> None:
    angles = np.deg2rad([0, 60, 180])
    found = metrics.cosines(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    np.testing.assert_allclose(found, [[1, 0.5, -1], [0.5, 1, -0.5], [-1, -0.5, 1]], atol=1e-6)
    for wrong in (np.zeros((2, 3)), np.ones((2, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="length one"):
            metrics.cosines(wrong)


@pytest.mark.parametrize(
    ("readings", "values", "expected"),
    [
        ("aaaaaaaa", 4, 0.0),
        ("aaaabbbb", 2, 1.0),
        ("aabbccdd", 4, 1.0),
        ("aaaabbbb", 4, 0.5),
        ("aabbcdef", 6, (2 * 0.25 * math.log(4) + 4 * 0.125 * math.log(8)) / math.log(6)),
        ("abc", 6, 1.0),  # three readings cannot show more than three values
        ("aaab----", 2, -(7 / 8 * math.log(7 / 8) + 1 / 8 * math.log(1 / 8)) / math.log(2)),
        ("--------", 4, 0.0),
        ("a-------", 4, 0.0),
    ],
)
def test_entropy_by_hand(readings: str, values: int, expected: float) -> None:
    assert metrics.entropy([None if r == "-" else r for r in readings], values) == pytest.approx(expected)


def test_an_illegible_reading_never_adds_diversity() -> None:
    for counts in itertools.product(range(4), repeat=3):
        readings: list[str | None] = [v for v, n in zip("abc", counts, strict=True) for _ in range(n)]
        if len(readings) >= 2:
            least = min(metrics.entropy([*readings, v], 3) for v in "abc")
            assert metrics.entropy([*readings, None], 3) == pytest.approx(least)


def test_the_expected_entropy_is_the_mean_over_every_draw() -> None:
    every = [metrics.entropy(draw, 3) for draw in itertools.product("abc", repeat=4)]
    assert metrics.expected_entropy(4, 3) == pytest.approx(np.mean(every))
    assert metrics.expected_entropy(10_000, 4) == pytest.approx(1, abs=1e-3)


def test_only_open_factors_count() -> None:
    readings = [{"count": "one", "size": s, "colour": "red"} for s in ("small", "large")]
    values = {"count": 2, "size": 2, "colour": 6}
    assert metrics.factor_entropies(readings, ["colour"], values) == {"count": 0, "size": 1}
    with pytest.raises(ValueError, match="no factor open"):
        metrics.factor_entropies(readings, values, values)
