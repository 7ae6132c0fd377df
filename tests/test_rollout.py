"""Backward simulation: which step runs, and which carries gradient."""

import pytest
import torch
from torch import nn

from pdmd.flow import euler, x0_from_velocity
from pdmd.plan import dmd, few_step, phased, sgts, tdm
from pdmd.rollout import draw_stop, rollout, simulate

GRID = few_step().grid


class PerStep(nn.Module):
    """v = gain_i x + bias_i, its own parameters for each step of the grid."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(scale * torch.linspace(0.1, 0.4, 4))
        self.bias = nn.Parameter(scale * torch.linspace(-1, 1, 4))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        i = min(range(4), key=lambda k: abs(GRID[k] - float(t[0])))
        assert GRID[i] == pytest.approx(float(t[0]))
        return self.gain[i] * x + self.bias[i]


def velocity(net: nn.Module, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    assert t.shape == (len(x),)
    return net(x, t)


def noise(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


COND = torch.zeros(8, 1, 1)


def steps_with_gradient(phase, stop: int, x: torch.Tensor) -> set[int]:
    net = PerStep()
    rollout(velocity, net, phase, x, COND, stop).x_s.pow(2).sum().backward()
    assert torch.equal(net.gain.grad != 0, net.bias.grad != 0)
    return {i for i in range(4) if net.bias.grad[i] != 0}


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_sgts_carries_gradient_through_the_jump_alone(stop):
    (phase,) = sgts().phases
    assert steps_with_gradient(phase, stop, noise()) == {stop - 1}


@pytest.mark.parametrize("stop", [1, 2])
def test_sgts_inside_the_last_phase(stop):
    assert steps_with_gradient(phased().phases[1], stop, noise()) == {1 + stop}


def test_full_graph_carries_gradient_through_all_steps():
    (phase,) = few_step().phases
    assert steps_with_gradient(phase, phase.steps, noise()) == {0, 1, 2, 3}


def test_tdm_carries_gradient_through_the_phases_step():
    for k, phase in enumerate(tdm().phases):
        assert steps_with_gradient(phase, phase.steps, noise()) == {k}


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_the_last_step_run_jumps_to_the_phases_end(stop):
    net, x = PerStep(), noise()
    (phase,) = sgts().phases
    got = rollout(velocity, net, phase, x, COND, stop)
    with torch.no_grad():
        for i in range(stop):
            v = net.gain[i] * x + net.bias[i]
            x0 = x0_from_velocity(x, v, GRID[i])
            x = euler(x, v, GRID[i], GRID[i + 1] if i < stop - 1 else 0.0)
    torch.testing.assert_close(got.x_s, x)
    torch.testing.assert_close(got.x0, x0)
    torch.testing.assert_close(got.x_s.detach(), got.x0)  # at s = 0 the jump ends at the estimate of x0


def test_x0_never_carries_gradient_and_no_grad_gives_none():
    (phase,) = few_step().phases
    assert not rollout(velocity, PerStep(), phase, noise(), COND, 4).x0.requires_grad
    with torch.no_grad():
        assert not rollout(velocity, PerStep(), phase, noise(), COND, 4).x_s.requires_grad


def test_the_gradient_mode_is_left_as_it_was():
    (phase,) = sgts().phases
    rollout(velocity, PerStep(), phase, noise(), COND, 2)
    assert torch.is_grad_enabled()


def test_random_stop_is_uniform_from_one_to_n():
    (phase,) = sgts().phases
    generator = torch.Generator().manual_seed(0)
    stops = torch.tensor([draw_stop(phase, generator) for _ in range(4000)])
    share = torch.bincount(stops, minlength=6)[1:].float() / 4000
    assert (share[:4] - 0.25).abs().max() < 0.03  # over four standard errors
    assert share[4] == 0


def test_stop_is_the_number_of_steps_without_random_stops():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    for plan in (dmd(), few_step(), tdm(), phased(random_stop=False)):
        for phase in plan.phases:
            assert draw_stop(phase, generator) == phase.steps
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    "plan",
    [few_step(), sgts(), phased(), phased(phases=4), tdm()],
    ids=["few-step", "sgts", "phased", "phased-4", "tdm"],
)
def test_simulate_is_composed_euler_by_the_phases_experts(plan):
    experts = [PerStep(1.0 + k) for k in range(4)]
    x = noise()
    got = simulate(velocity, experts, plan.phases, x, COND)
    assert not got.requires_grad
    with torch.no_grad():
        for k, i in enumerate(plan.experts):
            t = torch.full((len(x),), GRID[k])
            x = euler(x, experts[i](x, t), GRID[k], GRID[k + 1])
    torch.testing.assert_close(got, x)
