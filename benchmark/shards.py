"""Which share of the samples this process makes: all of them, or under torchrun one in WORLD_SIZE.

Only generation is shared out. The processes write into one folder and wait for each other at a barrier; process 0
alone gathers what they made, measures it and writes the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pdmd.errors import UserError, first_line

PATIENCE = timedelta(days=30)  # at a barrier: the others may have hours of clips left to make


@dataclass(frozen=True)
class Shard:
    """Process `rank` of `count`; `wait` returns once all of them have called it."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None


ALONE = Shard()


def from_environment() -> Shard:
    """This process's share by torchrun's variables; the whole where there are none. Raises UserError where the
    processes do not find each other."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():  # a device "cuda" is then each process's own
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of WORLD_SIZE do not meet ({first_line(error)}); start them by torchrun"
        ) from None
    return Shard(dist.get_rank(), dist.get_world_size(), dist.barrier)
