"""Backward simulation: from noise to the samples x_s that a phase hands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pdmd.flow import euler, x0_from_velocity
from pdmd.plan import Phase
from pdmd.teachers import Cond

#: (network, x_t (n, ...), t (n,), condition) -> velocity (n, ...), float32.
Velocity = Callable[[nn.Module, Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Rollout:
    """`x_s` (n, ...) at the phase's end, with gradient where the phase says; `x0` the generator's own
    estimate of the clean sample at its last evaluation, without gradient."""

    x_s: Tensor
    x0: Tensor


def draw_stop(phase: Phase, generator: torch.Generator) -> int:
    """The number j of steps to run before the jump: 1 to N at random where the phase truncates, else N."""
    if not phase.random_stop:
        return phase.steps
    return int(torch.randint(1, phase.steps + 1, (), generator=generator, device=generator.device))


def rollout(velocity: Velocity, expert: nn.Module, phase: Phase, x: Tensor, cond: Cond, stop: int) -> Rollout:
    """Run `stop` steps of the phase from x (n, ...) at `phase.start`; the last of them jumps to `phase.end`.

    Under torch.no_grad nothing carries gradient. Else: every step with `full_graph`, or the jump alone
    (stochastic gradient truncation, Self-Forcing, arXiv 2506.08009).
    """
    times = (*phase.times[:stop], phase.end)
    graph = torch.is_grad_enabled()
    for i, (t, s) in enumerate(pairwise(times)):
        with torch.set_grad_enabled(graph and (phase.full_graph or i == stop - 1)):
            v = velocity(expert, x, x.new_full((len(x),), t), cond)
            x0 = x0_from_velocity(x, v, t)
            x = euler(x, v, t, s)
    return Rollout(x, x0.detach())


@torch.no_grad()
def simulate(
    velocity: Velocity, experts: Sequence[nn.Module], phases: Sequence[Phase], x: Tensor, cond: Cond
) -> Tensor:
    """Run whole phases, each by its expert, from x (n, ...) at the first one's start: sampling, and the
    frozen phases before the one in training."""
    for phase in phases:
        x = rollout(velocity, experts[phase.expert], phase, x, cond, phase.steps).x_s
    return x
