"""The one convention for time, velocity and guidance, and the equations of score matching in a subinterval.

Rectified flow: x_t = alpha_t x0 + sigma_t eps with alpha_t = 1 - t, sigma_t = t, t in [0, 1]; t = 1 is
noise. Networks predict the velocity v = eps - x0.

Every function takes `s` and `t` as numbers or as tensors with one entry a sample, (n,), and broadcasts
them over samples x of shape (n, ...). Inputs of any float dtype are taken to float32; results are float32.

Source of the subinterval equations: Phased DMD, arXiv 2510.27684; of the rest: rectified flow, SD3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Time = Tensor | float

#: The least noise level at which a velocity is turned into a score or an x0 into a velocity.
SMALLEST_T = 1e-4


def _time(t: Time, x: Tensor | None = None) -> Tensor:
    """t in float32; of shape (n, 1, ..., 1) beside x of shape (n, ...)."""
    t = torch.as_tensor(t, dtype=torch.float32, device=None if x is None else x.device)
    return t if x is None or t.ndim == 0 else t.view(-1, *[1] * (x.ndim - 1))


def sigma_ts(s: Time, t: Time) -> Tensor:
    """Standard deviation of the noise that takes x_s to x_t, s < t:
    sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2. Shape of s and t, broadcast."""
    s, t = _time(s), _time(t)
    return (t**2 - alpha_ts(s, t) ** 2 * s**2).clamp(min=0).sqrt()


def alpha_ts(s: Time, t: Time) -> Tensor:
    """Signal kept from x_s in x_t: alpha_ts = alpha_t / alpha_s. Shape of s and t, broadcast; s < 1."""
    s, t = _time(s), _time(t)
    return (1 - t) / (1 - s)


def renoise(x_s: Tensor, eps: Tensor, s: Time, t: Time) -> Tensor:
    """x_t = alpha_ts x_s + sigma_ts eps, the forward process from noise level s to t >= s.

    x_s, eps: (n, ...); s, t: numbers or (n,). At s = 0 this noises clean samples.
    """
    s, t = _time(s, x_s), _time(t, x_s)
    return alpha_ts(s, t) * x_s.float() + sigma_ts(s, t) * eps.float()


def subinterval_target(x_s: Tensor, eps: Tensor, s: Time, t: Time) -> Tensor:
    """Velocity target on t in (s, 1) that needs x_s alone, never x0 (Phased DMD, flow-matching form):

        (alpha_s^2 sigma_t + alpha_t sigma_s^2) / (alpha_s^2 sigma_ts) eps - x_s / alpha_s

    where x_t = renoise(x_s, eps, s, t). Its mean given x_t is the velocity of the marginal flow at t; at
    s = 0 it is eps - x0 exactly. Grows as 1 / sigma_ts near t = s: see `subinterval_weight`.
    """
    s, t = _time(s, x_s), _time(t, x_s)
    of_eps = ((1 - s) ** 2 * t + (1 - t) * s**2) / ((1 - s) ** 2 * sigma_ts(s, t))
    return of_eps * eps.float() - x_s.float() / (1 - s)


def naive_target(x_s: Tensor, eps: Tensor) -> Tensor:
    """eps - x_s: the tempting target, biased for every s > 0. Kept as the ablation that must fail."""
    return eps.float() - x_s.float()


def subinterval_weight(s: Time, t: Time, clamp: float = 10.0) -> Tensor:
    """Weight of the fake-score loss, min(1 / sigma_ts^2, clamp) sigma_ts^2: one away from s, and
    finite loss near it (Phased DMD). Shape of s and t, broadcast."""
    return (clamp * sigma_ts(s, t) ** 2).clamp(max=1.0)


def generator_weight(s: Time, t: Time) -> Tensor:
    """w_ts = alpha_t alpha_ts / (alpha_t sigma_t + sigma_t^2), the weight that makes w_ts (T - F), in
    velocities, equal to alpha_ts (score_fake - score_teacher), the reverse KL's gradient with respect
    to x_s (Phased DMD). Shape of s and t, broadcast."""
    s, t = _time(s), _time(t)
    return (1 - t) * alpha_ts(s, t) / ((1 - t) * t + t**2)


def x0_from_velocity(x_t: Tensor, v: Tensor, t: Time) -> Tensor:
    """x0 = x_t - t v."""
    return x_t.float() - _time(t, x_t) * v.float()


def eps_from_velocity(x_t: Tensor, v: Tensor, t: Time) -> Tensor:
    """eps = x_t + (1 - t) v."""
    return x_t.float() + (1 - _time(t, x_t)) * v.float()


def velocity_from_x0(x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
    """v = (x_t - x0) / t."""
    return (x_t.float() - x0.float()) / _time(t, x_t).clamp(min=SMALLEST_T)


def score_from_velocity(x_t: Tensor, v: Tensor, t: Time) -> Tensor:
    """score = -eps / t."""
    return -eps_from_velocity(x_t, v, t) / _time(t, x_t).clamp(min=SMALLEST_T)


def velocity_from_score(x_t: Tensor, score: Tensor, t: Time) -> Tensor:
    """v = (eps - x_t) / (1 - t) with eps = -t score; t < 1."""
    t = _time(t, x_t)
    return (-t * score.float() - x_t.float()) / (1 - t)


def euler(x_t: Tensor, v: Tensor, t: Time, s: Time) -> Tensor:
    """One Euler step of the flow from noise level t to s: x_s = x_t + (s - t) v."""
    return x_t.float() + (_time(s, x_t) - _time(t, x_t)) * v.float()


def guide(v_cond: Tensor, v_uncond: Tensor, w: float) -> Tensor:
    """Classifier-free guidance: v = v_uncond + w (v_cond - v_uncond); w = 1 is the conditional model."""
    return v_uncond + w * (v_cond - v_uncond)


def shift_time(u: Time, k: float) -> Tensor:
    """Time shift t = k u / (1 + (k - 1) u): monotone on [0, 1], towards noise for k > 1."""
    u = _time(u)
    return k * u / (1 + (k - 1) * u)


def time_grid(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """1 = t_0 > t_1 > ... > t_N = 0, evenly spaced before the time shift. Raises ValueError for no steps, and for a
    shift by which float32 does not tell them apart."""
    if steps < 1:
        raise ValueError(f"a grid needs at least one step, got {steps}")
    grid = shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float32), shift).tolist()
    if not (abs(grid[0] - 1) < 1e-3 and all(t - s > 1e-6 for t, s in pairwise(grid))):
        raise ValueError(f"a time shift of {shift:g} leaves {steps} steps no noise levels of their own")
    return tuple(grid)


def shift_of(grid: Sequence[float]) -> float:
    """The k of which `time_grid` made this grid; 1 where it has a single step, which no shift moves."""
    if len(grid) == 2:
        return 1.0
    u, t = 1 - 1 / (len(grid) - 1), grid[1]
    return t * (1 - u) / (u * (1 - t))
