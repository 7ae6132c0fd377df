"""What the stages of the embedded teacher's training share: optimisers, renders, checkpoints, logs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from pdmd.sprites import world

MUON_LR, ADAM_LR = 0.02, 1.5e-3


class Optimizers:
    """Muon on the matrices, AdamW on the rest, one learning-rate factor over both.

    Muon takes matrices only; a convolution's kernel (out, in, ...) takes part as its view (out, rest).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], others: list[torch.nn.Parameter]) -> None:
        self.matrices = matrices
        self.views = [torch.nn.Parameter(p.data.view(p.shape[0], -1)) for p in matrices]
        self.parameters = [*matrices, *others]
        self.both = [
            torch.optim.Muon(self.views, lr=MUON_LR, weight_decay=0.0),
            torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=0.0),
        ]

    def step(self, loss: torch.Tensor, factor: float) -> None:
        for p in self.parameters:
            p.grad = None
        loss.backward()
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


def to_model(video: np.ndarray) -> torch.Tensor:
    """uint8 (n, frames, H, W, 3) -> float32 (n, 3, frames, H, W) in [-1, 1]."""
    return torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two tensors in [-1, 1]."""
    return float(10 * torch.log10(4 / (x - y).pow(2).mean()))


def save_state(path: Path, state: dict) -> None:
    """Write a checkpoint whole or not at all."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def log(path: Path, **row: float) -> None:
    with path.open("a") as f:
        f.write(json.dumps(row) + "\n")
    print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
