"""OpenCV's dense inverse search flow (Kroeger et al., ECCV 2016), kept only where both frames bear it out.

DIS alone nearly doubles the mean flow of an object on still ground: its patches straddle the outline and
carry the object's motion out into the ground. Three steps undo that, none of them fitted to a scale:

1. DIS down to the finest scale, forward and backward, on the upscaled frames.
2. Evidence, per pixel of the original frames, in each direction: the flow is kept where the frame that it
   points into explains the pixel's luma better than standing still does, by more than NOISE_FLOOR; a 3 x 3
   majority then overrules single pixels. Luma, because 4:2:0 video blurs chroma across outlines.
3. Agreement: the flow is kept where the backward flow at its end undoes it to within AGREEMENT of its
   length (forward-backward consistency, as in Sundaram et al., ECCV 2010). That drops the ground which
   an object is about to cover.

What is not kept is zero. So flow on a surface without any texture counts as none, and the estimator is
for what moves against a ground; `python -m pdmd.benchmark.calibrate_dis` measures its error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from .flow import PairFlow, upscale, upscale_factor, upscale_label

NOISE_FLOOR = 0.5  # levels of 255: what rounding to 8 bits can do
AGREEMENT = 0.5  # share of the flow's length
PATCH_SIZE, PATCH_STRIDE = 8, 5  # pixels of the upscaled frame
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601


@dataclass(frozen=True)
class Dis:
    """The estimator behind `optical_flow_dis` and `dynamic_degree_dis`."""

    suffix: str = "_dis"

    def label(self, height: int, width: int) -> str:
        return upscale_label("OpenCV DIS with evidence and agreement tests (dis-1)", height, width)

    def provenance(self) -> dict[str, Any]:
        return {
            "name": "dis-1",
            "opencv": cv2.__version__,
            "preset": "FAST",
            "finest_scale": 0,
            "patch_size": PATCH_SIZE,
            "patch_stride": PATCH_STRIDE,
            "variational_refinement": 0,
            "noise_floor": NOISE_FLOOR,
            "agreement": AGREEMENT,
        }

    def comparable(self) -> bool:
        return False

    @cached_property
    def _dis(self) -> Any:
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        dis.setFinestScale(0)
        dis.setPatchSize(PATCH_SIZE)
        dis.setPatchStride(PATCH_STRIDE)
        dis.setVariationalRefinementIterations(0)
        return dis

    def pairs(self, video: np.ndarray, interval: int = 1) -> Iterator[PairFlow]:
        for stride in sorted({1, interval}):
            for flow in self._consecutive(video[::stride]):
                yield PairFlow(flow, flow, stride)

    def _consecutive(self, video: np.ndarray) -> Iterator[np.ndarray]:
        factor = upscale_factor(*video.shape[1:3])
        before = None
        for frame in video:
            luma, large = frame @ LUMA, cv2.cvtColor(upscale(frame, factor), cv2.COLOR_RGB2GRAY)
            if before is not None:
                there = shrink(self._dis.calc(before[1], large, None), factor)
                back = shrink(self._dis.calc(large, before[1], None), factor)
                yield supported(there, back, before[0], luma)
            before = luma, large


def shrink(flow: np.ndarray, factor: int) -> np.ndarray:
    """Flow (kH, kW, 2) in pixels of frames upscaled k times -> (H, W, 2) in pixels of the original."""
    if factor == 1:
        return flow
    return cv2.resize(flow, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA) / factor


def supported(there: np.ndarray, back: np.ndarray, luma0: np.ndarray, luma1: np.ndarray) -> np.ndarray:
    """The forward flow where evidence and agreement hold, zero elsewhere (steps 2 and 3 above).

    `there` and `back` (H, W, 2) in pixels are the flows of frame 0 to 1 and 1 to 0; luma (H, W) float32.
    """
    there = there * evident(there, luma0, luma1)[..., None]
    back = back * evident(back, luma1, luma0)[..., None]
    error = np.linalg.norm(there + warp(back, there, cv2.INTER_LINEAR), axis=-1)
    return there * (error < AGREEMENT * np.linalg.norm(there, axis=-1))[..., None]


def evident(flow: np.ndarray, luma0: np.ndarray, luma1: np.ndarray) -> np.ndarray:
    """Where moving explains the pixel better than standing still: |I1(x+u) - I0(x)| + floor < |I1(x) - I0(x)|,
    by 3 x 3 majority. Boolean (H, W)."""
    moved = abs(warp(luma1, flow, cv2.INTER_CUBIC) - luma0)
    better = moved + NOISE_FLOOR < abs(luma1 - luma0)
    return cv2.medianBlur(better.astype(np.uint8), 3) > 0


def warp(image: np.ndarray, flow: np.ndarray, interpolation: int) -> np.ndarray:
    """Image (H, W) or (H, W, C) sampled at x + u; beyond the frame, its border."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], interpolation, borderMode=cv2.BORDER_REPLICATE)
