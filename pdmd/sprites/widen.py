"""A wider Wan transformer that computes what a narrower one does, to go on training from.

New channels of the residual stream begin empty, and what is new elsewhere is random where it comes in and zero where it
goes out, so that it has no effect as yet and gradients reach all of it (Net2Net, Chen et al., arXiv 1511.05641). Nearly
the same: a norm over more channels weighs their mean otherwise, and that of queries and keys runs over new heads too.
"""

from __future__ import annotations

from typing import Any

from diffusers import WanTransformer3DModel
from torch import Tensor

#: Of these, what is new in the rows (what is put out) or the columns (what is taken in) begins at zero.
ZERO_ROWS = ("patch_embedding", "to_out.0", "ffn.net.2", "time_proj")
ZERO_COLUMNS = (*ZERO_ROWS[1:], "embedder.linear_2", "attn2.to_k", "attn2.to_v", "proj_out")


def widen(narrow: WanTransformer3DModel, **config: Any) -> WanTransformer3DModel:
    """A transformer of `narrow`'s config with `config` over it, more heads and a wider feed-forward network.

    Raises ValueError where one of its weights would be smaller than the narrow one's.
    """
    wide = WanTransformer3DModel(**dict(narrow.config) | config)
    weights, width = narrow.state_dict(), narrow.scale_shift_table.shape[-1]
    loudness = (wide.scale_shift_table.shape[-1] / width) ** 0.5  # how much a norm over empty channels too amplifies
    for name, new in wide.state_dict().items():
        old = quieter(name, weights[name], loudness)
        if "time_proj" in name:  # its rows are six modulations of the whole width
            old, new = old.unflatten(0, (6, -1)), new.unflatten(0, (6, -1))
        if any(a < b for a, b in zip(new.shape, old.shape, strict=True)):
            raise ValueError(f"{name} would shrink from {tuple(old.shape)} to {tuple(new.shape)}")
        begin(name, new, old)
        new[tuple(slice(size) for size in old.shape)] = old
    return wide


def quieter(name: str, weight: Tensor, loudness: float) -> Tensor:
    """A narrow network's weight, less what a norm over more, empty channels amplifies."""
    if loudness == 1:
        return weight
    weight = weight.clone()
    if "norm2.weight" in name:
        weight /= loudness
    elif name.endswith("scale_shift_table"):  # (1, shifts, scales and gates, width); a scale multiplies as 1 + scale
        scales = [1] if weight.shape[1] == 2 else [1, 4]
        weight[:, scales] = (1 + weight[:, scales]) / loudness - 1
    elif "time_proj" in name:
        modulations = weight.unflatten(0, (6, -1))
        modulations[[1, 4]] /= loudness
    return weight


def begin(name: str, new: Tensor, old: Tensor) -> None:
    """Fill `new`, still random, with what its added part begins at."""
    if new.ndim == 1 or name.endswith(".bias") or "time_proj" in name:
        new.fill_(float(old.mean()) if "norm" in name and "weight" in name else 0.0)
    elif name.endswith("scale_shift_table"):
        new.zero_()
        if new.shape[1] == 6:
            new[:, [2, 5]] = old[:, [2, 5]].pow(2).mean().sqrt()  # the gates
    else:
        new *= old.std() / new.std()
        if any(part in name for part in ZERO_ROWS):
            new[old.shape[0] :] = 0
        if any(part in name for part in ZERO_COLUMNS):
            new[:, old.shape[1] :] = 0
