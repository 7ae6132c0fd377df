"""Health figures while a student trains, because the losses of distribution matching say little.

A fixed probe of 4 prompts x 4 seeds is sampled by the student as it is: its trained phases by their
experts, what is left of the trajectory by the guided teacher. Beside it stand the teacher's own figures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pdmd import parallel
from pdmd.plan import Plan
from pdmd.rollout import simulate
from pdmd.sample import guided_flow, noise
from pdmd.state import State
from pdmd.step import draw, fake_error, parts
from pdmd.teachers import Cond, Teacher

PROMPTS, SEEDS = 4, 4
#: Steps of the guided teacher that finish an unfinished trajectory.
FINISH_STEPS = 10
#: A warning is due where the probe's diversity falls under this share of the teacher's.
LEAST_DIVERSITY = 0.5
#: A warning is due where F's loss, mean over RECENT steps, is GROWN times the least such mean of its stage.
RECENT, GROWN = 8, 20.0


@dataclass(frozen=True)
class Figures:
    """`distance`: mean pairwise RMS distance of a prompt's latents over its seeds (units of the latent's
    standard deviation). `motion`: RMS difference of consecutive latent frames (0 for images). `fidelity`:
    share of stated factors shown, where the domain has a reader, else None."""

    distance: float
    motion: float
    fidelity: float | None

    def flat(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{k}": v for k, v in asdict(self).items() if v is not None}


class FakeWatch:
    """Sees F diverge, once a stage, before its loss is infinite."""

    def __init__(self) -> None:
        self._begin(-1)

    def _begin(self, stage: int) -> None:
        self.stage, self.losses, self.least, self.told = stage, deque[float](maxlen=RECENT), math.inf, False
        self.growth = 1.0  # of the loss over its least

    def diverges(self, stage: int, loss: float) -> bool:
        """Whether it is to be told now, after a step of a stage with this loss."""
        if stage != self.stage:
            self._begin(stage)
        self.losses.append(loss)
        if len(self.losses) < RECENT or self.told:
            return False
        mean = sum(self.losses) / RECENT
        self.least = min(self.least, mean)
        self.growth = mean / self.least if self.least > 0 else 1.0
        self.told = self.growth > GROWN
        return self.told


class Probe:
    """The fixed prompts and noise, and the teacher's figures on them."""

    def __init__(self, teacher: Teacher, texts: Sequence[str], most: int | None = None) -> None:
        """With `most`, no more samples are made at once."""
        self.teacher, self.most = teacher, most
        # Prompts of middling length, which state some factors and leave some open.
        middle = sorted(len(p.split()) for p in texts)[len(texts) // 2]
        self.prompts = sorted(dict.fromkeys(texts), key=lambda p: (abs(len(p.split()) - middle), p))[:PROMPTS]
        self.repeated = [p for p in self.prompts for _ in range(SEEDS)]
        self.z = noise(teacher, [s for _ in self.prompts for s in range(SEEDS)], teacher.frames)
        self.cond = teacher.encode(self.repeated)
        x = self._guided(self.z, teacher.grid(teacher.steps))
        self.reference = self.measure(x, teacher.decode(x))

    def _guided(self, x: Tensor, grid: tuple[float, ...]) -> Tensor:
        return parallel.in_shares(lambda x, cond: guided_flow(self.teacher, x, cond, grid), x, self.cond, self.most)

    @torch.no_grad()
    def sample(self, plan: Plan, state: State, stage: int) -> Tensor:
        """Latents of the probe (n, ...)."""
        done = plan.phases if plan.interleaved else plan.phases[: stage + 1]
        run = partial(simulate, self.teacher.velocity, state.experts, done)
        x = parallel.in_shares(run, self.z, self.cond, self.most)
        if done[-1].end > 0:
            left = [t for t in self.teacher.grid(4 * FINISH_STEPS) if t < done[-1].end]
            grid = (done[-1].end, *left[:: max(1, len(left) // FINISH_STEPS)], 0.0)
            x = self._guided(x, tuple(dict.fromkeys(grid)))
        return x

    def measure(self, x: Tensor, pixels: np.ndarray) -> Figures:
        """The figures of the probe's latents (n, ...) and their pixels."""
        groups = x.flatten(1).view(len(self.prompts), -1, x[0].numel())
        pairs = torch.stack([torch.pdist(g) for g in groups]) / x[0].numel() ** 0.5
        motion = float(x.diff(dim=2).pow(2).mean().sqrt()) if x.ndim == 5 and x.shape[2] > 1 else 0.0
        return Figures(float(pairs.mean()), motion, self.fidelity(pixels))

    def fidelity(self, pixels: np.ndarray) -> float | None:
        if self.teacher.domain != "sprites":
            return None
        from pdmd.sprites import grammar, reader

        shares = [
            reader.fidelity(grammar.parse(text), reader.read(clip))
            for text, clip in zip(self.repeated, pixels, strict=True)
        ]
        return float(np.nanmean(shares))

    def collapsed(self, figures: Figures) -> bool:
        return figures.distance < LEAST_DIVERSITY * self.reference.distance


@torch.no_grad()
def fake_lag(
    teacher: Teacher,
    plan: Plan,
    stage: int,
    state: State,
    start: Tensor,
    cond: Cond,
    g: torch.Generator,
    count: int = 1,
) -> float:
    """F's loss on fresh samples of the generator, the batch in `count` parts: how far it lags behind."""
    phase = plan.stages[stage][0]
    drawn, nets = draw(plan, phase, start, g), (state.expert.net, state.fake.net)
    losses = [
        share * fake_error(teacher, plan, phase, *nets, start, cond, drawn, rows)
        for rows, share in parts(len(start), count)
    ]
    return float(parallel.mean(torch.stack(losses).sum()))
