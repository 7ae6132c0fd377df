"""What the embedded teacher's training knows of its clips beside their pixels, and a loss that asks for it.

Linear heads on a middle block of the transformer read the clip's factors at every token, and which cells objects cover.
They make every token find out from the whole noisy clip what the clip shows, as representation alignment
does with another network's features (Yu et al., REPA, arXiv 2410.06940). They are for training alone, not shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdmd.sprites import world

BLOCK = 3  # the heads read what this block of the transformer puts out, counted from 0
WEIGHT = 0.1  # of the heads' loss beside the velocity's
CELL = 8  # pixels a side of a latent's cell
STRIDE = 4  # frames a latent frame, after the first
UNKNOWN = -100  # the label of a factor that a clip does not have; cross entropy passes over it


@dataclass(frozen=True)
class Truth:
    """Of n clips: each factor's value by its place in world.FACTORS, or UNKNOWN, (n, factors) int64; the share of
    each latent cell that objects cover, (n, t, h, w) in [0, 1]."""

    labels: Tensor
    covered: Tensor

    def __getitem__(self, rows: Any) -> Truth:
        return Truth(self.labels[rows], self.covered[rows])


def labels(factors: Sequence[Mapping[str, str | None]]) -> Tensor:
    """The factors of n clips as `Truth.labels`; what a clip does not name it does not have."""
    known = [[f.get(name) for name in world.FACTORS] for f in factors]
    places = list(world.FACTORS.values())
    rows = [[UNKNOWN if v is None else places[i].index(v) for i, v in enumerate(row)] for row in known]
    return torch.tensor(rows)


def covered(scene: world.Scene) -> np.ndarray:
    """The share of each latent cell that the scene's objects cover, float32 (t, h, w) in [0, 1]."""
    frames = world.masks(scene).sum(1)
    side = world.SIZE // CELL
    cells = frames.reshape(len(frames), side, CELL, side, CELL).mean((2, 4))
    later = cells[1:].reshape(-1, STRIDE, side, side).mean(1)
    return np.concatenate([cells[:1], later]).clip(0, 1)


class Heads(nn.Module):
    """Linear readings of a transformer's tokens, taken while it runs: `loss` is of its last forward pass."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self.patch = config.patch_size[1]
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.factors = nn.ModuleList(nn.Linear(width, len(values)) for values in world.FACTORS.values())
        self.cells = nn.Linear(width, self.patch**2)
        self.tokens: Tensor | None = None
        transformer.blocks[BLOCK].register_forward_hook(self._take)

    def _take(self, block: nn.Module, args: Any, out: Tensor) -> None:
        self.tokens = out

    def loss(self, truth: Truth) -> Tensor:
        """Cross entropy of the factors and of the covered cells, in nats, each a mean over tokens; their mean."""
        assert self.tokens is not None
        tokens, self.tokens = self.norm(self.tokens), None  # (n, t h/p w/p, width)
        of = [
            nn.functional.cross_entropy(head(tokens).flatten(0, 1), label.repeat_interleave(tokens.shape[1]))
            for head, label in zip(self.factors, truth.labels.T, strict=True)
            if bool((label != UNKNOWN).any())
        ]
        n, t, h, w = truth.covered.shape
        p = self.patch
        cells = truth.covered.view(n, t, h // p, p, w // p, p).permute(0, 1, 2, 4, 3, 5).reshape(n, -1, p * p)
        of.append(nn.functional.binary_cross_entropy_with_logits(self.cells(tokens), cells))
        return torch.stack(of).mean()
