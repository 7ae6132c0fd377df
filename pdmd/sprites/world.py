"""The embedded world: coloured shapes that move over a textured ground.

`sample_scene` draws a `Scene` from the world's own distribution, `render` turns it into pixels,
and `true_flow` and `masks` give the truth that no real data set has. Everything is a pure function
of the scene; the scene is a pure function of a `numpy.random.Generator` and the stated factors.

Lengths are pixels of a 64 x 64 frame, x to the right and y downwards; speeds are pixels a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

SIZE = 64
FRAMES = 9
FPS = 8

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (250, 214, 30),
    "green": (40, 170, 70),
    "blue": (40, 70, 220),
    "purple": (160, 50, 190),
    "white": (244, 244, 244),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "sand": (206, 180, 136),
    "water": (112, 158, 170),
    "asphalt": (92, 92, 98),
    "night": (20, 22, 44),
}
SIZES: dict[str, tuple[float, float]] = {"small": (8.4, 9.0), "large": (10.9, 11.4)}
SPEEDS: dict[str, tuple[float, float]] = {"slowly": (0.8, 1.1), "quickly": (1.85, 2.05)}
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

#: The values of every factor. `speed` is undefined (None) for a scene that stands still.
FACTORS: dict[str, tuple[str, ...]] = {
    "count": ("one", "two"),
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "shape": ("circle", "square", "triangle", "cross"),
    "motion": ("still", *DIRECTIONS, "bouncing"),
    "speed": tuple(SPEEDS),
    "ground": tuple(GROUNDS),
}
#: What a single image shows.
IMAGE_FACTORS = ("count", "size", "colour", "shape", "ground")

TURN = FRAMES // 2  # frame at which a bouncing object turns back
MARGIN = 1.0  # least distance from an object to the frame's edge
GAP = 8.0  # distance between two objects, less where the frame has no room for it
OBJECT_TEXTURE = (0.32, 12.0)  # relative amplitude, period
GROUND_TEXTURE = 16.0  # amplitude in levels of 255
GROUND_PERIOD = 8  # that of the autoencoder's grid, so that the ground costs it little

# Half extents (left = right, above, below) of each shape, in units of the area-equivalent radius.
EXTENTS = {
    "circle": (1.0, 1.0, 1.0),
    "square": (0.8862, 0.8862, 0.8862),
    "triangle": (1.2533, 1.6711, 0.8355),  # isosceles, as wide as high
    "cross": (1.1890, 1.1890, 1.1890),
}


@dataclass(frozen=True)
class Scene:
    """One clip of the world.

    `factors` maps every name in FACTORS to its value (`speed` is None when `motion` is "still").
    `radius` is area-equivalent: all shapes of one radius cover the same number of pixels.
    `track` has shape (FRAMES, objects, 2): the centroids, x and y.
    """

    factors: Mapping[str, str | None]
    radius: float
    track: np.ndarray


def sample_scene(rng: np.random.Generator, stated: Mapping[str, str] | None = None) -> Scene:
    """Draw a scene in which the stated factors hold and every open one is uniform over its values.

    A stated speed rules out standing still. Raises ValueError for an unknown factor or value, and
    for a speed stated of something that stands still.
    """
    stated = dict(stated or {})
    for name, value in stated.items():
        if name not in FACTORS or value not in FACTORS[name]:
            raise ValueError(f"the world has no {name} = {value!r}")
    if stated.get("motion") == "still" and "speed" in stated:
        raise ValueError("a scene that stands still has no speed")
    factors: dict[str, str | None] = {}
    for name, values in FACTORS.items():
        allowed = values[1:] if name == "motion" and "speed" in stated else values
        factors[name] = stated.get(name) or str(rng.choice(allowed))
    if factors["motion"] == "still":
        factors["speed"] = None
    radius = float(rng.uniform(*SIZES[str(factors["size"])]))
    return Scene(factors, radius, _place(rng, factors, radius))


def _place(rng: np.random.Generator, factors: Mapping[str, str | None], radius: float) -> np.ndarray:
    """The track (FRAMES, objects, 2): a path, offset by where it may lie wholly inside the frame."""
    path, axis = _path(rng, str(factors["motion"]), factors["speed"])
    side, above, below = (e * radius for e in EXTENTS[str(factors["shape"])])
    offsets = np.zeros((1, 2))
    if factors["count"] == "two":
        across = 2 * side if axis == 0 else above + below
        apart = across + min(GAP, SIZE - 2 * MARGIN - 2 * across)
        offsets = np.zeros((2, 2))
        offsets[:, axis] = (-apart / 2, apart / 2)
    track = path[:, None, :] + offsets[None]
    low = MARGIN - track.min((0, 1)) + np.array([side, above])
    high = SIZE - MARGIN - track.max((0, 1)) - np.array([side, below])
    return track + rng.uniform(low, np.maximum(low, high))  # equal where the objects fill the frame


def _path(rng: np.random.Generator, motion: str, speed: str | None) -> tuple[np.ndarray, int]:
    """A path (FRAMES, 2) from the origin, and the axis (0 for x, 1 for y) along which two objects stand."""
    time = np.arange(FRAMES, dtype=float)[:, None]
    axis = int(rng.integers(2))
    if speed is None:
        return np.zeros((FRAMES, 2)), axis
    pixels = float(rng.uniform(*SPEEDS[speed]))
    if motion in DIRECTIONS:
        direction = np.array(DIRECTIONS[motion], dtype=float)
        return pixels * time * direction, int(direction[0] != 0)
    away = rng.choice((-1, 1)) * pixels * (abs(time - TURN) - TURN)
    return np.concatenate([np.zeros_like(time), away], axis=1), 0


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    centres = np.arange(SIZE, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centres, centres)
    return x, y


@cache
def ground(name: str) -> np.ndarray:
    """The textured ground, float32 (SIZE, SIZE, 3) in levels of 255."""
    x, y = _grid()
    u, v = 2 * np.pi * x / GROUND_PERIOD, 2 * np.pi * y / GROUND_PERIOD
    wave = {
        "sand": np.sin(v + 1.2 * np.sin(u)),
        "water": np.sin(u + v) * np.cos(v),
        "asphalt": np.sin(2 * u + v) * np.sin(2 * v - u),
        "night": 2 * np.exp(2 * (np.cos(u) + np.cos(v) - 2)),
    }[name]
    return np.asarray(GROUNDS[name], np.float32) + GROUND_TEXTURE * wave[..., None].astype(np.float32)


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in pixels to the outline of a shape centred at the origin, negative inside
    (exact near the edges' middles, which is all that antialiasing needs)."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - EXTENTS["square"][0] * radius
    if shape == "triangle":
        _, above, below = EXTENTS["triangle"]
        return np.maximum(y - below * radius, (2 * abs(x) - y - above * radius) / np.sqrt(5))
    if shape == "cross":
        arm, reach = 0.39633 * radius, EXTENTS["cross"][0] * radius
        ax, ay = abs(x), abs(y)
        return np.minimum(np.maximum(ax - reach, ay - arm), np.maximum(ax - arm, ay - reach))
    raise ValueError(f"the world has no shape {shape!r}; it has {', '.join(FACTORS['shape'])}")


def coverage(shape: str, centre: np.ndarray, radius: float) -> np.ndarray:
    """Share of each pixel covered by the shape, float32 (SIZE, SIZE) in [0, 1]."""
    x, y = _grid()
    return np.clip(0.5 - distance(shape, x - centre[0], y - centre[1], radius), 0, 1).astype(np.float32)


def masks(scene: Scene) -> np.ndarray:
    """Coverage of every object in every frame, float32 (FRAMES, objects, SIZE, SIZE)."""
    shape = str(scene.factors["shape"])
    return np.stack([[coverage(shape, c, scene.radius) for c in frame] for frame in scene.track])


def render(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """Pixels, uint8 (frames, SIZE, SIZE, 3)."""
    x, y = _grid()
    amplitude, period = OBJECT_TEXTURE
    k = 2 * np.pi / period
    colour = np.asarray(COLOURS[str(scene.factors["colour"])], np.float32)
    shape = str(scene.factors["shape"])
    out = np.empty((frames, SIZE, SIZE, 3), np.uint8)
    for i in range(frames):
        image = ground(str(scene.factors["ground"]))
        for centre in scene.track[i]:
            texture = 1 - amplitude * (0.5 + 0.5 * np.sin(k * (x - centre[0])) * np.sin(k * (y - centre[1])))
            cover = coverage(shape, centre, scene.radius)[..., None]
            image = image * (1 - cover) + cover * (colour * texture[..., None])
        out[i] = np.clip(np.rint(image), 0, 255)
    return out


def true_flow(scene: Scene) -> np.ndarray:
    """Forward flow of every frame pair, float32 (FRAMES - 1, SIZE, SIZE, 2) in pixels a frame:
    each object's displacement on the pixels that it covers in the first frame of the pair, else 0."""
    cover = masks(scene)[:-1] > 0.5
    step = np.diff(scene.track, axis=0)
    return (cover[..., None] * step[:, :, None, None, :]).sum(1).astype(np.float32)
