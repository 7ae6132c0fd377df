"""What teachers in the diffusers format share: settings, identity, the way to pixels, students on disk."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pdmd.embeddings import Embeddings, Rows
from pdmd.errors import UserError, suggest
from pdmd.flow import time_grid
from pdmd.teachers import Weights

#: What a folder says of itself beside diffusers' own files: a teacher, a student.
SETTINGS_FILE, STUDENT_FILE = "pdmd.json", "student.json"


@dataclass(frozen=True)
class Settings:
    """What a family says of its teachers, and a teacher's folder may say otherwise in `pdmd.json`.

    `domain` names the prompts it understands; a clip has `frames` of `height` x `width` pixels at `fps`;
    `guidance` is its weight w, one an expert or one for all; `steps` those of its own sampling.
    """

    domain: str
    frames: int
    fps: int
    height: int
    width: int
    guidance: Weights
    steps: int


class PipelineTeacher(ABC):
    """A teacher that a pipeline class of diffusers loads (see `pdmd.teachers.Teacher` for its duties).

    A family is one subclass in a file of its own: docs/families.md. `family` is its name in identities,
    `pipeline_class` diffusers' class. Latents are normalised, as the pipeline has them.
    """

    family: ClassVar[str]
    pipeline_class: ClassVar[Any]
    #: The prompt that the family guides away from.
    no_prompt: ClassVar[str] = ""
    #: The side of the square of pixels that becomes one token: heights and widths are multiples of it.
    multiple: int

    def __init__(self, pipeline: Any, name: str, folder: Path, settings: Settings, experts: int = 1) -> None:
        """Raises UserError where the settings do not fit a teacher of so many experts."""
        self.pipeline, self.name, self.folder, self.settings = pipeline, name, folder, settings
        #: Where set, embeddings are kept there, and the text encoder is in memory only to make them.
        self.embeddings: Embeddings | None = None
        self.domain, self.frames, self.fps = settings.domain, settings.frames, settings.fps
        self.size = (settings.height, settings.width)
        self.guidance, self.steps = settings.guidance, settings.steps
        w = [settings.guidance] * experts if isinstance(settings.guidance, int | float) else list(settings.guidance)
        if len(w) != experts:
            raise UserError(f"teacher {name} takes {experts} guidance weight{'s' * (experts > 1)}, got {len(w)}")
        self.weights: list[float] = w
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    @staticmethod
    @abstractmethod
    def defaults(pipeline: Any) -> Settings:
        """The family's settings for such a pipeline."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """The time shift k of the family's own grid."""

    @abstractmethod
    def shape(self, frames: int) -> tuple[int, ...]: ...
    @abstractmethod
    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor: ...
    @abstractmethod
    def guided(self, x: Tensor, t: Tensor, cond: Any) -> Tensor: ...
    @abstractmethod
    def embed(self, prompts: list[str]) -> list[Rows]:
        """Each prompt's tensors, without padding, by the pipeline's text encoder."""

    @abstractmethod
    def collate(self, rows: Sequence[Rows]) -> Any:
        """The `Cond` of prompts that `embed` made the tensors of."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Any:
        if self.embeddings is None:
            return self.collate(self.embed(list(prompts)))
        return self.collate(self.embeddings.rows(self.pipeline, [*prompts, self.no_prompt], self.embed)[:-1])

    @cached_property
    def _no_prompt(self) -> Any:
        """The `Cond`, of one row, that guidance goes away from."""
        return self.encode([self.no_prompt])

    def grid(self, steps: int) -> tuple[float, ...]:
        return time_grid(steps, self.shift)

    def owner(self, t: float) -> nn.Module:
        """The transformer that makes the velocity at noise level t."""
        return self.pipeline.transformer

    def network(self, t: float = 1.0) -> nn.Module:
        """A trainable copy of the transformer for noise level t."""
        return copy.deepcopy(self.owner(t)).requires_grad_(True)

    @torch.no_grad()
    def decode(self, x: Tensor) -> np.ndarray:
        """By an autoencoder of video that keeps a mean and a deviation for each channel."""
        vae = self.pipeline.vae
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        frames = vae.decode((x * std + mean).to(vae.dtype), return_dict=False)[0].float()
        pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 4, 1).numpy()

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        """The embedded world's prompts where that is the domain; for other teachers a file must be given."""
        if self.domain != "sprites":
            raise UserError(f"teacher {self.name} needs training prompts: --set prompts=FILE, one a line")
        from pdmd.sprites import grammar

        return grammar.training_prompts(n, seed, image)

    @cached_property
    def _sha256(self) -> str:
        return folder_sha256(self.folder)

    def identity(self) -> dict[str, Any]:
        return {"kind": "teacher", "family": self.family, "path": str(self.folder), "sha256": self._sha256}

    def student_pipeline(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int]) -> Any:
        """The stock pipeline with the student's experts in it, as many as it has places for."""
        return self.pipeline_class(**self.pipeline.components | {"transformer": experts[0]})

    def save_student(self, experts: Sequence[Any], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """A pipeline folder with the experts in `transformer`, `transformer_2`, `expert_3` and so on, and the
        grid in student.json. Those that the stock pipeline has no place for stand beside it."""
        with self.embeddings.loaded(self.pipeline) if self.embeddings else nullcontext():
            self.student_pipeline(experts, grid, steps).save_pretrained(to)
        for name, net in zip(expert_names(len(experts)), experts, strict=True):
            if not (to / name).is_dir():
                net.save_pretrained(to / name)
        settings = asdict(replace(self.settings, guidance=1.0))  # a student has its guidance in it
        (to / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n")
        student = {"grid": list(grid), "experts": list(steps), "teacher": self.identity()}
        (to / STUDENT_FILE).write_text(json.dumps(student, indent=1) + "\n")


def expert_names(count: int) -> list[str]:
    """The subfolders of a student's experts."""
    return ["transformer", "transformer_2", *(f"expert_{k}" for k in range(3, count + 1))][:count]


def check_size(teacher: PipelineTeacher) -> None:
    """Raises UserError unless height and width are whole tokens."""
    if any(side < teacher.multiple or side % teacher.multiple for side in teacher.size):
        height, width = teacher.size
        raise UserError(f"teacher {teacher.name}: {height} x {width} pixels are no multiples of {teacher.multiple}")


def read_settings(folder: Path, settings: Settings) -> Settings:
    """The settings with what the folder's `pdmd.json` replaces. Raises UserError where that is damaged."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return settings
    try:
        given = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path} is damaged: it is no JSON object") from None
    known = [field.name for field in fields(Settings)]
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{path}: no setting {key!r}; {suggest(key, known)}")
        if not isinstance(value, (int, float, list) if key == "guidance" else type(getattr(settings, key))):
            raise UserError(f"{path}: {key} = {value!r} is of the wrong kind")
    return replace(settings, **given)


def folder_sha256(folder: Path) -> str:
    """One hash over a folder's safetensors files, by name."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()
