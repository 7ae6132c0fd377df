"""One run in many processes, which torchrun starts: how they meet, agree, and share out a batch.

Every process draws the same whole batch and computes its own rows of it, so that a run does not depend on the number
of processes; what is summed over the batch is then averaged over them. With `share_tokens` it computes them together
with its neighbours, each a part of every sample's tokens. With one process nothing here does anything. How networks
are shared out is in `shards`, their checkpoints in `shard_files`. docs/scale.md.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pdmd.errors import UserError, first_line

#: For the others to come: the first may have a text encoder to run over all prompts.
PATIENCE = timedelta(hours=12)
#: How many processes share out one sample's tokens (`share_tokens`).
_context = 1


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other, and the first alone writes to standard output.

    Whatever ends the run, one process alone raises UserError for it; the others leave with exit code 2. Raises
    UserError where the processes do not meet, and where one is lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of WORLD_SIZE do not meet ({first_line(error)}); start them by torchrun"
        ) from None
    try:
        with contextlib.redirect_stdout(io.StringIO()) if rank() else contextlib.nullcontext():
            yield
    except UserError:
        if _first_to_speak(store):
            raise
        raise SystemExit(2) from None
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        if _first_to_speak(store):
            lost = f"another process of this run has ended ({first_line(error)})"
            raise UserError(f"{lost}; go on from the last checkpoint with --resume") from None
        raise SystemExit(2) from None
    dist.destroy_process_group()


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_to_speak(store: dist.Store) -> bool:
    """Whether no other process has asked yet; true also where the store went with its process."""
    try:
        return store.add("pdmd/ended", 1) == 1
    except RuntimeError:
        return True


def anywhere(flag: bool) -> bool:
    """Whether it is so in any process. All of them must ask."""
    if size() == 1:
        return flag
    found = torch.tensor(float(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def wait() -> None:
    """Until every process is here."""
    if size() > 1:
        dist.barrier()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """The first process goes through alone, then all others: what it left on the disk they find."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def agreed(value: Any) -> Any:
    """The first process's value, in all of them."""
    if size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def share_tokens(context: int) -> None:
    """From now on `context` neighbouring processes compute the same rows, each a part of their tokens: context
    parallelism. Raises UserError where the processes do not come in groups of so many."""
    global _context
    if size() % context:
        raise UserError(f"context = {context} does not go into {size()} processes; start a multiple of it by torchrun")
    _context = context


def context() -> int:
    return _context


def groups() -> int:
    """Into how many parts the rows of a batch are shared out."""
    return size() // _context


def check_batch(batch: int) -> None:
    """Raises UserError unless a batch shares out evenly."""
    if batch % groups():
        over = f"{size()} processes" if _context == 1 else f"{groups()} groups of {_context} processes"
        raise UserError(f"batch = {batch} does not share out evenly over {over}; set a multiple of {groups()}")


def own_rows(n: int) -> Tensor:
    """The indices of this process's rows of n, which are a multiple of the groups."""
    return torch.arange(n).chunk(groups())[rank() // _context]


def mean(x: Tensor) -> Tensor:
    """Mean over the processes, of tensors of one shape."""
    if size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / size()


def gathered(x: Tensor) -> Tensor:
    """The groups' rows (n, ...) together, (groups n, ...)."""
    if size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts[::_context])


def in_shares(run: Callable[[Tensor, Any], Tensor], x: Tensor, cond: Any, most: int | None = None) -> Tensor:
    """run(x, cond) of rows x (n, ...), each process computing its own, at most so many at once; whole in all of them.
    Where n is no multiple of the groups the last row is computed several times."""
    n, each = len(x), -(-len(x) // groups())
    if size() > 1:
        rows = (rank() // _context * each + torch.arange(each)).clamp(max=n - 1)
        x, cond = x[rows], cond[rows]
    most = most or each
    made = [run(x[i : i + most], cond[i : i + most]) for i in range(0, each, most)]
    return gathered(torch.cat(made) if len(made) > 1 else made[0])[:n]
