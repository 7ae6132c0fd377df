"""Whether a training run has room in the memory that is there, and if not, what would: by memory.py's arithmetic."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import torch

from pdmd import parallel
from pdmd.config import Config
from pdmd.errors import UserError
from pdmd.memory import GB, Size, needs, read_size
from pdmd.teachers import EMBEDDED, check_device

#: The part of a GPU's free memory that is left to the allocator's gaps and to CUDA's libraries (cuBLAS, NCCL): of 80 GB
#: 76 can be had.
MARGIN = 0.05
#: What saves memory, in the order in which it is offered; a batch in as many parts as it has rows.
SAVINGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "checkpointing": True,
    "accumulate": None,
    "student": "lora",
    "fake": "lora",
    "offload": True,
}


def free(device: str) -> float:
    """Bytes that are free on a GPU, or else in this machine's memory; infinite where that is not known."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return math.inf


def room(device: str, local: int) -> float:
    """Bytes that one of this machine's `local` processes can have of a memory: of a GPU's all but MARGIN, of the CPU's
    an equal share."""
    return free(device) * (1 - MARGIN) if device.startswith("cuda") else free(device) / local


def check(config: Config) -> None:
    """Raises UserError, saying what would fit, where a run would not fit its device or the CPU's memory, and where the
    device is not here."""
    size = None if config.teacher in EMBEDDED else read_size(config.teacher)
    if size is None:
        return
    check_device(config.device)
    processes, local = parallel.size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    for device, needed in needs(size, config, processes).items():
        if needed > (there := room(device, local)):
            raise UserError(
                f"{config.teacher} needs about {needed / GB:.3g} GB on device {device}, where {there / GB:.3g} GB can "
                f"be had; {fitting(size, config, processes, local)} (docs/scale.md)"
            )


def strain(size: Size, config: Config, processes: int, local: int) -> float:
    """What a run would take of the memory that is shortest, in parts of what can be had; at most 1 where it fits."""
    return max(needed / max(1, room(device, local)) for device, needed in needs(size, config, processes).items())


def fitting(size: Size, config: Config, processes: int, local: int) -> str:
    """What to set so that a run fits: settings that save of the memory that is shortest, then more processes."""
    changed: list[str] = []
    least = strain(size, config, processes, local)
    for key, value in (SAVINGS | {"accumulate": config.batch * config.context // processes}).items():
        other = dataclasses.replace(config, **{key: value})
        if (less := strain(size, other, processes, local)) >= least:
            continue
        config, least = other, less
        changed.append(f"--set {key}={str(value).lower()}")
        if least <= 1:
            needed = needs(size, config, processes)[config.device] / GB
            return f"it would fit, at {needed:.3g} GB, with {' '.join(changed)}"
    for many in (2**k for k in range(1, 11)):
        here = min(many, max(1, torch.cuda.device_count())) if config.device.startswith("cuda") else many
        shared = many % config.context == 0 and config.batch % (many // config.context) == 0
        if many > processes and shared and strain(size, config, many, here) <= 1:
            return f"it would fit over {many} processes, by torchrun, with {' '.join(changed) or 'the same settings'}"
    return "no settings and no number of processes would make it fit"
