"""The methods as data: the table of PAPER.md, row by row."""

from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest

from pdmd.flow import time_grid
from pdmd.plan import METHODS, Plan, dmd, few_step, phased, sgts, split, tdm, with_options

GRID = time_grid(4, 5.0)


def test_methods_are_the_five_of_the_table():
    assert set(METHODS) == {"dmd", "few-step", "sgts", "phased", "tdm"}


def test_dmd_is_one_step_to_zero():
    (phase,) = dmd().phases
    assert phase.times == (1, 0)
    assert (phase.low, phase.high) == (0, 1)
    assert not phase.random_stop
    assert dmd().target == "exact"


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("method", [few_step, sgts])
def test_few_step_has_the_full_graph_and_sgts_random_stops_in_one_phase(method, steps):
    plan = method(steps=steps)
    (phase,) = plan.phases
    assert phase.steps == steps
    assert (phase.start, phase.end, phase.low, phase.high) == (1, 0, 0, 1)
    assert (phase.full_graph, phase.random_stop) == ((True, False) if method is few_step else (False, True))
    assert plan.target == "exact"


def test_tdm_is_one_network_on_disjoint_intervals_trained_together():
    plan = tdm()
    assert [phase.times for phase in plan.phases] == list(pairwise(GRID))
    assert [(phase.low, phase.high) for phase in plan.phases] == [(s, t) for t, s in pairwise(GRID)]
    assert plan.experts == (0, 0, 0, 0)
    assert plan.interleaved
    assert plan.stages == (plan.phases,)
    assert plan.target == "x0"
    assert with_options(plan, target="exact").target == "exact"


def test_phased_default_is_four_steps_two_phases_two_experts():
    plan = phased()
    first, last = plan.phases
    assert (first.times, last.times) == (GRID[:3], GRID[2:])
    assert [(phase.low, phase.high) for phase in plan.phases] == [(GRID[2], 1), (0, 1)]
    assert all(phase.random_stop and not phase.full_graph for phase in plan.phases)
    assert plan.experts == (0, 0, 1, 1)
    assert plan.stages == ((first,), (last,))
    assert (plan.target, plan.interleaved) == ("exact", False)


@pytest.mark.parametrize("steps", [1, 3, 4, 7])
def test_any_number_of_phases_covers_the_grid(steps):
    for phases in range(1, steps + 1):
        plan = phased(steps=steps, phases=phases)
        lengths = [phase.steps for phase in plan.phases]
        assert plan.grid == time_grid(steps, 5.0)
        assert len(plan.phases) == phases
        assert sum(lengths) == len(plan.experts) == steps
        assert max(lengths) - min(lengths) <= 1
        assert plan.experts == tuple(sorted(plan.experts))
        assert set(plan.experts) == set(range(phases))
        for phase in plan.phases:
            assert (phase.low, phase.high) == (phase.end, 1)
            assert phase.random_stop == (phase.steps > 1)


def test_longer_phases_come_first():
    assert [phase.steps for phase in phased(steps=7, phases=3).phases] == [3, 2, 2]
    assert [phase.steps for phase in phased(steps=4, phases=3).phases] == [2, 1, 1]


def test_the_first_phase_ends_at_its_boundary_and_the_others_share_the_rest():
    for boundary in (1, 2, 3):
        first, last = phased(boundary=boundary, shift=3.0).phases
        assert (first.steps, last.steps) == (boundary, 4 - boundary)
        assert first.end == last.start == phased(shift=3.0).grid[boundary]
        assert (first.random_stop, last.random_stop) == (boundary > 1, boundary < 3)
    assert [phase.steps for phase in phased(steps=8, phases=3, boundary=1).phases] == [1, 4, 3]
    for phases, boundary in ((2, 0), (2, 4), (3, 3), (1, 2)):
        with pytest.raises(ValueError, match="boundary"):
            phased(phases=phases, boundary=boundary)


def test_interval_and_sgts_are_switches():
    for phase in phased(interval="disjoint").phases:
        assert (phase.low, phase.high) == (phase.end, phase.start)
    for phase in tdm(interval="nested").phases:
        assert (phase.low, phase.high) == (phase.end, 1)
    assert not any(phase.random_stop for phase in phased(random_stop=False).phases)


def test_phased_in_one_phase_is_sgts():
    assert phased(phases=1).phases == sgts().phases


@pytest.mark.parametrize("phases", [0, -1, 5])
def test_impossible_splits_say_what_is_possible(phases):
    with pytest.raises(ValueError, match=r"between 1 and the number of steps \(4\)"):
        split(4, phases, 5.0)


def test_options_replace_only_what_is_given():
    plan = phased()
    assert with_options(plan, target=None, weight=None, fits=None, ema=None) == plan
    other = with_options(plan, target="naive", weight="normalised", fits=7, ema=0.9)
    assert (other.target, other.weight, other.fits, other.ema) == ("naive", "normalised", 7, 0.9)
    assert other.phases == plan.phases
    with pytest.raises(TypeError, match="targt"):
        with_options(plan, targt="naive")


def test_plans_are_frozen():
    with pytest.raises(FrozenInstanceError):
        dmd().fits = 1  # type: ignore[misc]
    assert isinstance(METHODS["dmd"](), Plan)
