"""A device and a CPU's memory on one CPU: what waits there holds no tensors, so that a network that runs while it waits
fails, and the tensors that there are count the device's bytes."""

import numpy as np
import torch
from torch import nn

from pdmd.teachers import residence

WAITING = torch.device("meta")


class Apart:
    """Stands in for `residence.move` and `residence.place`. `moves` are the networks moved and where to."""

    def __init__(self, monkeypatch) -> None:
        self.kept: dict[int, list[tuple[torch.Tensor, np.ndarray, torch.Size, torch.dtype]]] = {}
        self.moves: list[tuple[nn.Module, str]] = []
        monkeypatch.setattr(residence, "CPU", WAITING)
        monkeypatch.setattr(residence, "place", self.place)
        monkeypatch.setattr(residence, "move", self.move)

    def place(self, net: nn.Module) -> torch.device:
        return WAITING if id(net) in self.kept else torch.device("cpu")

    def move(self, net: nn.Module, device: torch.device) -> None:
        away = device == WAITING
        self.moves.append((net, "waits" if away else "runs"))
        if away:
            self.kept[id(net)] = [_out(p) for p in _own(net)]
        else:
            for p, content, shape, dtype in self.kept.pop(id(net)):
                p.data = torch.from_numpy(content).clone().view(dtype).view(shape)


def _own(net: nn.Module) -> list[nn.Parameter]:
    """An adapter's parameters, or those of a network without its adapters'."""
    return [p for name, p in net.named_parameters() if name.startswith("adapter.") or "lora_" not in name]


def _out(p: nn.Parameter) -> tuple[torch.Tensor, np.ndarray, torch.Size, torch.dtype]:
    kept = (p, p.data.reshape(-1).view(torch.uint8).numpy().copy(), p.shape, p.dtype)
    p.data = torch.empty(0, dtype=p.dtype)
    return kept
