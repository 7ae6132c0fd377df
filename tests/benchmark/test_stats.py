"""Intervals and tests: published examples, enumeration, dualities, and what they cover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from pdmd.benchmark import stats
from pdmd.benchmark.result import summarise
from pdmd.benchmark.shapes import DIVERSITY, MOTION, SUITES, Shape
from pdmd.benchmark.simulate import HEAVY, false_positives, in_results, single
from pdmd.benchmark.stats import Cells

RNG = np.random.default_rng(0)
SKEWED = RNG.gamma(1.5, 1.0, 21)


def ends(interval: stats.Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def test_t_is_scipy_s() -> None:
    expected = reference.ttest_1samp(SKEWED, 0).confidence_interval(0.9)
    assert ends(stats.t_interval(SKEWED, 0.9)) == pytest.approx(tuple(expected))


def test_hall_s_ends_are_where_the_transformed_statistic_reaches_t() -> None:
    n, mean, s, g = len(SKEWED), SKEWED.mean(), SKEWED.std(ddof=1), reference.skew(SKEWED)
    for end, t in zip(ends(stats.hall_interval(SKEWED, 0.9)), reference.t.ppf([0.95, 0.05], n - 1), strict=True):
        u = (mean - end) / s
        assert (u + g * u**2 / 3 + g**2 * u**3 / 27 + g / (6 * n)) * math.sqrt(n) == pytest.approx(t)


def test_hall_moves_with_its_values_and_leans_to_the_long_tail() -> None:
    low, high = ends(stats.hall_interval(SKEWED))
    assert ends(stats.hall_interval(3 * SKEWED + 1)) == pytest.approx((3 * low + 1, 3 * high + 1))
    assert ends(stats.hall_interval(-SKEWED)) == pytest.approx((-high, -low))
    plain = ends(stats.t_interval(SKEWED))
    assert low > plain[0]
    assert high > plain[1]
    even = np.concatenate([SKEWED, -SKEWED])
    assert ends(stats.hall_interval(even)) == ends(stats.t_interval(even))


@pytest.mark.parametrize("interval", [stats.t_interval, stats.hall_interval, stats.bca_interval])
def test_few_equal_and_broken_values(interval) -> None:
    assert interval([1.0]) is None
    assert ends(interval([2.0, 2.0, 2.0])) == (2.0, 2.0)
    with pytest.raises(ValueError, match="not all finite"):
        interval([1.0, math.nan])


def test_bca_follows_its_seed_and_holds_the_mean() -> None:
    low, high = ends(stats.bca_interval(SKEWED, resamples=999))
    assert low < SKEWED.mean() < high
    assert (low, high) == ends(stats.bca_interval(SKEWED, resamples=999))
    assert (low, high) != ends(stats.bca_interval(SKEWED, seed=1, resamples=999))


def test_newcombe_gives_the_published_intervals() -> None:
    """Complete response before and after consolidation (Cavo et al. 2012) and airway hyper-responsiveness
    (Bentur et al. 2009), as in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, chapter 8,
    and in the R package contingencytables."""
    assert ends(stats.newcombe_interval(Cells(59, 6, 16, 80))) == pytest.approx((-0.1186, -0.0046), abs=5e-5)
    assert ends(stats.newcombe_interval(Cells(1, 1, 7, 12))) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_newcombe_without_correlation_adds_wilson_s_arms() -> None:
    cells = Cells(6, 4, 9, 6)  # both * neither = first * second
    one, two = stats.wilson_interval(10, 25), stats.wilson_interval(15, 25)
    assert one is not None
    assert two is not None
    low, high = ends(stats.newcombe_interval(cells))
    assert low == pytest.approx(-0.2 - math.hypot(0.4 - one.low, two.high - 0.6))
    assert high == pytest.approx(-0.2 + math.hypot(one.high - 0.4, 0.6 - two.low))


TABLES = st.tuples(*[st.integers(0, 30)] * 4).filter(lambda t: sum(t) > 1)


@given(TABLES, st.floats(0.55, 0.99))
@settings(max_examples=60, deadline=None)
def test_newcombe_turns_round_and_its_p_value_is_the_level_that_touches(table, level) -> None:
    cells = Cells(*table)
    assume(abs(cells.first - cells.second) < cells.n)  # else a limit is 1, which no p-value tells from the estimate
    low, high = ends(stats.newcombe_interval(cells, level))
    assert ends(stats.newcombe_interval(Cells(table[0], table[2], table[1], table[3]), level)) == pytest.approx(
        (-high, -low)
    )
    assert -1 - 1e-9 <= low <= (cells.first - cells.second) / cells.n <= high <= 1 + 1e-9
    assert stats.newcombe_beyond(cells, low) == pytest.approx((1 - level) / 2, abs=1e-6)
    assert stats.newcombe_beyond(cells, high) == pytest.approx((1 + level) / 2, abs=1e-6)


def test_newcombe_covers_at_n_21_over_every_table() -> None:
    """Exact coverage: every outcome of 21 prompts, weighed by its probability."""
    n, holds = 21, {}
    tables = [t for t in itertools.product(range(n + 1), repeat=3) if sum(t) <= n]
    for both, first, second in tables:
        holds[both, first, second] = ends(
            stats.newcombe_interval(Cells(both, first, second, n - both - first - second))
        )
    for chances in ((0.3, 0.09, 0.09, 0.52), (0.25, 0.2, 0.05, 0.5), (0.6, 0.15, 0.15, 0.1)):
        truth = chances[1] - chances[2]
        counts = np.array([(*t, n - sum(t)) for t in tables])
        weights = reference.multinomial.pmf(counts, n, chances)
        covered = sum(w for w, (low, high) in zip(weights, holds.values(), strict=True) if low <= truth <= high)
        assert weights.sum() == pytest.approx(1)
        assert 0.935 <= covered <= 0.985


def test_mcnemar_is_the_binomial_of_the_prompts_that_differ() -> None:
    assert stats.mcnemar(Cells(1, 1, 7, 12)).p == pytest.approx(2 * (1 + 8) / 2**8)
    assert stats.mcnemar(Cells(5, 0, 0, 5)).p == 1


def brute(x: np.ndarray) -> float:
    """Share of all signings at least as far from zero, one by one."""
    sums = [abs(np.dot(signs, x)) for signs in itertools.product((1, -1), repeat=len(x))]
    return float(np.mean([s >= abs(x.sum()) - 1e-9 for s in sums]))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_sign_flip_counts_every_signing_ties_and_zeros_included(values) -> None:
    x = np.array(values) / 7
    assert stats.sign_flip(x).p == pytest.approx(brute(x))


def test_sign_flip_is_scipy_s_permutation_test() -> None:
    x = RNG.normal(0.3, 1, 11)
    exact = reference.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(x).p == pytest.approx(exact.pvalue)


def test_sign_flip_is_exact_at_21_prompts() -> None:
    assert stats.sign_flip(np.arange(1.0, 22.0)).p == 2 / 2**21
    assert "exact" in stats.sign_flip(np.ones(21)).method
    mixed = np.where(np.arange(21) < 13, 1.0, -1.0)  # a sum of 5: the binomial's tails
    assert stats.sign_flip(mixed).p == pytest.approx(reference.binomtest(13, 21).pvalue)


def test_sign_flip_never_rejects_more_often_than_it_says() -> None:
    """Over all signings of one set of differences, the p-value is at most 0.05 in at most 5 %."""
    sizes = RNG.gamma(1.0, 1.0, 9)
    p = [stats.sign_flip(sizes * signs).p for signs in itertools.product((1, -1), repeat=9)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) <= 0.05


def test_sampled_sign_flip_is_near_the_exact_one_and_never_zero() -> None:
    ones = np.where(np.arange(60) < 37, 1.0, -1.0)
    assert stats.sign_flip(ones).p == pytest.approx(reference.binomtest(37, 60).pvalue, abs=0.01)
    assert stats.sign_flip(np.ones(60), resamples=999).p == 1 / 1000
    assert stats.sign_flip(SKEWED - 20, seed=3).p == stats.sign_flip(20 - SKEWED, seed=3).p


def test_t_beyond_and_its_bound_say_the_same() -> None:
    assert stats.t_beyond(SKEWED, 1.2) == pytest.approx(
        reference.ttest_1samp(SKEWED, 1.2, alternative="greater").pvalue
    )
    bound = stats.t_bound(SKEWED, 0.975)
    assert bound == pytest.approx(ends(stats.t_interval(SKEWED, 0.95))[0])
    assert stats.t_beyond(SKEWED, bound) == pytest.approx(0.025)
    assert stats.t_beyond(SKEWED, SKEWED.mean()) == pytest.approx(0.5)
    assert stats.t_beyond([0.3, 0.3], 0.2) == 0
    assert stats.t_beyond([0.3, 0.3], 0.4) == 1


def test_holm_by_hand() -> None:
    steps = stats.holm([0.04, 0.01, 0.02], 0.05)
    assert [s.adjusted for s in steps] == pytest.approx([0.04, 0.03, 0.04])
    assert [s.level for s in steps] == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
    assert all(s.rejected for s in steps)
    stopped = stats.holm([0.03, 0.01, 0.03], 0.05)
    assert [s.rejected for s in stopped] == [False, True, False]
    assert stats.holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_holm_is_bonferroni_closed(p_values) -> None:
    """A hypothesis is rejected where every set that holds it is, by its smallest p-value over its size."""
    indices = range(len(p_values))
    sets = [s for k in indices for s in itertools.combinations(indices, k + 1)]
    closed = [all(min(p_values[j] for j in s) * len(s) <= 0.05 for s in sets if i in s) for i in indices]
    assert [s.rejected for s in stats.holm(p_values, 0.05)] == closed


def carried(shape: Shape, values: np.ndarray) -> stats.Interval | None:
    """The interval of a result with these values."""
    return summarise(shape.metric, values.tolist(), len(values), "", False, {}).interval


OF_A_SUITE = [(shape, n) for shapes, n in SUITES.values() for shape in shapes]
OF_THE_OTHER_SIZE = [(MOTION[1], 21), (MOTION[2], 21), (DIVERSITY[0], 220), (DIVERSITY[1], 220)]


@pytest.mark.parametrize(("shape", "n"), OF_A_SUITE + OF_THE_OTHER_SIZE, ids=lambda s: getattr(s, "metric", str(s)))
def test_the_interval_of_a_result_covers_what_it_promises(shape: Shape, n: int) -> None:
    (found,) = single(shape, n, 1200, 0, [lambda x: carried(shape, x)])
    assert 0.935 <= found.holds <= 0.965
    assert max(found.below, found.above) < 0.05
    values = shape.draw(np.random.default_rng(1), n, 0.0)[0]
    assert in_results(shape)(values) == carried(shape, values)  # the simulation's is a result's


def test_where_the_interval_of_a_result_errs_it_errs_as_the_docs_say() -> None:
    """docs/comparison.md: too wide for fidelity of one sample a prompt at 21 prompts, too narrow for heavy tails; the
    plain ones err further."""
    (own, plain), (heavy, t, bca) = (
        single(shape, 21, 2000, 0, [in_results(shape), stats.t_interval, *more])
        for shape, more in ((MOTION[0], ()), (HEAVY, [lambda x: stats.bca_interval(x, resamples=499)]))
    )
    assert plain.holds < 0.9 < 0.965 < own.holds < 0.98
    assert max(t.holds, bca.holds) < 0.91 < 0.92 < heavy.holds < 0.935


def test_an_interval_ends_where_its_metric_ends() -> None:
    ends_at = {"fidelity": (None, 1.0), "factor_diversity": (None, 1.0), "optical_flow": (0.0, None)}
    rare = np.array([1.0] * 2 + [0.0] * 19)
    for name, (low, high) in ends_at.items():
        values = rare if high is None else 1 - rare
        found = summarise(name, values.tolist(), 21, "", False, {}).interval
        assert found is not None
        assert found.method == "t over prompts, skewness removed"
        assert low is None or found.low == low
        assert high is None or found.high == high


@pytest.mark.parametrize("shape", [MOTION[1], DIVERSITY[1]], ids=lambda s: s.metric)
def test_sign_flip_errs_in_5_percent(shape) -> None:
    assert 0.035 <= false_positives(shape, 21, 2000, 1) <= 0.065
