"""Several networks in one transformer's memory: LoRA adapters by PEFT on a single frozen base.

PEFT keeps which adapter is on as a state of the base, and its own switch also turns gradients on and off. Here
an adapter is on only while its `Adapted` runs, gradients are the caller's to set, and between calls the base is
itself: the teacher.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pdmd.teachers import Lora


class Adapted(nn.Module):
    """The base with one of its adapters on; its parameters are the adapter's alone.

    The adapter's tensors are float32 whatever the base has. `paths` are the adapted layers' names in the base.
    """

    def __init__(self, base: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        self._base = (base,)  # in a tuple, so that the base's weights are not counted as this network's
        layers = _layers(base)
        self.paths, self._layers = list(layers), tuple(layers.values())
        self.adapter = nn.ModuleDict(
            {
                path.replace(".", "/"): nn.ModuleDict({"lora_A": layer.lora_A[name], "lora_B": layer.lora_B[name]})
                for path, layer in layers.items()
            }
        )

    @property
    def base(self) -> nn.Module:
        return self._base[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with switched(self._layers, self.name):
            return self.base(*args, **kwargs)

    def parts(self) -> dict[str, tuple[Any, Any]]:
        """The linear layers A and B of each adapted layer, by its name in the base."""
        adapter: Any = self.adapter
        found = {path: adapter[path.replace(".", "/")] for path in self.paths}
        return {path: (layer["lora_A"], layer["lora_B"]) for path, layer in found.items()}

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each adapted layer's A (rank, in) and B (out, rank), alpha / rank multiplied into B: the layer's weight
        grows by B A."""
        layers = _layers(self.base)
        return {
            path: (a.weight.detach(), b.weight.detach() * layers[path].scaling[self.name])
            for path, (a, b) in self.parts().items()
        }


def adapt(base: nn.Module, lora: Lora, targets: str) -> Adapted:
    """A new adapter on the base's linear layers that the pattern `targets` matches whole; it replaces one of its
    name. It changes nothing yet: B is 0, A random from the adapter's own seed."""
    trained = {id(p) for p in base.parameters() if p.requires_grad}
    remove(base, lora.name)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)  # type: ignore[arg-type]
    with torch.random.fork_rng():  # PEFT draws its own start from the global stream
        inject_adapter_in_model(config, base, lora.name)
    del base.peft_config
    _switch(_layers(base).values(), [])
    net = Adapted(base, lora.name).float()
    generator = torch.Generator().manual_seed(lora.seed)
    for a, b in net.parts().values():
        shape = a.weight.shape
        a.weight.data.copy_(torch.empty(shape).uniform_(-1, 1, generator=generator) / math.sqrt(shape[1]))
        b.weight.data.zero_()
    for p in base.parameters():
        p.requires_grad_(id(p) in trained)
    return net.requires_grad_(True)


def remove(base: nn.Module, name: str) -> None:
    """The base gives up an adapter, where it has one of that name."""
    layers = _layers(base).values()
    for layer in layers:
        if name in layer.lora_A:
            layer.delete_adapter(name)
    _switch(layers, [])


def base_of(net: nn.Module) -> nn.Module:
    """The network that holds the weights: the base of an `Adapted`, else the network itself."""
    return net.base if isinstance(net, Adapted) else net


def adapters_of(base: nn.Module) -> list[nn.Module]:
    """What adapters have added to a network, by whatever name."""
    return [part for layer in _layers(base).values() for part in (layer.lora_A, layer.lora_B)]


def plain(net: nn.Module) -> nn.Module:
    """A float32 copy of a network without any adapter; with its own merged into it where it is an `Adapted`."""
    name = net.name if isinstance(net, Adapted) else None
    made = copy.deepcopy(base_of(net))
    for p in made.parameters():
        p.data = p.data.float()
    for path, layer in _layers(made).items():
        if name is not None:
            layer.merge(adapter_names=[name])
        made.set_submodule(path, layer.get_base_layer())
    return made


def in_dtype(net: Any, dtype: torch.dtype) -> nn.Module:
    """A network's weights in a dtype, as diffusers' `from_pretrained` has them in it."""
    keep = net._keep_in_fp32_modules or ()
    for name, p in net.named_parameters():
        if not any(part in keep for part in name.split(".")):
            p.data = p.data.to(dtype)
    return net


@contextmanager
def switched(layers: Collection[LoraLayer], name: str | None) -> Iterator[None]:
    """An adapter, or none, is on in these layers; then what was on before is on again."""
    before = _active(layers)
    _switch(layers, [name] if name else [])
    try:
        yield
    finally:
        _switch(layers, before)


def checkpoint_blocks(net: Any) -> None:
    """Gradient checkpointing, block by block, where a recomputation has the adapter on that its forward had."""

    def run(block: nn.Module, *args: Any) -> Any:
        layers = _layers(block).values()
        name = next(iter(_active(layers)), None)
        return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), switched(layers, name)))

    net.enable_gradient_checkpointing(run)


def _layers(base: nn.Module) -> dict[str, Any]:
    """The layers that carry adapters, by their names in the base."""
    return {path: module for path, module in base.named_modules() if isinstance(module, LoraLayer)}


def _active(layers: Collection[LoraLayer]) -> list[str]:
    """Names of the adapters that are on: none or one."""
    return next((layer.active_adapters for layer in layers), [])


def _switch(layers: Collection[LoraLayer], names: list[str]) -> None:
    for layer in layers:
        layer._active_adapter = names  # its own set_adapter switches requires_grad as well
