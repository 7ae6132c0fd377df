"""LPIPS 0.1 (Zhang et al., CVPR 2018) between all pairs of images, by the `lpips` package's own modules.

The package compares two images at a time and runs its trunk on both: 56 passes for the 28 pairs of eight
images. Here the trunk runs once an image, layer by layer, and the pairs are formed from its features: the
same numbers from eight passes. The linear heads ship with the package; the trunk's ImageNet weights do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch

from .image import check_images
from .weights import SOURCES, check, read, refused

VERSION = "0.1"
TRUNKS = {"alex": "AlexNet", "vgg": "VGG-16"}
#: torchvision's ImageNet weights, by the start of their sha256, which their file names carry.
RELEASED = {"7be5be79": "alex", "397923af": "vgg"}
LEAST_SIDE = 32  # pixels; under it AlexNet's last layers have no extent


def load_network(trunk: str, tensors: Mapping[str, torch.Tensor]) -> lpips.LPIPS:
    """The package's network with its own heads and the trunk's convolutions from a torchvision state dict.

    Built without random numbers and without a download; ValueError where the tensors are another network's.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the package calls torchvision in an old way
        net = lpips.LPIPS(net=trunk, version=VERSION, pretrained=False, pnet_rand=True, verbose=False)
    heads = Path(lpips.__file__).parent / "weights" / f"v{VERSION}" / f"{trunk}.pth"
    net.load_state_dict(torch.load(heads, map_location="cpu", weights_only=True), strict=False, assign=True)
    names = {f"features.{name.split('.', 1)[1]}": name for name in net.net.state_dict()}  # slice1.0.bias: features.0
    convolutions = {name: t for name, t in tensors.items() if not name.startswith("classifier.")}
    check(convolutions, {name: net.net.state_dict()[own] for name, own in names.items()})
    net.net.load_state_dict({own: convolutions[name].float() for name, own in names.items()}, assign=True)
    return net.eval().requires_grad_(False)


class Lpips:
    """The network behind `lpips`: on AlexNet, or on VGG where a VGG's weights are given."""

    def __init__(self, trunk_weights: Path, device: str = "cpu") -> None:
        takes = SOURCES["lpips_trunk"].takes
        weights = read(trunk_weights, "LPIPS trunk", takes)
        self.path, self.digest, self.device = weights.path, weights.sha256, device
        first = weights.tensors.get("features.0.weight")
        self.trunk = "vgg" if first is not None and first.shape[-1] == 3 else "alex"
        try:
            self.net = load_network(self.trunk, weights.tensors).to(device)
        except ValueError as error:
            raise refused(weights.path, "LPIPS trunk", takes, error) from None

    def label(self, height: int, width: int) -> str:
        trunk = "ImageNet" if self._released() else f"weights {self.digest[:8]}"
        return f"LPIPS {VERSION}, {TRUNKS[self.trunk]} ({trunk}), at {width}x{height}"

    def provenance(self) -> dict[str, Any]:
        return {
            "name": "lpips",
            "package": version("lpips"),
            "version": VERSION,
            "trunk": self.trunk,
            "trunk_weights": str(self.path),
            "sha256": self.digest,
            "device": self.device,
        }

    def comparable(self) -> bool:
        return self._released() and self.trunk == "alex"

    def _released(self) -> bool:
        return RELEASED.get(self.digest[:8]) == self.trunk

    @torch.no_grad()
    def distances(self, images: np.ndarray) -> np.ndarray:
        """LPIPS of every pair of uint8 (n, H, W, 3): symmetric float64 (n, n), zero on the diagonal.

        Per layer, the features y of an image have length one over channels; a pair scores the mean over
        space of head((y_i - y_j)^2); layers add up. Images are scaled to [-1, 1], never resized. Raises
        ValueError for anything but uint8, since [0, 1] would score three to five times too low without an
        error, and for a side under LEAST_SIDE.
        """
        images = check_images(images)
        height, width = images.shape[1:3]
        if min(height, width) < LEAST_SIDE:
            raise ValueError(f"LPIPS needs at least {LEAST_SIDE} pixels a side, the images are {width}x{height}")
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        total = torch.zeros(len(x), len(x), dtype=torch.float64, device=self.device)
        h = self.net.scaling_layer(x)
        for k, head in enumerate(self.net.lins, start=1):
            layer = getattr(self.net.net, f"slice{k}")
            h = torch.cat([layer(image) for image in h.split(1)])  # singly: one layer of one image is the peak
            y = lpips.normalize_tensor(h)
            for i in range(len(y) - 1):
                scores = head((y[i] - y[i + 1 :]) ** 2).mean((1, 2, 3)).double()
                total[i, i + 1 :] += scores
                total[i + 1 :, i] += scores
        return total.cpu().numpy()
