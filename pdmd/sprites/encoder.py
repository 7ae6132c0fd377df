"""A small network that embeds a frame of the embedded world: what is seen, where, and how clean it is.

    python -m pdmd.sprites.encoder --work runs/sprites-encoder

trains it on renders and writes `<work>/encoder.safetensors`; the shipped one lies beside this file, and has to be
trained again where the world changes. It predicts, by one linear layer on its embedding, the factors of an image,
where its objects stand and how large they are, and how much noise, blur and blocks were added: so the embedding
varies smoothly with all of these, damage included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from pdmd.files import check_sums, write_sums
from pdmd.sprites import world
from pdmd.sprites.training import Optimizers, log, resume, save, to_model

WEIGHTS = Path(__file__).with_name("encoder.safetensors")
ENCODER_SUMS = "encoder.sha256"  # beside it
CHANNELS = (3, 16, 32, 64, 96)  # of the image and of each stage, every one at half the side of the last
EMBEDDING = 32
VALUES = [len(world.FACTORS[name]) for name in world.IMAGE_FACTORS]
PLACES, DAMAGES = 5, 3  # centre x and y, objects' distance from it in x and y, radius; noise, blur, blocks


class Encoder(nn.Module):
    """Frames, float32 (n, 3, 64, 64) in [-1, 1] -> embeddings (n, EMBEDDING).

    `mean` and `scale` are those of the embeddings of the world's own renders: less the one and divided by the
    other, they have a mean of zero and a variance, summed over dimensions, of one. `weights` are those of the
    channels in `distances`, of every stage and then of the embedding.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(CHANNELS))
        side = world.SIZE >> len(self.stages)
        self.embedding = nn.Linear(CHANNELS[-1] * side**2, EMBEDDING)
        self.heads = nn.Linear(EMBEDDING, sum(VALUES) + PLACES + DAMAGES)
        self.register_buffer("mean", torch.zeros(EMBEDDING))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("weights", torch.ones(sum(CHANNELS[1:]) + EMBEDDING))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of every stage, (n, c, side, side)."""
        found = []
        for stage in self.stages:
            x = F.silu(stage(x))
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.maps(x)[-1])

    def embed(self, last: Tensor) -> Tensor:
        """Embeddings (n, EMBEDDING) from the last stage's maps."""
        return (self.embedding(last.flatten(1)) - self.mean) / self.scale

    def layers(self, x: Tensor) -> list[Tensor]:
        """Features (n, c, positions) of every stage and of the embedding, of length one over channels."""
        maps = self.maps(x)
        return [F.normalize(y.flatten(2), dim=1) for y in (*maps, self.embed(maps[-1])[..., None])]

    def distances(self, x: Tensor) -> Tensor:
        """Symmetric float64 (n, n), zero on the diagonal: as LPIPS, the weighted squared difference of `layers`,
        mean over positions, sum over layers."""
        total = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
        layers = self.layers(x)
        for y, w in zip(layers, self.weights.split([y.shape[1] for y in layers]), strict=True):
            y = (y * w.sqrt()[:, None]).flatten(1).double() / y.shape[2] ** 0.5
            total += torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        return total

    def read(self, z: Tensor) -> tuple[list[Tensor], Tensor]:
        """From embeddings: each factor's logits (n, values), and places and damages (n, PLACES + DAMAGES)."""
        out = self.heads(z * self.scale + self.mean)
        *logits, rest = out.split([*VALUES, PLACES + DAMAGES], dim=1)
        return logits, rest


def load(path: Path = WEIGHTS) -> Encoder:
    """An encoder from its file, in float32. Raises UserError where the shipped one is damaged."""
    if path == WEIGHTS:
        check_sums(WEIGHTS.with_name(ENCODER_SUMS), WEIGHTS.name)
    with torch.device("meta"):
        net = Encoder()
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, assign=True)
    return net.eval().requires_grad_(False)


BATCH = 64
STEPS = 900
WARM_UP = 50
SAVE_EVERY = 100
POOL = 6000  # renders to train on, each damaged anew every time
HELD_OUT = 256  # renders that accuracy is measured on
CALIBRATION = 2048  # renders that mean and scale are of, and pairs of renders that the weights are of
KEPT = 0.5  # probability that the two of a pair show the same value of a factor by intent
DAMAGED, DAMAGE = 0.6, 0.5  # share of frames that are damaged, and of these that have each kind of damage
NOISE, BLUR = 0.4, 2.5  # the most: standard deviation of a pixel in [-1, 1], of the blur in pixels
KERNEL, BLOCK = 13, 8  # pixels: the blur reaches over, a block is wide
WOBBLE = 0.06  # what autoencoders add everywhere, slow over the frame and of no account
PLACE_WEIGHT, DAMAGE_WEIGHT = 20.0, 5.0  # of squared errors, beside the factors' cross entropies


def moment(rng: np.random.Generator, stated: Mapping[str, str] | None = None) -> world.Scene:
    """A random scene at a random moment: its track has that one frame."""
    scene = world.sample_scene(rng, stated)
    return replace(scene, track=scene.track[[rng.integers(world.FRAMES)]])


def pixels(scenes: Sequence[world.Scene]) -> Tensor:
    """The first frames of scenes, (n, 3, 64, 64)."""
    return to_model(np.stack([world.render(scene, 1) for scene in scenes]))[:, :, 0]


def draw(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (n, 3, 64, 64) of random scenes, the indices of their factors' values (n, factors) and their places
    (n, PLACES)."""
    scenes = [moment(rng) for _ in range(n)]
    values = [[world.FACTORS[f].index(str(scene.factors[f])) for f in world.IMAGE_FACTORS] for scene in scenes]
    half = world.SIZE / 2
    places = [
        [*(scene.track[0].mean(0) / half - 1), *(scene.track[0].std(0) / half), scene.radius / half] for scene in scenes
    ]
    return pixels(scenes), torch.tensor(values), torch.tensor(np.array(places)).float()


def damage(rng: np.random.Generator, x: Tensor) -> tuple[Tensor, Tensor]:
    """Frames with blur, blocks and noise added to some, and how much of each kind, (n, DAMAGES) in [0, 1]."""
    n = len(x)
    amount = rng.random((n, DAMAGES)) * (rng.random((n, DAMAGES)) < DAMAGE) * (rng.random((n, 1)) < DAMAGED)
    noise, blur, blocks = torch.from_numpy(amount).float().view(n, DAMAGES, 1, 1, 1).unbind(1)
    x = x.clone()
    for i in np.flatnonzero(amount[:, 1]):
        x[i] = gaussian_blur(x[i], KERNEL, BLUR * float(blur[i]))
    x = x + blocks * (F.interpolate(F.avg_pool2d(x, BLOCK), scale_factor=BLOCK) - x)
    x = x + NOISE * noise * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    slow = torch.from_numpy(rng.standard_normal((n, 3, 8, 8), dtype=np.float32)) * float(rng.uniform(0, WOBBLE))
    x = x + F.interpolate(slow, size=x.shape[-1], mode="bilinear")
    return x.clamp(-1, 1), torch.from_numpy(amount).float()


def learning_rate(step: int) -> float:
    """Warm-up, then linear decay to zero, as a factor in [0, 1]."""
    return min(1.0, (step + 1) / WARM_UP) * (1 - step / STEPS)


@torch.no_grad()
def accuracy(net: Encoder, x: Tensor, values: Tensor) -> float:
    """Share of the factors that the heads tell right, over all of them."""
    logits, _ = net.read(net(x))
    right = [out.argmax(1) == values[:, i] for i, out in enumerate(logits)]
    return float(torch.stack(right).float().mean())


def train(work: Path) -> Encoder:
    """Train from nothing, or on from the work folder's checkpoint. One process, on the CPU."""
    torch.manual_seed(0)
    net = Encoder()
    matrices = [p for p in net.parameters() if p.ndim > 1 and p[0].numel() > 64]
    chosen = {id(p) for p in matrices}
    optimizers = Optimizers(matrices, [p for p in net.parameters() if id(p) not in chosen])
    first = resume(work / "encoder.pt", net=net, optimizers=optimizers)
    if first < STEPS:
        pool = draw(np.random.default_rng(21), POOL)
        x_held_out, values_held_out, _ = draw(np.random.default_rng(22), HELD_OUT)
    start = time.time()
    for step in range(first, STEPS):
        rng = np.random.default_rng([21, step])
        index = rng.integers(0, POOL, BATCH)
        clean, values, places = (part[index] for part in pool)
        x, amount = damage(rng, clean)
        logits, rest = net.read(net(x))
        named = torch.stack([F.cross_entropy(out, values[:, i]) for i, out in enumerate(logits)]).sum()
        placed = (rest[:, :PLACES] - places).pow(2).sum(1).mean()
        damaged = (rest[:, PLACES:] - amount).pow(2).sum(1).mean()
        loss = named + PLACE_WEIGHT * placed + DAMAGE_WEIGHT * damaged
        optimizers.step(loss, learning_rate(step))
        if (step + 1) % SAVE_EVERY == 0 or step == STEPS - 1:
            row = {k: float(v.detach()) for k, v in (("factors", named), ("places", placed), ("damages", damaged))}
            right = accuracy(net, x_held_out, values_held_out)
            log(work / "encoder.jsonl", step=step + 1, **row, accuracy=right, minutes=(time.time() - start) / 60)
            save(work / "encoder.pt", step + 1, net=net, optimizers=optimizers)
    return calibrate(net)


@torch.no_grad()
def calibrate(net: Encoder) -> Encoder:
    """Set `mean` and `scale` from undamaged renders, then `weights`.

    The distance's weights are LPIPS's linear heads: fitted, none below zero, so that the distance of a pair is
    the share of the factors in which the two differ, wherever their objects stand.
    """
    x, _, _ = draw(np.random.default_rng(23), CALIBRATION)
    net.mean.zero_()
    net.scale.fill_(1)
    z = torch.cat([net(part) for part in x.split(256)])
    net.mean.copy_(z.mean(0))
    net.scale.copy_(z.var(0).sum().sqrt())
    rng = np.random.default_rng(24)
    first = [moment(rng) for _ in range(CALIBRATION)]
    kept = [{f: str(s.factors[f]) for f in world.IMAGE_FACTORS if rng.random() < KEPT} for s in first]
    second = [moment(rng, stated) for stated in kept]
    truth = [
        np.mean([a.factors[f] != b.factors[f] for f in world.IMAGE_FACTORS]) for a, b in zip(first, second, strict=True)
    ]
    squares = []
    for a, b in zip(pixels(first).split(256), pixels(second).split(256), strict=True):
        pairs = zip(net.layers(a), net.layers(b), strict=True)
        squares.append(torch.cat([(y - z).pow(2).mean(2) for y, z in pairs], dim=1))
    net.weights.copy_(torch.from_numpy(nnls(torch.cat(squares).double().numpy(), np.array(truth))[0]))
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sprites-encoder"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    net = train(args.work)
    path = args.work / WEIGHTS.name
    save_file({name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}, path)
    write_sums(path.with_name(ENCODER_SUMS), path.name)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
