"""RAFT's recurrent unit, its context's part computed once instead of in each of the 20 iterations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.models.optical_flow.raft import ConvGRU


@dataclass(frozen=True)
class Gru:
    """The weights of torchvision's ConvGRU, whose input is hidden state, context and motion features, split into those
    of the context (`held`, all three gates, with their `bias`) and those of the rest: `zr` of both gates that have one
    input, `q` of the third."""

    held: torch.Tensor
    bias: torch.Tensor
    zr: torch.Tensor
    q: torch.Tensor
    padding: tuple[int, int]

    def of_context(self, context: torch.Tensor) -> torch.Tensor:
        """What the context adds to the three gates, in every iteration: (n, 3 c, h, w)."""
        return F.conv2d(context, self.held, self.bias, padding=self.padding)

    def step(self, h: torch.Tensor, motion: torch.Tensor, of_context: torch.Tensor) -> torch.Tensor:
        """The next hidden state: ConvGRU.forward(h, [context, motion]), summed in another order."""
        c = h.shape[1]
        gates = F.conv2d(torch.cat([h, motion], dim=1), self.zr, padding=self.padding) + of_context[:, : 2 * c]
        z, r = torch.sigmoid(gates).chunk(2, dim=1)
        new = F.conv2d(torch.cat([r * h, motion], dim=1), self.q, padding=self.padding) + of_context[:, 2 * c :]
        return (1 - z) * h + z * torch.tanh(new)


def split(gru: ConvGRU, context: int) -> Gru:
    """A ConvGRU's weights for a context of so many channels."""
    convs = gru.convz, gru.convr, gru.convq
    weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ("weight", "bias"))
    c = len(convs[0].weight)
    rest = torch.cat([weight[:, :c], weight[:, c + context :]], dim=1)
    return Gru(weight[:, c : c + context].contiguous(), bias, rest[: 2 * c], rest[2 * c :], convs[0].padding)
