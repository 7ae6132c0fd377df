"""Wan text-to-video pipelines in the diffusers format, of which `sprites` is one."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from pdmd.errors import UserError
from pdmd.flow import guide

#: The transformer's clock: it takes 1000 t.
CLOCK = 1000.0
LONGEST_PROMPT = 512
#: What a pipeline folder of a student says beside diffusers' own files.
STUDENT_FILE = "student.json"
#: What a teacher's folder may say of itself, in `pdmd.json`; the rest of Wan gets these.
DEFAULTS = {"domain": "open", "frames": 81, "fps": 16, "height": 480, "width": 832, "guidance": 5.0, "steps": 40}


class Wan:
    """A Wan text-to-video teacher (see `pdmd.teachers.Teacher`). Latents are normalised, as the pipeline has them."""

    def __init__(self, pipeline: WanPipeline, name: str, path: Path | None, settings: dict[str, Any]) -> None:
        self.pipeline = pipeline
        self.name = name
        self.path = path
        self.domain: str = settings["domain"]
        self.frames: int = settings["frames"]
        self.fps: int = settings["fps"]
        self.size = (settings["height"], settings["width"])
        self.guidance: float = settings["guidance"]
        self.steps: int = settings["steps"]
        self.shift: float = getattr(pipeline.scheduler.config, "shift", None) or pipeline.scheduler.config.flow_shift
        pipeline.transformer.requires_grad_(False).eval()
        pipeline.text_encoder.requires_grad_(False).eval()
        pipeline.vae.requires_grad_(False).eval()

    def shape(self, frames: int) -> tuple[int, ...]:
        """(channels, frames, height, width) of the latent of a clip of 1 + 4 k frames."""
        vae = self.pipeline.vae.config
        if frames < 1 or (frames - 1) % vae.scale_factor_temporal:
            raise UserError(f"frames {frames}: teacher {self.name} makes 1 + {vae.scale_factor_temporal} k frames")
        latent = 1 + (frames - 1) // vae.scale_factor_temporal
        return (vae.z_dim, latent, *(side // vae.scale_factor_spatial for side in self.size))

    def network(self) -> nn.Module:
        """A trainable copy of the transformer."""
        return copy.deepcopy(self.pipeline.transformer).requires_grad_(True)

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return net(x, CLOCK * t, cond, return_dict=False)[0].float()

    @torch.no_grad()
    def guided(self, x: Tensor, t: Tensor, cond: Tensor, guidance: float | None = None) -> Tensor:
        """The standard form, as WanPipeline has it: v_uncond + w (v_cond - v_uncond)."""
        w = self.guidance if guidance is None else guidance
        net = self.pipeline.transformer
        if w == 1:
            return self.velocity(net, x, t, cond)
        uncond = self._no_prompt().expand(len(x), -1, -1)
        both = self.velocity(net, x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), torch.cat([cond, uncond]))
        v_cond, v_uncond = both.chunk(2)
        return guide(v_cond, v_uncond, w)

    @cache  # noqa: B019 - teachers live as long as the process
    def _no_prompt(self) -> Tensor:
        return self.encode([""])

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, length, dim), zeros after the end mark, as WanPipeline makes them.

        The length is the tokenizer's own limit, at most the 512 that Wan was trained with.
        """
        length = min(self.pipeline.tokenizer.model_max_length, LONGEST_PROMPT)
        chunks = [
            self.pipeline._get_t5_prompt_embeds(list(prompts[i : i + 256]), max_sequence_length=length)
            for i in range(0, len(prompts), 256)
        ]
        return torch.cat(chunks).float()

    @torch.no_grad()
    def decode(self, x: Tensor) -> np.ndarray:
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

    def identity(self) -> dict[str, Any]:
        return {"kind": "teacher", "family": "wan", "path": str(self.path), "sha256": folder_sha256(self.path)}

    def save_student(self, experts: Sequence[Any], grid: Sequence[float], steps: Sequence[int], to: Path) -> None:
        """A WanPipeline folder: the first expert as `transformer`, the second as `transformer_2` with the
        boundary between them, further ones as `expert_3` and so on; the grid in student.json."""
        optional: dict[str, Any] = {}
        if len(experts) == 2:
            last_of_first = max(i for i, expert in enumerate(steps) if expert == 0)
            optional = {
                "transformer_2": experts[1],
                "boundary_ratio": (grid[last_of_first] + grid[last_of_first + 1]) / 2,
            }
        own = self.pipeline
        WanPipeline(own.tokenizer, own.text_encoder, own.vae, own.scheduler, experts[0], **optional).save_pretrained(to)
        for k, expert in enumerate(experts[2:] if len(experts) > 2 else [], start=3):
            expert.save_pretrained(to / f"expert_{k}")
        if len(experts) > 2:
            experts[1].save_pretrained(to / "transformer_2")
        settings = {name: getattr(self, name) for name in ("domain", "frames", "fps", "guidance", "steps")}
        settings |= {"height": self.size[0], "width": self.size[1]}
        (to / "pdmd.json").write_text(json.dumps(settings, indent=1) + "\n")
        student = {"grid": list(grid), "experts": list(steps), "teacher": self.identity()}
        (to / STUDENT_FILE).write_text(json.dumps(student, indent=1) + "\n")


def folder_sha256(path: Path | None) -> str:
    """One hash over a folder's safetensors files, by name; empty where there is no folder."""
    digest = hashlib.sha256()
    if path is None or not path.is_dir():
        return ""
    for file in sorted(path.rglob("*.safetensors")):
        digest.update(str(file.relative_to(path)).encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def load_student(folder: Path, count: int) -> tuple[Wan, list[nn.Module], dict[str, Any]]:
    """A student's pipeline, its `count` experts and its identity, from what `save_student` wrote."""
    own = load(folder)
    experts: list[nn.Module] = [own.pipeline.transformer]
    for k in range(1, count):
        name = "transformer_2" if k == 1 else f"expert_{k + 1}"
        try:
            net = WanTransformer3DModel.from_pretrained(folder / name, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot load expert {folder / name}: {str(error).splitlines()[0]}") from None
        experts.append(net.requires_grad_(False).eval())
    return own, experts, own.identity() | {"kind": "student"}


def load(spec: str | Path, name: str | None = None, guidance: float | None = None) -> Wan:
    """A Wan teacher from a folder or a hub id. Raises UserError for what diffusers cannot load as one."""
    path = Path(spec)
    folder = path if path.is_dir() else None
    if folder and not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is no diffusers pipeline: it has no model_index.json")
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()  # loading's bars; ours are for work that takes time
    try:
        pipeline = WanPipeline.from_pretrained(str(spec), dtype=torch.float32)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"cannot load {spec} as a WanPipeline: {str(error).splitlines()[0]}") from None
    settings = dict(DEFAULTS)
    if folder and (folder / "pdmd.json").is_file():
        settings |= json.loads((folder / "pdmd.json").read_text())
    if guidance is not None:
        settings["guidance"] = guidance
    made, wanted = pipeline.vae.config.z_dim, pipeline.transformer.config.in_channels
    if made != wanted:
        raise UserError(f"{spec}: the autoencoder has {made} latent channels, the transformer takes {wanted}")
    return Wan(pipeline, name or path.name, folder, settings)
