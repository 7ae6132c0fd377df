"""What teachers in the diffusers format share: identity, the way to pixels, students on disk."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from pdmd import parallel, shards
from pdmd.embeddings import Embeddings, Rows
from pdmd.errors import UserError
from pdmd.flow import shift_of, time_grid
from pdmd.teachers import Compute, Lora, residence
from pdmd.teachers.lora import Adapted, adapt, checkpoint_blocks, plain, remove
from pdmd.teachers.settings import Settings

#: Clips of small frames are decoded together, up to so many pixels: one clip of 81 frames of 480 x 832.
PIXELS_AT_ONCE = 2**25


class PipelineTeacher(ABC):
    """A teacher that a pipeline class of diffusers loads (see `pdmd.teachers.Teacher` for its duties).

    A family is one subclass in a file of its own: docs/families.md. `family` is its name in identities,
    `pipeline_class` diffusers' class. Latents are normalised, as the pipeline has them.
    """

    family: ClassVar[str]
    pipeline_class: ClassVar[Any]
    #: The linear layers that adapters sit on: a pattern that matches their whole names.
    adapted_layers: ClassVar[str]
    #: Names of those layers in ComfyUI, where they differ: diffusers' part of the name -> ComfyUI's.
    comfyui_names: ClassVar[dict[str, str]] = {}
    #: The pipeline's text encoders, by name; a tokenizer's is that of its encoder with "tokenizer" in place of
    #: "text_encoder".
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    #: What a transformer's config calls the width of the prompt embeddings that it takes.
    text_width: ClassVar[str]
    #: Of the family's published weights, and so of what is trained from them.
    licence: ClassVar[str] = "apache-2.0"
    #: Whether its prompts are `Pictured`: a first frame with each.
    first_frames: ClassVar[bool] = False
    #: The side of the square of pixels that becomes one token: heights and widths are multiples of it.
    multiple: int

    def __init__(
        self,
        pipeline: Any,
        name: str,
        folder: Path,
        settings: Settings,
        experts: Sequence[nn.Module] = (),
        bounds: Sequence[float] = (),
    ) -> None:
        """`experts` and `bounds` as in `take`, where the pipeline has more than one transformer. Raises UserError
        where the settings do not fit."""
        self.pipeline, self.name, self.folder, self.settings = pipeline, name, folder, settings
        #: What `load_teacher` finds this teacher by.
        self.spec = str(folder)
        #: Where set, embeddings are kept there, and the text encoder is in memory only to make them.
        self.embeddings: Embeddings | None = None
        self.domain, self.frames, self.fps = settings.domain, settings.frames, settings.fps
        self.size = (settings.height, settings.width)
        self.guidance, self.steps = settings.guidance, settings.steps
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.compute, self.device = Compute(), torch.device("cpu")
        self.take(experts or [pipeline.transformer], bounds)

    def take(self, experts: Sequence[nn.Module], bounds: Sequence[float]) -> None:
        """The networks that make the velocity: the first at t >= bounds[0], the next at t >= bounds[1] of what is
        left, and so on, each with its own weight of guidance. Raises UserError for another number of weights."""
        self.experts, self.bounds, n = list(experts), list(bounds), len(experts)
        w = [self.guidance] * n if isinstance(self.guidance, int | float) else list(self.guidance)
        if len(w) != n:
            raise UserError(f"teacher {self.name} takes {n} guidance weight{'s' * (n > 1)}, got {len(w)}")
        self.weights: list[float] = w

    @property
    def no_prompt(self) -> str:
        """The prompt that guidance goes away from."""
        return self.settings.negative_prompt

    def avoid(self, prompt: str) -> None:
        self.settings = replace(self.settings, negative_prompt=prompt)
        self.__dict__.pop("_no_prompt", None)

    def run_as(self, compute: Compute) -> None:
        """Run this teacher's networks, and those made of them from now on, in this way."""
        self.compute, self.device = compute, torch.empty(0, device=compute.device).device
        self.pipeline.vae.to(self.device)
        for net in self.experts:
            self._prepare(net)
        self.experts[0].to(self.device)  # others wait on the CPU

    def settle(self, nets: Sequence[nn.Module], others: Sequence[nn.Module], t: float | None = None) -> None:
        if parallel.size() == 1:  # else all are shared out over the devices
            own = [] if t is None else [self.owner(t)]
            residence.settle([*nets, *own], [*self.experts, *others], self.device)

    def _prepare(self, net: Any) -> nn.Module:
        """A whole network with what it has of its own to be run as `compute` says."""
        if self.compute.checkpointing:
            checkpoint_blocks(net)
        if self.compute.compile:
            net.compile_repeated_blocks()
        return net

    def run(self, net: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A network's output, float32, run as `compute` says."""
        short = self.compute.checkpointing or self.compute.offload
        with residence.visiting(net, self.experts if short else (), self.device), ExitStack() as stack:
            if self.compute.dtype != "float32":
                # Its cache would keep a copy of all weights in training until the network is through.
                half = getattr(torch, self.compute.dtype)
                stack.enter_context(torch.autocast(self.device.type, half, cache_enabled=False))
            if self.compute.offload and torch.is_grad_enabled():
                stack.enter_context(save_on_cpu(pin_memory=self.device.type == "cuda"))
            return net(shards.entering(x), *args, return_dict=False, **kwargs)[0].float()

    @staticmethod
    @abstractmethod
    def defaults(pipeline: Any) -> Settings:
        """The family's settings for such a pipeline."""

    @staticmethod
    def latent(vae: Mapping[str, Any], settings: Settings) -> tuple[int, ...]:
        """The shape of one latent by the autoencoder's configuration alone: what memory is estimated by before anything
        is loaded. Here for Wan's kind of autoencoder. Raises KeyError where that does not say enough."""
        side = vae.get("scale_factor_spatial") or 2 ** len(vae["temperal_downsample"])
        frames = 1 + (settings.frames - 1) // (vae.get("scale_factor_temporal") or 4)
        return (vae["z_dim"], frames, settings.height // side, settings.width // side)

    @property
    @abstractmethod
    def shift(self) -> float:
        """The time shift k of the family's own grid."""

    @property
    @abstractmethod
    def stock_arguments(self) -> dict[str, Any]:
        """What the stock pipeline's call takes, beside prompt and steps, for this size and without guidance."""

    @abstractmethod
    def shape(self, frames: int) -> tuple[int, ...]: ...
    def tokens(self, frames: int) -> int | None:
        return None

    @abstractmethod
    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor: ...
    @abstractmethod
    def guided_by(self, net: nn.Module, w: float, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """One network's velocity, guided with the weight w."""

    @abstractmethod
    def embed(self, prompts: list[str]) -> list[Rows]:
        """Each prompt's tensors, without padding, by the pipeline's text encoder."""

    @abstractmethod
    def collate(self, rows: Sequence[Rows]) -> Any:
        """The `Cond` of prompts that `embed` made the tensors of."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Any:
        if self.embeddings is None:
            with ExitStack() as stack:
                for name in self.encoders:
                    stack.enter_context(residence.visiting(getattr(self.pipeline, name), (), self.device))
                rows = self.embed(list(prompts))
        else:
            rows = self.embeddings.rows(self.pipeline, [*prompts, self.no_prompt], self.embed, self.device)[:-1]
        made, taken = rows[0]["embeds"].shape[-1], self.pipeline.transformer.config[self.text_width]
        if made != taken:
            raise UserError(f"{self.folder}: its text encoder makes {made} channels, its transformer takes {taken}")
        return self.collate(rows).to(self.device)

    @cached_property
    def _no_prompt(self) -> Any:
        """The `Cond`, of one row, that guidance goes away from."""
        return self.encode([self.no_prompt])

    def grid(self, steps: int) -> tuple[float, ...]:
        return time_grid(steps, self.shift)

    @torch.no_grad()
    def guided(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """As the family guides; with several experts each sample by the one for its t."""
        if len(self.experts) == 1:
            return self.guided_by(self.experts[0], self.weights[0], x, t, cond)
        v = torch.empty_like(x, dtype=torch.float32)
        owner = torch.stack([t < bound for bound in self.bounds]).sum(0)
        for k, (net, w) in enumerate(zip(self.experts, self.weights, strict=True)):
            rows = (owner == k).nonzero().flatten()
            if parallel.anywhere(len(rows) > 0):  # where a network is shared out all processes run it together
                own = rows if len(rows) else owner.new_zeros(1)
                v[rows] = self.guided_by(net, w, x[own], t[own], cond[own])[: len(rows)]
        return v

    def owner(self, t: float) -> nn.Module:
        """The network that makes the velocity at noise level t."""
        return self.experts[sum(t < bound for bound in self.bounds)]

    def network(self, t: float = 1.0, lora: Lora | None = None) -> nn.Module:
        """A trainable copy of the transformer for noise level t, or an adapter on it. An adapter replaces one of
        its name on any of the teacher's transformers."""
        if lora is None:
            net = self.owner(t)
            net = shards.copied(net, self.device) if shards.shared_out(net) else plain(net)
            return self._prepare(net.requires_grad_(True))
        for net in self.experts:
            remove(net, lora.name)
        return adapt(self.owner(t), lora, self.adapted_layers)

    @torch.no_grad()
    def decode(self, x: Tensor) -> np.ndarray:
        """By an autoencoder of video that keeps a mean and a deviation for each channel."""
        vae = self.pipeline.vae
        mean = torch.tensor(vae.config.latents_mean, device=x.device).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std, device=x.device).view(1, -1, 1, 1, 1)
        n = max(1, PIXELS_AT_ONCE // (self.frames * math.prod(self.size)))
        parts = ((part * std + mean).to(vae.dtype) for part in x.split(n))
        frames = torch.cat([vae.decode(part, return_dict=False)[0].float() for part in parts])
        if not bool(torch.isfinite(frames).all()):
            raise UserError(f"teacher {self.name}: its autoencoder made pixels that are not finite (NaN or infinite)")
        pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 4, 1).cpu().numpy()

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        """n of the embedded world's prompts where that is the domain, else of prompts/training.txt, at most all."""
        if self.domain != "sprites":
            lines = files("pdmd.prompts").joinpath("training.txt").read_text(encoding="utf-8").splitlines()
            order = np.random.default_rng(seed).permutation(len(lines))
            return [lines[i] for i in order[:n]]
        from pdmd.sprites import grammar

        return grammar.training_prompts(n, seed, image)

    @cached_property
    def _sha256(self) -> str:
        return folder_sha256(self.folder)

    def identity(self) -> dict[str, Any]:
        own = self.no_prompt == self.defaults(self.pipeline).negative_prompt
        made = {"kind": "teacher", "family": self.family, "path": str(self.folder), "sha256": self._sha256}
        return made if own else made | {"negative_prompt": self.no_prompt}

    def scheduler(self, grid: Sequence[float]) -> Any:
        """A scheduler that gives the stock pipeline this grid at its number of steps: here for a pipeline that
        passes the noise levels 1, (N - 1) / N, ..., 1 / N, to be shifted."""
        return FlowMatchEulerDiscreteScheduler(shift=shift_of(grid))

    def student_parts(self, experts: Sequence[nn.Module], bounds: Sequence[float]) -> dict[str, Any]:
        """What the stock pipeline takes in place of the teacher's parts to hold a student's experts, as many as it
        has places for."""
        return {"transformer": experts[0]}

    def save_student(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """Experts that are adapters as LoRA files, others as a pipeline folder."""
        from pdmd.teachers.students import save_lora, save_pipeline

        save = save_lora if all(isinstance(net, Adapted) for net in experts) else save_pipeline
        save(self, experts, grid, steps, to)


def check_size(teacher: PipelineTeacher) -> None:
    """Raises UserError unless height and width are whole tokens."""
    if any(side < teacher.multiple or side % teacher.multiple for side in teacher.size):
        height, width = teacher.size
        raise UserError(f"teacher {teacher.name}: {height} x {width} pixels are no multiples of {teacher.multiple}")


def folder_sha256(folder: Path) -> str:
    """One hash over the safetensors files of a folder and its parts, by name; not of runs that lie deeper in it."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()
