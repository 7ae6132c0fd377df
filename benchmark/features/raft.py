"""RAFT-large (Teed and Deng, ECCV 2020) as VBench runs it, on torchvision's network.

VBench's `raft-things.pth` and torchvision's `raft_large` with C_T_V1 weights are one training of one
network; either file is accepted. Input in [-1, 1], padded by replication to a multiple of 8, 20 iterations.
Savings that leave the result as it is, to rounding: each frame goes through each encoder once, whatever the
pairs that it is in; pairs run together; what the recurrent units make of the context, which is a third of their input
and the same in every iteration, is computed once a pair; the mask head runs after the last iteration alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow

from pdmd.errors import UserError

from .flow import PairFlow, pair_indices, upscale, upscale_factor, upscale_label
from .gru import split
from .weights import SOURCES, Weights, check, read, refused

ITERATIONS = 20
CONTEXT = 128  # channels of the context encoder's output beside the hidden state's
BATCH_BYTES = 2**30  # aimed at for the pairs that run together; one pair may take more
CELL_BYTES = 40_000  # that activations take per pair and 8 x 8 cell, beside its correlation volumes; measured
RAFT_THINGS_SHA256 = "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"

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


def load_weights(path: Path) -> tuple[Weights, str]:
    """The weights under torchvision's names, and what the file's hash says they are.

    Batch counters, which old files lack, are filled in. Nothing is unpickled but tensors. Raises UserError for
    a file that is not RAFT-large weights, one whose name promises another hash, and weights of another training.
    """
    takes = SOURCES["raft"].takes
    weights = read(path, "RAFT-large", takes)
    known = {re.sub(r".*-([0-9a-f]{8})\.pth$", r"\1", w.url): w.name for w in Raft_Large_Weights}
    training = "C_T_V1" if weights.sha256 == RAFT_THINGS_SHA256 else known.get(weights.sha256[:8], "unrecognised")
    if training not in ("C_T_V1", "unrecognised"):
        raise UserError(
            f"RAFT-large weights: {weights.path} is {training}, another training than the metric's; it takes {takes}"
        )
    tensors = weights.tensors
    if any(name.removeprefix("module.").startswith("fnet.") for name in tensors):
        tensors = from_raft_names(tensors)
    with torch.device("meta"):
        expected = raft_large(weights=None).state_dict()
    counters = {n: torch.zeros((), dtype=torch.int64) for n in expected if n.endswith("num_batches_tracked")}
    tensors = counters | tensors
    try:
        check(tensors, expected)
    except ValueError as error:
        raise refused(weights.path, "RAFT-large", takes, error) from None
    return replace(weights, tensors={name: t.to(expected[name].dtype) for name, t in tensors.items()}), training


class Raft:
    """The estimator behind `optical_flow` and `dynamic_degree`."""

    suffix = ""

    def __init__(self, weights: Path, device: str = "cpu", iterations: int = ITERATIONS) -> None:
        held, self.training = load_weights(weights)
        self.weights, self.digest, self.device, self.iterations = held.path, held.sha256, device, iterations
        with torch.device("meta"):  # no random numbers are drawn
            net = raft_large(weights=None)
        net.load_state_dict(held.tensors, assign=True)
        self.net = net.to(device).eval().requires_grad_(False)
        block = net.update_block.recurrent_block
        self.grus = [split(gru, CONTEXT) for gru in (block.convgru1, block.convgru2)]

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

    def pairs(self, video: np.ndarray, interval: int = 1) -> Iterator[PairFlow]:
        """As FlowEstimator says, in the order of each pair's later frame. Holds about BATCH_BYTES and the
        encoded frames that the pairs at hand want, however long the video."""
        height, width = video.shape[1:3]
        factor = upscale_factor(height, width)
        left, right, top, bottom = padding(height * factor, width * factor)
        cells = (height * factor + top + bottom) * (width * factor + left + right) // 64
        batch = max(1, BATCH_BYTES // (cells * (CELL_BYTES + 4 * cells * 4 // 3)))
        wanted = pair_indices(len(video), interval)
        features: dict[int, torch.Tensor] = {}
        contexts: dict[int, torch.Tensor] = {}
        for start in range(0, len(wanted), batch):
            firsts, seconds = zip(*wanted[start : start + batch], strict=True)
            for encoder, held, frames in (
                (self.net.feature_encoder, features, firsts + seconds),
                (self.net.context_encoder, contexts, firsts),
            ):
                if new := sorted(set(frames) - set(held)):
                    encoded = encoder(prepared(video[new], factor).to(self.device))
                    held |= zip(new, encoded, strict=True)
            flows = self.flow(_stack(features, firsts), _stack(features, seconds), _stack(contexts, firsts))
            for i, j, padded in zip(firsts, seconds, flows.permute(0, 2, 3, 1).cpu().numpy() / factor, strict=True):
                inner = padded[top : len(padded) - bottom, left : padded.shape[1] - right]
                yield PairFlow(inner, padded, stride=j - i)
            needed = {i for pair in wanted[start + batch :] for i in pair}
            features, contexts = ({i: held[i].clone() for i in held.keys() & needed} for held in (features, contexts))

    def flow(self, features0: torch.Tensor, features1: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Flow (n, 2, H, W) in pixels between frames whose matching features are `features0` and `features1`,
        both (n, 256, H / 8, W / 8), the context encoder's output for the former being `contexts` (likewise):
        torchvision's RAFT.forward after its encoders, upsampling once, at the end."""
        net = self.net
        net.corr_block.build_pyramid(features0, features1)
        hidden, context = contexts.split(net.update_block.hidden_state_size, dim=1)
        hidden, context = torch.tanh(hidden), torch.relu(context)
        of_context = [gru.of_context(context) for gru in self.grus]
        n, _, h, w = hidden.shape
        grid = make_coords_grid(n, h, w, device=str(hidden.device))
        x = grid
        for _ in range(self.iterations):
            correlation = net.corr_block.index_pyramid(centroids_coords=x)
            motion = net.update_block.motion_encoder(x - grid, correlation)
            for gru, fixed in zip(self.grus, of_context, strict=True):
                hidden = gru.step(hidden, motion, fixed)
            x = x + net.update_block.flow_head(hidden)
        return upsample_flow(flow=x - grid, up_mask=net.mask_predictor(hidden))


def prepared(frames: np.ndarray, factor: int) -> torch.Tensor:
    """Frames uint8 (n, H, W, 3) as the network takes them: upscaled, in [-1, 1], padded to a multiple of 8 by
    replication, (n, 3, H', W'); the arithmetic of RAFT's own scaling, whose rounding it shares."""
    large = np.stack([upscale(frame, factor) for frame in frames])
    x = 2 * (torch.from_numpy(large).permute(0, 3, 1, 2).float() / 255) - 1
    return F.pad(x, padding(*x.shape[2:]), mode="replicate")


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom that reach a multiple of 8, as RAFT's InputPadder splits them."""
    across, down = -width % 8, -height % 8
    return across // 2, across - across // 2, down // 2, down - down // 2


def _stack(held: Mapping[int, torch.Tensor], frames: Iterable[int]) -> torch.Tensor:
    return torch.stack([held[i] for i in frames])
