"""Teachers: every model family behind one interface; the library-specific mess stops in this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from pdmd.errors import UserError


class Teacher(Protocol):
    """What the trainer and the sampler need of a model family.

    `frames` is the family's own clip length (1 for images), `fps` its rate, `domain` names the prompts
    it understands, `guidance` the weight w of `guided`, `steps` and `shift` its own sampling grid.
    Latents x are (n, *shape(frames)), float32; conditions are (n, length, dim).
    """

    name: str
    domain: str
    frames: int
    fps: int
    guidance: float
    steps: int
    shift: float

    def shape(self, frames: int) -> tuple[int, ...]:
        """Shape of one latent of that many frames."""

    def network(self) -> nn.Module:
        """A fresh trainable network that starts as the teacher."""

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """A network's velocity at x (n, ...) and t (n,), float32."""

    def guided(self, x: Tensor, t: Tensor, cond: Tensor, guidance: float | None = None) -> Tensor:
        """The teacher's own velocity with classifier-free guidance, float32, without gradient."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Conditions (n, length, dim) of the prompts."""

    def decode(self, x: Tensor) -> np.ndarray:
        """Pixels of latents, uint8 (n, frames, H, W, 3)."""

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        """The family's default prompts for training; for single images where `image`."""

    def identity(self) -> dict[str, Any]:
        """What identifies the weights: kind, path, sha256."""

    def save_student(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """Write the experts as a folder of the family's own format; `steps` is the expert of each step."""


def _sprites(guidance: float | None) -> Teacher:
    from pdmd.teachers.wan import load

    return load(Path(__file__).parent.parent / "sprites" / "teacher", "sprites", guidance)


def _mixture(guidance: float | None) -> Teacher:
    from pdmd.teachers.mixture import Mixture

    if guidance is not None:
        raise UserError("teacher mixture has no conditions and takes no guidance")
    return Mixture()


#: The teachers that need no download.
EMBEDDED: dict[str, Callable[[float | None], Teacher]] = {"sprites": _sprites, "mixture": _mixture}


def load_teacher(spec: str, guidance: float | None = None) -> Teacher:
    """A teacher by embedded name, or from a folder in the diffusers format, or by hub id.

    `guidance` replaces the teacher's own weight w. Raises UserError for what is none of these.
    """
    if spec in EMBEDDED:
        return EMBEDDED[spec](guidance)
    if not Path(spec).exists() and spec.count("/") != 1:
        raise UserError(f"no teacher {spec!r}: give {', '.join(EMBEDDED)}, a diffusers folder or a hub id (owner/name)")
    from pdmd.teachers.wan import load

    return load(spec, guidance=guidance)
