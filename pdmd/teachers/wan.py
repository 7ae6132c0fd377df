"""Wan text-to-video pipelines: Wan2.1, Wan2.2 with its two experts, and `sprites`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from pdmd.embeddings import Rows
from pdmd.errors import UserError
from pdmd.flow import guide, shift_of
from pdmd.teachers.pipeline import PipelineTeacher, check_size
from pdmd.teachers.settings import Settings

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
    text_width = "text_dim"
    adapted_layers = r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ffn\.net\.(0\.proj|2))"
    comfyui_names: ClassVar = {
        "attn1.": "self_attn.", "attn2.": "cross_attn.", "to_out.0": "o", "to_": "", "net.0.proj": "0", "net.2": "2",
    }  # fmt: skip

    def __init__(self, pipeline: Any, name: str, folder: Path, settings: Settings) -> None:
        """Raises UserError for a pipeline whose parts do not fit together."""
        boundary = pipeline.config.boundary_ratio
        if pipeline.transformer is None or (pipeline.transformer_2 is None) != (boundary is None):
            raise UserError(f"{folder}: needs a transformer, and transformer_2 together with boundary_ratio or neither")
        if pipeline.config.expand_timesteps:
            raise UserError(f"{folder}: a Wan with a noise level a token (TI2V) is not supported")
        own = (
            ([pipeline.transformer], [])
            if boundary is None
            else ([pipeline.transformer, pipeline.transformer_2], [boundary])
        )
        for net in own[0]:
            net.rope.float()  # diffusers holds its angles in float64 on a CPU: a twelfth of a training step
        super().__init__(pipeline, name, folder, settings, *own)
        vae, net = pipeline.vae.config, pipeline.transformer.config
        needed = (vae.z_dim + self.given_channels(vae), vae.z_dim)
        for config in (expert.config for expert in own[0]):
            if (has := (config.in_channels, config.out_channels or config.in_channels)) != needed:
                raise UserError(
                    f"{folder}: the autoencoder has {vae.z_dim} latent channels, the transformer takes {has[0]} and "
                    f"makes {has[1]}, not {needed[0]} and {needed[1]}"
                )
            if config.text_dim != net.text_dim:
                raise UserError(f"{folder}: its transformers take prompts {net.text_dim} and {config.text_dim} wide")
        #: Tokens of a condition: the tokenizer's own limit, at most what Wan was trained with.
        self.length = min(pipeline.tokenizer.model_max_length, LONGEST_PROMPT)
        self.multiple = vae.scale_factor_spatial * net.patch_size[1]
        check_size(self)

    @staticmethod
    def defaults(pipeline: Any) -> Settings:
        return DEFAULTS if pipeline.config.boundary_ratio is None else replace(DEFAULTS, guidance=TWO_WEIGHTS)

    @staticmethod
    def given_channels(vae: Any) -> int:
        """Channels that the transformer takes beside the noisy latent."""
        return 0

    @property
    def stock_arguments(self) -> dict[str, Any]:
        height, width = self.size
        own = {"num_frames": self.frames, "guidance_scale": 1.0, "max_sequence_length": self.length}
        return {"height": height, "width": width, **own}

    @property
    def shift(self) -> float:
        config = self.pipeline.scheduler.config
        return self.settings.shift or getattr(config, "shift", None) or config.flow_shift

    def shape(self, frames: int) -> tuple[int, ...]:
        """(channels, frames, height, width) of the latent of a clip of 1 + 4 k frames."""
        vae = self.pipeline.vae.config
        if frames < 1 or (frames - 1) % vae.scale_factor_temporal:
            raise UserError(f"frames {frames}: teacher {self.name} makes 1 + {vae.scale_factor_temporal} k frames")
        latent = 1 + (frames - 1) // vae.scale_factor_temporal
        return (vae.z_dim, latent, *(side // vae.scale_factor_spatial for side in self.size))

    def tokens(self, frames: int) -> int:
        return math.prod(self.shape(frames)[1:]) // math.prod(self.pipeline.transformer.config.patch_size)

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.run(net, x, CLOCK * t, cond)

    def guided_by(self, net: nn.Module, w: float, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """v_uncond + w (v_cond - v_uncond), as WanPipeline has it."""
        if w == 1:
            return self.velocity(net, x, t, cond)
        both = self.velocity(net, x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), self.beside_no_prompt(cond))
        v_cond, v_uncond = both.chunk(2)
        return guide(v_cond, v_uncond, w)

    def beside_no_prompt(self, cond: Any) -> Any:
        """The conditions, then as many again without a prompt."""
        return torch.cat([cond, self._no_prompt.expand(len(cond), -1, -1)])

    def embed(self, prompts: list[str]) -> list[Rows]:
        """Embeddings (length, dim) up to the end mark, as WanPipeline makes them."""
        made = (
            self.pipeline._get_t5_prompt_embeds(
                prompts[i : i + 256], max_sequence_length=self.length, device=self.pipeline.text_encoder.device
            )
            for i in range(0, len(prompts), 256)
        )
        # Behind its end mark the pipeline sets a prompt to zero, which the encoder gives for no token.
        return [{"embeds": row[: int(row.any(-1).sum())].float()} for chunk in made for row in chunk]

    def collate(self, rows: Sequence[Rows]) -> Tensor:
        """Prompt embeddings (n, length, dim), zeros after the end mark, as WanPipeline has them."""
        return torch.stack([pad(row["embeds"], (0, 0, 0, self.length - len(row["embeds"]))) for row in rows])

    def student_parts(self, experts: Sequence[nn.Module], bounds: Sequence[float]) -> dict[str, Any]:
        """One or two experts in a WanPipeline's own places, with the boundary between them."""
        two = len(experts) == 2
        return {
            "transformer": experts[0],
            "transformer_2": experts[1] if two else None,
            "boundary_ratio": bounds[0] if two else None,
        }

    def scheduler(self, grid: Sequence[float]) -> Any:
        """FlowMatchEulerDiscreteScheduler with a shift k' and a terminal: WanPipeline passes it no levels.

        It shifts u_j = 1 - j (1 - s) / (N - 1), where s = k' / (999 + k') is the shifted 1 / 1000, and stretches the
        result linearly, so that its last is the terminal; with r = N (1 - s) / (N - 1), 1 - t_j is proportional to
        (j / N) / (1 - (1 - 1 / k') r j / N). The grid of shift k has 1 - 1 / k in place of (1 - 1 / k') r: k' is the
        smaller root of 999 (k' - 1) = R k' (999 + k'), R = (1 - 1 / k) (N - 1) / N. Raises UserError where none is
        real: a shift beyond any in use.
        """
        n = len(grid) - 1
        if n == 1:
            return FlowMatchEulerDiscreteScheduler(shift=1.0)
        last = CLOCK - 1
        ratio = (1 - 1 / shift_of(grid)) * (n - 1) / n
        root = (last * (1 - ratio)) ** 2 - 4 * last * ratio
        if root < 0:
            raise UserError(f"no scheduler of diffusers gives {n} steps of shift {shift_of(grid):.3g}: lower shift")
        return FlowMatchEulerDiscreteScheduler(
            shift=2 * last / (last * (1 - ratio) + math.sqrt(root)), shift_terminal=grid[-2]
        )
