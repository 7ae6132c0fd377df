"""What a training run keeps in the memory of its device and of the CPU, by arithmetic, before anything is loaded.
docs/scale.md.

python -m pdmd.memory wan2.1-14b [--processes 8] [--set key=value ...]    # or a teacher's folder
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pdmd.config import Config, make_config
from pdmd.errors import UserError
from pdmd.files import parse_json

GB = 10**9
#: Bytes of a parameter in training: float32 itself, its gradient, AdamW's two moments.
TRAINED = 16
#: What a backward pass keeps of a block, and makes on the way, in bytes a token: so much times the width of the stream,
#: and times the width of the feed-forward layer. Measured: tests/test_memory.py.
KEPT = {"bfloat16": (72, 8), "float32": (84, 14)}
#: Latents, float32, of the samples that a process computes at a time: x_s, x0, x_t, T and F, the gradient, and so on.
LATENTS = 4
#: Published teachers: the noise levels between their experts, and what their transformer's class is told beside its
#: defaults, which are Wan2.1-14B's (config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers, Wan2.1-T2V-14B-Diffusers,
#: Wan2.2-T2V-A14B-Diffusers).
PUBLISHED: dict[str, tuple[tuple[float, ...], dict[str, int]]] = {
    "wan2.1-1.3b": ((), {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "wan2.1-14b": ((), {}),
    "wan2.2-a14b": ((0.875,), {}),
}
#: The latent of a Wan clip of 81 frames of 480 x 832 pixels, and the tokens of a prompt.
CLIP, PROMPT = (16, 21, 60, 104), 512


@dataclass(frozen=True)
class Size:
    """A teacher's numbers: `bounds` are the noise levels between its experts, `parameters` those of one of them,
    `per_rank` those of a LoRA adapter of rank 1, `block` those of one of its `blocks`; `width` of the stream, `feed` of
    the feed-forward layer, `tokens` of a sample; `latent` and `prompt` are the elements of a sample's latent and of
    what a prompt becomes, with its first frame where the family takes one."""

    bounds: tuple[float, ...]
    parameters: int
    per_rank: int
    block: int
    blocks: int
    width: int
    feed: int
    tokens: int
    latent: int
    prompt: int


def size_of(
    net: nn.Module, layers: str, bounds: tuple[float, ...], latent: tuple[int, ...], length: int = PROMPT
) -> Size:
    """The numbers of a transformer (on the meta device, say). `bounds` lie between the teacher's experts, `layers` is
    the pattern of the layers that adapters sit on, `latent` a latent's shape, of which 2 x 2 are a token, `length` the
    tokens of a prompt."""
    config: Any = net.config
    blocks = [m for m in net.modules() if type(m).__name__ in (getattr(net, "_repeated_blocks", None) or ())]
    adapted = [m for name, m in net.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(layers, name)]
    width = config.num_attention_heads * config.attention_head_dim
    return Size(
        bounds=bounds,
        parameters=sum(p.numel() for p in net.parameters()),
        per_rank=sum(m.in_features + m.out_features for m in adapted),
        block=max(sum(p.numel() for p in block.parameters()) for block in blocks),
        blocks=len(blocks),
        width=width,
        feed=getattr(config, "ffn_dim", 4 * width),
        tokens=math.prod(latent[1:]) // 4,
        latent=math.prod(latent),
        prompt=length * (getattr(config, "text_dim", None) or config.joint_attention_dim),
    )


def at_once(size: Size, config: Config) -> int:
    """How many of the teacher's experts one process has on its device at the peak of a step: those that stay, beside
    those that visit them where the graph holds on to their weights."""
    holds = size.bounds and not (config.checkpointing or config.offload)
    return 2 if holds else staying(size, config)


def staying(size: Size, config: Config) -> int:
    """How many of the teacher's experts one process keeps on its device: those that adapters of a stage sit on and T's
    own. The rest visits."""
    plan, stay = config.plan(), []
    for stage, phases in enumerate(plan.stages):
        levels = {plan.fake_level(stage)} | ({plan.level(phases[0].expert)} if config.student == "lora" else set())
        stay.append(len({sum(level < bound for bound in size.bounds) for level in levels}))
    return max(stay)


def trained(size: Size, config: Config) -> dict[str, int]:
    """Parameters of an expert of the student, and of F: of the whole network, or of its adapter."""
    ranks = {"student": config.student_rank, "fake": config.fake_rank}
    return {
        role: size.parameters if getattr(config, role) == "full" else rank * size.per_rank
        for role, rank in ranks.items()
    }


def parts(size: Size, config: Config, processes: int = 1) -> dict[str, float]:
    """Bytes on each of so many devices at the peak of a step, by what they are for."""
    plan, alone = config.plan(), processes == 1
    half, later = weight(config) == 2, max(plan.experts)
    groups = processes / config.context
    rows = config.batch / groups / min(config.accumulate, config.batch / groups)
    tokens = size.tokens / config.context
    whole, count = {"student": config.student == "full", "fake": config.fake == "full"}, trained(size, config)
    # Of several processes, networks are shared out; what runs comes together: a block and the next, or an adapter.
    together = sum(8 * (2 * size.block if whole[role] else count[role]) for role in whole)
    waiting = 0 if alone else 4 * later * count["student"]  # alone, experts that are not in training are on the CPU
    average = 4 * count["student"] if plan.ema else 0
    stream, feed = KEPT[config.dtype]
    kept = rows * tokens * (stream * size.width + feed * size.feed)
    inputs = rows * tokens * size.width * weight(config) * size.blocks
    if config.checkpointing:  # one block at a time is computed again; its weights in training are cast to half
        casts = 2 * size.block if half and any(whole.values()) else 0
    else:
        inputs, kept = 0, 0 if config.offload else kept * size.blocks
        casts = 2 * size.parameters if half and any(whole.values()) else 0
    steps = max(phase.steps if phase.full_graph else 1 for phase in plan.phases)
    return {
        "frozen weights": weight(config)
        * size.parameters
        * (at_once(size, config) if alone else (len(size.bounds) + 1) / processes),
        "student, gradient, optimiser": (TRAINED * count["student"] + waiting + average) / processes,
        "F, gradient, optimiser": TRAINED * count["fake"] / processes,
        "weights gathered to run": 0 if alone else together + weight(config) * 2 * size.block,
        "inputs of blocks": 0 if config.offload else steps * inputs,
        "activations": kept * (1 if config.checkpointing else steps) + casts,
        "latents": 4 * size.latent * (2 * config.batch + LATENTS * rows + (config.pool if later else 0)),
        "embeddings": 4 * size.prompt * (config.batch + 3 * rows),
    }


def total(size: Size, config: Config, processes: int = 1) -> float:
    return sum(parts(size, config, processes).values())


def waiting(size: Size, config: Config, processes: int = 1) -> dict[str, float]:
    """Bytes that each process keeps in the CPU's memory beside its device, by what they are for."""
    plan, alone = config.plan(), processes == 1
    later = max(plan.experts)
    student, fake = trained(size, config).values()
    elsewhere = len(size.bounds) + 1 - staying(size, config)
    onto, here = (parts(size, dataclasses.replace(config, offload=on), processes) for on in (False, config.offload))
    return {
        "networks that wait": alone * (weight(config) * size.parameters * elsewhere + 4 * later * student),
        "what a backward pass needs": sum(onto[name] - here[name] for name in ("inputs of blocks", "activations")),
        "embeddings of all prompts": 4 * size.prompt * count_prompts(config),
        "a checkpoint, to be written": (4 * (later + 3 + bool(plan.ema)) * student + 12 * fake) / processes,
    }


def weight(config: Config) -> int:
    """Bytes of a weight that no one trains."""
    return 2 if config.dtype == "bfloat16" else 4


def count_prompts(config: Config) -> int:
    """How many prompts a run trains on, at most."""
    if not config.prompts:
        return config.prompt_count
    try:
        return Path(config.prompts).read_bytes().count(b"\n") + 1
    except (OSError, ValueError):
        return 0  # reading them will tell why


def needs(size: Size, config: Config, processes: int = 1) -> dict[str, float]:
    """Bytes that each process takes at its peaks, by the memory that it takes them of: its device's, and the CPU's,
    into which a teacher is loaded whole."""
    device, host = total(size, config, processes), sum(waiting(size, config, processes).values())
    loading = weight(config) * size.parameters * (len(size.bounds) + 1)
    if config.device.startswith("cuda"):
        return {config.device: device, "cpu": max(host, loading)}
    return {config.device: max(device + host, loading)}


def published(name: str) -> Size:
    """A published teacher on clips of 81 frames of 480 x 832."""
    from diffusers import WanTransformer3DModel

    from pdmd.teachers.wan import Wan

    bounds, arguments = PUBLISHED[name]
    with torch.device("meta"):
        net = WanTransformer3DModel(**arguments)
    return size_of(net, Wan.adapted_layers, bounds, CLIP)


def read_size(spec: str) -> Size | None:
    """The numbers of a folder or a hub id, from its small files alone, of a student's too, or of the base that its
    adapters sit on; None where they do not say enough: loading it will tell why."""
    import diffusers

    from pdmd.teachers.families import FAMILIES
    from pdmd.teachers.settings import read_settings
    from pdmd.teachers.students import bounds_of, read_student

    try:
        student = read_student(Path(spec))
        if student and "lora" in student:
            return read_size(student["lora"]["base"])
        index, net, vae = (
            parse_json(_file(spec, name).read_bytes())
            for name in ("model_index.json", "transformer/config.json", "vae/config.json")
        )
        family, boundary = FAMILIES[index["_class_name"]], index.get("boundary_ratio")
        defaults = family.defaults(SimpleNamespace(config=SimpleNamespace(boundary_ratio=boundary)))
        settings = read_settings(Path(spec), defaults)
        with torch.device("meta"):
            made = getattr(diffusers, net["_class_name"]).from_config(net)
        latent = family.latent(vae, settings)
        bounds = bounds_of(student["grid"], student["experts"]) if student else [] if boundary is None else [boundary]
        size = size_of(made, family.adapted_layers, tuple(bounds), latent)
        if family.first_frames:  # the channels that the transformer sees beside the latent
            given = (made.config.in_channels - made.config.out_channels) * math.prod(latent[1:])
            size = dataclasses.replace(size, prompt=size.prompt + given)
        return size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserError):
        return None


def _file(spec: str, name: str) -> Path:
    """A small file of a folder, or of a hub id, fetched."""
    from huggingface_hub import hf_hub_download

    return Path(spec) / name if Path(spec).exists() else Path(hf_hub_download(spec, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help=f"{', '.join(PUBLISHED)}, or a folder")
    parser.add_argument("--method", default="phased")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    config = make_config(args.method, args.teacher, None, args.settings)
    size = published(args.teacher) if args.teacher in PUBLISHED else read_size(args.teacher)
    if size is None:
        raise UserError(f"{args.teacher}: no size can be read; known: {', '.join(PUBLISHED)}, or a teacher's folder")
    print(f"{args.teacher}: {size.parameters / GB:.2f} billion parameters, {size.tokens} tokens a sample")
    columns = [parts(size, config, n) for n in args.processes]
    print("".join([f"{'GB on each device, of':32}", *(f"{n:>9}" for n in args.processes)]))
    for name in columns[0]:
        print("".join([f"{name:32}", *(f"{column[name] / GB:9.2f}" for column in columns)]))
    print("".join([f"{'all':32}", *(f"{sum(column.values()) / GB:9.2f}" for column in columns)]))
    beside = [sum(waiting(size, config, n).values()) for n in args.processes]
    print("".join([f"{'beside it, on the CPU':32}", *(f"{bytes_ / GB:9.2f}" for bytes_ in beside)]))


if __name__ == "__main__":
    from pdmd import cli

    cli.main(main)
