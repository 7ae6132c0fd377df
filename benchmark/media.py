"""Video and image files to arrays and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from pdmd.errors import UserError
from pdmd.files import write_bytes, write_whole


@dataclass(frozen=True)
class Codec:
    """How videos are written. One thread, so that the number of cores does not change the bytes."""

    codec: str = "libx264"
    crf: int = 12
    pix_fmt: str = "yuv420p"
    preset: str = "veryfast"
    threads: int = 1


CODEC = Codec()


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
    """Write uint8 (F, H, W, 3) as H.264 in MP4 at exactly `fps`, whole or not at all.

    Raises UserError for sides that 4:2:0 cannot hold (odd ones), and where the disk refuses.
    """
    _check(frames, 4)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise UserError(f"cannot write {path}: H.264 needs even sides, the frames are {width} x {height}")

    def write(part: Path) -> None:
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=as_fraction(fps))
            stream.width, stream.height, stream.pix_fmt = width, height, codec.pix_fmt
            stream.options = {"crf": str(codec.crf), "preset": codec.preset, "threads": str(codec.threads)}
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


def inside(folder: Path, file: str) -> Path:
    """The path of a file that a manifest names. Raises UserError for a name that leads out of the folder: by "..",
    from the root, or through a link."""
    path = folder / file
    try:
        if Path(file).is_absolute() or ".." in Path(file).parts or not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{file!r} leads out of {folder}; only files inside are read")
    except (OSError, RuntimeError, ValueError):  # a ring of links, a NUL
        raise UserError(f"{file!r} is no file's name") from None
    return path


def read_video(path: Path) -> Video:
    """Decode a video, or an image as one frame. Raises UserError where the file cannot be read."""
    if not path.is_file():
        raise UserError(f"{path} is not there")
    if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"{path} is not a readable image")
        return Video(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None], None)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video")
            stream = container.streams.video[0]
            fps = stream.average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror or error})") from None
    if not frames:
        raise UserError(f"{path} holds no frame")
    return Video(np.stack(frames), fps or None)


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
    return asdict(codec)


def _check(pixels: np.ndarray, ndim: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != ndim or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(f"expected non-empty uint8 with {ndim} axes, the last of 3, got {pixels.dtype} {pixels.shape}")
