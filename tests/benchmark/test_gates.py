"""Gates files, and what the gates decide: how often they alarm and how often they catch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pdmd.benchmark import gates as g
from pdmd.benchmark.gates import FAILED, NON_INFERIOR, NOT_MEASURED, PASSED, Gate, Gates, decide, default_gates
from pdmd.benchmark.paired import Pair
from pdmd.benchmark.shapes import DIVERSITY, MOTION, SUITES
from pdmd.benchmark.simulate import inner_margins, rates
from pdmd.benchmark.suites import SUITES as MEASURED
from pdmd.errors import UserError


def pair(metric: str, drop: float, n: int = 50, sd: float = 0.1) -> Pair:
    """Values whose mean drop is `drop` and whose differences spread by `sd`."""
    x = np.random.default_rng(0).normal(size=n)
    x = (x - x.mean()) / x.std(ddof=1)
    return Pair(metric, "higher", np.full(n, 0.5), 0.5 - drop + sd * x)


@pytest.mark.parametrize("suite", ["diversity", "motion", "motion-i2v"])
def test_every_suite_ships_gates_on_all_its_metrics(suite: str) -> None:
    found = default_gates(suite)
    assert found.suite == suite
    assert found.level == 0.95
    names = {gate.metric for gate in found.gates}
    assert "fidelity" in names
    known = MEASURED.get(suite, MEASURED["motion"]).metrics
    assert set(known) <= names
    assert all(gate.optional for gate in found.gates if gate.metric != "fidelity")


def test_a_file_is_read_and_fidelity_comes_along(tmp_path) -> None:
    path = tmp_path / "g.toml"
    path.write_text('level = 0.9\n[gate.lpips]\nmargin = 0.1\nrequire = "non-inferior"\n')
    found = g.read_gates(path)
    assert found.level == 0.9
    assert found.gates == (Gate("fidelity", g.FIDELITY_MARGIN), Gate("lpips", 0.1, NON_INFERIOR))
    path.write_text("[gate.fidelity]\nmargin = 0.2\n[gate.lpips]\nmargin = 0.1\n")
    assert g.read_gates(path).gates[0] == Gate("fidelity", 0.2)
    with pytest.raises(UserError, match="cannot read the gates"):
        g.read_gates(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gate.lpips\nmargin = 1", "not TOML"),
        ("", "there is no gate"),
        ("[gate]\n", "there is no gate"),
        ("gate = 3\n", "there is no gate"),
        ("[gates.lpips]\nmargin = 0.1\n", "did you mean 'gate'"),
        ("[gate.lpips]\nmargn = 0.1\n", "did you mean 'margin'"),
        ("[gate.lpips]\n", "margin is missing"),
        ("[gate]\nlpips = 0.1\n", "expected a table"),
        ("[gate.lpips]\nmargin = 0\n", "not a number between 0 and 1"),
        ("[gate.lpips]\nmargin = 1\n", "not a number between 0 and 1"),
        ("[gate.lpips]\nmargin = nan\n", "not a number between 0 and 1"),
        ("[gate.lpips]\nmargin = true\n", "not a number between 0 and 1"),
        ("[gate.lpips]\nmargin = '5 %'\n", "not a number between 0 and 1"),
        ("level = 95\n[gate.lpips]\nmargin = 0.1\n", "level = 95 is not a number between 0.5 and 1"),
        ("[gate.lpips]\nmargin = 0.1\nrequire = 'non-inferor'\n", "did you mean 'non-inferior'"),
        ("[gate.lpips]\nmargin = 0.1\noptional = 1\n", "not true or false"),
        ("suite = 3\n[gate.lpips]\nmargin = 0.1\n", "not a text"),
        ("without_fidelity = 'yes'\n[gate.lpips]\nmargin = 0.1\n", "not true or false"),
    ],
)
def test_a_bad_file_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(UserError, match=r"g\.toml") as caught:
        g.parse_gates(text, "g.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_worse_fails_where_the_bound_passes_the_margin() -> None:
    gates = Gates("here", (Gate("lpips", 0.05),))
    se = 0.1 / np.sqrt(50)
    for drop, status in ((0.05 + 1.6 * se, PASSED), (0.05 + 1.75 * se, FAILED)):  # t's 95 % point is 1.68
        (found,) = decide(gates, {"lpips": pair("lpips", drop)}, {})
        assert found.status == status
        assert (found.bound > 0.05) == (status == FAILED)
        assert (found.adjusted <= 0.05) == (status == FAILED)
        assert found.level == 0.95


def test_non_inferior_passes_where_the_bound_stays_short_of_the_margin() -> None:
    gates = Gates("here", (Gate("lpips", 0.05, NON_INFERIOR),))
    se = 0.1 / np.sqrt(50)
    for drop, status in ((0.05 - 1.75 * se, PASSED), (0.05 - 1.6 * se, FAILED)):
        (found,) = decide(gates, {"lpips": pair("lpips", drop)}, {})
        assert found.status == status
        assert (found.bound < 0.05) == (status == PASSED)
        assert found.unchanged == pytest.approx(0.967, abs=0.01)  # t's chance at 3.54 standard errors
        assert not found.blind


def test_holm_over_the_not_worse_gates_alone() -> None:
    """Two losses, of p 0.01 and 0.04: both fail. Beside a third gate, the second would need 0.025."""
    pairs = {name: pair(name, drop) for name, drop in (("a", 0.085), ("b", 0.0755), ("c", 0.0), ("d", 0.0))}
    two = Gates("here", (Gate("a", 0.05), Gate("b", 0.05), Gate("d", 0.05, NON_INFERIOR)))
    assert [o.status for o in decide(two, pairs, {})] == [FAILED, FAILED, PASSED]
    three = replace(two, gates=(*two.gates, Gate("c", 0.05)))
    found = decide(three, pairs, {})
    assert [o.status for o in found] == [FAILED, PASSED, PASSED, PASSED]
    assert found[0].level == pytest.approx(1 - 0.05 / 3)
    assert found[0].bound > 0.05 > found[1].bound


def test_what_a_gate_could_have_seen_follows_from_n_spread_and_holm() -> None:
    gates = Gates("here", (Gate("a", 0.05),))
    (alone,) = decide(gates, {"a": pair("a", 0.0)}, {})
    assert alone.detectable == pytest.approx(0.05 + (1.677 + 0.849) * 0.1 / np.sqrt(50), abs=5e-4)
    assert not alone.blind
    assert decide(gates, {"a": pair("a", 0.0, n=12)}, {})[0].blind
    both = Gates("here", (Gate("a", 0.05), Gate("b", 0.05)))
    assert decide(both, {"a": pair("a", 0.0), "b": pair("b", 0.0)}, {})[0].detectable > alone.detectable


def test_a_problem_fails_a_gate_and_leaves_the_others_their_level() -> None:
    gates = Gates("here", (Gate("a", 0.05), Gate("b", 0.05), Gate("c", 0.05)))
    found = decide(gates, {"a": pair("a", 0.0), "b": pair("b", 0.0)}, {"b": "m003-3 is missing"})
    assert [o.status for o in found] == [PASSED, FAILED, NOT_MEASURED]
    assert found[1].reason == "m003-3 is missing"
    assert found[1].bound is None
    assert found[0].level == 0.95


@pytest.mark.parametrize("suite", ["motion", "diversity"])
def test_two_results_of_one_model_hardly_ever_alarm(suite: str) -> None:
    shapes, n = SUITES[suite]
    assert rates(shapes, n, default_gates(suite), {}, 150, 0).alarm <= 0.05


def test_losses_of_exactly_the_margins_alarm_in_5_percent_over_all_gates() -> None:
    gates = default_gates("motion")
    alarm = rates(MOTION, 220, gates, inner_margins(gates, MOTION), 500, 0).alarm
    assert 0.01 <= alarm <= 0.065  # 0.05 and one and a half standard errors


@pytest.mark.parametrize("shape", [*MOTION, *DIVERSITY[:2], DIVERSITY[3]], ids=lambda s: s.metric)
def test_one_margin_beyond_the_margin_is_caught_or_n_is_said_to_be_too_small(shape) -> None:
    suite = "motion" if shape in MOTION else "diversity"
    shapes, n = SUITES[suite]
    gates = default_gates(suite)
    losses = {shape.metric: 2 * inner_margins(gates, shapes)[shape.metric]}
    found = rates(shapes, n, gates, losses, 250, 0)
    assert found.caught[shape.metric] >= 0.78
    few = rates(shapes, 15, gates, losses, 60, 0)
    assert few.caught[shape.metric] < 0.8
    assert few.blind[shape.metric] >= 0.6


def test_non_inferior_lets_through_at_most_5_percent_of_what_loses_its_margin() -> None:
    gates = default_gates("motion")
    strict = replace(gates, gates=tuple(replace(gate, require=NON_INFERIOR) for gate in gates.gates))
    margins = inner_margins(gates, MOTION)
    found = rates(MOTION, 220, strict, {"optical_flow": margins["optical_flow"]}, 300, 0)
    assert 0.92 <= found.caught["optical_flow"] <= 0.98
    assert rates(MOTION, 220, strict, {}, 60, 0).alarm < 0.5
