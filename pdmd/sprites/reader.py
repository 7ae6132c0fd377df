"""Recover the factors of the embedded world from pixels, by measurement alone: no network, no training.

The ground is the nearest of the four; what is not ground is weighed by its nearest object colour into
a soft coverage; coverage gives components, areas and centroids; a component's shape is the template of
its own area that it overlaps best; the centroids' track is fitted by standing, straight and bouncing
motion. What cannot be read is None, and counts as not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pdmd.sprites import world

#: Under which results name it; one that reads otherwise needs another name ("... (reader-2)"), and new baselines.
NAME = "pdmd.sprites.reader"
LEAST_AREA = 70.0  # pixels; the smallest object covers 221
LEAST_OVERLAP = 0.6  # with the best template; under it, no shape is legible
LEAST_FRAMES = 0.75  # share of frames in which the objects must be seen
STILL_SPREAD = 0.6  # pixels, root mean square; the slowest motion spreads 1.0
OFF_AXIS = np.cos(np.deg2rad(30))  # a straight path further off its axis has no direction
SIZE_BORDER = (world.SIZES["small"][1] + world.SIZES["large"][0]) / 2
SPEED_BORDER = (world.SPEEDS["slowly"][1] + world.SPEEDS["quickly"][0]) / 2


@dataclass(frozen=True)
class Reading:
    """What a video or an image shows.

    `factors` maps each of the world's factors to its value or to None where it is not legible (for one
    frame: motion and speed; for what stands still: speed). `radius` is area-equivalent, pixels; `track`
    (frames, 2) is the objects' common centroid, NaN where a frame shows none; `speed` is pixels a frame;
    `overlap` in [0, 1] is the mean overlap with the best shape template: how whole the shapes are.
    """

    factors: Mapping[str, str | None]
    radius: float
    track: np.ndarray
    speed: float
    overlap: float


@dataclass(frozen=True)
class _Object:
    centre: np.ndarray
    radius: float
    overlaps: np.ndarray  # with each shape's template


def fidelity(stated: Mapping[str, str], reading: Reading) -> float:
    """Share of the stated factors that came out as stated, in [0, 1]; NaN where none is stated."""
    return float(np.mean([reading.factors.get(k) == v for k, v in stated.items()])) if stated else float("nan")


def apart(first: Reading, second: Reading) -> float | None:
    """Mean distance between the objects' centres over the frames that show them in both, pixels; None without any."""
    far = np.linalg.norm(first.track - second.track, axis=1)
    return float(np.nanmean(far)) if np.isfinite(far).any() else None


def mean_flow(reading: Reading) -> float | None:
    """Mean length of the flow of what was read, over all pixels, pixels a frame: the objects' speed times the share of
    the frame that they cover. None where they are not legible."""
    count = reading.factors["count"]
    if count is None or not np.isfinite(reading.speed):
        return None
    covered = (1 + world.FACTORS["count"].index(count)) * np.pi * reading.radius**2
    return float(reading.speed * covered / world.SIZE**2)


def read(video: np.ndarray) -> Reading:
    """Read a video, uint8 (frames, 64, 64, 3); one frame is an image. Raises ValueError for another shape."""
    if video.ndim != 4 or video.shape[1:] != (world.SIZE, world.SIZE, 3) or video.dtype != np.uint8:
        raise ValueError(f"expected uint8 (frames, {world.SIZE}, {world.SIZE}, 3), got {video.dtype} {video.shape}")
    pixels = video.astype(np.float32)
    ground = _nearest_ground(pixels)
    colour = _nearest_colour(pixels, ground)
    frames = [_objects(frame) for frame in _coverage(pixels, ground, colour)] if colour else []
    seen = [frame for frame in frames if 1 <= len(frame) <= 2]
    factors: dict[str, str | None] = dict.fromkeys(world.FACTORS)
    factors["ground"] = ground
    track = np.full((len(video), 2), np.nan)
    if len(seen) < LEAST_FRAMES * len(video):
        return Reading(factors, float("nan"), track, float("nan"), 0.0)
    two = np.mean([len(frame) == 2 for frame in seen])
    count = 2 if two > 0.5 else 1
    if max(two, 1 - two) >= LEAST_FRAMES:
        factors["count"] = world.FACTORS["count"][count - 1]
    objects = [item for frame in seen if len(frame) == count for item in frame]
    overlaps = np.mean([item.overlaps for item in objects], axis=0)
    if overlaps.max() >= LEAST_OVERLAP:
        factors["shape"] = world.FACTORS["shape"][int(overlaps.argmax())]
    radius = float(np.mean([item.radius for item in objects]))
    factors |= {"colour": colour, "size": "large" if radius > SIZE_BORDER else "small"}
    for i, frame in enumerate(frames):
        if len(frame) == count:
            track[i] = np.mean([item.centre for item in frame], axis=0)
    motion, speed = _motion(track)
    factors["motion"] = motion
    if motion not in (None, "still"):
        factors["speed"] = "quickly" if speed > SPEED_BORDER else "slowly"
    return Reading(factors, radius, track, speed, float(overlaps.max()))


def _nearest_ground(pixels: np.ndarray) -> str:
    """The ground whose pixels lie nearest in the median, so that objects do not weigh."""
    far = {name: np.median(np.linalg.norm(pixels - world.ground(name), axis=-1)) for name in world.GROUNDS}
    return min(far, key=lambda name: far[name])


def _nearest_colour(pixels: np.ndarray, ground: str) -> str | None:
    """The object colour that most pixels are nearest to, of those nearer to it than to the ground."""
    far = [np.linalg.norm(pixels - world.ground(ground), axis=-1)]
    low = 1 - world.OBJECT_TEXTURE[0]
    for rgb in world.COLOURS.values():
        c = np.asarray(rgb, np.float32)
        along = np.clip(pixels @ c / (c @ c), low, 1)  # the texture darkens by up to its amplitude
        far.append(np.linalg.norm(pixels - along[..., None] * c, axis=-1))
    counts = np.bincount(np.argmin(far, axis=0).ravel(), minlength=len(far))[1:]
    return list(world.COLOURS)[int(counts.argmax())] if counts.max() >= LEAST_AREA * len(pixels) / 2 else None


def _coverage(pixels: np.ndarray, ground: str, colour: str) -> np.ndarray:
    """Soft share of the object in each pixel, (frames, H, W) in [0, 1]: the pixel's place between
    the ground's colour and the object's."""
    back = world.ground(ground)
    across = np.asarray(world.COLOURS[colour], np.float32) * (1 - world.OBJECT_TEXTURE[0] / 2) - back
    return np.clip(((pixels - back) * across).sum(-1) / (across**2).sum(-1), 0, 1)


def _objects(cover: np.ndarray) -> list[_Object]:
    """The components of one frame's coverage (H, W) that are large enough to be objects."""
    labels, n = ndimage.label(cover > 0.5)
    found = []
    for i in range(1, n + 1):
        inside = labels == i
        if inside.sum() < LEAST_AREA:
            continue
        near = ndimage.binary_dilation(inside) & ((labels == i) | (labels == 0))
        weight = np.where(near, cover, 0)
        weight[ndimage.binary_erosion(inside)] = 1.0  # the texture makes the inside look thin
        area = weight.sum()
        y, x = ndimage.center_of_mass(weight)
        centre, radius = np.array([x, y]) + 0.5, float(np.sqrt(area / np.pi))
        overlaps = []
        for shape in world.FACTORS["shape"]:
            template = world.coverage(shape, centre, radius)
            overlaps.append(np.minimum(template, weight).sum() / np.maximum(template, weight).sum())
        found.append(_Object(centre, radius, np.array(overlaps)))
    return found


def _motion(track: np.ndarray) -> tuple[str | None, float]:
    """The kind of motion of a track (frames, 2) and its speed in pixels a frame.

    Least squares in the complex plane, z = x + iy: standing z = a, straight z = a + b t, bouncing
    z = a + b |t - TURN|; the best fit names the motion.
    """
    seen = ~np.isnan(track[:, 0])
    if seen.sum() < max(4, LEAST_FRAMES * len(track)):
        return None, float("nan")
    time = np.arange(len(track))[seen]
    z = track[seen, 0] + 1j * track[seen, 1]
    if np.sqrt(np.mean(abs(z - z.mean()) ** 2)) < STILL_SPREAD:
        return "still", 0.0
    fits = {}
    for kind, moved in (("straight", time), ("bouncing", abs(time - world.TURN))):
        basis = np.stack([np.ones_like(z), moved.astype(complex)], axis=1)
        solution = np.linalg.lstsq(basis, z, rcond=None)[0]
        fits[kind] = (float(np.mean(abs(z - basis @ solution) ** 2)), solution[1])
    kind = min(fits, key=lambda kind: fits[kind][0])
    b = fits[kind][1]
    if kind == "bouncing":
        return ("bouncing" if abs(b.imag) >= OFF_AXIS * abs(b) else None), float(abs(b))
    cosines = {name: (b.real * x + b.imag * y) / abs(b) for name, (x, y) in world.DIRECTIONS.items()}
    direction = max(cosines, key=lambda name: cosines[name])
    return (direction if cosines[direction] >= OFF_AXIS else None), float(abs(b))
