"""The embedded teacher's autoencoder and its training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from pdmd.sprites import world
from pdmd.sprites.training import Optimizers, clips, covered, log, psnr, resume, save, to_model

VAE_CONFIG = dict(
    base_dim=16,
    z_dim=12,
    dim_mult=[1, 2, 4],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_temporal=4,
    scale_factor_spatial=8,
)
CELL = 8  # pixels to a cell of the latent
KL_WEIGHT = 1e-3
OBJECT_WEIGHT = 10  # of a pixel on an object or within two pixels of one; the ground's is 1
# (step at which it begins, frames, side, batch). Crops around objects: they are a twentieth of the pixels and all
# of what a prompt speaks of. Whole frames at the end, for the attention in the middle; nine frames early, for an
# autoencoder trained on five does not carry over to longer clips. (The shipped one saw 17 frames after step 2,500.)
VAE_SCHEDULE = ((0, 1, 32, 48), (400, 9, 32, 8), (2800, 9, 64, 4))
VAE_STEPS = 3000
VAE_WARM_UP = 50
POOL, HELD_OUT = 3000, 24  # clips to train on, and to measure on


def vae_optimizers(vae: torch.nn.Module) -> Optimizers:
    """Muon on every kernel of more than 64 inputs."""
    matrices = [p for p in vae.parameters() if p.ndim >= 4 and p[0].numel() > 64]
    chosen = {id(p) for p in matrices}
    return Optimizers(matrices, [p for p in vae.parameters() if id(p) not in chosen])


def crops(
    rng: np.random.Generator, pool: np.ndarray, covers: np.ndarray, frames: int, side: int, batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of crops of side x side pixels on the latent's grid, each with an object in its middle at some
    moment: pixels (n, 3, frames, side, side) in [-1, 1], and cover (n, frames, side, side)."""
    x, cover = [], []
    for i in rng.integers(0, len(pool), batch):
        begin = int(rng.integers(0, world.FRAMES - frames + 1))
        during = slice(begin, begin + frames)
        middle = rng.choice(np.argwhere(covers[i, begin + int(rng.integers(frames))]))
        top, left = np.clip((middle - side // 2) // CELL * CELL, 0, world.SIZE - side)
        here = (i, during, slice(top, top + side), slice(left, left + side))
        x.append(pool[here])
        cover.append(covers[here])
    return to_model(np.stack(x)), torch.from_numpy(np.stack(cover))


def weighted_error(x: torch.Tensor, y: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """L1 + squared error of x and y (n, 3, f, h, w), by pixel weight: objects, `cover` boolean (n, f, h, w), are a
    twentieth of the pixels and all of what a prompt speaks of."""
    near = torch.nn.functional.max_pool2d(cover.float(), 5, stride=1, padding=2)
    weight = (1 + (OBJECT_WEIGHT - 1) * near)[:, None]
    error = (x - y).abs() + 2 * (x - y).pow(2)
    return (weight * error).mean() / weight.mean()


def train_vae(work: Path, device: str) -> AutoencoderKLWan:
    """Weighted error + a little KL, on ever longer clips."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**VAE_CONFIG, latents_mean=[0.0] * 12, latents_std=[1.0] * 12).to(device)
    optimizers = vae_optimizers(vae)
    first = resume(work / "vae.pt", vae=vae, optimizers=optimizers)
    if first >= VAE_STEPS:
        return vae.eval()
    pool, covers = clips(POOL, seed=1), covered(POOL, seed=1)
    held_out = to_model(clips(HELD_OUT, seed=2)).to(device)
    start = time.time()
    for step in range(first, VAE_STEPS):
        rng = np.random.default_rng([3, step])
        generator = torch.Generator(device).manual_seed(step)
        _, frames, side, batch = [row for row in VAE_SCHEDULE if row[0] <= step][-1]
        x, cover = (tensor.to(device) for tensor in crops(rng, pool, covers, frames, side, batch))
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        loss = weighted_error(x, y, cover) + KL_WEIGHT * kl
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
