"""F's regression and the generator's gradient, against closed forms on a Gaussian mixture."""

import pytest
import torch
from torch import Tensor

from pdmd import figure2, flow
from pdmd.loss import (
    NORMALISER_FLOOR,
    fake_loss,
    generator_gradient,
    importance,
    normaliser,
    surrogate,
)
from pdmd.plan import Phase, Plan, dmd, phased, tdm, with_options
from pdmd.rollout import Rollout
from pdmd.teachers.mixture import Mixture

LINE = Mixture(means=((-1.0,), (0.0,), (1.0,), (2.0,)), weights=(0.1, 0.2, 0.3, 0.4), std=0.2)
S = 0.5
TO_S = Phase((1.0, S), S, 1.0, 0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed))


X_S, X_T, T, F = (normal(6, 2, 3, seed=k) for k in range(4))
TIMES = torch.linspace(0.55, 0.95, 6)
SAMPLE = Rollout(X_S, normal(6, 2, 3, seed=9))


@pytest.mark.parametrize("weight", ["paper", "normalised"])
def test_gradient_vanishes_when_f_equals_t(weight):
    plan = with_options(phased(), weight=weight)
    assert generator_gradient(plan, TO_S, SAMPLE, X_T, TIMES, T, T.clone()).abs().max() == 0
    assert generator_gradient(plan, TO_S, SAMPLE, X_T, TIMES, T, F).abs().min() > 0


def test_paper_gradient_is_the_difference_of_scores():
    """w_ts (T - F), in velocities, is alpha_ts (score_fake - score_teacher)."""
    got = generator_gradient(with_options(phased(), weight="paper"), TO_S, SAMPLE, X_T, TIMES, T, F)
    scores = flow.score_from_velocity(X_T, F, TIMES) - flow.score_from_velocity(X_T, T, TIMES)
    torch.testing.assert_close(got, flow.alpha_ts(S, TIMES).view(-1, 1, 1) * scores, atol=1e-4, rtol=1e-4)


def test_paper_gradient_descends_the_reverse_kl():
    """Generator N(m, 1) at s = 0 against T = N(0, 1): the mean gradient is that of the diffused KL in m,
    d/dm alpha_t^2 m^2 / (2 var_t) = alpha_t^2 m / var_t, with its sign."""
    m, t, n = 0.8, 0.6, 200_000
    x_s = m + normal(n, 1)
    x_t = flow.renoise(x_s, normal(n, 1, seed=1), 0.0, t)
    at = torch.full((n,), t)
    teacher = Mixture(means=((0.0,),), weights=(1.0,), std=1.0).exact_velocity(x_t, at)
    fake = Mixture(means=((m,),), weights=(1.0,), std=1.0).exact_velocity(x_t, at)
    plan = with_options(dmd(), weight="paper")
    got = generator_gradient(plan, dmd().phases[0], Rollout(x_s, x_s), x_t, at, teacher, fake)
    assert float(got.mean()) == pytest.approx((1 - t) ** 2 * m / ((1 - t) ** 2 + t**2), rel=1e-3)


def test_normalised_gradient_is_the_difference_of_x0_over_its_scale():
    got = generator_gradient(with_options(phased(), weight="normalised"), TO_S, SAMPLE, X_T, TIMES, T, F)
    for i, t in enumerate(TIMES.tolist()):
        teacher_x0, fake_x0 = X_T[i] - t * T[i], X_T[i] - t * F[i]
        scale = (SAMPLE.x0[i] - teacher_x0).abs().mean()
        torch.testing.assert_close(got[i], (fake_x0 - teacher_x0) / scale, atol=1e-5, rtol=1e-4)


def test_normaliser_has_a_floor():
    teacher_x0 = X_T - TIMES.view(-1, 1, 1) * T
    sample = Rollout(X_S, teacher_x0)
    assert (normaliser(sample, teacher_x0) == NORMALISER_FLOOR).all()
    got = generator_gradient(with_options(phased(), weight="normalised"), TO_S, sample, X_T, TIMES, T, F)
    torch.testing.assert_close(got, TIMES.view(-1, 1, 1) * (T - F) / NORMALISER_FLOOR, atol=1e-3, rtol=1e-3)


def test_surrogate_has_the_gradient_it_is_given():
    x_s, g = X_S.clone().requires_grad_(), normal(6, 2, 3, seed=4).requires_grad_()
    surrogate(x_s, g).backward()
    torch.testing.assert_close(x_s.grad, g.detach() / g.numel(), atol=1e-7, rtol=1e-4)
    assert g.grad is None


def test_half_precision_velocities_give_float32_losses():
    plan, eps = phased(), normal(6, 2, 3, seed=5)
    assert generator_gradient(plan, TO_S, SAMPLE, X_T, TIMES, T.bfloat16(), F.bfloat16()).dtype == torch.float32
    assert fake_loss(plan, TO_S, F.bfloat16(), SAMPLE, eps, X_T, TIMES).dtype == torch.float32


def at_zero(plan: Plan, v: Tensor, t: Tensor) -> Tensor:
    x0, eps = X_S, normal(6, 2, 3, seed=5)
    return fake_loss(plan, dmd().phases[0], v, Rollout(x0, x0), eps, flow.renoise(x0, eps, 0.0, t), t)


def test_at_s_zero_all_targets_are_eps_minus_x0():
    """There x_s is x0: the exact target is DMD's, the x0 target the same without the weight (and its
    importance one), the naive target no longer naive."""
    t = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    plain = (F - (normal(6, 2, 3, seed=5) - X_S)).pow(2).mean((1, 2))
    torch.testing.assert_close(at_zero(dmd(), F, t), plain * (10 * t**2).clamp(max=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(at_zero(with_options(dmd(), target="naive"), F, t), at_zero(dmd(), F, t))
    torch.testing.assert_close(at_zero(tdm(), F, t), plain, atol=1e-3, rtol=1e-3)


def drawn(n: int, t: float) -> tuple[Rollout, Tensor, Tensor, Tensor]:
    """(x_s, x0), eps, x_t, t on the mixture's own marginal flow at s = 0.5."""
    x0 = LINE.sample(n, rng(1))
    x_s = flow.renoise(x0, normal(n, 1, seed=2), 0.0, S)
    eps = normal(n, 1, seed=3)
    return Rollout(x_s, x0), eps, flow.renoise(x_s, eps, S, t), torch.full((n,), t)


def binned(x_t: Tensor, value: Tensor, bins: int = 25) -> Tensor:
    """Mean of value (n, 1) in each quantile bin of x_t (n, 1): regression by piecewise constants."""
    return torch.stack([chunk.mean() for chunk in value[x_t[:, 0].argsort(), 0].chunk(bins)])


@pytest.mark.parametrize("t", [0.55, 0.75, 0.95])
@pytest.mark.parametrize(("target", "unbiased"), [("exact", True), ("naive", False)])
def test_regression_recovers_the_marginal_velocity(t, target, unbiased):
    """The loss is stationary at a velocity exactly where that is the target's mean given x_t."""
    sample, eps, x_t, at = drawn(300_000, t)
    v = LINE.exact_velocity(x_t, at).requires_grad_()
    fake_loss(with_options(phased(), target=target), TO_S, v, sample, eps, x_t, at).sum().backward()
    error = binned(x_t, v.grad / 2).abs().max() / float(flow.subinterval_weight(S, t))
    assert error < 0.15 if unbiased else error > 0.3


def test_importance_makes_draws_from_x_s_draws_from_x0():
    """Given x0, the weighted moments of x_t ~ renoise(x_s) are those of x_t ~ renoise(x0); in one dimension,
    and away from s, where the clamp is idle."""
    n, t = 300_000, 0.75
    x0 = torch.full((n, 1), 1.5)
    x_s = flow.renoise(x0, normal(n, 1, seed=2), 0.0, S)
    x_t = flow.renoise(x_s, normal(n, 1, seed=3), S, t)
    w = importance(Rollout(x_s, x0), x_t, S, torch.full((n,), t))
    assert float(w.mean()) == pytest.approx(1, abs=0.02)
    assert float((w * x_t[:, 0]).mean()) == pytest.approx((1 - t) * 1.5, abs=0.02)
    assert float((w * (x_t[:, 0] - (1 - t) * 1.5) ** 2).mean()) == pytest.approx(t**2, abs=0.02)


def test_figure_2_exact_follows_the_flow_and_naive_does_not():
    result = figure2.check(seeds=(0,), steps=250)
    (exact,), (naive,) = result.from_flow["exact"], result.from_flow["naive"]
    assert exact < 0.12
    assert naive > 3 * exact
    assert result.from_full["naive"][0] > 3 * result.from_full["exact"][0]
