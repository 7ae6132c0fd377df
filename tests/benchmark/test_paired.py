"""The three scales of a comparison, what they could have seen, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pdmd.benchmark import paired, stats
from pdmd.benchmark.paired import BETTER, DIFFERENCE, FLOW_FLOOR, RATIO, SAME, SHARE, UNDECIDED, WORSE, Pair, verdict
from pdmd.benchmark.shapes import DIVERSITY, MOTION, effect_for
from pdmd.benchmark.simulate import of_difference
from pdmd.benchmark.stats import Cells, Interval

RNG = np.random.default_rng(0)
OLD, NEW = RNG.normal(0.5, 0.1, 30), RNG.normal(0.45, 0.1, 30)
YES, NO = (RNG.random(220) < 0.6).astype(float), (RNG.random(220) < 0.4).astype(float)


def test_ratios_are_of_geometric_means_and_still_clips_count_as_the_floor() -> None:
    first, second = np.array([0.0, 0.0, 0.4, 0.005]), np.array([0.0, 0.04, 0.1, 0.0])
    assert RATIO.drops(first, second) == pytest.approx([0, math.log(FLOW_FLOOR / 0.04), math.log(4), 0])
    assert RATIO.inner(0.2) == pytest.approx(math.log(1 / 0.8))
    assert RATIO.stated(2 * RATIO.inner(0.2)) == pytest.approx(1 - 0.8**2)
    assert -RATIO.stated(-math.log(1.3)) == pytest.approx(0.3)
    assert DIFFERENCE.inner(0.2) == DIFFERENCE.stated(0.2) == 0.2


def test_scales_by_metric() -> None:
    assert paired.scale_of("optical_flow_dis", OLD, NEW) is RATIO
    assert paired.scale_of("lpips", OLD, NEW) is DIFFERENCE
    assert paired.scale_of("dynamic_degree", YES, NO) is SHARE
    assert paired.scale_of("dynamic_degree", YES, (YES + NO) / 2) is DIFFERENCE  # several seeds a prompt


def test_cells_count_answers_prompt_by_prompt() -> None:
    found = paired.cells(np.array([1, 1, 1, 0, 0, 0.0]), np.array([1, 1, 0, 1, 0, 0.0]))
    assert found == Cells(2, 1, 1, 2)


def test_few_ratios_take_t_and_many_take_bca() -> None:
    few, many = (RATIO.interval(np.full(n, 2.0), np.ones(n), 0.95) for n in (paired.BCA_LEAST - 1, paired.BCA_LEAST))
    assert few is not None
    assert many is not None
    assert "BCa" not in few.method
    assert "BCa" in many.method
    assert many.low == pytest.approx(math.log(2))


@pytest.mark.parametrize(("scale", "first", "second"), [(DIFFERENCE, OLD, NEW), (RATIO, OLD, NEW), (SHARE, YES, NO)])
def test_bound_interval_and_p_value_of_a_scale_agree(scale, first, second) -> None:
    interval = scale.interval(first, second, 0.9)
    assert scale.bound(first, second, 0.95) == pytest.approx(interval.low)
    assert -scale.bound(second, first, 0.95) == pytest.approx(interval.high)
    assert scale.beyond(first, second, interval.low) == pytest.approx(0.05)
    assert scale.beyond(first, second, interval.low - 0.01) < 0.05


def test_a_loss_is_the_old_one_s_lead_where_higher_is_better() -> None:
    assert Pair("lpips", "higher", OLD, NEW).loss == (pytest.approx(OLD), pytest.approx(NEW))
    assert Pair("dinov3_similarity", "lower", OLD, NEW).loss == (pytest.approx(NEW), pytest.approx(OLD))


def test_t_power_is_how_often_the_test_rejects() -> None:
    rng, alpha, distance = np.random.default_rng(1), 0.025, 0.6
    drawn = rng.normal(size=(2500, 21))
    rejected = np.mean([stats.t_beyond(x + distance, 0.0) < alpha for x in drawn])
    spread = (drawn[0] - drawn[0].mean()) / drawn[0].std(ddof=1)
    assert paired.t_power(spread, distance, alpha) == pytest.approx(rejected, abs=0.03)
    assert paired.t_power(spread, 0.0, alpha) == pytest.approx(alpha)
    assert paired.t_power(np.ones(5), 0.1, alpha) == 1
    assert paired.t_power(np.ones(5), 0.0, alpha) == 0
    rounded = np.array([1.0, np.nextafter(1.0, 2.0), 1.0])  # a spread of rounding alone
    assert paired.t_power(rounded, 0.1, alpha) == 1
    assert paired.t_power(rounded, -0.1, alpha) == 0
    assert paired.detectable(DIFFERENCE, rounded, np.ones(3), 0.05, alpha) == pytest.approx(0.05)


def test_share_power_is_how_often_newcombe_s_bound_passes_the_margin() -> None:
    shape, margin, alpha = MOTION[2], 0.12, 0.025
    rng, effect = np.random.default_rng(2), effect_for(MOTION[2], 0.24)
    pairs = [shape.pair(rng, 220, effect) for _ in range(800)]
    passed = np.mean([SHARE.beyond(*p.loss, margin) < alpha for p in pairs])
    said = np.median([SHARE.power(*p.loss, 0.24, margin, alpha) for p in pairs])
    before = np.median([SHARE.power(*shape.pair(rng, 220, 0.0).loss, 0.24, margin, alpha) for _ in range(100)])
    assert passed > 0.8
    assert said == pytest.approx(passed, abs=0.06)
    assert before == pytest.approx(passed, abs=0.06)


@pytest.mark.parametrize(("scale", "first", "second"), [(DIFFERENCE, OLD, NEW), (RATIO, OLD, NEW), (SHARE, YES, NO)])
def test_detectable_is_where_power_is_four_fifths(scale, first, second) -> None:
    drop = paired.detectable(scale, first, second, 0.05, 0.025)
    assert drop is not None
    assert drop > 0.05
    assert scale.power(first, second, drop, 0.05, 0.025) == pytest.approx(0.8, abs=1e-6)
    stricter = paired.detectable(scale, first, second, 0.05, 0.0125)
    assert stricter is not None
    assert stricter > drop


def test_without_spread_anything_beyond_the_margin_is_seen() -> None:
    assert paired.detectable(DIFFERENCE, OLD, OLD, 0.05, 0.05) == 0.05


@pytest.mark.parametrize(
    ("low", "high", "margin", "says"),
    [
        (-0.04, 0.04, 0.05, SAME),
        (0.01, 0.04, 0.05, SAME),  # a gain, but within the margin
        (-0.04, -0.01, 0.05, SAME),
        (0.01, 0.06, 0.05, BETTER),
        (0.06, 0.09, 0.05, BETTER),
        (-0.06, -0.01, 0.05, WORSE),
        (-0.09, -0.06, 0.05, WORSE),
        (-0.06, 0.01, 0.05, UNDECIDED),
        (-0.01, 0.06, 0.05, UNDECIDED),
        (-0.05, 0.04, 0.05, UNDECIDED),  # the margin itself is not within
        (-0.01, 0.01, None, UNDECIDED),
        (0.01, 0.02, None, BETTER),
        (-0.02, -0.01, None, WORSE),
    ],
)
def test_verdicts(low: float, high: float, margin: float | None, says: str) -> None:
    assert verdict(Interval(low, high, 0.95, "t"), margin) == says


def test_without_an_interval_nothing_is_decided() -> None:
    assert verdict(None, 0.05) == UNDECIDED


@pytest.mark.parametrize("shape", [DIVERSITY[0], DIVERSITY[1], MOTION[1]], ids=lambda s: s.metric)
def test_the_interval_of_a_difference_covers_at_n_21(shape) -> None:
    assert 0.935 <= of_difference(shape, 21, 0.05, 2000, 0).holds <= 0.965


@pytest.mark.parametrize("shape", [MOTION[0], MOTION[2], DIVERSITY[1]], ids=lambda s: s.metric)
def test_the_interval_of_a_difference_covers_at_n_220(shape) -> None:
    assert 0.935 <= of_difference(shape, 220, 0.05, 1200, 0).holds <= 0.965


def test_bca_covers_log_flow_at_n_220_and_not_at_n_21() -> None:
    shape, holds = MOTION[1], {}
    for n, runs in ((21, 600), (220, 400)):
        rng = np.random.default_rng(n)
        drops = [RATIO.drops(*shape.pair(rng, n, 0.0).loss) for _ in range(runs)]
        found = [stats.bca_interval(x, resamples=499) for x in drops]
        holds[n] = np.mean([i.low <= 0 <= i.high for i in found if i is not None])
    assert holds[21] < 0.935 <= holds[220] <= 0.965
