"""Qwen-Image: text to image, with guidance that keeps the length of the conditional prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pdmd.embeddings import Rows
from pdmd.errors import UserError
from pdmd.flow import guide, time_grid
from pdmd.teachers.pipeline import PipelineTeacher, check_size
from pdmd.teachers.settings import Settings

LONGEST_PROMPT = 512
ENCODED_AT_ONCE = 64
#: The side of the square of latent pixels that the pipeline packs into one token.
PATCH = 2
DEFAULTS = Settings(
    domain="open", frames=1, fps=1, height=1024, width=1024, guidance=4.0, steps=50, negative_prompt=" "
)


@dataclass(frozen=True)
class Text:
    """Prompt embeddings (n, length, dim), and which of their tokens count: (n, length), bool."""

    embeds: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def to(self, device: torch.device) -> Text:
        return Text(self.embeds.to(device), self.mask.to(device))

    def __getitem__(self, index: Any) -> Text:
        return Text(self.embeds[index], self.mask[index])


def pack(x: Tensor) -> Tensor:
    """Latents (n, z, 1, h, w) as tokens (n, h/2 w/2, 4 z), each a patch of 2 x 2."""
    n, z, _, h, w = x.shape
    patches = x.view(n, z, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, h // PATCH * (w // PATCH), z * PATCH**2)


def unpack(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Tokens (n, h/2 w/2, 4 z) as latents of shape (n, z, 1, h, w)."""
    n, z, _, h, w = shape
    patches = tokens.view(n, h // PATCH, w // PATCH, z, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(n, z, 1, h, w)


def guide_rescaled(v_cond: Tensor, v_uncond: Tensor, w: float) -> Tensor:
    """The standard form, each token (..., channels) rescaled to the length of the conditional one's
    (`true_cfg_scale` of diffusers' QwenImagePipeline)."""
    v = guide(v_cond, v_uncond, w)
    return v * (v_cond.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True))


class QwenImage(PipelineTeacher):
    """A Qwen-Image teacher. Latents are (z, 1, height / 8, width / 8); their packing stays in here."""

    family = "qwen-image"
    pipeline_class = QwenImagePipeline
    text_width = "joint_attention_dim"
    adapted_layers = (
        r"transformer_blocks\.\d+\."
        r"(attn\.(to_(q|k|v|out\.0)|add_(q|k|v)_proj|to_add_out)|(img|txt)_mlp\.net\.(0\.proj|2))"
    )

    def __init__(self, pipeline: Any, name: str, folder: Path, settings: Settings) -> None:
        """Raises UserError for a pipeline whose parts do not fit together."""
        super().__init__(pipeline, name, folder, settings)
        z, net = pipeline.vae.config.z_dim, pipeline.transformer.config
        if (z * PATCH**2, z) != (net.in_channels, net.out_channels):
            raise UserError(
                f"{folder}: the autoencoder has {z} latent channels, the transformer takes "
                f"{net.in_channels / PATCH**2:g} and makes {net.out_channels}"
            )
        if pipeline.transformer.config.guidance_embeds:
            raise UserError(f"{folder}: a transformer that takes its guidance as an input is not supported")
        self.multiple = pipeline.vae_scale_factor * PATCH
        check_size(self)

    @staticmethod
    def defaults(pipeline: Any) -> Settings:
        return DEFAULTS

    @property
    def stock_arguments(self) -> dict[str, Any]:
        return {"height": self.size[0], "width": self.size[1], "true_cfg_scale": 1.0}

    @property
    def shift(self) -> float:
        """The scheduler's own; exp(mu) where its shift grows with the number of tokens."""
        config = self.pipeline.scheduler.config
        if self.settings.shift:
            return self.settings.shift
        if not config.use_dynamic_shifting:
            return config.shift
        tokens = math.prod(side // self.multiple for side in self.size)
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        return {"exponential": math.exp(mu), "linear": mu}[config.time_shift_type]

    def grid(self, steps: int) -> tuple[float, ...]:
        """The shifted grid, stretched so that its last point before 0 is the scheduler's `shift_terminal`."""
        times = time_grid(steps, self.shift)
        terminal = self.pipeline.scheduler.config.shift_terminal
        if not terminal or steps == 1 or self.settings.shift:
            return times
        stretch = (1 - terminal) / (1 - times[-2])
        return (*(1 - (1 - t) * stretch for t in times[:-1]), 0.0)

    def shape(self, frames: int) -> tuple[int, ...]:
        if frames != 1:
            raise UserError(f"frames {frames}: teacher {self.name} makes single images")
        height, width = (side // self.pipeline.vae_scale_factor for side in self.size)
        return (self.pipeline.vae.config.z_dim, 1, height, width)

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Text) -> Tensor:
        return unpack(self._tokens(net, x, t, cond), x.shape)

    def _tokens(self, net: nn.Module, x: Tensor, t: Tensor, cond: Text) -> Tensor:
        """The velocity as the network gives it, packed, float32."""
        patches = (1, x.shape[-2] // PATCH, x.shape[-1] // PATCH)
        return self.run(
            net,
            pack(x),
            timestep=t,
            encoder_hidden_states=cond.embeds,
            encoder_hidden_states_mask=cond.mask,
            img_shapes=[[patches]] * len(x),
        )

    def guided_by(self, net: nn.Module, w: float, x: Tensor, t: Tensor, cond: Text) -> Tensor:
        """Rescaled guidance, token by token."""
        if w == 1:
            return self.velocity(net, x, t, cond)
        none = self._no_prompt[torch.zeros(len(x), dtype=torch.long)]
        v = guide_rescaled(self._tokens(net, x, t, cond), self._tokens(net, x, t, none), w)
        return unpack(v, x.shape)

    def embed(self, prompts: list[str]) -> list[Rows]:
        """Embeddings (length, dim) of the prompts in the family's own template."""
        made = (
            self.pipeline._get_qwen_prompt_embeds(
                prompts[i : i + ENCODED_AT_ONCE], device=self.pipeline.text_encoder.device
            )
            for i in range(0, len(prompts), ENCODED_AT_ONCE)
        )
        pairs = [(e, m) for embeds, masks in made for e, m in zip(embeds, masks.bool(), strict=True)]
        return [{"embeds": e[m][:LONGEST_PROMPT].float()} for e, m in pairs]

    def collate(self, rows: Sequence[Rows]) -> Text:
        """Padded to the longest of the prompts."""
        lengths = torch.tensor([len(row["embeds"]) for row in rows])
        embeds = pad_sequence([row["embeds"] for row in rows], batch_first=True)
        return Text(embeds, torch.arange(embeds.shape[1]) < lengths[:, None])
