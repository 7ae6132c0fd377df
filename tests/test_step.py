"""One training step of any method, and short trainings on the mixture, which knows the truth."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pdmd.plan import METHODS, Plan, phased, with_options
from pdmd.rollout import simulate
from pdmd.step import T_MARGIN, Trainee, draw, draw_noise, draw_t, fake_error, fit_fake, update_generator
from pdmd.teachers.mixture import MLP, Mixture, Modes

TEACHER = Mixture()
BATCH, STEPS, LR, FAKE_LR = 256, 160, 1e-3, 2e-3
COND = TEACHER.encode([""] * BATCH)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trainee(net: nn.Module, lr: float) -> Trainee:
    return Trainee(net, torch.optim.AdamW(net.parameters(), lr, betas=(0.0, 0.999), weight_decay=0.0))


def distil(plan: Plan, steps: int, seed: int = 0) -> list[nn.Module]:
    """Experts after `steps` generator steps shared evenly by the stages: the loop at its barest."""
    g = rng(seed)
    experts = [TEACHER.network() for _ in range(max(plan.experts) + 1)]
    for stage in plan.stages:
        expert = trainee(experts[stage[0].expert], LR)
        fake = trainee(TEACHER.network(), FAKE_LR)
        for _ in range(steps // len(plan.stages)):
            phase = stage[int(torch.randint(len(stage), (), generator=g))]
            before = plan.phases[: plan.phases.index(phase)]

            def start(before: tuple = before) -> Tensor:
                return simulate(TEACHER.velocity, experts, before, draw_noise(torch.empty(BATCH, 2), g), COND)

            for _ in range(plan.fits):
                fit_fake(TEACHER, plan, phase, expert.net, fake, start(), COND, g)
            update_generator(TEACHER, plan, phase, expert, fake.net, start(), COND, g)
    return experts


def sampled(plan: Plan, experts: list[nn.Module], n: int = 8000) -> Modes:
    z = torch.randn(n, 2, generator=rng(99))
    return TEACHER.measure(simulate(TEACHER.velocity, experts, plan.phases, z, TEACHER.encode([""] * n)))


class Exact(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return TEACHER.exact_velocity(x, t)


@pytest.mark.parametrize("method", METHODS)
def test_a_short_training_beats_the_teacher_at_as_few_steps(method):
    plan = METHODS[method]()
    before = sampled(plan, [Exact()] * (max(plan.experts) + 1))
    after = sampled(plan, distil(plan, STEPS))
    assert after.coverage >= before.coverage
    assert after.weights_tv < 0.8 * before.weights_tv
    stops = any(phase.random_stop for phase in plan.phases)
    if plan.target == "exact" and not stops:  # the x0 target spreads the modes, and so, at first, do random stops
        assert after.spread < before.spread


def one_step(plan: Plan, seed: int) -> list[Tensor]:
    return [p for net in distil(plan, 2 * len(plan.stages), seed) for p in net.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_the_generators_seed_determines_the_step_and_the_global_one_does_not(method):
    plan = METHODS[method]()
    torch.manual_seed(1)
    first = one_step(plan, seed=0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, one_step(plan, seed=0), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(a, b) for a, b in zip(first, one_step(plan, seed=1), strict=True))


def copies(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def changed(net: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_each_update_reaches_its_own_network_alone(method):
    plan = METHODS[method]()
    for phase in plan.phases:
        expert, fake = (trainee(MLP(2, rng(k), width=16), 1e-3) for k in range(2))
        x = draw_noise(torch.empty(BATCH, 2), rng(2))
        was, fake_was = copies(expert.net), copies(fake.net)
        update_generator(TEACHER, plan, phase, expert, fake.net, x, COND, rng(3))
        assert changed(expert.net, was)
        assert not changed(fake.net, fake_was)
        assert all(p.grad is None for p in fake.net.parameters())
        expert.optimizer.zero_grad(set_to_none=True)
        was = copies(expert.net)
        fit_fake(TEACHER, plan, phase, expert.net, fake, x, COND, rng(4))
        assert not changed(expert.net, was)
        assert all(p.grad is None for p in expert.net.parameters())
        assert changed(fake.net, fake_was)


@pytest.mark.parametrize("weight", ["paper", "normalised"])
def test_a_generator_whose_f_is_the_teacher_stands_still(weight):
    plan = with_options(phased(), weight=weight)
    expert = trainee(MLP(2, rng(), width=16), 1e-3)
    x = draw_noise(torch.empty(BATCH, 2), rng(2))
    update = update_generator(TEACHER, plan, plan.phases[0], expert, Exact(), x, COND, rng(3))
    assert update.gradient == 0
    assert update.norm == 0
    assert update.normaliser.shape == (BATCH,)


def test_fits_lower_the_loss_on_fresh_draws():
    """F starts as the teacher, far from the distribution of an untrained generator."""
    plan = METHODS["dmd"]()
    phase, expert, fake = plan.phases[0], MLP(2, rng(), width=16), trainee(TEACHER.network(), 2e-3)
    x = draw_noise(torch.empty(BATCH, 2), rng(2))

    def error() -> float:
        return float(fake_error(TEACHER, plan, phase, expert, fake.net, x, COND, draw(plan, phase, x, rng(7))).detach())

    before = error()
    for k in range(60):
        fit_fake(TEACHER, plan, phase, expert, fake, x, COND, rng(100 + k))
    assert error() < 0.5 * before


@pytest.mark.parametrize("method", METHODS)
def test_t_is_drawn_inside_the_phases_interval(method):
    plan = METHODS[method]()
    for phase in plan.phases:
        t = draw_t(plan, phase, torch.empty(4000, 2), rng())
        margin = T_MARGIN * (phase.high - phase.low)
        assert t.min() >= phase.low + margin - 1e-6
        assert t.max() <= phase.high - margin + 1e-6
        middle = (phase.low + phase.high) / 2
        assert abs(float(t.mean()) - middle) < 0.03 * (phase.high - phase.low)
        shifted = draw_t(replace(plan, t_shift=5.0), phase, torch.empty(4000, 2), rng())
        u = (t - phase.low - margin) / (phase.high - phase.low - 2 * margin)
        again = (shifted - phase.low - margin) / (phase.high - phase.low - 2 * margin)
        torch.testing.assert_close(again, 5 * u / (1 + 4 * u))  # the same draws, nearer to noise
        assert shifted.max() <= phase.high - margin + 1e-6


def test_noise_is_the_generators_own():
    like = torch.empty(5, 2)
    assert torch.equal(draw_noise(like, rng(3)), draw_noise(like, rng(3)))
    assert not torch.equal(draw_noise(like, rng(3)), draw_noise(like, rng(4)))


# The judge of all this: the mixture's own closed form and its measures.


def test_exact_velocity_is_the_mean_of_eps_minus_x0():
    n, t = 200_000, 0.6
    x0, eps = TEACHER.sample(n, rng(1)), torch.randn(n, 2, generator=rng(2))
    x_t = (1 - t) * x0 + t * eps
    residual = eps - x0 - TEACHER.exact_velocity(x_t, torch.full((n,), t))
    for f in (torch.ones(n, 1), x_t, x_t**2, torch.sin(3 * x_t)):  # a conditional mean leaves no correlation
        assert (residual * f).mean(0).abs().max() < 0.02


def test_score_is_the_gradient_of_the_log_density():
    mixture = Mixture(std=0.3)
    x, t = torch.randn(50, 2, generator=rng()).requires_grad_(), torch.linspace(0.1, 0.9, 50)
    means, w = torch.tensor(mixture.means), torch.tensor(mixture.weights)
    c = (1 - t) ** 2 * mixture.std**2 + t**2
    off = x[:, None] - (1 - t).view(-1, 1, 1) * means
    ((w / w.sum()).log() - off.pow(2).sum(-1) / (2 * c[:, None])).logsumexp(1).sum().backward()
    torch.testing.assert_close(mixture.score(x.detach(), t), x.grad, atol=1e-3, rtol=1e-3)


def test_measures_know_the_truth_and_see_each_loss():
    x0 = TEACHER.sample(20_000, rng())
    truth = TEACHER.measure(x0)
    assert truth.coverage == 1
    assert truth.weights_tv < 0.03
    assert truth.spread == pytest.approx(1, abs=0.02)
    means = torch.tensor(TEACHER.means)
    half = x0[x0[:, 0] > 0]
    assert TEACHER.measure(half).coverage == 0.5
    assert TEACHER.measure(half).weights_tv == pytest.approx(1 - len(half) / len(x0), abs=0.03)
    assert TEACHER.measure(means.repeat(100, 1)).spread < 1e-3
    blurred = x0 + TEACHER.std * torch.randn(x0.shape, generator=rng(1))
    assert TEACHER.measure(blurred).spread == pytest.approx(2**0.5, abs=0.05)


def test_network_starts_as_the_teacher_and_is_a_fresh_copy():
    net, t = TEACHER.network(), torch.rand(4000, generator=rng())
    eps = torch.randn(4000, 2, generator=rng(2))
    x_t = (1 - t[:, None]) * TEACHER.sample(4000, rng(1)) + t[:, None] * eps
    v = TEACHER.exact_velocity(x_t, t)
    with torch.no_grad():
        assert (net(x_t, t) - v).pow(2).mean() < 0.03 * v.var()
        next(net.parameters()).zero_()
    assert changed(TEACHER.network(), copies(net))


def test_mixture_in_any_dimension_and_its_pictures():
    for d in (1, 2, 3):
        mixture = Mixture(means=((0.0,) * d, (1.0,) * d), weights=(1.0, 3.0), std=0.1)
        assert mixture.shape(1) == (d,)
        x = mixture.sample(5, rng())
        assert mixture.guided(x, torch.full((5,), 0.5), mixture.encode([""] * 5)).shape == (5, d)
        assert mixture.decode(x).shape == (5, 1, 64, 64, 3)
    pixels = TEACHER.decode(torch.tensor([[1.0, 1.0], [-1.0, -1.0], [9.0, 9.0]]))[:, 0, :, :, 0]
    dark = [(frame < 128).nonzero() for frame in map(torch.from_numpy, pixels)]
    assert dark[0][:, 0].max() < 32 < dark[0][:, 1].min()  # up and right: an upper row, a right column
    assert dark[1][:, 1].max() < 32 < dark[1][:, 0].min()
    assert len(dark[2]) == 0
    assert json.dumps(TEACHER.identity())


def test_mixture_refuses_what_makes_no_mixture():
    with pytest.raises(ValueError, match="as many weights"):
        Mixture(means=((0.0,),), weights=(0.5, 0.5))
    with pytest.raises(ValueError, match="positive"):
        Mixture(means=((0.0,),), weights=(0.0,))
