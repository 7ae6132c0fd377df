"""Teachers: every model family behind one interface; the library-specific mess stops in this folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pdmd.errors import UserError, first_line, suggest
from pdmd.files import SUMS, check_seal, check_sums

#: The model card in a student's folder, which may be edited.
CARD = "README.md"
#: A teacher's weight w of guidance: one number, or one for each of its experts.
Weights = float | Sequence[float]
Dtype = Literal["float32", "bfloat16"]
DTYPES = get_args(Dtype)
C = TypeVar("C", bound="Cond")


class Pictured(str):
    """A prompt with the first frame that its clip goes on from: `image`, uint8 (H, W, 3), of any size."""

    image: np.ndarray

    def __new__(cls, text: str, image: np.ndarray) -> Pictured:
        made = super().__new__(cls, text)
        made.image = image
        return made


@dataclass(frozen=True)
class Lora:
    """What is to be known of a LoRA adapter: `name` on its base, `rank`, `alpha` (its change of a weight is
    alpha / rank B A), and the `seed` of its start."""

    name: str
    rank: int
    alpha: float
    seed: int


@dataclass(frozen=True)
class Compute:
    """How networks are run. `dtype`: of their matrix products, and of the weights that no one trains; adapters,
    trained copies, gradients and losses are float32. `checkpointing`: a backward pass recomputes each block's
    activations. `offload`: what a backward pass needs waits in the CPU's memory. `compile`: blocks by torch.compile.
    `device`: torch's name of where that happens.
    """

    dtype: Dtype = "float32"
    checkpointing: bool = False
    offload: bool = False
    compile: bool = False
    device: str = "cpu"

    @property
    def stated(self) -> dict[str, str]:
        """What an identity says of it: dtype and device where they are not the default, float32 on the CPU."""
        of = {"dtype": self.dtype, "device": self.device}
        return {key: value for key, value in of.items() if value != getattr(Compute, key)}


def check_device(device: str) -> None:
    """Raises UserError for a device that is not here, and for one that computes nothing."""
    try:
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device!r} cannot be used here: {first_line(error)}") from None


def compute_in(device: str, dtype: str) -> Compute:
    """How to run networks that no one trains. Raises UserError for a dtype that is none and a device that is not
    here."""
    check_device(device)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: {suggest(dtype, DTYPES)}")
    return Compute(dtype, device=device)  # type: ignore[arg-type]


class Cond(Protocol):
    """What prompts become for their family, a row a sample: a tensor (n, ...) or a few of them together.

    The trainer only counts rows, picks them (by a slice or by a tensor of indices), and moves them to a device.
    """

    def __len__(self) -> int: ...
    def __getitem__(self: C, index: Any, /) -> C: ...
    def to(self: C, device: torch.device, /) -> C: ...


class Teacher(Protocol):
    """What the trainer and the sampler need of a model family.

    `device` is where latents, conditions and networks are; `frames` is the family's own clip length (1 for
    images), `fps` its rate, `domain` names the prompts it understands, `guidance` the weight w of `guided`, `steps`
    and `shift` its own sampling grid. With `first_frames` its prompts are `Pictured`, and it makes clips of its own
    length alone.
    Latents x are (n, *shape(frames)), float32; `cond` is what `encode` made, or rows of it.
    """

    name: str
    domain: str
    frames: int
    fps: int
    steps: int
    device: torch.device

    @property
    def first_frames(self) -> bool: ...
    @property
    def guidance(self) -> Weights: ...
    @property
    def shift(self) -> float: ...

    def shape(self, frames: int) -> tuple[int, ...]:
        """Shape of one latent of that many frames."""

    def tokens(self, frames: int) -> int | None:
        """How many tokens its networks make of that latent; None where processes cannot share them out."""

    def grid(self, steps: int) -> tuple[float, ...]:
        """The family's own noise levels for that many steps, 1 = t_0 > ... > t_N = 0."""

    def network(self, t: float = 1.0, lora: Lora | None = None) -> nn.Module:
        """A fresh trainable network that starts as the teacher: as its expert for noise level t, where it
        has several. With `lora` an adapter on the teacher's own weights, else a copy of them."""

    def settle(self, nets: Sequence[nn.Module], others: Sequence[nn.Module], t: float | None = None) -> None:
        """Keep networks on the device, and the teacher's own for a noise level t, where one is given; the others, and
        the rest of the teacher's own, wait on the CPU and come to the device only while they run."""

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """A network's velocity at x (n, ...) and t (n,), float32."""

    def guided(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """The teacher's own velocity, guided as its family guides, float32, without gradient."""

    def avoid(self, prompt: str) -> None:
        """Guide away from this prompt in place of the family's own. Raises UserError where nothing is guided."""

    def encode(self, prompts: Sequence[str]) -> Any:
        """The prompts' conditions (a `Cond`), a row a prompt."""

    def decode(self, x: Tensor) -> np.ndarray:
        """Pixels of latents, uint8 (n, frames, H, W, 3)."""

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        """The family's default prompts for training; for single images where `image`. Raises UserError where it has
        none."""

    def identity(self) -> dict[str, Any]:
        """What identifies the weights: kind, path, sha256."""

    def save_student(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """Write the experts as a folder of the family's own format, those that are adapters as LoRA files; `steps` is
        the expert of each step."""


MIXTURE_AS_IT_IS = "teacher mixture runs as it is: leave out dtype, checkpointing, offload, compile, device"


def _shipped(name: str, folder: str, guidance: Weights | None, compute: Compute) -> Teacher:
    """The pipeline in pdmd/sprites/FOLDER."""
    from pdmd.teachers.families import load

    path = Path(__file__).parent.parent / "sprites" / folder
    check_sums(path / SUMS)
    return load(path, name, guidance, compute=compute)


def _mixture(guidance: Weights | None, compute: Compute) -> Teacher:
    from pdmd.teachers.mixture import Mixture

    if guidance is not None:
        raise UserError("teacher mixture has no conditions and takes no guidance")
    if compute != Compute():
        raise UserError(MIXTURE_AS_IT_IS)
    return Mixture()


#: The teachers that need no download.
EMBEDDED: dict[str, Callable[[Weights | None, Compute], Teacher]] = {
    "sprites": partial(_shipped, "sprites", "teacher"),
    "sprites-i2v": partial(_shipped, "sprites-i2v", "teacher_i2v"),
    "mixture": _mixture,
}


def load_teacher(
    spec: str,
    guidance: Weights | None = None,
    embeddings: Path | None = None,
    compute: Compute | None = None,
    negative_prompt: str | None = None,
) -> Teacher:
    """A teacher by embedded name, or from a folder in the diffusers format, or by hub id.

    `guidance` replaces the teacher's own weight w, `negative_prompt` what that goes away from. With `embeddings`, a
    teacher that is not embedded keeps its prompts' in that folder, and its text encoder in memory only to make them.
    Raises UserError for what is none of these.
    """
    compute = compute or Compute()
    teacher = _load(spec, guidance, embeddings, compute)
    if negative_prompt is not None:
        teacher.avoid(negative_prompt)
    return teacher


def _load(spec: str, guidance: Weights | None, embeddings: Path | None, compute: Compute) -> Teacher:
    if spec in EMBEDDED:
        return EMBEDDED[spec](guidance, compute)
    if not Path(spec).exists() and spec.count("/") != 1:
        raise UserError(f"no teacher {spec!r}: give {', '.join(EMBEDDED)}, a diffusers folder or a hub id (owner/name)")
    from pdmd.teachers.families import load

    return load(spec, guidance=guidance, embeddings=embeddings, compute=compute)


def route(described: Any) -> tuple[list[float], list[int]]:
    """The grid, and the expert of each of its steps, that student.json states. Raises ValueError, KeyError or TypeError
    where they are none."""
    grid, steps = described["grid"], described["experts"]
    falling = all(1 >= a > b >= 0 for a, b in pairwise(grid))
    if not steps or len(grid) != len(steps) + 1 or not falling or {type(k) for k in steps} != {int}:
        raise ValueError("no grid with an expert a step")
    if set(steps) != set(range(len(set(steps)))):
        raise ValueError("an expert makes no step")
    return grid, steps


def load_student(
    folder: Path, count: int, compute: Compute | None = None
) -> tuple[Teacher, list[nn.Module], dict[str, Any]]:
    """A student's teacher, its `count` experts and its identity, from what `save_student` wrote.

    Raises UserError for what cannot be loaded, for files that are not those of its checksums, where it has any, and for
    a device that is not here.
    """
    check_seal(folder)
    compute = compute or Compute()
    if (folder / "expert_0.safetensors").is_file():
        from pdmd.teachers import mixture

        if compute != Compute():
            raise UserError(MIXTURE_AS_IT_IS)
        return mixture.load_student(folder, count)
    from pdmd.teachers import families

    return families.load_student(folder, count, compute)
