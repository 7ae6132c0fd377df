"""Networks shared out among the processes of a run: FSDP2 shares out weights, gradients and optimisers, diffusers'
context parallelism a sample's tokens. With one process nothing here does anything.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pdmd.errors import UserError
from pdmd.parallel import context, rank, size


def whole(x: Tensor) -> Tensor:
    """A tensor that may be shared out, in all processes whole."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


@cache
def _mesh(device: str) -> Any:
    return dist.init_device_mesh(device, (size(),))


@cache
def _context_mesh(device: str, neighbours: int) -> Any:
    """The neighbours that share out a sample's tokens, as diffusers names the two ways of it."""
    names = ("group", "ring", "ulysses")
    return dist.init_device_mesh(device, (size() // neighbours, 1, neighbours), mesh_dim_names=names)["ring", "ulysses"]


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
    if context() == 1:
        return x
    return _Entering.apply(x, _context_mesh(x.device.type, context())["ulysses"].get_group())


def _split(net: Any, device: torch.device) -> None:
    """Have a network of diffusers' compute a part of its tokens here, attention over all of them by Ulysses. Raises
    UserError where it has too few heads."""
    from diffusers import ContextParallelConfig, ParallelConfig

    if net.config.num_attention_heads % context():
        raise UserError(f"context = {context()} does not go into the {net.config.num_attention_heads} attention heads")
    mesh = _context_mesh(device.type, context())
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=context(), mesh=mesh))
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
    if context() > 1 and hasattr(net, "enable_parallelism"):  # an adapter's tokens are its base's
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
