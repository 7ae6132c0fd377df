"""What a training step costs beyond its networks, as ratios within one run.

    python -m pdmd.speed [--teacher sprites] [--method phased] [--set key=value ...] [--repeats 10] [--out FILE]
    python -m pdmd.speed --family wan2.1-14b --size 480x832x81 --set device=cuda --set dtype=bfloat16 \\
        --set checkpointing=true --set fake=lora --set batch=1 --set pool=4 --set prompt_count=8

--family is a published network with random weights. For every stage of the method: the time of a generator step with
its F fits; the floor, which is the sum of the bare network calls that this step made (forward alone or forward and
backward, same shapes, each call timed by itself); their ratio; what the pool of boundary samples saves; the peak of the
memory that tensors have; on a known GPU the utilisation of the step's model FLOPs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pdmd import cli
from pdmd import state as states
from pdmd.config import Config, make_config
from pdmd.errors import UserError, suggest
from pdmd.memory import GB, PROMPT, PUBLISHED
from pdmd.plan import Plan
from pdmd.starts import Starts
from pdmd.state import State, generator
from pdmd.step import fit_fake, update_generator
from pdmd.teachers import Compute, Cond, Teacher
from pdmd.teachers.lora import Adapted
from pdmd.teachers.settings import Settings
from pdmd.teachers.wan import Wan
from pdmd.train import teacher_of

#: (shape of x, whether it carries gradient, the network; none: the guided teacher)
Call = tuple[tuple[int, ...], bool, nn.Module | None]
#: Dense bfloat16 operations a second by part of a GPU's name (NVIDIA's data sheets).
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
TINY = {"num_attention_heads": 4, "attention_head_dim": 12, "ffn_dim": 96, "num_layers": 4, "text_dim": 16}
#: Networks that can be built: the published ones, and two for trying this out.
FAMILIES = PUBLISHED | {"wan-tiny": ((), TINY), "wan-tiny-two": ((0.875,), TINY)}


class RandomWan(Wan):
    """A Wan of random weights with random embeddings: what a step costs does not depend on them."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        g, dim = torch.Generator().manual_seed(0), self.experts[0].config.text_dim  # type: ignore[union-attr]
        return torch.randn(len(prompts), self.length, int(dim), generator=g).to(self.device)  # type: ignore[arg-type]

    def training_prompts(self, n: int, seed: int, image: bool) -> list[str]:
        return [str(i) for i in range(n)]


def random_teacher(family: str, size: tuple[int, int, int], compute: Compute, length: int = PROMPT) -> RandomWan:
    """A published network with random weights, made on the device, for clips of (height, width, frames) and prompts of
    `length` tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    if family not in FAMILIES:
        raise UserError(f"--family {family}: {suggest(family, FAMILIES)}")
    bounds, arguments = FAMILIES[family]
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, compute.dtype))
    try:
        with torch.device(compute.device):
            nets = [WanTransformer3DModel(**arguments).requires_grad_(False).eval() for _ in range(len(bounds) + 1)]
    finally:
        torch.set_default_dtype(before)
    for net in nets:  # as `from_pretrained` keeps them
        for name, p in net.named_parameters():
            if any(part in WanTransformer3DModel._keep_in_fp32_modules for part in name.split(".")):
                p.data = p.data.float()
    vae = nn.Module()
    vae.config = SimpleNamespace(z_dim=16, scale_factor_temporal=4, scale_factor_spatial=8)  # type: ignore[assignment]
    pipeline = SimpleNamespace(
        vae=vae,
        vae_scale_factor_spatial=8,
        transformer=nets[0],
        transformer_2=nets[1] if bounds else None,
        tokenizer=SimpleNamespace(model_max_length=length),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        config=SimpleNamespace(boundary_ratio=bounds[0] if bounds else None, expand_timesteps=False),
        components={},
    )
    height, width, frames = size
    settings = Settings("open", frames, 16, height, width, (4.0, 3.0) if bounds else 5.0, 40)
    teacher = RandomWan(pipeline, family, Path(family), settings)
    teacher.shape(frames)
    teacher.run_as(compute)
    return teacher


def one_step(teacher: Teacher, plan: Plan, state: State, stage: int, starts: Starts, seed: int) -> None:
    """A generator step with its fits, on whole clips, from a seed."""
    g, count = generator(seed), starts.config.accumulate
    phase = plan.stages[stage][0]
    for _ in range(plan.fits):
        x, cond = starts.draw(state, stage, phase, teacher.frames, g)
        fit_fake(teacher, plan, phase, state.expert.net, state.fake, x, cond, g, count)
    x, cond = starts.draw(state, stage, phase, teacher.frames, g)
    update_generator(teacher, plan, phase, state.expert, state.fake.net, x, cond, g, count)


class Counting:
    """A teacher that counts the calls made through it and is otherwise the one it holds."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.calls = teacher, Counter[Call]()
        self.frames, self.shape = teacher.frames, teacher.shape

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in net.parameters())
        self.calls[tuple(x.shape), graph, net] += 1
        return self.teacher.velocity(net, x, t, cond)

    def guided(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.calls[tuple(x.shape), False, None] += 1
        return self.teacher.guided(x, t, cond)


class Peak(TorchDispatchMode):
    """The bytes that tensors have: those held when it begins, and the most that there are while it is on."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.live: set[int] = set()
        self.now = self.most = 0
        for x in held:
            self._see(x)

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(Tensor, self._see, made)
        return made


def held(teacher: Any, state: State, starts: Starts) -> list[Tensor]:
    """The tensors that a run has between its steps, on the device or off it."""
    nets = [*getattr(teacher, "experts", ()), *state.experts, state.fake.net]
    moments = [x for one in (state.expert, state.fake) for s in one.optimizer.state.values() for x in s.values()]
    pools = [x for pool in starts.pools.values() for x in pool]
    return [*(p for net in nets for p in net.parameters()), *moments, *pools, *(state.average or {}).values()]


def peak_memory(run: Callable[[], object], tensors: Iterable[Tensor], device: torch.device) -> float:
    """The most bytes that tensors have while something runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return float(torch.cuda.max_memory_allocated(device))
    with Peak(tensors) as peak:
        run()
    return float(peak.most)


def bare_call(teacher: Teacher, call: Call, cond: Cond) -> float:
    """Seconds of one network call by itself."""
    shape, graph, net = call
    x, t = torch.randn(shape, device=teacher.device), torch.full((shape[0],), 0.5, device=teacher.device)

    def run() -> None:
        with torch.set_grad_enabled(graph):
            v = teacher.guided(x, t, cond) if net is None else teacher.velocity(net, x, t, cond)
        if graph:
            v.sum().backward()

    return seconds(run, teacher.device)


def flops(teacher: Teacher, calls: Counter[Call], conds: Cond) -> float:
    """Operations of a step's calls without any recomputation: with gradient a whole network makes three times those of
    its forward pass, an adapter, whose base has no gradient of its own, twice."""
    made = 0.0
    for (shape, graph, net), count in calls.items():
        x, t = torch.randn(shape, device=teacher.device), torch.full((shape[0],), 0.5, device=teacher.device)
        cond = conds[: shape[0]].to(teacher.device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            teacher.guided(x, t, cond) if net is None else teacher.velocity(net, x, t, cond)
        made += count * counter.get_total_flops() * ((2 if isinstance(net, Adapted) else 3) if graph else 1)
    return made


def seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measure(config: Config, teacher: Teacher, repeats: int) -> list[dict[str, float]]:
    """One row a stage: seconds a step, seconds of its floor, their ratio, with and without the pool, memory, FLOPs."""
    plan, device = config.plan(), teacher.device
    starts, simulated = Starts(teacher, config, plan), Starts(teacher, replace(config, pool=0), plan)
    rows, experts = [], states.begin(teacher, config, plan).experts
    conds = starts.conditions[False]
    for stage in range(len(plan.stages)):
        state = states.begin_stage(teacher, config, plan, experts, stage, 0)
        one_step(teacher, plan, state, stage, starts, 0)  # warm up, draw the pool, make the optimisers' moments
        most = peak_memory(
            partial(one_step, teacher, plan, state, stage, starts, 0), held(teacher, state, starts), device
        )
        times: dict[str, list[float]] = {"step": [], "floor": [], "simulated": []}
        for seed in range(repeats):
            counting: Any = Counting(teacher)
            times["step"].append(seconds(partial(one_step, counting, plan, state, stage, starts, seed), device))
            times["floor"].append(
                sum(
                    count * min(bare_call(teacher, call, conds[: call[0][0]].to(device)) for _ in range(2))
                    for call, count in counting.calls.items()
                )
            )
            times["simulated"].append(seconds(partial(one_step, teacher, plan, state, stage, simulated, seed), device))
        middle = {name: statistics.median(values) for name, values in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["step"], times["floor"], strict=True))
        row = {"stage": stage + 1, "seconds a step": middle["step"], "seconds of its floor": middle["floor"]}
        row |= {"step / floor": ratio, "without the pool / with": middle["simulated"] / middle["step"]}
        row |= {"peak memory, GB": most / GB, "model TFLOP a step": flops(teacher, counting.calls, conds) / 1e12}
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            peak = next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
            if peak:
                row["utilisation of model FLOPs"] = row["model TFLOP a step"] * 1e12 / middle["step"] / peak
        rows.append(row)
    return rows


def size(text: str) -> tuple[int, int, int]:
    """Height, width and frames of "480x832x81"."""
    height, width, frames = map(int, text.split("x"))
    return height, width, frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="sprites")
    parser.add_argument("--family", help=f"in place of a teacher: {', '.join(FAMILIES)}")
    parser.add_argument("--size", type=size, default="480x832x81", help="height x width x frames, of a family")
    parser.add_argument("--method", default="phased")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = make_config(args.method, args.family or args.teacher, None, args.settings)
    if args.family:
        teacher: Teacher = random_teacher(args.family, args.size, config.compute)
    else:
        teacher = teacher_of(config, config.compute)
    rows = measure(config, teacher, args.repeats)
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        shape = "x".join(map(str, args.size))
        what = f"--family {args.family} --size {shape}" if args.family else f"--teacher {args.teacher}"
        settings = "".join(f" --set {setting}" for setting in args.settings)
        command = f"python -m pdmd.speed {what} --method {args.method}{settings} --repeats {args.repeats}"
        device = torch.cuda.get_device_name() if config.device.startswith("cuda") else "cpu"
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device}
        args.out.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    cli.main(main)
