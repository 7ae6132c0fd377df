"""The embedded world's own encoder (`pdmd.sprites.encoder`), behind `sprites_similarity`, `sprites_distance` and
`frechet_sprites`. Its weights ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pdmd.files import sha256
from pdmd.sprites import encoder, world

from .image import check_images

MOMENTS = 5  # of a clip that are embedded
SEEN = encoder.EMBEDDING + encoder.DAMAGES  # numbers of a frame in `clip`


class SpritesEncoder:
    """The encoder on 8-bit frames of the world's own size."""

    def __init__(self, path: Path = encoder.WEIGHTS, device: str = "cpu") -> None:
        self.path, self.digest, self.device = path, sha256(path), device
        self.net = encoder.load(path).to(device)

    def label(self, height: int, width: int) -> str:
        return f"sprites encoder (weights {self.digest[:8]})"

    def provenance(self) -> dict[str, Any]:
        return {
            "network": "pdmd.sprites.encoder",
            "weights": str(self.path),
            "sha256": self.digest,
            "device": self.device,
        }

    def comparable(self) -> bool:
        return False

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        """float32 (n, 3, H, W) in [-1, 1]. Raises ValueError for other images than the world's."""
        height, width = check_images(images).shape[1:3]
        if (height, width) != (world.SIZE, world.SIZE):
            raise ValueError(f"the sprites encoder takes {world.SIZE}x{world.SIZE} images, these are {width}x{height}")
        return torch.from_numpy(check_images(images)).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """float32 (n, d) of length one, of uint8 (n, H, W, 3)."""
        return F.normalize(self.net(self._pixels(images)), dim=-1).cpu().numpy()

    @torch.no_grad()
    def distances(self, images: np.ndarray) -> np.ndarray:
        """Symmetric float64 (n, n), zero on the diagonal, of uint8 (n, H, W, 3): `Encoder.distances`."""
        return self.net.distances(self._pixels(images)).cpu().numpy()

    @torch.no_grad()
    def clip(self, frames: np.ndarray) -> np.ndarray:
        """One clip or image, uint8 (F, H, W, 3) -> float32 (3 SEEN): what is seen, where it goes, how that turns.

        Of five evenly spaced frames, y_0 to y_4, each its embedding and the damages read from that: their mean,
        y_4 - y_0, and y_2 - (y_0 + y_4) / 2. The last two are zero for an image.
        """
        at = np.linspace(0, len(frames) - 1, MOMENTS).round().astype(int)
        shown, place = np.unique(at, return_inverse=True)
        z = self.net(self._pixels(frames[shown]))
        damages = self.net.read(z)[1][:, encoder.PLACES :]
        y = torch.cat([z, damages], dim=1).cpu().numpy()[place]
        return np.concatenate([y.mean(0), y[4] - y[0], y[2] - (y[0] + y[4]) / 2])
