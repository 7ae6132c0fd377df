"""Let a torchvision built for CUDA import beside a CPU-only torch.

The package index carries only CUDA builds of torchvision. Beside a CPU-only torch its compiled
operators do not load, and `import torchvision` stops where it registers shapes for two operators
that nobody declared; transformers, timm, lpips and diffusers fail in turn. Nothing here calls those
operators, so declaring their schemas, only where they are missing, is enough.
"""

from __future__ import annotations

import importlib.util

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

#: Declarations last as long as the library object that made them.
_library: torch.library.Library | None = None


def declare_missing_operators() -> list[str]:
    """Declare the operators that torchvision's import expects; returns the names that were missing.

    Does nothing where torchvision is absent or its compiled operators load (a matching build).
    """
    global _library
    spec = importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or not spec.submodule_search_locations:
        return []
    for location in spec.submodule_search_locations:
        for name in ("_C.so", "_C.pyd"):
            try:
                torch.ops.load_library(f"{location}/{name}")
            except OSError:
                continue
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            _library.define(SCHEMAS[name])
    return missing
