"""What the stages of the embedded teacher's training share: optimisers, renders, checkpoints, logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pdmd import parallel
from pdmd.sprites import world

MUON_LR, ADAM_LR = 0.02, 1.5e-3


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Each process's gradients become the mean over all processes."""
    if parallel.size() == 1:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    mean = parallel.mean(torch.cat([g.flatten() for g in grads]))
    for p, g in zip(parameters, mean.split([g.numel() for g in grads]), strict=True):
        p.grad = g.view_as(p)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon without weight decay, its Newton-Schulz iteration in float32.

    torch's own iterates in bfloat16, which is 15 times slower on a CPU that has no instructions for it.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            directions = []
            for p in params:
                average = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                directions.append(p.grad.lerp(average, group["momentum"]))
            for p, update in zip(params, orthogonalise_together(directions), strict=True):
                p.sub_(update, alpha=group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonalise(g: torch.Tensor) -> torch.Tensor:
    """U V^T, nearly, of a matrix g = U S V^T: five quintic Newton-Schulz steps (Jordan et al., Muon, 2024)."""
    a, b, c = 3.4445, -4.775, 2.0315
    x = (g.T if g.shape[0] > g.shape[1] else g) / g.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x


def orthogonalise_together(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each matrix orthogonalised, by one of the processes, all of which hold the same matrices."""
    rank, together = parallel.rank(), parallel.size()
    mine = [orthogonalise(g) if i % together == rank else torch.zeros_like(g) for i, g in enumerate(matrices)]
    if together == 1:
        return mine
    whole = parallel.mean(torch.cat([g.flatten() for g in mine])) * together
    return [g.view_as(m) for g, m in zip(whole.split([m.numel() for m in matrices]), matrices, strict=True)]


class Optimizers:
    """Muon on the matrices, AdamW on the rest, one learning-rate factor over both.

    Muon takes matrices only; a convolution's kernel (out, in, ...) takes part as its view (out, rest).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], others: list[torch.nn.Parameter]) -> None:
        self.matrices = matrices
        self.views = [torch.nn.Parameter(p.data.view(p.shape[0], -1)) for p in matrices]
        self.parameters = [*matrices, *others]
        self.both = [
            Muon(self.views, MUON_LR),
            torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=0.0),
        ]

    def step(self, loss: torch.Tensor, factor: float) -> None:
        for p in self.parameters:
            p.grad = None
        loss.backward()
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for view, p in zip(self.views, self.matrices, strict=True):
            view.grad = None if p.grad is None else p.grad.view(view.shape)
        for optimizer, rate in zip(self.both, (MUON_LR, ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.both]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.both, states, strict=True):
            optimizer.load_state_dict(state)


def clips(count: int, seed: int, frames: int = world.FRAMES) -> np.ndarray:
    """Renders of `count` scenes of the world's distribution, uint8 (count, frames, H, W, 3)."""
    scenes = (world.sample_scene(np.random.default_rng([seed, i])) for i in range(count))
    return np.stack([world.render(scene, frames) for scene in scenes])


def covered(count: int, seed: int) -> np.ndarray:
    """Where the same scenes show an object, bool (count, FRAMES, H, W)."""
    scenes = (world.sample_scene(np.random.default_rng([seed, i])) for i in range(count))
    return np.stack([world.masks(scene).sum(1) > 0.5 for scene in scenes])


def to_model(video: np.ndarray) -> torch.Tensor:
    """uint8 (n, frames, H, W, 3) -> float32 (n, 3, frames, H, W) in [-1, 1]."""
    return torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two tensors in [-1, 1]."""
    return float(10 * torch.log10(4 / (x - y).pow(2).mean()))


def save(path: Path, step: int, **parts: Any) -> None:
    """Write a stage's checkpoint whole or not at all: its step, and the state of every part."""
    state = dict(step=step) | {name: part.state_dict() for name, part in parts.items()}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def resume(path: Path, **parts: Any) -> int:
    """Bring every part to where a stage's checkpoint left it; the step to go on with, 0 where there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def log(path: Path, **row: float) -> None:
    with path.open("a") as f:
        f.write(json.dumps(row) + "\n")
    print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
