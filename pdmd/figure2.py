"""The 1-D check of score matching within a subinterval (Phased DMD, arXiv 2510.27684, Figure 2).

    python -m pdmd.figure2 [--out reports/figure2]

Data {-1, 0, 1, 2}, a 4-layer MLP, subinterval (0.5, 1]. Three networks are trained by regression: on x0
over the whole interval; on x_s with the exact subinterval target; on x_s with the naive target. Each is
sampled from the same noise down to t = s and compared with the exact flow, which is known in closed form.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from pdmd import flow
from pdmd.teachers.mixture import MLP, Mixture

POINTS = Mixture(means=((-1.0,), (0.0,), (1.0,), (2.0,)), weights=(0.25,) * 4, std=0.0)
S = 0.5
#: Training, Euler steps from t = 1 to t = s, trajectories compared, and of these how many are drawn.
STEPS, BATCH, LR, SEEDS, WIDTH = 1500, 512, 4e-3, (0, 1, 2), 64
EULER, N, DRAWN = 100, 2000, 25

#: (x0, generator) -> (x_t, t, target, weight) of one batch.
Task = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, Tensor, Tensor | float]]


def full(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Ordinary flow matching: t in (0, 1), target eps - x0."""
    t, eps = torch.rand(len(x0), generator=generator), torch.randn(x0.shape, generator=generator)
    return flow.renoise(x0, eps, 0.0, t), t, eps - x0, 1.0


def _subinterval(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    x_s = flow.renoise(x0, torch.randn(x0.shape, generator=generator), 0.0, S)
    return x_s, torch.randn(x0.shape, generator=generator), S + (1 - S) * torch.rand(len(x0), generator=generator)


def exact(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """x_s alone, t in (s, 1), the exact subinterval target with its weight."""
    x_s, eps, t = _subinterval(x0, generator)
    weight = flow.subinterval_weight(S, t)[:, None]
    return flow.renoise(x_s, eps, S, t), t, flow.subinterval_target(x_s, eps, S, t), weight


def naive(x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """As `exact`, with the target eps - x_s."""
    x_s, eps, t = _subinterval(x0, generator)
    weight = flow.subinterval_weight(S, t)[:, None]
    return flow.renoise(x_s, eps, S, t), t, flow.naive_target(x_s, eps), weight


TASKS: dict[str, Task] = {"full": full, "exact": exact, "naive": naive}


def regress(task: Task, seed: int, steps: int = STEPS) -> nn.Module:
    """A 4-layer MLP trained on the task."""
    generator = torch.Generator().manual_seed(seed)
    net = MLP(1, generator, width=WIDTH, hidden=3)
    optimizer = torch.optim.Adam(net.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    for _ in range(steps):
        x_t, t, target, weight = task(POINTS.sample(BATCH, generator), generator)
        loss = (weight * (net(x_t, t) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


@torch.no_grad()
def trajectories(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    """Euler from t = 1 to t = s, (EULER + 1, n), from the noise z (n,)."""
    x, path = z[:, None], [z]
    times = torch.linspace(1, S, EULER + 1).tolist()
    for t, s in pairwise(times):
        x = flow.euler(x, velocity(x, torch.full((len(x),), t)), t, s)
        path.append(x[:, 0])
    return torch.stack(path)


@dataclass(frozen=True)
class Check:
    """Mean |x - x'| at t = s over N trajectories, from the exact flow and from the network trained on x0
    over the whole interval; one entry a seed."""

    from_flow: dict[str, list[float]]
    from_full: dict[str, list[float]]
    paths: dict[str, Tensor]


def check(seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Check:
    """Train and compare; `paths` are those of the last seed, at evenly spaced quantiles of the noise."""
    z = torch.randn(N, generator=torch.Generator().manual_seed(1234))
    quantiles = torch.special.ndtri((torch.arange(DRAWN) + 0.5) / DRAWN)
    truth = trajectories(POINTS.exact_velocity, z)[-1]
    from_flow: dict[str, list[float]] = {name: [] for name in TASKS}
    from_full: dict[str, list[float]] = {name: [] for name in TASKS}
    paths = {"flow": trajectories(POINTS.exact_velocity, quantiles)}
    for seed in seeds:
        ends = {}
        for name, task in TASKS.items():
            net = regress(task, seed, steps)
            ends[name] = trajectories(net, z)[-1]
            paths[name] = trajectories(net, quantiles)
            from_flow[name].append(float((ends[name] - truth).abs().mean()))
            from_full[name].append(float((ends[name] - ends["full"]).abs().mean()))
    return Check(from_flow, from_full, paths)


TITLES = {
    "full": r"(a) trained on $x_0$, $t \in (0, 1)$",
    "exact": r"(b) exact target from $x_s$, $t \in (0.5, 1)$",
    "naive": r"(c) naive target $\epsilon - x_s$, $t \in (0.5, 1)$",
}
COLOURS = {"full": "#1b6ca8", "exact": "#2a8a4a", "naive": "#c0392b"}


def draw(result: Check, to: Path) -> None:
    """Three panels, the network's trajectories over those of the exact flow."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    times = torch.linspace(1, S, EULER + 1)
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, (name, title) in zip(axes, TITLES.items(), strict=True):
        network = axis.plot(times, result.paths[name], color=COLOURS[name], lw=1.5, alpha=0.8)
        truth = axis.plot(times, result.paths["flow"], color="black", lw=0.8, ls=(0, (4, 3)))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(r"noise level $t$ (1 is noise)")
        deviation = sum(result.from_flow[name]) / len(result.from_flow[name])
        axis.text(0.97, 0.03, f"mean deviation at $t = s$: {deviation:.3f}", transform=axis.transAxes, ha="right")
        axis.set_ylim(-2.35, 3.0)
        axis.legend([network[0], truth[0]], ["network", "exact flow"], loc="upper left", ncols=2, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(1, S)
    axes[0].set_ylabel(r"$x_t$")
    figure.savefig(to, dpi=200)
    plt.close(figure)


def report(result: Check, made_by: str = "    python -m pdmd.figure2", seeds: Sequence[int] = SEEDS) -> str:
    """The numbers as Markdown, and in Markdown what made them, from which training seeds."""
    rows = []
    for name, title in zip(TASKS, ("x0, t in (0, 1)", "exact, from x_s", "naive, eps - x_s"), strict=True):
        cells = []
        for each in (result.from_flow[name], result.from_full[name]):
            mean = sum(each) / len(each)
            cells.append("-" if not any(each) else f"{mean:.4f} ({min(each):.4f} to {max(each):.4f})")
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return f"""# The 1-D check: score matching within a subinterval

{made_by}

![trajectories](figure2.png)

Data {{-1, 0, 1, 2}} in equal parts, s = {S}. Mean |difference| at t = s between trajectories from the same noise,
as mean (least to greatest) over the seeds; n = {N} trajectories a seed, standard normal noise.

| F's target | from the exact flow | from the network trained on x0 |
|---|---|---|
{chr(10).join(rows)}

A 4-layer MLP of width {WIDTH} each, {STEPS} Adam steps of batch {BATCH}, peak learning rate {LR}, training seeds
{", ".join(map(str, seeds))}; {EULER} Euler steps from t = 1 to t = {S}. The exact flow is integrated with the same
steps from the closed-form velocity. The noise has a seed of its own, 1234. Drawn: the last seed, {DRAWN} quantiles of
the noise. The check is Figure 2 of Phased DMD, arXiv 2510.27684.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pdmd.figure2", description="The paper's 1-D check, its Figure 2.")
    parser.add_argument("--out", type=Path, default=Path("reports/figure2"), help="folder to write (reports/figure2)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    result = check()
    draw(result, out / "figure2.png")
    (out / "README.md").write_text(report(result))
    print(report(result))


if __name__ == "__main__":
    main()
