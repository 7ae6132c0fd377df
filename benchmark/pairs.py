"""The metrics over the pairs of a prompt's images, each through a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import metrics
from .features import weights
from .features.image import ImageEncoder, ImageNetwork, PairDistance
from .features.sprites import SpritesEncoder

#: Each metric and the network whose weights it needs.
NETWORKS = {"dinov3_similarity": "dinov3", "lpips": "lpips_trunk"}


@dataclass(frozen=True)
class PairMetric:
    """A mean over the pairs of a prompt's images, uint8 (n, H, W, 3), through a network; of one domain only,
    where it names one."""

    name: str
    network: ImageNetwork
    of: Callable[[np.ndarray], float]
    domain: str | None = None


def similarity(name: str, encoder: ImageEncoder) -> PairMetric:
    """Mean cosine of an encoder's embeddings."""
    return PairMetric(name, encoder, lambda images: metrics.pair_mean(metrics.cosines(encoder.embed(images))))


def distance(name: str, network: PairDistance) -> PairMetric:
    """Mean distance by a network that compares images itself."""
    return PairMetric(name, network, lambda images: metrics.pair_mean(network.distances(images)))


def pair_metrics(given: Mapping[str, Path], device: str) -> list[PairMetric]:
    """The metrics of every network whose weights are given or cached. Raises UserError for bad ones.

    A further encoder is a line here and one in `result.KINDS`; see `sprites_metrics` for one of one domain.
    """
    pairs = []
    if path := weights.find("dinov3", given):
        from .features.dinov3 import Dinov3  # timm and torchvision are slow to import, and only needed here

        pairs.append(similarity("dinov3_similarity", Dinov3(path, device)))
    if path := weights.find("lpips_trunk", given):
        from .features.lpips import Lpips

        pairs.append(distance("lpips", Lpips(path, device)))
    return pairs


def sprites_metrics(encoder: SpritesEncoder) -> list[PairMetric]:
    """The metrics of the embedded world's own encoder."""
    pairs = similarity("sprites_similarity", encoder), distance("sprites_distance", encoder)
    return [replace(pair, domain="sprites") for pair in pairs]
