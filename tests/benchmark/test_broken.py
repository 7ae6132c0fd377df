"""The gates of a retraining on real results: students trained soundly pass, each broken on purpose is caught.

The results are those that `python -m pdmd.benchmark.broken` left in reports/broken.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pdmd.benchmark import broken
from pdmd.benchmark.gates import PASSED, read_gates
from pdmd.files import SUMS, check_seal, seal

REPORTS = Path(__file__).parents[2] / "reports"
OTHERS = [case for case in broken.CASES if case.name != broken.WHOLE]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_a_broken_student_fails_a_gate_and_a_sound_one_none(case: broken.Case) -> None:
    made = broken.against_whole(case, REPORTS / "broken" / "results", REPORTS / "baselines")
    assert [one.suite for one in made] == list(broken.ASKED)
    assert broken.right(case, made)


def test_without_its_first_expert_a_student_still_loads(tmp_path: Path) -> None:
    for name in ("transformer", "transformer_2"):
        (tmp_path / "student" / name).mkdir(parents=True)
        (tmp_path / "student" / name / "weights").write_text(name)
    seal(tmp_path / "student")
    broken.skip_first(tmp_path / "student", tmp_path / "skipped")
    assert (tmp_path / "skipped" / "transformer" / "weights").read_text() == "transformer_2"
    assert (tmp_path / "skipped" / SUMS).is_file()
    check_seal(tmp_path / "skipped")


@pytest.mark.parametrize("suite", ["diversity", "motion", "motion-i2v"])
def test_every_baseline_has_the_gates_of_a_retraining(suite: str) -> None:
    gates = read_gates(REPORTS / "baselines" / suite / "gates.toml")
    assert gates.suite == suite
    assert "fidelity" in {gate.metric for gate in gates.gates}


def test_the_whole_student_against_itself_passes_with_nothing_to_spare() -> None:
    whole = next(case for case in broken.CASES if case.name == broken.WHOLE)
    made = broken.against_whole(whole, REPORTS / "broken" / "results", REPORTS / "baselines")
    assert all(one.passed for one in made)
    assert {o.status for one in made for o in one.outcomes if o.metric == "fidelity"} == {PASSED}
    assert all(change.change == 0 for one in made for change in one.changes)


def test_the_report_names_what_is_wrong() -> None:
    made = {case.name: broken.against_whole(case, REPORTS / "broken/results", REPORTS / "baselines") for case in OTHERS}
    assert "WRONG" not in broken.report(made)
    turned = {name: list(made["naive target"]) for name in made}  # as if all were broken alike
    assert broken.report(turned).count("**WRONG**") == sum(not case.broken for case in OTHERS)
