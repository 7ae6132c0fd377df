"""One training step of any method: fit F to the generator's samples, then move the generator.

Read with plan.py: what differs between methods is in the Phase and the Plan, never here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdmd import parallel, shards
from pdmd.flow import renoise, shift_time, x0_from_velocity
from pdmd.loss import fake_loss, generator_gradient, normaliser, surrogate
from pdmd.plan import Phase, Plan
from pdmd.rollout import draw_stop, rollout
from pdmd.teachers import Cond, Teacher

#: t stays this share of the interval away from both its ends.
T_MARGIN = 0.02
#: Largest norm of a gradient that reaches an optimiser.
CLIP = 1.0


class NotFinite(ArithmeticError):  # noqa: N818 - says what a tensor is
    """A tensor of a step, by name, holds a NaN or an infinity; no optimiser has seen it."""


def finite(name: str, x: Tensor) -> Tensor:
    """The tensor itself, whole where processes share it. Raises NotFinite where it is not finite."""
    x = shards.whole(x)
    if not (x.is_meta or bool(torch.isfinite(x).all())):
        raise NotFinite(name)
    return x


@dataclass(frozen=True)
class Trainee:
    """What one phase trains: a network and its optimiser."""

    net: nn.Module
    optimizer: torch.optim.Optimizer

    def descend(self, losses: Iterable[Tensor], name: str) -> Tensor:
        """One optimiser step down the sum of the losses, each of them back-propagated before the next is made;
        returns the gradient's norm before clipping. Raises NotFinite, by the name, where that is not finite, before
        the step, and where the weights are not, after it: then nothing may be saved."""
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            (parallel.context() * loss).backward()  # each process's gradient is that of its own part of the tokens
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = finite(f"{name}_gradient", torch.nn.utils.clip_grad_norm_(trained, CLIP))
        self.optimizer.step()
        finite(f"{name}_weights", torch.nn.utils.get_total_norm(trained))
        return norm


@dataclass(frozen=True)
class Draw:
    """What a batch draws: the step j that a rollout stops after, noise levels t (n,) and noise eps (n, ...)."""

    stop: int
    t: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Update:
    """What a generator step reports: the surrogate's value is meaningless, so the gradient's mean
    square, its norm at the parameters, and the x0 normaliser (n,)."""

    gradient: Tensor
    norm: Tensor
    normaliser: Tensor


def draw_t(plan: Plan, phase: Phase, like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise levels (n,) beside x (n, ...), over the phase's interval less a margin at either end: uniform, or shifted
    towards its noisy end."""
    u = torch.rand(len(like), generator=generator, device=generator.device).to(like.device)
    u = shift_time(u, plan.t_shift)
    return phase.low + (phase.high - phase.low) * (T_MARGIN + (1 - 2 * T_MARGIN) * u)


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of x (n, ...), beside it."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like.device)


def draw(plan: Plan, phase: Phase, like: Tensor, generator: torch.Generator) -> Draw:
    """All that is random in a batch, whatever parts it is computed in."""
    return Draw(draw_stop(phase, generator), draw_t(plan, phase, like, generator), draw_noise(like, generator))


def parts(n: int, count: int) -> list[tuple[slice, float]]:
    """This process's rows of n in at most `count` parts of as even a size as can be, with each part's share of them."""
    own = parallel.own_rows(n)
    return [(slice(int(rows[0]), int(rows[-1]) + 1), len(rows) / len(own)) for rows in own.chunk(count)]


def fake_error(
    teacher: Teacher,
    plan: Plan,
    phase: Phase,
    expert: nn.Module,
    fake: nn.Module,
    start: Tensor,
    cond: Cond,
    drawn: Draw,
    rows: slice = slice(None),
) -> Tensor:
    """F's loss on fresh samples of the generator, a scalar: x_s = rollout(...), x_t = renoise(x_s), regression."""
    start, cond, t, eps = start[rows], cond[rows], drawn.t[rows], drawn.eps[rows]
    with torch.no_grad():
        sample = rollout(teacher.velocity, expert, phase, start, cond, drawn.stop)
    x_t = renoise(finite("sample", sample.x_s), eps, phase.end, t)
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
    count: int = 1,
) -> Tensor:
    """One fit of F to the generator's distribution, the batch in `count` parts; returns the loss."""
    drawn, made = draw(plan, phase, start, generator), []

    def losses() -> Iterator[Tensor]:
        for rows, share in parts(len(start), count):
            loss = share * fake_error(teacher, plan, phase, expert, fake.net, start, cond, drawn, rows)
            made.append(finite("fake_loss", loss.detach()))
            yield loss

    fake.descend(losses(), "fake")
    return parallel.mean(torch.stack(made).sum())


def update_generator(
    teacher: Teacher,
    plan: Plan,
    phase: Phase,
    expert: Trainee,
    fake: nn.Module,
    start: Tensor,
    cond: Cond,
    generator: torch.Generator,
    count: int = 1,
) -> Update:
    """One step of the generator down the gradient of the reverse KL between its diffused samples and
    the teacher's, the batch in `count` parts: rollout with gradient where the phase says, renoise, T (guided) and F
    without."""
    drawn, gradients, normalisers = draw(plan, phase, start, generator), [], []

    def losses() -> Iterator[Tensor]:
        for rows, share in parts(len(start), count):
            t, c = drawn.t[rows], cond[rows]
            sample = rollout(teacher.velocity, expert.net, phase, start[rows], c, drawn.stop)
            with torch.no_grad():
                x_t = renoise(finite("sample", sample.x_s), drawn.eps[rows], phase.end, t)
                real = finite("teacher", teacher.guided(x_t, t, c))
                gradient = generator_gradient(plan, phase, sample, x_t, t, real, teacher.velocity(fake, x_t, t, c))
                gradients.append(finite("gradient", gradient))
                normalisers.append(normaliser(sample, x0_from_velocity(x_t, real, t)))
            yield share * surrogate(sample.x_s, gradient)

    norm = expert.descend(losses(), "generator")
    square = parallel.mean(torch.cat(gradients).pow(2).mean())
    return Update(square, norm, parallel.gathered(torch.cat(normalisers)))
