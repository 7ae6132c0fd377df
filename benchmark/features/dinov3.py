"""DINOv3 (Siméoni et al., arXiv 2508.10104) image embeddings through timm: ViT-S/16, ViT-B/16 or ViT-L/16.

The embedding is the CLS token after the final norm: `pooler_output` in transformers, `global_pool="token"` in
timm. Three formats of weights are read: timm's, transformers' (a folder of the hub) and Meta's own file.
Positions are timm's and transformers': RoPE periods in float32, where Meta's code has them rounded to bfloat16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from .image import check_images
from .weights import SOURCES, check, read, refused

#: The preprocessing of Meta's README; raise the version with any change to `preprocess`.
PREPROCESSING = "prep-1: whole frame to 256x256, bilinear, antialiased"
SIDE = 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BATCH = 8  # images at a time
#: (width, blocks) -> name.
SIZES = {(384, 12): "small", (768, 12): "base", (1024, 24): "large"}
#: The LVD-1689M releases, by the start of their sha256: Meta's files carry it in their names (facebookresearch/
#: dinov3, dinov3/hub/backbones.py); timm's and transformers' copies have it on their hub pages.
RELEASED = {
    "08c60483": "small",
    "73cec8be": "base",
    "8aa4cbdd": "large",
    "2a1ec16a": "small",  # timm/vit_small_patch16_dinov3.lvd1689m
    "45172f20": "large",  # timm/vit_large_patch16_dinov3.lvd1689m
    "dcb2e451": "large",  # facebook/dinov3-vitl16-pretrain-lvd1689m
}
#: Other formats' names -> timm's, in order of application; the joint qkv follows in `to_timm`.
_RENAMES = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.register_tokens$|^storage_tokens$", "reg_token"),
    (r"^embeddings\.", ""),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.", ".attn."),
    (r"\.attn\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$|\.ls(\d)\.gamma$", lambda m: f".gamma_{m[1] or m[2]}"),
)
#: What only training uses, or what timm computes itself.
_UNUSED = re.compile(r"mask_token$|^rope_embed\.periods$|\.bias_mask$")


def to_timm(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of any of the three formats under timm's names, float32.

    The bias of the keys is no parameter in any of them: Meta's file has it masked. Biases of queries and
    values are kept where the file has them (the released ones are zero, and timm's files leave them out).
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if _UNUSED.search(name):
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.float()
    for name in [name for name in state if name.endswith("attn.qkv.bias")]:
        q, _, v = state.pop(name).chunk(3)
        state[name.replace("qkv.bias", "q_bias")], state[name.replace("qkv.bias", "v_bias")] = q, v
    for name in [name for name in state if name.endswith("attn.q_proj.weight")]:
        block = name.removesuffix("q_proj.weight")
        state[block + "qkv.weight"] = torch.cat([state.pop(f"{block}{part}_proj.weight") for part in "qkv"])
        for part in "qv":
            if f"{block}{part}_proj.bias" in state:
                state[f"{block}{part}_bias"] = state.pop(f"{block}{part}_proj.bias")
    return state


def load_network(state: Mapping[str, torch.Tensor]) -> tuple[torch.nn.Module, str]:
    """The network that a state dict under timm's names is of, and its size by name. ValueError for any other."""
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    width = state["cls_token"].shape[-1] if "cls_token" in state else 0
    if (width, depth) not in SIZES:
        raise ValueError(f"{depth} blocks of width {width} are no ViT-S, B or L")
    size = SIZES[width, depth]
    name = f"vit_{size}_patch16_dinov3" + ("_qkvb" if "blocks.0.attn.q_bias" in state else "")
    with torch.device("meta"):
        check(state, timm.create_model(name, num_classes=0, global_pool="token").state_dict())
    with torch.random.fork_rng(devices=[]):  # timm draws weights first; all of them are replaced below
        net = timm.create_model(name, num_classes=0, global_pool="token")
    net.load_state_dict(state)
    return net.eval().requires_grad_(False), size


def preprocess(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> normalised float32 (n, 3, 256, 256), as PREPROCESSING says."""
    x = torch.from_numpy(check_images(images)).permute(0, 3, 1, 2)
    x = tvf.resize(x, [SIDE, SIDE], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return tvf.normalize(tvf.to_dtype(x, torch.float32, scale=True), MEAN, STD)


class Dinov3:
    """The encoder behind `dinov3_similarity`."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        takes = SOURCES["dinov3"].takes
        found = read(weights, "DINOv3", takes)
        self.path, self.digest, self.device = found.path, found.sha256, device
        try:
            net, self.size = load_network(to_timm(found.tensors))
        except (ValueError, KeyError) as error:
            raise refused(found.path, "DINOv3", takes, error) from None
        self.net = net.to(device)

    def label(self, height: int, width: int) -> str:
        training = "LVD-1689M" if self._released() else f"weights {self.digest[:8]}"
        return f"DINOv3 ViT-{self.size[0].upper()}/16 {training}, CLS token, {PREPROCESSING}"

    def provenance(self) -> dict[str, Any]:
        return {
            "name": f"vit_{self.size}_patch16_dinov3",
            "timm": version("timm"),
            "weights": str(self.path),
            "sha256": self.digest,
            "preprocessing": PREPROCESSING,
            "device": self.device,
        }

    def comparable(self) -> bool:
        return self._released() and self.size == "large"

    def _released(self) -> bool:
        return RELEASED.get(self.digest[:8]) == self.size

    @torch.no_grad()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """float32 (n, d) of length one, of uint8 (n, H, W, 3)."""
        batches = preprocess(images).split(BATCH)
        tokens = torch.cat([self.net(batch.to(self.device)).float().cpu() for batch in batches])
        return torch.nn.functional.normalize(tokens, dim=-1).numpy()
