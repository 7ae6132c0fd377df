"""What the optical-flow estimators share: the upscale rule and what they yield."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

#: RAFT's correlation pyramid degenerates below this side, in pixels.
MIN_SIDE = 128


@dataclass(frozen=True)
class PairFlow:
    """The flow from one frame to the next, float32, in pixels of the original frames.

    `flow` (H', W', 2) covers the frame; `padded` (H'', W'', 2) is the field with the estimator's own
    padding still on, which is what VBench scores. Both may be upscaled in extent, never in units. `stride`
    is how many frames the pair spans.
    """

    flow: np.ndarray
    padded: np.ndarray
    stride: int = 1


class FlowEstimator(Protocol):
    """An optical-flow estimator. `suffix` is joined to the names of the metrics that it serves."""

    @property
    def suffix(self) -> str: ...

    def label(self, height: int, width: int) -> str:
        """The estimator's full name for frames of this size."""

    def provenance(self) -> dict[str, Any]:
        """Versions, settings and weights, JSON-able."""

    def comparable(self) -> bool:
        """Whether it is the paper's estimator, with weights known by their hash."""

    def pairs(self, video: np.ndarray, interval: int = 1) -> Iterator[PairFlow]:
        """Flow of each frame of uint8 (F, H, W, 3) to the next and, for an interval over 1, of every interval-th
        frame to the next such one, one pair at a time, told apart by `stride`; in the order of time within each."""


def pair_indices(frames: int, interval: int = 1) -> list[tuple[int, int]]:
    """The pairs that optical flow and VBench's dynamic degree want of so many frames: each frame and the next;
    for an interval over 1, also every interval-th frame and the next such one. By later frame, then by earlier."""
    pairs = {(i, i + 1) for i in range(frames - 1)} | {(i, i + interval) for i in range(0, frames - interval, interval)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def upscale_factor(height: int, width: int) -> int:
    """The smallest integer factor that brings both sides to MIN_SIDE or more; 1 where they are."""
    return max(1, -(-MIN_SIDE // min(height, width)))


def upscale(frame: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge (H, W, C) by an integer factor, bicubic."""
    if factor == 1:
        return frame
    return cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def upscale_label(name: str, height: int, width: int) -> str:
    """The estimator's name, which says so where frames are upscaled first."""
    factor = upscale_factor(height, width)
    return name if factor == 1 else f"{name}, frames upscaled x{factor} (cubic)"
