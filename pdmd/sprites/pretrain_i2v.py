"""Train the embedded teacher's image-to-video sister from the finished teacher.

    python -m pdmd.sprites.pretrain_i2v --work runs/sprites-i2v
    torchrun --nproc-per-node 2 -m pdmd.sprites.pretrain_i2v

As in Wan2.2-I2V, the first frame's latent and a mask are joined to the noisy latent as further channels; there is no
image encoder. Autoencoder, tokenizer and text encoder are the teacher's and stay as they are; the transformer starts
as the teacher's, the new channels at zero. Resumable; the pipeline is written to `<work>/pipeline`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image

from pdmd import parallel
from pdmd.sprites import grammar, world
from pdmd.sprites.diffusion import Batch, fit
from pdmd.sprites.pretrain import (
    CLIP_BATCH,
    PREVIEW_CLIPS,
    TEACHER,
    draw_strips,
    encode_latents,
    join,
    preview_scenes,
    publish,
    sample,
    shown_by_scenes,
)
from pdmd.sprites.truth import Truth, labels
from pdmd.teachers.wan_i2v import masked

STEPS = 1500


def sister(transformer: WanTransformer3DModel, given: int) -> WanTransformer3DModel:
    """A copy of the transformer that takes `given` channels more, without effect as yet."""
    channels = transformer.config.in_channels
    net = WanTransformer3DModel(**dict(transformer.config) | {"in_channels": channels + given})
    weights = transformer.state_dict()
    kernel = torch.zeros_like(net.patch_embedding.weight)
    kernel[:, :channels] = weights["patch_embedding.weight"]
    net.load_state_dict(weights | {"patch_embedding.weight": kernel})
    return net


def train(work: Path, teacher: WanPipeline, device: str, compiled: bool = False) -> WanImageToVideoPipeline:
    """Flow matching on clips, given their first frames."""
    vae: AutoencoderKLWan = teacher.vae.to(device)
    latents, firsts = encode_latents(work, vae, device), encode_latents(work, vae, device, first_frame=True)
    factors, cells = shown_by_scenes()
    stride = vae.config.scale_factor_temporal
    torch.manual_seed(0)
    net = sister(teacher.transformer, stride + vae.config.z_dim).to(device)
    text_encoder = teacher.text_encoder.to(device).requires_grad_(False)
    nets = torch.nn.ModuleDict(dict(transformer=net, text_encoder=text_encoder))

    def batch_at(step: int, rng: np.random.Generator) -> Batch:
        index = rng.integers(0, len(latents), CLIP_BATCH)
        prompts = [grammar.training_prompt(rng, factors[i]) for i in index]
        truth = Truth(labels([factors[i] for i in index]), cells[index])
        return Batch("loss", latents[index].float(), prompts, truth, masked(firsts[index].float(), stride))

    def assemble(nets: Any) -> WanImageToVideoPipeline:
        return WanImageToVideoPipeline(
            teacher.tokenizer, nets["text_encoder"], vae, teacher.scheduler, transformer=nets["transformer"]
        )

    def preview(averaged: Any, path: Path) -> None:
        contact_sheet(assemble(averaged), path)

    return assemble(fit(work, "i2v", nets, teacher.tokenizer, batch_at, STEPS, preview, compiled))


def contact_sheet(pipeline: WanImageToVideoPipeline, path: Path) -> None:
    """PREVIEW_CLIPS clips of held-out prompts and rendered first frames, five frames each, as one PNG."""
    scenes = preview_scenes(PREVIEW_CLIPS)
    clips = [
        sample(pipeline, [text], [i], image=Image.fromarray(world.render(scene, 1)[0]))[0]
        for i, (text, scene) in enumerate(scenes)
    ]
    draw_strips(np.stack(clips), [text for text, _ in scenes], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sprites-i2v"))
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="the text-to-video pipeline to start from")
    parser.add_argument("--compile", action="store_true", help="blocks by torch.compile, which needs a C++ compiler")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    join(args.device)
    teacher = WanPipeline.from_pretrained(args.teacher, torch_dtype=torch.float32)
    pipeline = train(args.work, teacher, args.device, args.compile)
    if parallel.rank() == 0:
        publish(pipeline, args.work / "pipeline")


if __name__ == "__main__":
    main()
