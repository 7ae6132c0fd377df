"""What the networks that look at images share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class ImageNetwork(Protocol):
    """A network behind a diversity metric."""

    def label(self, height: int, width: int) -> str:
        """Its full name for images of this size: architecture, weights, preprocessing."""

    def provenance(self) -> dict[str, Any]:
        """Versions, settings and weights, JSON-able."""

    def comparable(self) -> bool:
        """Whether it is the default network, with weights known by their hash."""


class ImageEncoder(ImageNetwork, Protocol):
    """A network that maps an image to a vector; any one makes a similarity."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """float32 (n, d) of length one, of uint8 (n, H, W, 3)."""


class PairDistance(ImageNetwork, Protocol):
    """A network that compares images directly."""

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Symmetric float64 (n, n), zero on the diagonal, of uint8 (n, H, W, 3)."""


def check_images(images: np.ndarray) -> np.ndarray:
    """The images in one piece, where they are uint8 (n, H, W, 3); raises ValueError for others, such as [0, 1]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"expected uint8 images (n, H, W, 3), 0 to 255, got {images.dtype} {images.shape}")
    return np.ascontiguousarray(images)
