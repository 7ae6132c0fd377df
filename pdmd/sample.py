"""Sampling: a teacher by its own guided grid, a student by its experts in a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pdmd.errors import UserError
from pdmd.files import parse_json
from pdmd.flow import euler
from pdmd.teachers import EMBEDDED, Compute, Cond, Teacher, load_student, load_teacher, route

STUDENT = "student"  # the finished student's folder inside a run's


class Model(Protocol):
    """What makes samples: `pdmd.benchmark.generate.Model` asks for the same."""

    name: str
    domain: str
    first_frames: bool  # its prompts are `pdmd.teachers.Pictured`
    fps: int
    frames: int  # of a clip, where none are asked for; 1 for images

    @property
    def identity(self) -> dict[str, Any]: ...

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray: ...


def noise(teacher: Teacher, seeds: Sequence[int], frames: int) -> Tensor:
    """One latent of noise a seed, (n, *shape): a seed means the same noise in any batch."""
    shape = teacher.shape(frames)
    made = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(made).to(teacher.device)


@torch.no_grad()
def guided_flow(teacher: Teacher, x: Tensor, cond: Cond, grid: Sequence[float], settle: bool = False) -> Tensor:
    """Euler steps of the teacher's guided flow over the grid, x at grid[0] to x at grid[-1]. With `settle` its
    networks change places on the device where the next one's turn comes, not for each step."""
    for t, s in pairwise(grid):
        if settle:
            teacher.settle((), (), t)
        x = euler(x, teacher.guided(x, x.new_full((len(x),), t), cond), t, s)
    return x


@torch.no_grad()
def expert_flow(
    teacher: Teacher,
    nets: Sequence[nn.Module],
    steps: Sequence[int],
    x: Tensor,
    cond: Cond,
    grid: Sequence[float],
    settle: bool = False,
) -> Tensor:
    """Euler steps over the grid, each by its expert, without guidance; `settle` as of `guided_flow`."""
    for t, s, k in zip(grid, grid[1:], steps, strict=False):
        if settle:
            teacher.settle([nets[k]], nets)
        x = euler(x, teacher.velocity(nets[k], x, x.new_full((len(x),), t), cond), t, s)
    return x


def pixels(teacher: Teacher, x: Tensor, name: str, seeds: Sequence[int]) -> np.ndarray:
    """Pixels of a model's latents (n, ...), uint8 (n, frames, H, W, 3). Raises UserError, naming the first seed, for
    samples that are not finite: decoded they would be black."""
    bad = [seed for seed, row in zip(seeds, x, strict=True) if not bool(torch.isfinite(row).all())]
    if bad:
        raise UserError(
            f"{name} made a sample that is not finite (NaN or infinite), with seed {bad[0]}: its weights are damaged, "
            "or its precision is too low"
        )
    return teacher.decode(x)


class Guided:
    """The teacher at its own number of steps, guided: the base model's row."""

    def __init__(self, teacher: Teacher, steps: int | None = None, compute: Compute | None = None) -> None:
        self.teacher, self.compute = teacher, compute or Compute()
        self.name, self.domain, self.first_frames = teacher.name, teacher.domain, teacher.first_frames
        self.fps, self.frames = teacher.fps, teacher.frames
        self.steps = steps or teacher.steps

    @property
    def identity(self) -> dict[str, Any]:
        teacher = self.teacher
        sampler = {"sampler": "euler", "steps": self.steps, "shift": teacher.shift, "guidance": teacher.guidance}
        return teacher.identity() | sampler | self.compute.stated

    def latents(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> Tensor:
        x = noise(self.teacher, seeds, frames or self.teacher.frames)
        return guided_flow(self.teacher, x, self.teacher.encode(prompts), self.teacher.grid(self.steps), settle=True)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        """Pixels, uint8 (n, frames, H, W, 3)."""
        return pixels(self.teacher, self.latents(prompts, seeds, frames), self.name, seeds)


class Student:
    """A finished student: its experts over its own grid, no guidance."""

    def __init__(
        self,
        teacher: Teacher,
        name: str,
        experts: Sequence[nn.Module],
        grid: Sequence[float],
        steps: Sequence[int],
        identity: dict[str, Any],
    ) -> None:
        self.teacher, self.name = teacher, name
        self.domain, self.first_frames = teacher.domain, teacher.first_frames
        self.fps, self.frames = teacher.fps, teacher.frames
        self.experts, self.grid, self.steps, self._identity = experts, grid, steps, identity

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity | {"sampler": "euler", "steps": len(self.steps), "grid": list(self.grid), "guidance": 1.0}

    def latents(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> Tensor:
        x = noise(self.teacher, seeds, frames or self.teacher.frames)
        return expert_flow(
            self.teacher, self.experts, self.steps, x, self.teacher.encode(prompts), self.grid, settle=True
        )

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], frames: int | None) -> np.ndarray:
        """Pixels, uint8 (n, frames, H, W, 3)."""
        return pixels(self.teacher, self.latents(prompts, seeds, frames), self.name, seeds)


def load_model(
    spec: str,
    steps: int | None = None,
    guidance: float | None = None,
    compute: Compute | None = None,
    negative_prompt: str | None = None,
) -> Model:
    """A model by name: a run's folder, a student's folder, or a teacher (embedded, folder or hub id), run as `compute`
    says.

    Raises UserError for what is none of these, for an unfinished run, for no steps, and for a device that is not here.
    """
    if steps is not None and steps < 1:
        raise UserError(f"{steps} steps: sampling takes at least one")
    path = Path(spec)
    if spec not in EMBEDDED and path.is_dir():
        folder = path / STUDENT if (path / "config.json").is_file() else path
        if (path / "config.json").is_file() and not (folder / "student.json").is_file():
            raise UserError(f"run {path} is not finished; go on with: pdmd train --resume --out {path}")
        if (folder / "student.json").is_file():
            if (steps, guidance, negative_prompt) != (None, None, None):
                raise UserError(
                    f"{path} is a student: its steps are fixed, and it takes no guidance or negative prompt"
                )
            return _student(folder, path.name, compute or Compute())
    teacher = load_teacher(spec, guidance, compute=compute, negative_prompt=negative_prompt)
    return Guided(teacher, steps, compute)


def _student(folder: Path, name: str, compute: Compute) -> Student:
    try:
        grid, steps = route(parse_json((folder / "student.json").read_bytes()))
        count = max(steps) + 1
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'student.json'} is damaged; export or train the student again") from None
    teacher, experts, identity = load_student(folder, count, compute)
    return Student(teacher, name, experts, grid, steps, identity | compute.stated)
