"""The two losses of distribution matching: F's regression and the generator's gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from pdmd import flow
from pdmd.plan import Phase, Plan
from pdmd.rollout import Rollout

#: Floor of the x0-normalised gradient's denominator, in units of the latent's standard deviation.
NORMALISER_FLOOR = 1e-2
#: Bound on the importance weight of the x0 target.
IMPORTANCE_CLAMP = 10.0


def _each(x: Tensor) -> Tensor:
    """Mean over all but the first dimension: (n, ...) -> (n,)."""
    return x.flatten(1).mean(1)


def importance(sample: Rollout, x_t: Tensor, s: float, t: Tensor) -> Tensor:
    """Weight of the x0 target (n,): how much likelier x_t is from the generator's x0 than from x_s.

    The density ratio N(x_t; alpha_t x0, sigma_t^2) / N(x_t; alpha_ts x_s, sigma_ts^2), as a geometric
    mean over dimensions, since the ratio itself is 0 or infinite in many of them, and clamped. This is
    our reading of TDM's weight (arXiv 2503.06674); the exact target needs none.
    """
    wide, narrow = t, flow.sigma_ts(s, t)
    from_x0 = x_t - flow.renoise(sample.x0, torch.zeros_like(x_t), 0.0, t)
    from_x_s = x_t - flow.renoise(sample.x_s, torch.zeros_like(x_t), s, t)
    log = _each(from_x_s**2) / (2 * narrow**2) - _each(from_x0**2) / (2 * wide**2) + (narrow / wide).log()
    return log.exp().clamp(max=IMPORTANCE_CLAMP)


def fake_loss(plan: Plan, phase: Phase, v: Tensor, sample: Rollout, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """F's regression on the generator's own samples, (n,): the weighted squared error of its velocity v
    (n, ...) against the phase's target (Phased DMD's subinterval score matching; at s = 0 DMD's own)."""
    s = phase.end
    if plan.target == "x0":
        target = flow.velocity_from_x0(x_t, sample.x0, t)
        return importance(sample, x_t, s, t) * _each((v.float() - target) ** 2)
    if plan.target == "naive":
        target = flow.naive_target(sample.x_s, eps)
    else:
        target = flow.subinterval_target(sample.x_s, eps, s, t)
    return flow.subinterval_weight(s, t) * _each((v.float() - target) ** 2)


def normaliser(sample: Rollout, teacher_x0: Tensor) -> Tensor:
    """mean |x0 - teacher_x0| per sample (n,), floored: the scale of the x0-normalised gradient."""
    return _each((sample.x0 - teacher_x0).abs()).clamp(min=NORMALISER_FLOOR)


def generator_gradient(
    plan: Plan, phase: Phase, sample: Rollout, x_t: Tensor, t: Tensor, teacher: Tensor, fake: Tensor
) -> Tensor:
    """The gradient with respect to x_s that the generator descends, (n, ...), from the velocities of T
    (guided) and F at x_t.

    "paper": w_ts (T - F), the reverse KL's own. "normalised": (fake_x0 - teacher_x0) /
    mean|x0 - teacher_x0| (DMD, DMD2, Self-Forcing).
    """
    if plan.weight == "paper":
        w = flow.generator_weight(phase.end, t)
        return w.view(-1, *[1] * (x_t.ndim - 1)) * (teacher.float() - fake.float())
    teacher_x0 = flow.x0_from_velocity(x_t, teacher, t)
    fake_x0 = flow.x0_from_velocity(x_t, fake, t)
    return (fake_x0 - teacher_x0) / normaliser(sample, teacher_x0).view(-1, *[1] * (x_t.ndim - 1))


def surrogate(x_s: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to x_s is `gradient` over the number of elements."""
    return 0.5 * (x_s - (x_s - gradient).detach()).pow(2).mean()
