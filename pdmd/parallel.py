"""One run in many processes: torchrun starts them, FSDP2 shares out weights, gradients and optimisers among them.

Every process draws the same whole batch and computes its own rows of it, so that a run does not depend on the number
of processes; what is summed over the batch is then averaged over them. With `share_tokens` it computes them together
with its neighbours, each a part of every sample's tokens. With one process nothing here does anything. docs/scale.md.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pdmd.errors import UserError, first_line
from pdmd.files import SUMS, changed, sums

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


def whole(x: Tensor) -> Tensor:
    """A tensor that may be shared out, in all processes whole."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


@cache
def _mesh(device: str) -> Any:
    return dist.init_device_mesh(device, (size(),))


@cache
def _context_mesh(device: str, context: int) -> Any:
    """The neighbours that share out a sample's tokens, as diffusers names the two ways of it."""
    names = ("group", "ring", "ulysses")
    return dist.init_device_mesh(device, (size() // context, 1, context), mesh_dim_names=names)["ring", "ulysses"]


class _Entering(torch.autograd.Function):
    """What goes into a network whose tokens are shared out: each process's gradient of it is that of its own tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


def entering(x: Tensor) -> Tensor:
    """A network's input, its gradient whole again where the tokens are shared out."""
    if _context == 1:
        return x
    return _Entering.apply(x, _context_mesh(x.device.type, _context)["ulysses"].get_group())


def _split(net: Any, device: torch.device) -> None:
    """Have a network of diffusers' compute a part of its tokens here, attention over all of them by Ulysses. Raises
    UserError where it has too few heads."""
    from diffusers import ContextParallelConfig, ParallelConfig

    if net.config.num_attention_heads % _context:
        raise UserError(f"context = {_context} does not go into the {net.config.num_attention_heads} attention heads")
    mesh = _context_mesh(device.type, _context)
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=_context, mesh=mesh))
    config.setup(rank(), size(), device, mesh=mesh)

    for name in ("models.modeling_utils", "hooks.context_parallel"):  # they say that this is new
        logging.getLogger(f"diffusers.{name}").setLevel(logging.ERROR)

    def resolved(given: Any) -> Any:  # diffusers' own finds no device where there is a CPU alone
        net._parallel_config = given
        return given

    net._resolve_parallel_config = resolved
    net.enable_parallelism(config=config)


def shared_out(net: nn.Module) -> bool:
    if size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(net, FSDPModule)


def shard(net: nn.Module, device: torch.device) -> nn.Module:
    """Share out a network's parameters, block by block where it has blocks; they come together while it runs."""
    from torch.distributed.fsdp import fully_shard

    # Where a network's output is a view, nothing may write into it; nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    if size() == 1 or shared_out(net):
        return net
    # Where a clip's tokens are shared out, diffusers gathers them by torch's older name of it.
    warnings.filterwarnings("ignore", message=".*all_gather_tensor. is deprecated")
    if _context > 1 and hasattr(net, "enable_parallelism"):  # an adapter's tokens are its base's
        _split(net, device)
    blocks = getattr(net, "_repeated_blocks", None) or ()
    for module in [m for m in net.modules() if type(m).__name__ in blocks]:
        fully_shard(module, mesh=_mesh(device.type))
    fully_shard(net, mesh=_mesh(device.type), reshard_after_forward=True)
    return net


def copied(net: Any, device: torch.device) -> nn.Module:
    """A float32 copy, without adapters, of a network of diffusers' that is shared out; it is shared out alike."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        made = type(net).from_config(net.config)  # FSDP's class makes one of the class that it stands for
    buffers = dict(made.named_buffers())
    shard(made, device).to_empty(device=device)
    weights = {k.replace(".base_layer.", "."): p for k, p in net.named_parameters() if ".lora_" not in k}
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(weights[name])
        for name, kept in buffers.items():
            made.get_buffer(name).copy_(kept)
    return made.eval()


def weights_of(net: nn.Module) -> dict[str, Any]:
    """A network's whole state on the CPU, in the first process; empty in the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _content(state: Any, optimizers: bool) -> dict[str, Any]:
    """A State's tensors, by name, as torch.distributed.checkpoint takes them; optimisers that have made no step have
    none, and asking for them would count as one."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    content = {
        "experts": {str(k): get_model_state_dict(net) for k, net in enumerate(state.experts)},
        "fake": get_model_state_dict(state.fake.net),
        "average": state.average or {},
    }
    if optimizers:
        for name, trainee in (("expert_optimizer", state.expert), ("fake_optimizer", state.fake)):
            content[name] = get_optimizer_state_dict(trainee.net, trainee.optimizer)
    return content


def save(state: Any, folder: Path, advice: str) -> None:
    """Write a State as the new folder `folder`, by torch.distributed.checkpoint, each process its own share, with
    checksums; it is there whole or not at all. Raises UserError, in all processes, where one of them cannot write."""
    import torch.distributed.checkpoint as dcp

    part = folder.with_name(f".{folder.name}.part0")
    if rank() == 0:
        shutil.rmtree(part, ignore_errors=True)
    try:
        dcp.save(_content(state, bool(state.expert.optimizer.state)), checkpoint_id=part)
        own = [path.name for path in part.glob(f"__{rank()}_*")] + [".metadata"] * (rank() == 0)
        lines: list[Any] = [None] * size()
        dist.all_gather_object(lines, {name: sums(part, [name]) for name in own})
        if rank() == 0:
            listing = {name: line for of_one in lines for name, line in of_one.items()}
            (part / SUMS).write_text("".join(listing[name] for name in sorted(listing)))
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    except (dcp.api.CheckpointException, OSError) as error:
        raise UserError(f"cannot write {folder}: {_cause(error)}; {advice}") from None


def damaged(folder: Path) -> Path | None:
    """The first file of a folder of `save` that is not as it was written; None where all are."""
    try:
        return changed(folder / SUMS, *sorted(path.name for path in folder.iterdir() if path.name != SUMS))
    except (OSError, UnicodeDecodeError):
        return folder / SUMS


def load(state: Any, folder: Path) -> None:
    """Take on what `save` wrote, in one process or in any number of them. Raises UserError where it is damaged or of
    another network."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

    try:
        kept = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        content = _content(state, any(name.startswith("expert_optimizer.") for name in kept))
        nets = {"fake": content["fake"]} | {f"experts.{k}": net for k, net in content["experts"].items()}
        lost = next((f"{k}.{name}" for k, net in nets.items() for name in net if f"{k}.{name}" not in kept), None)
        if lost:
            raise UserError(f"the checkpoint does not fit this teacher: {folder} has no {lost}")
        # Partial: a parameter that no loss depends on has no optimiser state.
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it may be
            dcp.load(content, checkpoint_id=folder, planner=planner, no_dist=size() == 1)
    except (dcp.api.CheckpointException, OSError, ValueError, RuntimeError, EOFError) as error:
        if lost_peer(error):
            raise
        raise UserError(f"checkpoint {folder} is damaged or of another teacher: {_cause(error)}") from None
    for k, net in enumerate(state.experts):
        set_model_state_dict(net, content["experts"][str(k)])
    set_model_state_dict(state.fake.net, content["fake"])
    for name, trainee in (("expert_optimizer", state.expert), ("fake_optimizer", state.fake)):
        if name in content:
            set_optimizer_state_dict(trainee.net, trainee.optimizer, content[name])


def load_whole(state: Any, content: dict[str, Any]) -> None:
    """Take on, each process its share, what one process saved by itself (`pdmd.state.State.tensors`)."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.tensor import distribute_tensor

    options = StateDictOptions(full_state_dict=True)
    for net, saved in zip([*state.experts, state.fake.net], [*content["experts"], content["fake"]], strict=True):
        set_model_state_dict(net, saved, options=options)
    for trainee, saved in ((state.expert, content["expert"]), (state.fake, content["fake_optimizer"])):
        if not saved["state"]:
            continue  # it has made no step
        names = [name for name, _ in trainee.net.named_parameters()]  # one process saves them by their number
        groups = [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
        named: Any = {"state": {names[i]: tensors for i, tensors in saved["state"].items()}, "param_groups": groups}
        set_optimizer_state_dict(trainee.net, trainee.optimizer, named, options=options)
    for name, kept in (state.average or {}).items():
        kept.copy_(distribute_tensor(content["average"][name].to(kept.device), kept.device_mesh, kept.placements))


def _cause(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    return first_line(next(iter(failures.values()))[0] if failures else error)
