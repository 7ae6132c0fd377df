"""Where the networks of a process are: on the device while they run, or waiting in the CPU's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pdmd.teachers.lora import Adapted, adapters_of, base_of

#: Where networks wait.
CPU = torch.device("cpu")


def place(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def move(net: nn.Module, device: torch.device) -> None:
    """A network's own tensors to a device: an adapter's without those of its base, a base's without its adapters'."""
    foreign = {id(module) for adapter in adapters_of(net) for module in adapter.modules()}
    for module in net.modules():
        if id(module) not in foreign:
            module._apply(lambda x: x.to(device), recurse=False)


def settle(kept: Sequence[nn.Module], others: Sequence[nn.Module], device: torch.device) -> None:
    """Networks, with the bases of those that are adapters, on the device; others, and theirs, wait."""
    stay, rest = ({id(one): one for net in nets for one in (base_of(net), net)} for nets in (kept, others))
    for one in rest.values():
        if id(one) not in stay and place(one) != CPU:
            move(one, CPU)
    for one in stay.values():
        if place(one) != device:
            move(one, device)


@contextmanager
def visiting(net: nn.Module, residents: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """A network is on the device while it runs. One that waits visits it, and where its base has to come, those of the
    residents that are there wait in its place.

    A resident that has run with gradient may be moved away before the backward pass where its blocks are recomputed or
    what autograd keeps is on the CPU: then no graph holds on to its weights, and they are back when it is gone through.
    """
    base = base_of(net)
    away = [one for one in ([base, net] if isinstance(net, Adapted) else [net]) if place(one) != device]
    parked = [one for one in residents if base in away and one is not base and place(one) == device]
    for one in parked:
        move(one, CPU)
    for one in away:
        move(one, device)
    try:
        yield
    finally:
        for one in away:
            move(one, CPU)
        for one in parked:
            move(one, device)
