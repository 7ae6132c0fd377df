"""RAFT-large (Teed and Deng, ECCV 2020) as VBench runs it, on torchvision's network.

VBench's `raft-things.pth` and torchvision's `raft_large` with C_T_V1 weights are one training of one
network; either file is accepted. Input in [-1, 1], padded by replication to a multiple of 8, 20 iterations.
Two savings that leave the result as it is: each frame is encoded once, and the mask head runs after the
last iteration alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow

from pdmd.errors import UserError

from ..files import sha256
from .flow import PairFlow, upscale, upscale_factor, upscale_label

ITERATIONS = 20
PAIR_BYTES = 2**29  # of correlation volumes held at a time; sets how many pairs run together
RAFT_THINGS_SHA256 = "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"
WEIGHTS_HELP = "give --weights raft=FILE with torchvision's raft_large_C_T_V1-22a6c225.pth or VBench's raft-things.pth"

#: RAFT's own module names -> torchvision's, in order of application.
_RENAMES = (
    (r"^module\.", ""),
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"(encoder\.layer\d\.\d)\.(conv|norm)([12])\.", lambda m: f"{m[1]}.convnormrelu{m[3]}.{int(m[2] == 'norm')}."),
    (r"encoder\.conv1\.", "encoder.convnormrelu.0."),
    (r"encoder\.norm1\.", "encoder.convnormrelu.1."),
    (r"encoder\.conv2\.", "encoder.conv."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.gru\.conv([zrq])([12])\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


def from_raft_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict under princeton-vl/RAFT's names -> the same tensors under torchvision's.

    The norm of a residual shortcut is stored twice there (norm3 and downsample.1); one is kept.
    """
    renamed = {}
    for name, tensor in state.items():
        if ".norm3." in name:
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict under torchvision's names, and what the file's hash says it is.

    Nothing is unpickled but tensors. Raises UserError for a file that is not RAFT-large weights, one whose
    name promises another hash, and weights of another training.
    """
    if not path.is_file():
        raise UserError(f"RAFT weights: no file {path}; {WEIGHTS_HELP}")
    digest = sha256(path)
    promised = re.search(r"-([0-9a-f]{8})\.(pth|safetensors)$", path.name)
    if promised and not digest.startswith(promised[1]):
        raise UserError(
            f"RAFT weights: {path} is damaged (its sha256 starts {digest[:8]}, not {promised[1]}); fetch it again"
        )
    known = {re.sub(r".*-([0-9a-f]{8})\.pth$", r"\1", w.url): w.name for w in Raft_Large_Weights}
    training = "C_T_V1" if digest == RAFT_THINGS_SHA256 else known.get(digest[:8], "unrecognised")
    if training not in ("C_T_V1", "unrecognised"):
        raise UserError(f"RAFT weights: {path} is {training}, another training than the metric's; {WEIGHTS_HELP}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if any(name.removeprefix("module.").startswith("fnet.") for name in state):
            state = from_raft_names(state)
        return _as_expected(state), training
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"RAFT weights: {path} does not hold RAFT-large ({reason[:120]}); {WEIGHTS_HELP}") from None


def _as_expected(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict, checked name by name; batch counters, which old files lack, are filled in."""
    with torch.device("meta"):
        expected = raft_large(weights=None).state_dict()
    state = dict(state)
    for name, tensor in expected.items():
        if name not in state and name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.int64)
        elif name not in state:
            raise ValueError(f"it has no {name}")
        elif state[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
        state[name] = state[name].to(tensor.dtype)
    if extra := set(state) - set(expected):
        raise ValueError(f"unknown tensor {min(extra)}")
    return state


class Raft:
    """The estimator behind `optical_flow` and `dynamic_degree`."""

    suffix = ""

    def __init__(self, weights: Path, device: str = "cpu", iterations: int = ITERATIONS) -> None:
        state, self.training = load_weights(weights)
        self.weights, self.digest, self.device, self.iterations = weights, sha256(weights), device, iterations
        with torch.device("meta"):  # no random numbers are drawn
            net = raft_large(weights=None)
        net.load_state_dict(state, assign=True)
        self.net = net.to(device).eval().requires_grad_(False)

    def label(self, height: int, width: int) -> str:
        name = "C_T_V1" if self.comparable() else f"weights {self.digest[:8]}"
        return upscale_label(f"RAFT-large {name}, {self.iterations} iterations", height, width)

    def provenance(self) -> dict[str, Any]:
        return {
            "name": "raft_large",
            "weights": str(self.weights),
            "sha256": self.digest,
            "training": self.training,
            "iterations": self.iterations,
            "device": self.device,
        }

    def comparable(self) -> bool:
        return self.training == "C_T_V1"

    def pairs(self, video: np.ndarray) -> Iterator[PairFlow]:
        height, width = video.shape[1:3]
        factor = upscale_factor(height, width)
        left, right, top, bottom = padding(height * factor, width * factor)
        cells = (height * factor + top + bottom) * (width * factor + left + right) // 64
        batch = max(1, PAIR_BYTES // (4 * cells * cells * 4 // 3))

        def prepared(frames: np.ndarray) -> torch.Tensor:
            large = np.stack([upscale(frame, factor) for frame in frames])
            x = torch.from_numpy(large).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return F.pad(x, (left, right, top, bottom), mode="replicate")

        image = prepared(video[:1])
        feature = self.encode(image)
        for start in range(1, len(video), batch):
            images = torch.cat([image, prepared(video[start : start + batch])])
            features = torch.cat([feature, self.encode(images[1:])])
            flows = self.flow(images[:-1], features[:-1], features[1:]).permute(0, 2, 3, 1).cpu().numpy() / factor
            for padded in flows:
                yield PairFlow(padded[top : len(padded) - bottom, left : padded.shape[1] - right], padded)
            image, feature = images[-1:], features[-1:]

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Matching features (n, 256, H / 8, W / 8) of (n, 3, H, W) in [-1, 1]."""
        return self.net.feature_encoder(images)

    @torch.no_grad()
    def flow(self, images: torch.Tensor, features0: torch.Tensor, features1: torch.Tensor) -> torch.Tensor:
        """Flow (n, 2, H, W) from `images` (n, 3, H, W) to the next, whose features are `features1`:
        torchvision's RAFT.forward after its encoder, upsampling once, at the end."""
        net = self.net
        net.corr_block.build_pyramid(features0, features1)
        hidden, context = net.context_encoder(images).split(net.update_block.hidden_state_size, dim=1)
        hidden, context = torch.tanh(hidden), torch.relu(context)
        n, _, h, w = hidden.shape
        grid = make_coords_grid(n, h, w, device=str(images.device))
        x = grid
        for _ in range(self.iterations):
            correlation = net.corr_block.index_pyramid(centroids_coords=x)
            hidden, delta = net.update_block(hidden, context, correlation, x - grid)
            x = x + delta
        return upsample_flow(flow=x - grid, up_mask=net.mask_predictor(hidden))


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom that reach a multiple of 8, as RAFT's InputPadder splits them."""
    across, down = -width % 8, -height % 8
    return across // 2, across - across // 2, down // 2, down - down // 2
