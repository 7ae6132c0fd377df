"""Samples as a page shows them: images, clips, strips of frames with their flow as colour; embedded, or linked."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from pdmd.errors import UserError
from pdmd.media import Video, inside, read_video, write_video

from .features.dis import Dis
from .markup import data_uri, relative_url
from .sides import Side

EMBED_LIMIT = 20_000_000  # bytes of a page's media, all together; above it they are linked
STRIP = 6  # frames of a clip
STRIP_SIDE = 128  # pixels: longest short side of a frame in a strip
THUMB_SIDE = 256  # pixels: longest short side of an image that stands for a linked one
GAP = 2  # pixels between the frames of a strip
SMALL = 128  # pixels: frames up to here are enlarged without smoothing
FULL_COLOUR = 1 / 32  # of the short side: flow a frame that is drawn in full colour
FPS = 8  # of a clip that states none

IMAGE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Shown:
    """A sample on a page. `picture` is the image, or a clip's first frame, `clip` the clip, `strip` and `flow` its
    frames and their flow, as URLs, empty where there is none; `link` is the file's own, where it is not embedded.
    `problem` says why there is nothing to show."""

    seed: str
    width: int = 0
    height: int = 0
    picture: str = ""
    clip: str = ""
    strip: str = ""
    flow: str = ""
    link: str = ""
    problem: str = ""

    @property
    def small(self) -> bool:
        return 0 < self.height <= SMALL


@dataclass(frozen=True)
class Shelf:
    """The media of one page in `folder`: all embedded, or all linked."""

    folder: Path
    linked: bool

    def show(self, home: Path, row: Mapping[str, str]) -> Shown:
        """One sample, a row of the items.csv in `home`. What cannot be shown says why."""
        seed = row["seed"]
        try:
            path = inside(home, row["file"])
            video = read_video(path)
        except (UserError, ValueError, cv2.error) as error:
            return Shown(seed, problem=str(error).replace(f"{home}{os.sep}", ""))
        height, width = video.frames.shape[1:3]
        link = relative_url(path, self.folder) if self.linked else ""
        if len(video.frames) == 1:
            picture = thumbnail(video.frames[0]) if self.linked else image_uri(path, video.frames[0])
            return Shown(seed, width, height, picture, link=link)
        clip = self._clip(path, video)
        frames, flows = strip(video.frames)
        return Shown(seed, width, height, thumbnail(video.frames[0]), clip, webp(frames), webp(flows), link)

    def _clip(self, path: Path, video: Video) -> str:
        mime = playable(path)
        if self.linked:
            return relative_url(path, self.folder) if mime else ""
        if mime:
            return data_uri(path.read_bytes(), mime)
        with tempfile.TemporaryDirectory() as folder:  # for this page only: no browser plays it as it is
            copy = Path(folder) / "clip.mp4"
            height, width = (side // 2 * 2 for side in video.frames.shape[1:3])
            write_video(copy, video.frames[:, :height, :width], video.fps or FPS)
            return data_uri(copy.read_bytes(), "video/mp4")


def shelf(folder: Path, samples: Iterable[tuple[Path, str]]) -> Shelf:
    """Where all of these files (each with the folder it is in) go, in a page in `folder`: embedded up to
    EMBED_LIMIT, else linked."""
    size = 0
    for home, file in set(samples):
        with contextlib.suppress(UserError, OSError):
            size += inside(home, file).stat().st_size
    return Shelf(folder, size > EMBED_LIMIT)


def home_of(side: Side) -> Path:
    """The folder that a result's files are in: its own, or that of media made by anything else, where it says so."""
    model = side.result.generation.get("model", {})
    path = Path(str(model.get("path", "")))
    return path if model.get("kind") == "media" and path.is_absolute() else side.path.parent


def playable(path: Path) -> str:
    """The media type of a video that browsers play as it is, else ""."""
    with av.open(str(path), metadata_errors="ignore") as container:
        context = container.streams.video[0].codec_context
        kind = container.format.name
    if kind.startswith("mov,mp4") and context.name in ("h264", "libx264") and context.pix_fmt == "yuv420p":
        return "video/mp4"
    return "video/webm" if "webm" in kind and context.name.removeprefix("lib") in ("vp8", "vp9", "av1") else ""


def image_uri(path: Path, image: np.ndarray) -> str:
    """An image file as it is where browsers show it, else as PNG."""
    content = path.read_bytes()
    for start, mime in IMAGE_TYPES.items():
        if content.startswith(start):
            return data_uri(content, mime)
    return data_uri(cv2.imencode(".png", image[..., ::-1])[1].tobytes(), "image/png")


def thumbnail(image: np.ndarray) -> str:
    """uint8 (H, W, 3) at THUMB_SIDE or less."""
    return webp(shrunk(image, THUMB_SIDE))


def strip(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a clip uint8 (F, H, W, 3), F > 1: STRIP frames evenly from first to last, and under each its flow to the
    next frame (of the last: from the one before) as colour. Two images (h, w, 4), clear in the
    gaps and in the place of frames that a short clip lacks."""
    at = sorted(set(np.linspace(0, len(clip) - 1, STRIP).round().astype(int)))
    frames, flows = [], []
    for i in at:
        first = min(i, len(clip) - 2)
        pair = np.stack([shrunk(frame, STRIP_SIDE) for frame in clip[first : first + 2]])
        frames.append(np.dstack([pair[i - first], np.full(pair.shape[1:3], 255, np.uint8)]))
        flows.append(flow_colour(next(iter(Dis().pairs(pair))).flow))
    empty = [np.zeros_like(frames[0])] * (STRIP - len(at))
    return side_by_side(frames + empty), side_by_side(flows + empty)


def flow_colour(flow: np.ndarray) -> np.ndarray:
    """Flow (H, W, 2), pixels a frame, as uint8 (H, W, 4): hue is the direction (right red, down green-yellow, left
    cyan, up violet), opacity the length, full at FULL_COLOUR of the short side; what stands still is clear."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    hue = np.arctan2(flow[..., 1], flow[..., 0]) % (2 * np.pi) * 90 / np.pi % 180  # OpenCV's, in half degrees
    full = np.full_like(hue, 255)
    colour = cv2.cvtColor(np.stack([hue, full, full], axis=-1).astype(np.uint8), cv2.COLOR_HSV2RGB)
    opacity = 255 * np.clip(length / (FULL_COLOUR * min(flow.shape[:2])), 0, 1)
    return np.dstack([colour, opacity.astype(np.uint8)])


def wheel(side: int = 64) -> str:
    """The legend of `flow_colour`: a disc on which each point has the colour of the flow from the middle to it."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    flow = np.stack([x, y], axis=-1).astype(np.float32) * (np.hypot(x, y) <= 1)[..., None]
    return webp(flow_colour(flow * FULL_COLOUR * side))


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An image whose short side is `side` or less, its long side 4 times that or less."""
    height, width = image.shape[:2]
    scale = min(side / min(height, width), 4 * side / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Images (H, W, 4) in a row with clear gaps."""
    return np.concatenate([np.pad(image, ((0, 0), (0, GAP), (0, 0))) for image in images], axis=1)[:, :-GAP]


def webp(image: np.ndarray) -> str:
    """uint8 (H, W, 3 or 4) as a data URL: lossless where small, else at quality 85."""
    order = [2, 1, 0, 3][: image.shape[-1]]
    quality = 101 if image.shape[0] <= SMALL and image.shape[1] <= 8 * SMALL else 85
    content = cv2.imencode(".webp", np.ascontiguousarray(image[..., order]), [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return data_uri(content.tobytes(), "image/webp")
