"""One training step of any method: fit F to the generator's samples, then move the generator.

Read with plan.py: what differs between methods is in the Phase and the Plan, never here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdmd.flow import renoise, x0_from_velocity
from pdmd.loss import fake_loss, generator_gradient, normaliser, surrogate
from pdmd.plan import Phase, Plan
from pdmd.rollout import draw_stop, rollout
from pdmd.teachers import Cond, Teacher

#: t stays this share of the interval away from both its ends.
T_MARGIN = 0.02
#: Largest norm of a gradient that reaches an optimiser.
CLIP = 1.0


@dataclass(frozen=True)
class Trainee:
    """What one phase trains: a network and its optimiser."""

    net: nn.Module
    optimizer: torch.optim.Optimizer

    def descend(self, loss: Tensor) -> Tensor:
        """One optimiser step; returns the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        return norm


@dataclass(frozen=True)
class Update:
    """What a generator step reports: the surrogate's value is meaningless, so the gradient's mean
    square, its norm at the parameters, and the x0 normaliser (n,)."""

    gradient: Tensor
    norm: Tensor
    normaliser: Tensor


def draw_t(phase: Phase, like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise levels (n,) beside x (n, ...), uniform over the phase's interval less a margin at either end."""
    u = torch.rand(len(like), generator=generator, device=generator.device).to(like.device)
    return phase.low + (phase.high - phase.low) * (T_MARGIN + (1 - 2 * T_MARGIN) * u)


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of x (n, ...), beside it."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like.device)


def fake_error(
    teacher: Teacher,
    plan: Plan,
    phase: Phase,
    expert: nn.Module,
    fake: nn.Module,
    start: Tensor,
    cond: Cond,
    generator: torch.Generator,
) -> Tensor:
    """F's loss on fresh samples of the generator, a scalar: x_s = rollout(...), x_t = renoise(x_s), regression."""
    with torch.no_grad():
        sample = rollout(teacher.velocity, expert, phase, start, cond, draw_stop(phase, generator))
    t = draw_t(phase, start, generator)
    eps = draw_noise(start, generator)
    x_t = renoise(sample.x_s, eps, phase.end, t)
    return fake_loss(plan, phase, teacher.velocity(fake, x_t, t, cond), sample, eps, x_t, t).mean()


def fit_fake(
    teacher: Teacher,
    plan: Plan,
    phase: Phase,
    expert: nn.Module,
    fake: Trainee,
    start: Tensor,
    cond: Cond,
    generator: torch.Generator,
) -> Tensor:
    """One fit of F to the generator's distribution; returns the loss."""
    loss = fake_error(teacher, plan, phase, expert, fake.net, start, cond, generator)
    fake.descend(loss)
    return loss.detach()


def update_generator(
    teacher: Teacher,
    plan: Plan,
    phase: Phase,
    expert: Trainee,
    fake: nn.Module,
    start: Tensor,
    cond: Cond,
    generator: torch.Generator,
) -> Update:
    """One step of the generator down the gradient of the reverse KL between its diffused samples and
    the teacher's: rollout with gradient where the phase says, renoise, T (guided) and F without."""
    sample = rollout(teacher.velocity, expert.net, phase, start, cond, draw_stop(phase, generator))
    with torch.no_grad():
        t = draw_t(phase, start, generator)
        x_t = renoise(sample.x_s, draw_noise(start, generator), phase.end, t)
        real = teacher.guided(x_t, t, cond)
        gradient = generator_gradient(plan, phase, sample, x_t, t, real, teacher.velocity(fake, x_t, t, cond))
    norm = expert.descend(surrogate(sample.x_s, gradient))
    return Update(gradient.pow(2).mean(), norm, normaliser(sample, x0_from_velocity(x_t, real, t)))
