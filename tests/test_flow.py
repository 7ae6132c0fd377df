"""The noise convention and the equations of score matching in a subinterval."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdmd import flow

levels = st.tuples(st.floats(0.0, 0.9), st.floats(0.02, 0.98), st.floats(0.02, 0.98)).map(
    lambda u: (u[0], u[0] + (1 - u[0]) * u[1], u[0] + (1 - u[0]) * (u[1] + (1 - u[1]) * u[2]))
)  # s < r < t
fast = settings(max_examples=30, deadline=None)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X0, EPS = normal(64, 3), normal(64, 3, seed=1)


@fast
@given(st.floats(0.05, 0.95))
def test_velocity_x0_eps_and_score_round_trip(t):
    v, x_t = EPS - X0, (1 - t) * X0 + t * EPS
    torch.testing.assert_close(flow.renoise(X0, EPS, 0.0, t), x_t)
    torch.testing.assert_close(flow.x0_from_velocity(x_t, v, t), X0)
    torch.testing.assert_close(flow.eps_from_velocity(x_t, v, t), EPS)
    torch.testing.assert_close(flow.velocity_from_x0(x_t, X0, t), v, atol=1e-4, rtol=1e-4)
    score = flow.score_from_velocity(x_t, v, t)
    torch.testing.assert_close(score, -EPS / t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow.velocity_from_score(x_t, score, t), v, atol=1e-4, rtol=1e-4)


@fast
@given(levels)
def test_renoise_composes_in_distribution(srt):
    """s -> r -> t is s -> t: the signal kept multiplies, the variances add up."""
    s, r, t = srt
    assert flow.alpha_ts(s, r) * flow.alpha_ts(r, t) == pytest.approx(float(flow.alpha_ts(s, t)), abs=1e-5)
    through_r = flow.alpha_ts(r, t) ** 2 * flow.sigma_ts(s, r) ** 2 + flow.sigma_ts(r, t) ** 2
    assert float(through_r) == pytest.approx(float(flow.sigma_ts(s, t) ** 2), abs=1e-5)


@fast
@given(levels)
def test_renoise_keeps_the_marginal(srt):
    """x_s of variance (1-s)^2 v + s^2 becomes x_t of variance (1-t)^2 v + t^2, for any v."""
    s, _, t = srt
    for v in (0.0, 1.7):
        var = flow.alpha_ts(s, t) ** 2 * ((1 - s) ** 2 * v + s**2) + flow.sigma_ts(s, t) ** 2
        assert float(var) == pytest.approx((1 - t) ** 2 * v + t**2, abs=1e-5)


def test_renoise_to_the_same_level_is_the_identity_and_to_one_is_noise():
    torch.testing.assert_close(flow.renoise(X0, EPS, 0.4, 0.4), X0, atol=1e-3, rtol=0)
    torch.testing.assert_close(flow.renoise(X0, EPS, 0.4, 1.0), EPS)


@fast
@given(st.floats(0.01, 1.0))
def test_at_s_zero_everything_is_ordinary_dmd(t):
    torch.testing.assert_close(flow.subinterval_target(X0, EPS, 0.0, t), EPS - X0)
    assert float(flow.subinterval_weight(0.0, t)) == pytest.approx(min(1 / t**2, 10) * t**2, abs=1e-5)
    assert float(flow.generator_weight(0.0, t)) == pytest.approx((1 - t) ** 2 / ((1 - t) * t + t**2), abs=1e-4)


@fast
@given(levels, st.floats(1.0, 50.0))
def test_weights_are_the_printed_ones(srt, clamp):
    s, _, t = srt
    alpha = (1 - t) / (1 - s)
    var = t**2 - alpha**2 * s**2
    assert float(flow.subinterval_weight(s, t, clamp)) == pytest.approx(min(1 / var, clamp) * var, rel=1e-3)
    assert float(flow.generator_weight(s, t)) == pytest.approx(
        (1 - t) * alpha / ((1 - t) * t + t**2), rel=1e-4, abs=1e-6
    )


@fast
@given(levels, st.floats(-2, 2), st.floats(0.0, 2.0), st.floats(-3, 3))
def test_mean_of_the_target_given_x_t_is_the_marginal_velocity(srt, m, v, z):
    """x0 ~ N(m, v). The target is linear in (x_s, eps) and these are jointly Gaussian with x_t, so its mean
    given x_t is the target of their means. The naive target's mean is off by a known, non-zero amount."""
    s, _, t = srt
    mean_s, var_s = (1 - s) * m, (1 - s) ** 2 * v + s**2
    a, sigma = (1 - t) / (1 - s), (t**2 - ((1 - t) / (1 - s)) ** 2 * s**2) ** 0.5
    mean_t, var_t = (1 - t) * m, (1 - t) ** 2 * v + t**2
    x_t = mean_t + z * var_t**0.5
    x_s_hat = torch.tensor([[mean_s + a * var_s / var_t * (x_t - mean_t)]])
    eps_hat = torch.tensor([[sigma / var_t * (x_t - mean_t)]])
    x0_hat = m + (1 - t) * v / var_t * (x_t - mean_t)
    velocity = (x_t - x0_hat) / t
    got = float(flow.subinterval_target(x_s_hat, eps_hat, s, t))
    assert got == pytest.approx(velocity, abs=2e-3 * (1 + abs(velocity)) / sigma)


def test_naive_target_is_biased_for_s_above_zero_and_the_sign_matters():
    """By regression on samples of N(1, 0.5): least squares of each target on (1, x_t) at s = 0.5, t = 0.75."""
    s, t, n = 0.5, 0.75, 400_000
    x0 = 1 + 0.5**0.5 * normal(n, 1)
    x_s = flow.renoise(x0, normal(n, 1, seed=1), 0.0, s)
    eps = normal(n, 1, seed=2)
    x_t = flow.renoise(x_s, eps, s, t)
    design = torch.cat([torch.ones_like(x_t), x_t], 1)

    def fit(target: torch.Tensor) -> torch.Tensor:
        return torch.linalg.lstsq(design, target).solution[:, 0]

    var_t = (1 - t) ** 2 * 0.5 + t**2
    slope = (t - (1 - t) * 0.5) / var_t  # cov(eps - x0, x_t) / var(x_t)
    velocity = torch.tensor([-1 - slope * (1 - t), slope])
    exact = flow.subinterval_target(x_s, eps, s, t)
    assert (fit(exact) - velocity).abs().max() < 0.02
    assert (fit(flow.naive_target(x_s, eps)) - velocity).abs().max() > 0.2
    assert (fit(exact + 2 * x_s / (1 - s)) - velocity).abs().max() > 0.2  # the other printed sign


def test_weighted_target_stays_finite_as_t_nears_s():
    s = torch.full((64,), 0.5)
    for gap in (1e-1, 1e-2, 1e-3, 1e-4):
        t = s + gap
        error = flow.subinterval_weight(s, t)[:, None] * flow.subinterval_target(X0, EPS, s, t) ** 2
        assert error.isfinite().all()
        assert error.mean() < 20
    unweighted = flow.subinterval_target(X0, EPS, s, s + 1e-4) ** 2
    assert unweighted.mean() > 1000


FUNCTIONS = {
    "renoise": lambda x, e, s, t: flow.renoise(x, e, s, t),
    "target": lambda x, e, s, t: flow.subinterval_target(x, e, s, t),
    "x0": lambda x, e, s, t: flow.x0_from_velocity(x, e, t),
    "eps": lambda x, e, s, t: flow.eps_from_velocity(x, e, t),
    "velocity": lambda x, e, s, t: flow.velocity_from_x0(x, e, t),
    "score": lambda x, e, s, t: flow.score_from_velocity(x, e, t),
    "from score": lambda x, e, s, t: flow.velocity_from_score(x, e, t),
    "euler": lambda x, e, s, t: flow.euler(x, e, t, s),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_s_and_t_broadcast_per_sample(name):
    f = FUNCTIONS[name]
    x, eps = normal(5, 2, 3, 4), normal(5, 2, 3, 4, seed=1)
    s, t = torch.linspace(0.0, 0.4, 5), torch.linspace(0.5, 0.9, 5)
    together = f(x, eps, s, t)
    assert together.shape == x.shape
    for i in range(5):
        torch.testing.assert_close(together[i : i + 1], f(x[i : i + 1], eps[i : i + 1], float(s[i]), float(t[i])))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_any_float_dtype_in_float32_out(name, dtype):
    f = FUNCTIONS[name]
    s, t = torch.full((64,), 0.25, dtype=dtype), torch.full((64,), 0.75, dtype=dtype)
    x, eps = X0.to(dtype), EPS.to(dtype)
    got = f(x, eps, s, t)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, f(x.float(), eps.float(), 0.25, 0.75))


@pytest.mark.parametrize("f", [flow.alpha_ts, flow.sigma_ts, flow.subinterval_weight, flow.generator_weight])
def test_coefficients_broadcast_s_and_t(f):
    t = torch.tensor([0.6, 0.8], dtype=torch.float64)
    got = f(0.5, t)
    assert got.shape == (2,)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.stack([f(0.5, 0.6), f(0.5, 0.8)]))


def test_guide_is_the_standard_form():
    v_cond, v_uncond = X0, EPS
    torch.testing.assert_close(flow.guide(v_cond, v_uncond, 1.0), v_cond)
    torch.testing.assert_close(flow.guide(v_cond, v_uncond, 0.0), v_uncond)
    torch.testing.assert_close(flow.guide(v_cond, v_uncond, 4.0), 4 * v_cond - 3 * v_uncond)


@fast
@given(st.floats(0.2, 12.0))
def test_shift_time_is_monotone_with_fixed_ends(k):
    u = torch.linspace(0, 1, 101)
    t = flow.shift_time(u, k)
    assert (t.diff() > 0).all()
    assert t[0] == 0
    assert t[-1] == pytest.approx(1)
    assert ((t >= u - 1e-6) if k >= 1 else (t <= u + 1e-6)).all()
    torch.testing.assert_close(flow.shift_time(t, 1 / k), u, atol=1e-5, rtol=1e-4)


def test_shift_of_one_is_none():
    u = torch.linspace(0, 1, 11)
    torch.testing.assert_close(flow.shift_time(u, 1.0), u)


@pytest.mark.parametrize("steps", [1, 2, 4, 40])
def test_time_grid_runs_from_one_to_zero(steps):
    grid = flow.time_grid(steps, 5.0)
    assert len(grid) == steps + 1
    assert grid[0] == 1
    assert grid[-1] == 0
    assert list(grid) == sorted(grid, reverse=True)
    assert len(set(grid)) == steps + 1


def test_time_grid_values_and_errors():
    assert flow.time_grid(4) == pytest.approx((1, 0.75, 0.5, 0.25, 0))
    assert flow.time_grid(4, 5.0) == pytest.approx((1, 15 / 16, 5 / 6, 5 / 8, 0))
    with pytest.raises(ValueError, match="at least one step"):
        flow.time_grid(0)
    for shift in (2e7, 1e8, 1e-7, 1e-9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="leaves 4 steps no noise levels of their own"):
            flow.time_grid(4, shift)
