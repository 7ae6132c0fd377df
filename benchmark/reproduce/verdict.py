"""Whether an ordering of two models holds. Pure functions of arrays (training seeds, prompts); a base model, which has
no training, has one row.

An ordering is tested twice: over prompts, each the mean over the training seeds (these students, other prompts), and
over training seeds, each the mean over the prompts (these prompts, other students). It counts as shown where both
tests show it, so the p-value is the larger one. With one training seed there is no second test, and nothing is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from .. import stats

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
UNEQUAL = "not at equal fidelity"
ALPHA = 0.05
#: Fidelities count as equal within so much of each other, and of the base model's.
WITHIN, OF_BASE = 0.02, 0.05
ROUNDING = 1e-9


@dataclass(frozen=True)
class Lead:
    """By how much the first model leads the second, on the metric's scale: the mean over `n` prompts, Student's 95 %
    interval over them (None for fewer than two), `d` (the mean over the standard deviation of the prompts; None where
    nothing spreads), and both p-values."""

    n: int
    mean: float
    interval: stats.Interval | None
    d: float | None
    over_prompts: float | None
    over_seeds: float | None

    @property
    def p(self) -> float:
        """The larger of the two p-values; 1 where one of the tests cannot be had."""
        if self.over_prompts is None or self.over_seeds is None:
            return 1.0
        return max(self.over_prompts, self.over_seeds)


@dataclass(frozen=True)
class Finding:
    """What became of an ordering: its lead, `adjusted` p-value (Holm), verdict, and why where it is undecided."""

    lead: Lead
    adjusted: float
    verdict: str
    reason: str

    @property
    def p(self) -> float | None:
        """The adjusted p-value, None where one of the lead's two tests cannot be had."""
        return None if None in (self.lead.over_prompts, self.lead.over_seeds) else self.adjusted


def lead(differences: np.ndarray) -> Lead:
    """Of paired differences (training seeds, prompts), positive where the first model leads; without any, nothing."""
    if differences.size == 0:
        return Lead(0, 0.0, None, None, None, None)
    prompts, seeds = differences.mean(0), differences.mean(1)
    spread = prompts.std(ddof=1) if len(prompts) > 1 else 0.0
    return Lead(
        n=len(prompts),
        mean=float(differences.mean()),
        interval=stats.t_interval(prompts),
        d=float(differences.mean() / spread) if spread > 0 else None,
        over_prompts=stats.sign_flip(prompts).p if len(prompts) > 1 else None,
        over_seeds=t_test(seeds) if len(seeds) > 1 else None,
    )


def t_test(differences: np.ndarray) -> float:
    """Student's two-sided p-value of no mean difference, n >= 2; equal differences leave no doubt."""
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    t = differences.mean() / differences.std(ddof=1) * np.sqrt(len(differences))
    return float(2 * special.stdtr(len(differences) - 1, -abs(t)))


def unequal(first: float, second: float, base: float, with_base: bool = False) -> str:
    """Why two models of these fidelities cannot be compared in diversity or motion, or nothing where they can: within
    2 points of each other and within 5 of the base; `with_base`, where the first is the base, within 5 of it."""
    if with_base:
        apart = abs(base - second) > OF_BASE + ROUNDING
        return f"fidelity {second:.3f}, the base has {base:.3f}" if apart else ""
    if abs(first - second) > WITHIN + ROUNDING:
        return f"fidelity {first:.3f} against {second:.3f}"
    far = [f for f in (first, second) if abs(f - base) > OF_BASE + ROUNDING]
    return f"fidelity {far[0]:.3f}, the base has {base:.3f}" if far else ""


def outcome(mean: float, p: float) -> str:
    """What a mean lead and its p-value show."""
    return (HOLDS if mean > 0 else FAILS) if p <= ALPHA else UNDECIDED


def decide(leads: Sequence[Lead], reasons: Sequence[str], looks: int = 1) -> list[Finding]:
    """The findings of one family of orderings: p-values adjusted by Holm over all of them, and times `looks`, how often
    the data were looked at as more of them came in; those with a reason (see `unequal`) stay undecided, whatever the
    numbers say."""
    found = []
    for one, step, reason in zip(leads, stats.holm([one.p for one in leads], ALPHA), reasons, strict=True):
        adjusted = min(1.0, looks * step.adjusted)
        verdict = UNDECIDED if reason else outcome(one.mean, adjusted)
        if reason:
            reason = f"{UNEQUAL}: {reason}"
        elif one.n == 0:
            reason = "no prompt to compare"
        elif one.over_prompts is None:
            reason = "it takes two prompts"
        elif one.over_seeds is None:
            reason = "it takes two training seeds"
        elif verdict == UNDECIDED:
            reason = f"adjusted p above {ALPHA}"
        found.append(Finding(one, adjusted, verdict, reason))
    return found


def ratios(
    values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], on: str, *, less: bool = False
) -> list[dict[str, Any]]:
    """Whether the first of each pair has more of a positive quantity than the second, or with `less` less of it, where
    each model has one value a training seed, the same seeds in all, or one value in all: Student's test of the
    logarithms, paired by seed, adjusted by Holm over the pairs. `ratio` is of geometric means, the one that is to be
    larger over the other; `p` is None where there is one training seed."""
    logs = {label: np.log(row) for label, row in values.items()}
    leads = [np.atleast_1d((logs[b] - logs[a]) if less else (logs[a] - logs[b])) for a, b in pairs]
    p_values = [t_test(one) if len(one) > 1 else 1.0 for one in leads]
    judged = []
    for (first, second), one, step in zip(pairs, leads, stats.holm(p_values, ALPHA), strict=True):
        named = {"ordering": f"{first} > {second}", "on": on, "ratio": float(np.exp(one.mean()))}
        p = step.adjusted if len(one) > 1 else None
        judged.append(named | {"p": p, "verdict": outcome(float(one.mean()), step.adjusted)})
    return judged
