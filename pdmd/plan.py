"""The methods as data. A method is a function that returns a Plan; nothing else knows its name.

| method   | steps | phases | gradient                         | t drawn from            | F's target |
|----------|-------|--------|----------------------------------|-------------------------|------------|
| dmd      | 1     | 1      | the step                         | (0, 1)                  | exact      |
| few-step | N     | 1      | all N                            | (0, 1)                  | exact      |
| sgts     | N     | 1      | the last, after a random stop j  | (0, 1)                  | exact      |
| tdm      | N     | N      | the phase's step                 | disjoint (t_k, t_{k-1}) | x0         |
| phased   | N     | K      | the last, SGTS inside a phase    | nested (t_k, 1)         | exact      |

Sources: DMD, arXiv 2311.18828; SGTS, Self-Forcing, arXiv 2506.08009; TDM, arXiv 2503.06674; Phased DMD,
arXiv 2510.27684.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from pdmd.flow import time_grid

Interval = Literal["nested", "disjoint"]
Target = Literal["exact", "naive", "x0"]
Weight = Literal["paper", "normalised"]


@dataclass(frozen=True)
class Phase:
    """One stretch of the sampling trajectory and how it is trained.

    `times` are its own grid points, from where the phase before it ended down to its boundary s. `low`
    and `high` bound the noise levels at which distributions are matched. `expert` is the network that
    makes its steps. With `full_graph` every step carries gradient; else only the last one run, after a
    stop drawn at random where `random_stop` is set (stochastic gradient truncation).
    """

    times: tuple[float, ...]
    low: float
    high: float
    expert: int
    full_graph: bool = False
    random_stop: bool = False

    @property
    def start(self) -> float:
        return self.times[0]

    @property
    def end(self) -> float:
        """The boundary s: what the phase hands on are samples x_s."""
        return self.times[-1]

    @property
    def steps(self) -> int:
        return len(self.times) - 1


@dataclass(frozen=True)
class Plan:
    """A method: phases, targets, weights. `interleaved` phases share the training steps, drawn at
    random, where others follow one another. `fits` is F's fits to a generator step; `ema` the decay of
    the averaged generator that is handed on and exported, 0 for none; `t_shift` the time shift of the noise levels t
    that are drawn inside a phase's interval, 1 for uniform ones."""

    phases: tuple[Phase, ...]
    target: Target = "exact"
    weight: Weight = "paper"
    interleaved: bool = False
    fits: int = 4
    ema: float = 0.0
    t_shift: float = 1.0

    @property
    def grid(self) -> tuple[float, ...]:
        """All noise levels of the sampling trajectory, 1 down to 0."""
        return (self.phases[0].start, *(t for phase in self.phases for t in phase.times[1:]))

    @property
    def experts(self) -> tuple[int, ...]:
        """The expert that makes each step of the grid."""
        return tuple(phase.expert for phase in self.phases for _ in phase.times[1:])

    @property
    def stages(self) -> tuple[tuple[Phase, ...], ...]:
        """What is trained in turn: each phase alone, or all of them together where interleaved."""
        return (self.phases,) if self.interleaved else tuple((phase,) for phase in self.phases)

    def level(self, expert: int) -> float:
        """The noise level of the network that an expert begins as, where the teacher has several: 1 for one that starts
        from pure noise, else the middle of its first phase."""
        phase = next(phase for phase in self.phases if phase.expert == expert)
        return 1.0 if phase.start == 1 else (phase.start + phase.end) / 2

    def fake_level(self, stage: int) -> float:
        """The same of F: the middle of the noise levels that it is fitted on."""
        phases = self.stages[stage]
        return (min(phase.low for phase in phases) + max(phase.high for phase in phases)) / 2


def split(
    steps: int,
    phases: int,
    shift: float,
    *,
    interval: Interval = "nested",
    shared: bool = False,
    full_graph: bool = False,
    random_stop: bool = False,
    boundary: int | None = None,
) -> tuple[Phase, ...]:
    """A grid of N steps in K phases of as even a length as can be, the longer ones first; with `boundary` the first
    phase has so many steps, and the others share what is left.

    Raises ValueError unless 1 <= K <= N, and for a boundary that leaves a phase without a step.
    """
    if not 1 <= phases <= steps:
        raise ValueError(f"phases must lie between 1 and the number of steps ({steps}), got {phases}")
    grid = time_grid(steps, shift)
    borders = [-(-k * steps // phases) for k in range(phases + 1)]
    if boundary is not None:
        if phases == 1 or not 1 <= boundary <= steps - phases + 1:
            raise ValueError(f"no boundary after step {boundary} of {steps} leaves each of {phases} phases a step")
        borders = [0, *(boundary - (boundary - steps) * k // (phases - 1) for k in range(phases))]
    made = []
    for k, (first, last) in enumerate(pairwise(borders)):
        times = grid[first : last + 1]
        high = 1.0 if interval == "nested" else times[0]
        expert = 0 if shared else k
        made.append(Phase(times, times[-1], high, expert, full_graph, random_stop and len(times) > 2))
    return tuple(made)


def dmd(*, shift: float = 5.0) -> Plan:
    """One step, one phase."""
    return Plan(split(1, 1, shift))


def few_step(*, steps: int = 4, shift: float = 5.0) -> Plan:
    """N steps, one phase, gradient through the whole trajectory."""
    return Plan(split(steps, 1, shift, full_graph=True))


def sgts(*, steps: int = 4, shift: float = 5.0) -> Plan:
    """N steps, one phase; run to a random stop, jump to the end, gradient through the jump."""
    return Plan(split(steps, 1, shift, random_stop=True))


def phased(
    *,
    steps: int = 4,
    phases: int = 2,
    shift: float = 5.0,
    interval: Interval = "nested",
    random_stop: bool = True,
    boundary: int | None = None,
) -> Plan:
    """N steps in K phases, an expert each; inside a phase of several steps SGTS, unless switched off."""
    return Plan(split(steps, phases, shift, interval=interval, random_stop=random_stop, boundary=boundary))


def tdm(*, steps: int = 4, shift: float = 5.0, interval: Interval = "disjoint") -> Plan:
    """N phases of one step, one network for all, trained together on disjoint intervals."""
    return Plan(split(steps, steps, shift, interval=interval, shared=True), target="x0", interleaved=True)


METHODS: dict[str, Callable[..., Plan]] = {
    "dmd": dmd,
    "few-step": few_step,
    "sgts": sgts,
    "phased": phased,
    "tdm": tdm,
}


def with_options(plan: Plan, **options: object) -> Plan:
    """The plan with some of target, weight, fits, ema, t_shift replaced; None leaves a field as the method has it."""
    return replace(plan, **{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
