"""Wan image-to-video pipelines without an image encoder: Wan2.2-I2V."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch import Tensor, nn

from pdmd.errors import UserError
from pdmd.teachers import Pictured
from pdmd.teachers.settings import Settings
from pdmd.teachers.wan import CLOCK, DEFAULTS, Wan

#: Wan2.2-I2V's weight of guidance, of both experts.
TWO_WEIGHTS = 3.5
#: Clips of small frames are encoded together, up to so many pixels.
PIXELS_AT_ONCE = 2**20


@dataclass(frozen=True)
class FirstFrames:
    """A condition: prompt embeddings (n, length, dim), and the channels (n, c, t, h, w) that the transformer sees
    beside the noisy latent: a mask, 1 where a frame is given, and the latent of a clip of the first frame and grey.

    The channels wait in the CPU's memory: of a bank of prompts a network needs only a batch at a time.
    """

    embeds: Tensor
    given: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def to(self, device: torch.device) -> FirstFrames:
        return FirstFrames(self.embeds.to(device), self.given)

    def __getitem__(self, index: Any) -> FirstFrames:
        rows = index.cpu() if isinstance(index, Tensor) else index
        return FirstFrames(self.embeds[index], self.given[rows])


def masked(latent: Tensor, stride: int) -> Tensor:
    """The given channels of the normalised latents (n, z, t, h, w) of first frames: a mask of `stride` channels, one
    for each frame in a step of the latent's time, 1 where the frame is given; then the latents."""
    mask = latent.new_zeros(len(latent), stride, *latent.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, latent], dim=1)


class WanI2V(Wan):
    """A Wan image-to-video teacher: its prompts are `Pictured`, and its clips are of its own length."""

    family = "wan-i2v"
    pipeline_class = WanImageToVideoPipeline
    first_frames = True

    def __init__(self, pipeline: Any, name: str, folder: Path, settings: Settings) -> None:
        """Raises UserError for a pipeline whose parts do not fit together, and for Wan2.1's kind."""
        super().__init__(pipeline, name, folder, settings)
        if pipeline.image_encoder is not None or pipeline.transformer.config.image_dim is not None:
            raise UserError(f"{folder}: an image-to-video Wan with an image encoder (Wan2.1) is not supported")

    @staticmethod
    def defaults(pipeline: Any) -> Settings:
        return DEFAULTS if pipeline.config.boundary_ratio is None else replace(DEFAULTS, guidance=TWO_WEIGHTS)

    @staticmethod
    def given_channels(vae: Any) -> int:
        return int(vae.scale_factor_temporal + vae.z_dim)

    def shape(self, frames: int) -> tuple[int, ...]:
        if frames != self.frames:
            raise UserError(f"frames {frames}: teacher {self.name} goes on from a first frame to {self.frames} frames")
        return super().shape(frames)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> FirstFrames:
        """Raises UserError for a prompt without its first frame."""
        images = [prompt.image for prompt in prompts if isinstance(prompt, Pictured)]
        if len(images) < len(prompts):
            raise UserError(f"teacher {self.name} needs a first frame with every prompt")
        n = max(1, PIXELS_AT_ONCE // (self.frames * math.prod(self.size)))
        given = [self._given(images[i : i + n]) for i in range(0, len(images), n)]
        return FirstFrames(super().encode(prompts), torch.cat(given))

    def _given(self, images: Sequence[np.ndarray]) -> Tensor:
        """The given channels (n, c, t, h, w) of first frames, uint8 (H, W, 3) each of any size, on the CPU, as
        WanImageToVideoPipeline makes them."""
        vae, (height, width), processor = self.pipeline.vae, self.size, self.pipeline.video_processor
        first = torch.cat([processor.preprocess(Image.fromarray(x), height=height, width=width) for x in images])
        clip = torch.cat([first[:, :, None], first.new_zeros(len(first), 3, self.frames - 1, height, width)], dim=2)
        latent = vae.encode(clip.to(self.device, vae.dtype)).latent_dist.mode().float().cpu()
        mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
        return masked((latent - mean) / std, vae.config.scale_factor_temporal)

    @cached_property
    def _no_prompt(self) -> Tensor:
        """The embedding that guidance goes away from; a sample keeps its own first frame."""
        return super().encode([self.no_prompt])

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: FirstFrames) -> Tensor:
        return self.run(net, torch.cat([x, cond.given.to(x)], dim=1), CLOCK * t, cond.embeds)

    def beside_no_prompt(self, cond: FirstFrames) -> FirstFrames:
        """The first frame is given to both."""
        return FirstFrames(super().beside_no_prompt(cond.embeds), cond.given.repeat(2, 1, 1, 1, 1))

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        """n of the embedded world's prompts, each with the first frame of a scene that it is true of."""
        if self.domain != "sprites":
            raise UserError(
                f"teacher {self.name} trains on prompts with first frames: give --set prompts=FILE.jsonl, "
                'one {"text": ..., "image": FILE} a line'
            )
        from pdmd.sprites import grammar, world

        return [Pictured(text, world.render(scene, 1)[0]) for text, scene in grammar.training_pairs(n, seed, image)]
