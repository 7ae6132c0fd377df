"""Wan text-to-video pipelines: Wan2.1, Wan2.2 with its two experts, and `sprites`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from pdmd.embeddings import Rows
from pdmd.errors import UserError
from pdmd.flow import guide
from pdmd.teachers.pipeline import PipelineTeacher, Settings, check_size

#: The transformer's clock: it takes 1000 t.
CLOCK = 1000.0
LONGEST_PROMPT = 512
#: What a teacher's folder may say of itself, in `pdmd.json`; the rest of Wan gets these.
DEFAULTS = Settings(domain="open", frames=81, fps=16, height=480, width=832, guidance=5.0, steps=40)
#: Wan2.2's weights of guidance: its expert for high noise, its expert for low noise.
TWO_WEIGHTS = (4.0, 3.0)


class Wan(PipelineTeacher):
    """A Wan text-to-video teacher. Latents are (z, 1 + (frames - 1) / 4, height / 8, width / 8).

    With two experts, `transformer` makes the velocity at t >= boundary and `transformer_2` below it,
    each with its own weight of guidance.
    """

    family = "wan"
    pipeline_class = WanPipeline

    def __init__(self, pipeline: Any, name: str, folder: Path, settings: Settings) -> None:
        """Raises UserError for a pipeline whose parts do not fit together."""
        self.boundary: float | None = pipeline.config.boundary_ratio
        if pipeline.transformer is None or (pipeline.transformer_2 is None) != (self.boundary is None):
            raise UserError(f"{folder}: needs a transformer, and transformer_2 together with boundary_ratio or neither")
        if pipeline.config.expand_timesteps:
            raise UserError(f"{folder}: a Wan with a noise level a token (TI2V) is not supported")
        super().__init__(pipeline, name, folder, settings, experts=1 if self.boundary is None else 2)
        vae, net = pipeline.vae.config, pipeline.transformer.config
        if vae.z_dim != net.in_channels:
            raise UserError(
                f"{folder}: the autoencoder has {vae.z_dim} latent channels, the transformer takes {net.in_channels}"
            )
        #: Tokens of a condition: the tokenizer's own limit, at most what Wan was trained with.
        self.length = min(pipeline.tokenizer.model_max_length, LONGEST_PROMPT)
        self.multiple = vae.scale_factor_spatial * net.patch_size[1]
        check_size(self)

    @staticmethod
    def defaults(pipeline: Any) -> Settings:
        return DEFAULTS if pipeline.config.boundary_ratio is None else replace(DEFAULTS, guidance=TWO_WEIGHTS)

    @property
    def shift(self) -> float:
        config = self.pipeline.scheduler.config
        return getattr(config, "shift", None) or config.flow_shift

    def shape(self, frames: int) -> tuple[int, ...]:
        """(channels, frames, height, width) of the latent of a clip of 1 + 4 k frames."""
        vae = self.pipeline.vae.config
        if frames < 1 or (frames - 1) % vae.scale_factor_temporal:
            raise UserError(f"frames {frames}: teacher {self.name} makes 1 + {vae.scale_factor_temporal} k frames")
        latent = 1 + (frames - 1) // vae.scale_factor_temporal
        return (vae.z_dim, latent, *(side // vae.scale_factor_spatial for side in self.size))

    def owner(self, t: float) -> nn.Module:
        high = self.boundary is None or t >= self.boundary
        return self.pipeline.transformer if high else self.pipeline.transformer_2

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return net(x, CLOCK * t, cond, return_dict=False)[0].float()

    @torch.no_grad()
    def guided(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The standard form, as WanPipeline has it; with two experts each sample by the one for its t."""
        if self.boundary is None:
            return self._guided(self.pipeline.transformer, self.weights[0], x, t, cond)
        v = torch.empty_like(x, dtype=torch.float32)
        high, nets = t >= self.boundary, (self.pipeline.transformer, self.pipeline.transformer_2)
        for rows, net, w in zip((high, ~high), nets, self.weights, strict=True):
            if rows.any():
                v[rows] = self._guided(net, w, x[rows], t[rows], cond[rows])
        return v

    def _guided(self, net: nn.Module, w: float, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """v_uncond + w (v_cond - v_uncond) of one expert."""
        if w == 1:
            return self.velocity(net, x, t, cond)
        uncond = self._no_prompt.expand(len(x), -1, -1)
        both = self.velocity(net, x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), torch.cat([cond, uncond]))
        v_cond, v_uncond = both.chunk(2)
        return guide(v_cond, v_uncond, w)

    def embed(self, prompts: list[str]) -> list[Rows]:
        """Embeddings (length, dim) up to the end mark, as WanPipeline makes them."""
        made = (
            self.pipeline._get_t5_prompt_embeds(prompts[i : i + 256], max_sequence_length=self.length)
            for i in range(0, len(prompts), 256)
        )
        # Behind its end mark the pipeline sets a prompt to zero, which the encoder gives for no token.
        return [{"embeds": row[: int(row.any(-1).sum())].float()} for chunk in made for row in chunk]

    def collate(self, rows: Sequence[Rows]) -> Tensor:
        """Prompt embeddings (n, length, dim), zeros after the end mark, as WanPipeline has them."""
        return torch.stack([pad(row["embeds"], (0, 0, 0, self.length - len(row["embeds"]))) for row in rows])

    def student_pipeline(self, experts: Sequence[nn.Module], grid: Sequence[float], steps: Sequence[int]) -> Any:
        """One or two experts in a WanPipeline's own places, the boundary between the grid points that it parts."""
        own: dict[str, Any] = self.pipeline.components | {"transformer": experts[0], "transformer_2": None}
        if len(experts) == 2:
            last_of_first = max(i for i, expert in enumerate(steps) if expert == 0)
            boundary = (grid[last_of_first] + grid[last_of_first + 1]) / 2
            own |= {"transformer_2": experts[1], "boundary_ratio": boundary}
        return WanPipeline(**own)
