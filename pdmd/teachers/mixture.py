"""The teacher that knows the truth: a Gaussian mixture with its exact velocity, small MLPs as networks.

It trains in seconds, has no conditions, and says of any set of samples what a distillation lost: modes,
their weights, the spread within a mode. So it carries the tests of the method.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from pdmd.errors import UserError
from pdmd.files import parse_json
from pdmd.flow import score_from_velocity, time_grid
from pdmd.teachers import Lora

#: Least variance of x_t about a mode, where a mixture of points is asked for its velocity near t = 0.
SMALLEST_VARIANCE = 1e-8
#: A mode counts as covered from this share of its due mass.
COVERED = 0.1
#: Half the side of the square, in units of x, that `decode` draws, and its pixels.
EXTENT, PIXELS, DOT = 2.5, 64, 1.5
#: The regression that makes `network` start as the teacher: Adam steps, batch, peak learning rate, seed.
FIT_STEPS, FIT_BATCH, FIT_LR, FIT_SEED = 1500, 512, 4e-3, 0


def lattice(side: int = 4, dim: int = 2) -> tuple[tuple[float, ...], ...]:
    """The side^dim points of a square lattice about 0, of variance one in each coordinate."""
    line = torch.arange(side) - (side - 1) / 2
    line = line / line.pow(2).mean().sqrt().clamp(min=0.5)
    return tuple(tuple(p) for p in torch.cartesian_prod(*[line] * dim).view(-1, dim).tolist())


#: 16 unequal weights, 1 : 4 at the extremes, without order on the lattice.
WEIGHTS = tuple((5 + (7 * k) % 16) / 200 for k in range(16))


@dataclass(frozen=True)
class Modes:
    """What samples kept of the mixture. `shares`: of each mode, every sample at its nearest one; `coverage`: share of
    modes with at least a tenth of their due mass; `weights_tv`: total variation between the modes' shares and their
    weights, in [0, 1]; `spread`: standard deviation about the nearest mode over the true one."""

    shares: tuple[float, ...]
    coverage: float
    weights_tv: float
    spread: float


class MLP(nn.Module):
    """Velocity (n, d) of x_t (n, d) and t (n,): v = (t - alpha) x / r^2 + net(x / r, t) / r with
    r^2 = alpha_t^2 + t^2, so that a net of unit output fits data of unit variance (EDM's
    preconditioning, arXiv 2206.00364, for this flow). Weights come from `generator` alone."""

    def __init__(self, dim: int, generator: torch.Generator, width: int = 128, hidden: int = 3) -> None:
        super().__init__()
        self.frequencies = [math.pi * 2**k for k in range(4)]
        sizes = [dim + 2 * len(self.frequencies), *[width] * hidden, dim]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layer = torch.nn.utils.skip_init(nn.Linear, fan_in, fan_out)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.float().view(-1, 1)
        r = ((1 - t) ** 2 + t**2).sqrt()
        waves = [wave(f * t) for f in self.frequencies for wave in (torch.sin, torch.cos)]
        out = self.layers(torch.cat([x.float() / r, *waves], 1))
        return (2 * t - 1) * x.float() / r**2 + out / r


@dataclass(frozen=True)
class Mixture:
    """sum_k weights_k N(means_k, std^2 I) in d dimensions; by default 16 modes on a 4 x 4 lattice, overall
    standard deviation about one. Implements `pdmd.teachers.Teacher`: latents (n, d), conditions (n, 1, 1)."""

    means: tuple[tuple[float, ...], ...] = lattice()
    weights: tuple[float, ...] = WEIGHTS
    std: float = 0.1

    # What the Teacher protocol asks for; the same for every mixture.
    name = "mixture"
    domain = "mixture"
    first_frames = False
    frames = 1
    fps = 1
    guidance = 1.0
    steps = 40
    shift = 1.0
    device = torch.device("cpu")

    def __post_init__(self) -> None:
        if len(self.means) != len(self.weights) or len({len(m) for m in self.means}) != 1:
            raise ValueError(f"{len(self.means)} means of one dimension need as many weights, got {len(self.weights)}")
        if min(self.weights) <= 0 or self.std < 0:
            raise ValueError("weights must be positive and std must not be negative")

    def _modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (K, d) and normalised weights (K,) in float32 beside x."""
        w = torch.tensor(self.weights, dtype=torch.float32, device=x.device)
        return torch.tensor(self.means, dtype=torch.float32, device=x.device), w / w.sum()

    def exact_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[eps - x0 | x_t = x] in closed form, (n, d), for x (n, d) and t (n,).

        x_t given mode k is N(alpha_t mu_k, c) with c = alpha_t^2 std^2 + t^2, where
        E[eps - x0 | x_t, k] = (t - alpha_t std^2) / c (x_t - alpha_t mu_k) - mu_k; the modes are averaged
        by their posterior.
        """
        means, w = self._modes(x)
        t = t.float().view(-1, 1, 1)
        c = ((1 - t) ** 2 * self.std**2 + t**2).clamp(min=SMALLEST_VARIANCE)
        off = x.float()[:, None] - (1 - t) * means
        posterior = (w.log() - off.pow(2).sum(-1) / (2 * c[..., 0])).softmax(-1)
        v = (t - (1 - t) * self.std**2) / c * off - means
        return (posterior[..., None] * v).sum(1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p_t at x, (n, d), t > 0."""
        return score_from_velocity(x, self.exact_velocity(x, t), t)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """True samples x0 (n, d) on the generator's device."""
        eps = torch.randn(n, len(self.means[0]), generator=generator, device=generator.device)
        means, w = self._modes(eps)
        return means[torch.multinomial(w, n, replacement=True, generator=generator)] + self.std * eps

    def measure(self, samples: Tensor) -> Modes:
        """What samples (n, d) kept of the mixture; std > 0."""
        means, w = self._modes(samples)
        off = samples.float()[:, None] - means
        mode = off.pow(2).sum(-1).argmin(-1)
        share = torch.bincount(mode, minlength=len(w)) / len(samples)
        own = off[torch.arange(len(samples), device=samples.device), mode]
        return Modes(
            shares=tuple(share.tolist()),
            coverage=float((share >= COVERED * w).float().mean()),
            weights_tv=float(0.5 * (share - w).abs().sum()),
            spread=float(own.pow(2).mean().sqrt()) / self.std,
        )

    def shape(self, frames: int) -> tuple[int, ...]:
        return (len(self.means[0]),)

    def tokens(self, frames: int) -> int | None:
        return None

    def grid(self, steps: int) -> tuple[float, ...]:
        return time_grid(steps, self.shift)

    def network(self, t: float = 1.0, lora: Lora | None = None) -> nn.Module:
        if lora is not None:
            raise UserError("teacher mixture takes no LoRA: leave student and fake at full")
        return copy.deepcopy(_fitted(self))

    def settle(self, nets: Sequence[nn.Module], others: Sequence[nn.Module], t: float | None = None) -> None:
        """All of it is small."""

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return net(x, t)

    @torch.no_grad()
    def guided(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The exact velocity: without conditions there is nothing to guide."""
        return self.exact_velocity(x, t)

    def avoid(self, prompt: str) -> None:
        raise UserError("teacher mixture has no conditions and takes no negative prompt")

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def decode(self, x: Tensor) -> np.ndarray:
        """Each point (its first two coordinates) as a dark dot on white, x right and y up, uint8 (n, 1, 64, 64, 3)."""
        points = x.detach().float().cpu().numpy()[:, :2]
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
        centre = (points * [1, -1] / EXTENT + 1) / 2 * (PIXELS - 1)
        pixel = np.arange(PIXELS)
        distance = np.hypot(pixel - centre[:, 0, None, None], pixel[:, None] - centre[:, 1, None, None])
        ink = np.clip(DOT + 0.5 - distance, 0, 1)
        grey = np.round(255 * (1 - ink)).astype(np.uint8)
        return np.repeat(grey[:, None, :, :, None], 3, axis=-1)

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        return [""] * n

    def identity(self) -> dict[str, Any]:
        return {"kind": "mixture", **asdict(self)}

    def save_student(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """expert_{k}.safetensors, and student.json with the grid and the expert of each step."""
        for k, expert in enumerate(experts):
            save_file(expert.state_dict(), to / f"expert_{k}.safetensors")
        student = {"grid": list(grid), "experts": list(steps), "teacher": self.identity()}
        (to / "student.json").write_text(json.dumps(student, indent=1) + "\n")


def load_student(folder: Path, count: int) -> tuple[Mixture, list[nn.Module], dict[str, Any]]:
    """A student's mixture, its `count` experts and its identity, from what `save_student` wrote."""
    try:
        described = parse_json((folder / "student.json").read_bytes())["teacher"]
        means = tuple(tuple(map(float, mean)) for mean in described["means"])
        mixture = Mixture(means, tuple(map(float, described["weights"])), float(described["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'student.json'} is damaged: it states no mixture; train it again") from None
    experts: list[nn.Module] = []
    digest = hashlib.sha256()
    for k in range(count):
        path = folder / f"expert_{k}.safetensors"
        net = MLP(len(mixture.means[0]), torch.Generator())
        try:
            content = path.read_bytes()
            net.load_state_dict(load_bytes(content))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"cannot load expert {path}: {str(error).splitlines()[0]}") from None
        digest.update(content)
        experts.append(net.requires_grad_(False).eval())
    return mixture, experts, {"kind": "student", "family": "mixture", "path": str(folder), "sha256": digest.hexdigest()}


@functools.cache
def _fitted(mixture: Mixture) -> nn.Module:
    """An MLP fitted to the mixture's exact velocity by regression, from a fixed seed, once a process."""
    generator = torch.Generator().manual_seed(FIT_SEED)
    net = MLP(len(mixture.means[0]), generator)
    optimizer = torch.optim.Adam(net.parameters(), FIT_LR, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, FIT_LR, FIT_STEPS, pct_start=0.1)
    with torch.enable_grad():
        for _ in range(FIT_STEPS):
            t = torch.rand(FIT_BATCH, generator=generator)
            eps = torch.randn(FIT_BATCH, len(mixture.means[0]), generator=generator)
            x_t = (1 - t[:, None]) * mixture.sample(FIT_BATCH, generator) + t[:, None] * eps
            loss = (net(x_t, t) - mixture.exact_velocity(x_t, t)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()
