"""The embedded teacher's autoencoder: its first training, and its decoder's last."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from pdmd.sprites import world
from pdmd.sprites.training import Optimizers, clips, log, psnr, resume, save, to_model

VAE_CONFIG = dict(
    base_dim=16,
    z_dim=8,
    dim_mult=[1, 2, 4],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_temporal=4,
    scale_factor_spatial=8,
)
KL_WEIGHT = 3e-4
# (step at which it begins, frames, batch): single frames first, whole clips at the end. Clips of nine frames
# (three latent frames) early: trained on five, an autoencoder does not carry over to longer clips.
VAE_SCHEDULE = ((0, 1, 16), (150, 9, 2), (1700, 17, 2))
VAE_STEPS = 2400
VAE_WARM_UP = 50
POOL, HELD_OUT = 3000, 24  # clips to train on, and to measure on


def vae_optimizers(vae: torch.nn.Module) -> Optimizers:
    """Muon on every kernel of more than 64 inputs."""
    matrices = [p for p in vae.parameters() if p.ndim >= 4 and p[0].numel() > 64]
    chosen = {id(p) for p in matrices}
    return Optimizers(matrices, [p for p in vae.parameters() if id(p) not in chosen])


def train_vae(work: Path, device: str) -> AutoencoderKLWan:
    """L1 + squared error + a little KL, on ever longer clips."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**VAE_CONFIG, latents_mean=[0.0] * 8, latents_std=[1.0] * 8).to(device)
    optimizers = vae_optimizers(vae)
    first = resume(work / "vae.pt", vae=vae, optimizers=optimizers)
    if first >= VAE_STEPS:
        return vae.eval()
    pool, held_out = clips(POOL, seed=1), to_model(clips(HELD_OUT, seed=2)).to(device)
    start = time.time()
    for step in range(first, VAE_STEPS):
        rng = np.random.default_rng([3, step])
        generator = torch.Generator(device).manual_seed(step)
        _, frames, batch = [row for row in VAE_SCHEDULE if row[0] <= step][-1]
        begin = rng.integers(0, world.FRAMES - frames + 1)
        x = to_model(pool[rng.integers(0, len(pool), batch), begin : begin + frames]).to(device)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        loss = (x - y).abs().mean() + 2 * (x - y).pow(2).mean() + KL_WEIGHT * kl
        optimizers.step(loss, min(1.0, (step + 1) / VAE_WARM_UP) * (1 - step / VAE_STEPS))
        if step % 50 == 49 or step == VAE_STEPS - 1:
            row = dict(step=step + 1, loss=float(loss.detach()), kl=float(kl.detach()))
            row |= dict(psnr_batch=psnr(x, y.detach()), minutes=(time.time() - start) / 60)
            if step % 250 == 249 or step == VAE_STEPS - 1:
                with torch.no_grad():
                    row["psnr_held_out"] = psnr(held_out, vae.decode(vae.encode(held_out).latent_dist.mode()).sample)
                save(work / "vae.pt", step + 1, vae=vae, optimizers=optimizers)
            log(work / "vae.jsonl", **row)
    return vae.eval()


POLISH_STEPS = 1500
POLISH_LR = 0.3  # of the learning rates above


def polish_decoder(work: Path, vae: AutoencoderKLWan, device: str) -> AutoencoderKLWan:
    """Train the decoder on, the encoder frozen, so that latents and transformer stay as they are."""
    vae.requires_grad_(False)
    parts = torch.nn.ModuleList([vae.decoder, vae.post_quant_conv]).requires_grad_(True)
    optimizers = vae_optimizers(parts)
    first = resume(work / "decoder.pt", parts=parts, optimizers=optimizers)
    if first >= POLISH_STEPS:
        return vae
    pool, held_out = clips(POOL, seed=1), to_model(clips(HELD_OUT, seed=2)).to(device)
    start = time.time()
    for step in range(first, POLISH_STEPS):
        rng = np.random.default_rng([7, step])
        frames, batch = ((1, 16), (9, 3), (17, 2))[step % 3]
        x = to_model(pool[rng.integers(0, len(pool), batch), :frames]).to(device)
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mean
        y = vae.decode(z).sample
        loss = (x - y).abs().mean() + 2 * (x - y).pow(2).mean()
        optimizers.step(loss, POLISH_LR * min(1.0, (step + 1) / VAE_WARM_UP) * (1 - step / POLISH_STEPS))
        if step % 150 == 149 or step == POLISH_STEPS - 1:
            with torch.no_grad():
                quality = psnr(held_out, vae.decode(vae.encode(held_out).latent_dist.mode()).sample)
            minutes = (time.time() - start) / 60
            log(
                work / "decoder.jsonl", step=step + 1, loss=float(loss.detach()), psnr_held_out=quality, minutes=minutes
            )
            save(work / "decoder.pt", step + 1, parts=parts, optimizers=optimizers)
    return vae
