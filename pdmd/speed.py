"""What a training step costs beyond its networks, as ratios within one run.

    python -m pdmd.speed [--teacher sprites] [--method phased] [--repeats 10] [--out FILE]

For every stage of the method: the time of a generator step with its F fits; the floor, which is the
sum of the bare network calls that this step made (forward alone or forward and backward, same shapes,
each call timed by itself); their ratio; and what the pool of boundary samples saves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pdmd import state as states
from pdmd.config import Config, make_config
from pdmd.plan import Plan
from pdmd.starts import Starts
from pdmd.state import State, generator
from pdmd.step import fit_fake, update_generator
from pdmd.teachers import Cond, Teacher, load_teacher

#: (shape of x, whether it carries gradient, whether it is the guided teacher)
Call = tuple[tuple[int, ...], bool, bool]


def one_step(teacher: Teacher, plan: Plan, state: State, stage: int, starts: Starts, seed: int) -> None:
    """A generator step with its fits, on whole clips, from a seed."""
    g = generator(seed)
    phase = plan.stages[stage][0]
    for _ in range(plan.fits):
        x, cond = starts.draw(state, stage, phase, teacher.frames, g)
        fit_fake(teacher, plan, phase, state.expert.net, state.fake, x, cond, g)
    x, cond = starts.draw(state, stage, phase, teacher.frames, g)
    update_generator(teacher, plan, phase, state.expert, state.fake.net, x, cond, g)


class Counting:
    """A teacher that counts the calls made through it and is otherwise the one it holds."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.calls = teacher, Counter[Call]()
        self.frames, self.shape = teacher.frames, teacher.shape

    def velocity(self, net: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in net.parameters())
        self.calls[tuple(x.shape), graph, False] += 1
        return self.teacher.velocity(net, x, t, cond)

    def guided(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.calls[tuple(x.shape), False, True] += 1
        return self.teacher.guided(x, t, cond)


def bare_call(teacher: Teacher, net: nn.Module, call: Call, cond: Cond) -> float:
    """Seconds of one network call by itself."""
    shape, graph, guided = call
    x, t = torch.randn(shape), torch.full((shape[0],), 0.5)
    began = time.perf_counter()
    with torch.set_grad_enabled(graph):
        v = teacher.guided(x, t, cond) if guided else teacher.velocity(net, x, t, cond)
    if graph:
        v.sum().backward()
    return time.perf_counter() - began


def measure(config: Config, repeats: int) -> list[dict[str, float]]:
    """One row a stage: seconds a step, seconds of its floor, their ratio, and with and without the pool."""
    plan, teacher = config.plan(), load_teacher(config.teacher, config.weights)
    starts, simulated = Starts(teacher, config, plan), Starts(teacher, replace(config, pool=0), plan)
    rows = []
    experts = states.begin(teacher, config, plan).experts
    for stage in range(len(plan.stages)):
        state = states.begin_stage(teacher, config, plan, experts, stage, 0)
        one_step(teacher, plan, state, stage, starts, 0)  # warm up, and draw the pool
        times: dict[str, list[float]] = {"step": [], "floor": [], "simulated": []}
        for seed in range(repeats):
            counting = Counting(teacher)
            times["step"].append(_seconds(one_step, counting, plan, state, stage, starts, seed))
            floor = 0.0
            for call, count in counting.calls.items():
                cond = starts.conditions[False][: call[0][0]]
                floor += count * min(bare_call(teacher, state.fake.net, call, cond) for _ in range(2))
            times["floor"].append(floor)
            times["simulated"].append(_seconds(one_step, teacher, plan, state, stage, simulated, seed))
        middle = {name: statistics.median(values) for name, values in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["step"], times["floor"], strict=True))
        row = {"stage": stage + 1, "seconds a step": middle["step"], "seconds of its floor": middle["floor"]}
        row |= {"step / floor": ratio, "without the pool / with": middle["simulated"] / middle["step"]}
        rows.append(row)
    return rows


def _seconds(run: object, *args: object) -> float:
    began = time.perf_counter()
    run(*args)  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="sprites")
    parser.add_argument("--method", default="phased")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = measure(make_config(args.method, args.teacher), args.repeats)
    for row in rows:
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m pdmd.speed --teacher {args.teacher} --method {args.method} --repeats {args.repeats}"
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": "cpu"}
        args.out.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
