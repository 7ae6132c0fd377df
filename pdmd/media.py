"""Video and image files to arrays and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import torch
from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from pdmd.errors import UserError
from pdmd.files import write_bytes, write_whole


@dataclass(frozen=True)
class Codec:
    """How videos are written. One thread, so that the number of cores does not change the bytes. `crf` and `preset`
    are None where the codec has none."""

    codec: str = "libx264"
    crf: int | None = 12
    pix_fmt: str = "yuv420p"
    preset: str | None = "veryfast"
    threads: int = 1

    @property
    def suffix(self) -> str:
        """The file name's ending; the container follows from it."""
        return CONTAINERS[self.codec]

    @property
    def options(self) -> dict[str, str]:
        """The encoder's options. By its AVX-512 kernels x264 does not write the same bytes each time, so it gets those
        of AVX2, which write what other processors write."""
        given: dict[str, object] = {"crf": self.crf, "preset": self.preset, "threads": self.threads}
        if self.codec == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
            given["x264-params"] = "asm=AVX2"
        return {name: str(value) for name, value in given.items() if value is not None}


#: Containers that state the frame rate exactly.
CONTAINERS = {"libx264": ".mp4", "ffv1": ".mkv"}
CODEC = Codec()
LOSSLESS = Codec("ffv1", crf=None, pix_fmt="bgr0", preset=None)
#: What is read: sides in pixels and the longer by the shorter, pixels of an image and of a frame (8K and 4K have
#: fewer), bytes of a clip's frames. Beyond them estimators would take minutes and gigabytes, or have nothing to see.
LEAST_SIDE, MOST_ASPECT = 8, 8
MOST_IN_IMAGE, MOST_IN_FRAME = 2**25, 2**24
MOST_BYTES = 8 * 10**8  # two clips are in memory at a time
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow's names of them
VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".gif", ".h264", ".mjpeg"})


@dataclass(frozen=True)
class Video:
    """A decoded clip: `frames` uint8 (F, H, W, 3), RGB; `fps` exact, None where the file states none."""

    frames: np.ndarray
    fps: Fraction | None


def as_fraction(fps: float | Fraction) -> Fraction:
    """Frames a second as the fraction that containers store: 23.976 becomes 24000/1001."""
    exact = Fraction(fps).limit_denominator(1001)
    for base in (24, 30, 60):
        if abs(float(fps) - base * 1000 / 1001) < 1e-3:
            return Fraction(base * 1000, 1001)
    return exact


def write_video(path: Path, frames: np.ndarray, fps: float | Fraction, codec: Codec = CODEC) -> None:
    """Write uint8 (F, H, W, 3) at exactly `fps`, whole or not at all: H.264 in MP4, or FFV1 in Matroska.

    Raises UserError for sides that 4:2:0 cannot hold (odd ones), and where the disk refuses.
    """
    _check(frames, 4)
    height, width = frames.shape[1:3]
    if codec.pix_fmt == "yuv420p" and (height % 2 or width % 2):
        raise UserError(
            f"cannot write {path}: H.264 needs even sides, the frames are {width} x {height}; --lossless takes any"
        )

    def write(part: Path) -> None:
        exact = {"fflags": "+bitexact"} if codec.suffix == ".mkv" else {}  # else a random identifier, new each time
        with av.open(str(part), "w", options=exact) as container:
            stream = cast(VideoStream, container.add_stream(codec.codec, rate=as_fraction(fps)))
            stream.width, stream.height, stream.pix_fmt = width, height, codec.pix_fmt
            stream.options = {**codec.options}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())

    write_whole(path, write)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3), RGB, as PNG, whole or not at all."""
    _check(image, 3)
    done, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(f"cannot encode {path} as PNG")
    write_bytes(path, content.tobytes())


@dataclass(frozen=True)
class Facts:
    """What a file's head states: its size in pixels, and its frame rate where there is one."""

    width: int
    height: int
    fps: Fraction | None


def probe(path: Path) -> Facts:
    """A media file's facts, by its head alone for a video. Raises UserError where it cannot be read."""
    if path.suffix.lower() in IMAGES or not os.path.isfile(path):
        height, width = read_video(path).frames.shape[1:3]
        return Facts(width, height, None)
    with _opened(path) as (container, stream):
        return Facts(stream.codec_context.width, stream.codec_context.height, _stated_fps(container, stream))


def inside(folder: Path, file: str) -> Path:
    """The path of a file that a manifest names. Raises UserError for a name that leads out of the folder: by "..",
    from the root, or through a link."""
    path = folder / file
    try:
        if Path(file).is_absolute() or ".." in Path(file).parts or not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{file!r} leads out of {folder}; only files inside are read")
        path.is_file()
    except (OSError, RuntimeError, ValueError):  # a ring of links, a NUL, more letters than a name may have
        raise UserError(f"{file!r} is no file's name") from None
    return path


def read_video(path: Path) -> Video:
    """Decode a video, or an image as one frame. Raises UserError where the file cannot be read."""
    if not os.path.isfile(path):  # which takes names of any length
        raise UserError(f"{path} is not there")
    if path.suffix.lower() in IMAGES:
        return Video(_read_image(path)[None], None)
    with _opened(path) as (container, stream):
        fps = _stated_fps(container, stream)
        frames: list[np.ndarray] = []
        for frame in container.decode(stream):
            _check_size(path, frame.width, frame.height, MOST_IN_FRAME)
            if (len(frames) + 1) * frame.width * frame.height * 3 > MOST_BYTES:
                raise UserError(f"{path} holds more than {MOST_BYTES / 1e9:.2g} GB of frames")
            frames.append(frame.to_ndarray(format="rgb24"))
    if not frames:
        raise UserError(f"{path} holds no frame")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path} changes its size from frame to frame")
    stacked = np.empty((len(frames), *frames[0].shape), np.uint8)
    for i in range(len(frames)):
        stacked[i], frames[i] = frames[i], stacked[i]  # what is copied is let go: no two copies of a clip
    return Video(stacked, fps)


def _read_image(path: Path) -> np.ndarray:
    """Decode an image, uint8 (H, W, 3), RGB, upright; 16 bits of grey become their upper 8, what is transparent loses
    that. By Pillow, which asks for no more memory than the picture takes, whatever a file's chunks claim. Raises
    UserError where it cannot be read or is of a size that is not read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, *image.size, MOST_IN_IMAGE)
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I;16"):
                    upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                return np.asarray(upright.convert("RGB"))
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is refused: {error}") from None
    except Exception:  # whatever a damaged file makes Pillow raise
        raise UserError(f"{path} is not a readable image") from None


def _check_size(path: Path, width: int, height: int, most: int) -> None:
    """Raises UserError for a picture of a size that is not read."""
    if min(width, height) < LEAST_SIDE:
        wrong = f"a side under {LEAST_SIDE}"
    elif max(width, height) > MOST_ASPECT * min(width, height):
        wrong = f"one side over {MOST_ASPECT} times the other"
    elif width * height > most:
        wrong = f"more than {most / 1e6:.0f} million pixels"
    else:
        return
    raise UserError(f"{path} is refused: it is {width} x {height}, {wrong}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its first stream of pictures. Raises UserError where it, or what is done with it, fails."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError(f"{path} is of a codec that FFmpeg does not know")
            yield container, stream
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable video ({getattr(error, 'strerror', None) or error})") from None


def _stated_fps(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """The frame rate that a file states; None for a bare stream without times, for which FFmpeg invents one."""
    bare = Flags(container.format.flags) & Flags.no_timestamps
    return None if bare else stream.average_rate or None


def contact_sheet(clips: Sequence[np.ndarray], columns: int, gap: int = 2, scale: int = 1) -> np.ndarray:
    """One row of `columns` evenly spaced frames for each clip uint8 (F, H, W, 3), on white: uint8 (H', W', 3)."""
    rows = []
    for clip in clips:
        picked = clip[np.linspace(0, len(clip) - 1, columns).round().astype(int)]
        picked = picked.repeat(scale, axis=1).repeat(scale, axis=2)
        padded = np.pad(picked, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(padded), axis=1)[:, : -gap or None])
    return np.concatenate(rows)[: -gap or None]


def codec_record(codec: Codec = CODEC) -> dict[str, object]:
    """The codec's settings, for provenance."""
    return {name: value for name, value in asdict(codec).items() if value is not None}


def _check(pixels: np.ndarray, ndim: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != ndim or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"expected non-empty uint8 with {ndim} axes, the last of 3, got {pixels.dtype} {pixels.shape}")
