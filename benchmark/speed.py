"""How much faster the metrics are than the plain way, on equal results, as ratios within one run.

    python -m pdmd.benchmark.speed [--repeats 5] [--image-size 256] [--video-size 128] [--frames 9] [--fps 8 16 24]

LPIPS: the 28 pairs of eight images by the lpips package, two images at a time, against one trunk pass an
image. Motion: VBench's class on the file, then a flow pass over it by torchvision's RAFT, one pair at a time,
against one pass for both. Plain and ours take turns; seconds are medians, ratios those of the medians, once
by the clock and once by the processor time, which other work on the machine disturbs less. The difference is
the largest between any two numbers of the results (motion: per-pair scores and flows in pixels, and the
verdict as 0 or 1). The weights are random, which changes no time; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torchvision.models.optical_flow import raft_large

from pdmd import media
from pdmd.errors import UserError

from . import metrics
from .features.flow import MIN_SIDE
from .features.lpips import LEAST_SIDE, Lpips
from .features.raft import ITERATIONS, Raft, padding, prepared
from .features.vbench import VBench
from .provenance import record

SEEDS = 8  # images of a prompt in the diversity suite


@dataclass(frozen=True)
class Seconds:
    """What a call takes, by the clock and of the processor's time."""

    clock: float
    processor: float


@dataclass(frozen=True)
class Row:
    """One comparison: medians by the plain way and by ours, and the largest difference of their results."""

    name: str
    plain: Seconds
    ours: Seconds
    difference: float


def compare(name: str, plain: Callable[[], np.ndarray], ours: Callable[[], np.ndarray], repeats: int) -> Row:
    """Time two ways to the same numbers in turn, after one untimed call of each."""
    difference = float(abs(plain() - ours()).max())
    taken: dict[Callable[[], np.ndarray], list[Seconds]] = {plain: [], ours: []}
    for _ in range(repeats):
        for way, seconds in taken.items():
            clock, processor = time.perf_counter(), time.process_time()
            way()
            seconds.append(Seconds(time.perf_counter() - clock, time.process_time() - processor))
    return Row(name, _medians(taken[plain]), _medians(taken[ours]), difference)


def _medians(seconds: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.clock for s in seconds), statistics.median(s.processor for s in seconds))


@torch.no_grad()
def plain_lpips(net: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """LPIPS of the pairs i < j of uint8 (n, H, W, 3), the package called on two images at a time."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    pairs = itertools.combinations(range(len(x)), 2)
    return np.array([net(x[i : i + 1], x[j : j + 1]).item() for i, j in pairs])


def ours_lpips(lpips: Lpips, images: np.ndarray) -> np.ndarray:
    """The same by the benchmark."""
    return lpips.distances(images)[np.triu_indices(len(images), 1)]


@torch.no_grad()
def plain_motion(vbench: VBench, net: torch.nn.Module, path: Path, iterations: int = ITERATIONS) -> np.ndarray:
    """VBench's scores and verdict on a video file, then the mean flow in pixels of each pair of its frames."""
    verdict = vbench.dynamic(path)
    frames = media.read_video(path).frames
    height, width = frames.shape[1:3]
    left, _, top, _ = padding(height, width)
    magnitudes = []
    for pair in itertools.pairwise(frames):
        before, after = prepared(np.stack(pair), 1).split(1)
        flow = net(before, after, num_flow_updates=iterations)[-1][0].permute(1, 2, 0).numpy()
        magnitudes.append(metrics.mean_magnitude(flow[top : top + height, left : left + width]))
    return np.array([*verdict.scores, verdict.dynamic, *magnitudes])


def ours_motion(raft: Raft, path: Path) -> np.ndarray:
    """The same by the benchmark."""
    video = media.read_video(path)
    interval = metrics.frame_interval(video.fps or metrics.KEPT_FPS)
    scores, magnitudes = [], []
    for pair in raft.pairs(video.frames, interval):
        if pair.stride == interval:
            scores.append(metrics.pair_score(pair.padded))
        if pair.stride == 1:
            magnitudes.append(metrics.mean_magnitude(pair.flow))
    verdict = metrics.dynamic(scores, *video.frames.shape[1:3])
    return np.array([*scores, verdict.dynamic, *magnitudes])


def random_trunk(path: Path, seed: int = 0) -> Path:
    """A file of torchvision's AlexNet at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def random_raft(path: Path, seed: int = 0) -> Path:
    """A file of torchvision's RAFT-large at random, its flow head quieted so that flows are a few pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = raft_large(weights=None).state_dict()
    for name in ("weight", "bias"):
        state[f"update_block.flow_head.conv2.{name}"] *= 0.1
    torch.save(state, path)
    return path


def pan(frames: int, size: int, seed: int = 0) -> np.ndarray:
    """Coarse noise that moves two pixels a frame: uint8 (frames, size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (size + 2 * frames, size), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 2 * i : 2 * i + size] for i in range(frames)])


def measure_lpips(folder: Path, size: int, repeats: int) -> Row:
    lpips = Lpips(random_trunk(folder / "alexnet.pth"))
    images = np.random.default_rng(0).integers(0, 256, (SEEDS, size, size, 3), dtype=np.uint8)
    name = f"LPIPS, {SEEDS} images, {size} x {size}"
    return compare(name, lambda: plain_lpips(lpips.net, images), lambda: ours_lpips(lpips, images), repeats)


def measure_motion(folder: Path, size: int, frames: int, rates: Sequence[int], repeats: int) -> list[Row]:
    """One row a frame rate: at 8 a second all pairs are shared, above it the frames alone."""
    weights = random_raft(folder / "raft.pth")
    vbench, raft = VBench(weights), Raft(weights)
    rows = []
    for fps in rates:
        path = folder / f"{fps}.mp4"
        media.write_video(path, pan(frames, size), Fraction(fps))
        name = f"flow and dynamic degree, {frames} frames, {size} x {size}, {fps} fps"
        plain, ours = partial(plain_motion, vbench, raft.net, path), partial(ours_motion, raft, path)
        rows.append(compare(name, plain, ours, repeats))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| metric | plain, s | ours, s | plain / ours | the same of processor time | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        ratio, processor = r.plain.clock / r.ours.clock, r.plain.processor / r.ours.processor
        figures = f"{r.plain.clock:.2f} | {r.ours.clock:.2f} | {ratio:.2f} | {processor:.2f} | {r.difference:.1e}"
        lines.append(f"| {r.name} | {figures} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=256, help=f"pixels a side, {LEAST_SIDE} or more")
    parser.add_argument("--video-size", type=int, default=128, help=f"pixels a side, even, {MIN_SIDE} or more")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--fps", type=int, nargs="+", default=[8, 16, 24])
    args = parser.parse_args(arguments)
    if args.repeats < 1 or args.frames < 2 or min(args.fps) < 1:
        parser.error("--repeats and --fps start at 1, --frames at 2")
    if args.image_size < LEAST_SIDE or args.video_size < MIN_SIDE or args.video_size % 2:
        parser.error(f"--image-size starts at {LEAST_SIDE}, --video-size at {MIN_SIDE}, and it is even")
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = [
                measure_lpips(Path(folder), args.image_size, args.repeats),
                *measure_motion(Path(folder), args.video_size, args.frames, args.fps, args.repeats),
            ]
        except UserError as error:
            sys.exit(f"error: {error}")
    made = record()
    versions = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "torchvision", "lpips", "numpy"))
    print(table(rows))
    print(f"\n{args.repeats} repeats, {torch.get_num_threads()} threads, {made['platform']}, {versions}")


if __name__ == "__main__":
    main()
