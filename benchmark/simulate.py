"""How often the intervals, tests and gates of a comparison are right, on simulated results of known truth.

    python -m pdmd.benchmark.simulate

writes reports/simulation/README.md. One core, no weights, no media.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from pdmd.files import write_text

from . import paired, stats
from .gates import FAILED, NON_INFERIOR, Gates, decide, default_gates
from .provenance import commit_text
from .report import grid
from .result import kind
from .shapes import MOTION, SUITES, TRUTH, Shape, effect_for, fidelity, heavy_flow
from .stats import Interval

SIZES = (21, 220)
WANTED = (0.935, 0.965)  # coverage of a 95 % interval
FLIPS = 999  # signings drawn where they are not counted out, in the simulation
BCA_RESAMPLES = 1999  # in the simulation; the benchmark draws 9999
HEAVY = Shape("optical_flow", "higher", heavy_flow)

#: One model's mean over prompts: what is drawn, by name.
SINGLE: dict[str, Shape] = {
    "flow": MOTION[1],
    "flow, log-normal (heavier than real)": HEAVY,
    "dynamic degree": MOTION[2],
    "fidelity of 1 sample, mean 0.9": MOTION[0],
    "fidelity of 8 samples, mean 0.9": SUITES["diversity"][0][0],
    "fidelity of 8 samples, mean 0.97": Shape("fidelity", "higher", fidelity(0.97, 8)),
    "cosine": SUITES["diversity"][0][1],
    "LPIPS": SUITES["diversity"][0][2],
    "factor diversity": SUITES["diversity"][0][3],
}
Method = Callable[[np.ndarray], Interval | None]
#: What a result could carry, beside what it does.
OTHERS: dict[str, Method] = {"t": stats.t_interval, "BCa": lambda x: stats.bca_interval(x, resamples=BCA_RESAMPLES)}


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that hold the truth, that lie wholly below it, and that lie wholly above it."""

    holds: float
    below: float
    above: float

    def __str__(self) -> str:
        mark = "" if WANTED[0] <= self.holds <= WANTED[1] else " (!)"
        return f"{100 * self.holds:.1f} %{mark} ({100 * self.below:.1f} / {100 * self.above:.1f})"


@dataclass(frozen=True)
class Rates:
    """Shares of comparisons: with any gate that alarms; with an alarm of one metric's gate, and with that gate
    saying that its n is too small, by metric."""

    alarm: float
    caught: dict[str, float]
    blind: dict[str, float]


def coverage(intervals: Sequence[Interval | None], truth: float) -> Coverage:
    """How often intervals hold the truth."""
    found = [i for i in intervals if i is not None]
    below = sum(i.high < truth for i in found) / len(found)
    above = sum(i.low > truth for i in found) / len(found)
    return Coverage(1 - below - above, below, above)


@cache
def true_mean(shape: Shape) -> float:
    """The mean of one model's metric over 10 TRUTH prompts."""
    return float(shape.draw(np.random.default_rng(0), 10 * TRUTH, 0.0)[0].mean())


def in_results(shape: Shape) -> Method:
    """What makes the interval that a result carries of this metric."""
    method = kind(shape.metric).interval
    assert method is not None
    return lambda x: method(x.tolist())


def single(shape: Shape, n: int, runs: int, seed: int, methods: Sequence[Method]) -> list[Coverage]:
    """Coverage of one model's mean over n prompts, of each method, on the same draws."""
    truth = true_mean(shape)
    rng = np.random.default_rng([seed, n])
    drawn = [shape.draw(rng, n, 0.0)[0] for _ in range(runs)]
    return [coverage([method(x) for x in drawn], truth) for method in methods]


def of_difference(shape: Shape, n: int, loss: float, runs: int, seed: int) -> Coverage:
    """Coverage of the interval that a comparison gives, of a true mean drop of `loss` on the metric's scale."""
    effect = effect_for(shape, loss)
    rng = np.random.default_rng([seed, n, 1])
    pairs = [shape.pair(rng, n, effect) for _ in range(runs)]
    return coverage([p.scale.interval(*p.loss, stats.LEVEL) for p in pairs], loss)


def false_positives(shape: Shape, n: int, runs: int, seed: int) -> float:
    """Share of p-values at or under 0.05 where both results are one model's."""
    rng = np.random.default_rng([seed, n, 2])
    found = 0
    for pair in (shape.pair(rng, n, 0.0) for _ in range(runs)):
        drops = pair.scale.drops(*pair.loss)
        exact = pair.scale is paired.SHARE
        test = pair.scale.test(*pair.loss) if exact else stats.sign_flip(drops, resamples=FLIPS)
        found += test.p <= 0.05
    return found / runs


def inner_margins(gates: Gates, shapes: Sequence[Shape]) -> dict[str, float]:
    """The margin of each shape's gate on the metric's scale."""
    stated = {gate.metric: gate.margin for gate in gates.gates}
    some = np.random.default_rng(0)
    return {s.metric: s.pair(some, 2, 0.0).scale.inner(stated[s.metric]) for s in shapes}


def rates(shapes: Sequence[Shape], n: int, gates: Gates, losses: dict[str, float], runs: int, seed: int) -> Rates:
    """What the gates do where each metric's true loss is so much on its scale (0 where not named)."""
    effects = {s: effect_for(s, losses.get(s.metric, 0.0)) for s in shapes}
    rng = np.random.default_rng([seed, n, 3])
    made = [decide(gates, {s.metric: s.pair(rng, n, e) for s, e in effects.items()}, {}) for _ in range(runs)]
    names = [s.metric for s in shapes]
    return Rates(
        alarm=sum(any(o.status == FAILED for o in outcomes) for outcomes in made) / runs,
        caught={
            m: sum(o.status == FAILED for outcomes in made for o in outcomes if o.metric == m) / runs for m in names
        },
        blind={m: sum(o.blind for outcomes in made for o in outcomes if o.metric == m) / runs for m in names},
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def single_table(runs: int, seed: int) -> str:
    rows: list[list[object]] = []
    for name, shape in SINGLE.items():
        own = in_results(shape)
        for n in SIZES:
            rows.append([name, n, *single(shape, n, runs, seed, [own, *OTHERS.values()])])
    return grid(["one model's mean of", "n", "as results carry it", *OTHERS], rows)


def difference_table(runs: int, seed: int) -> str:
    shapes = {**{s.metric: s for metrics, _ in SUITES.values() for s in metrics}, "optical_flow, log-normal": HEAVY}
    shapes |= {"fidelity, 1 sample": MOTION[0], "fidelity, 8 samples": shapes.pop("fidelity")}
    stated = {g.metric: g.margin for suite in SUITES for g in default_gates(suite).gates}
    rows = []
    for name, shape in shapes.items():
        for n in SIZES:
            scale = shape.pair(np.random.default_rng(0), n, 0.0).scale
            margin = scale.inner(stated[shape.metric])
            found = [of_difference(shape, n, loss, runs, seed) for loss in (0.0, margin)]
            rows.append([name, scale.name, n, *found, percent(false_positives(shape, n, runs, seed))])
    return grid(
        ["difference of", "scale", "n", "no difference", "a loss of one margin", "p <= 0.05, no difference"], rows
    )


def gate_table(runs: int, seed: int) -> str:
    """False alarms and catches of each suite's own gates, in both demands."""
    rows: list[list[object]] = []
    for suite, (shapes, n) in SUITES.items():
        gates = default_gates(suite)
        strict = replace(gates, gates=tuple(replace(g, require=NON_INFERIOR) for g in gates.gates))
        margins = inner_margins(gates, shapes)
        for what, losses in ("no difference", {}), ("every metric loses its margin", margins):
            alarms = [rates(shapes, n, g, losses, runs, seed).alarm for g in (gates, strict)]
            rows.append([suite, n, what, *map(percent, alarms), "–"])
        for shape in shapes:
            losses, metric = {shape.metric: 2 * margins[shape.metric]}, shape.metric
            found, hard = (rates(shapes, n, g, losses, runs, seed) for g in (gates, strict))
            shares = (found.caught[metric], hard.caught[metric], found.blind[metric])
            rows.append([suite, n, f"{metric} alone loses one margin beyond its margin", *map(percent, shares)])
    return grid(["suite", "n", "truth", "fails: not-worse", "fails: non-inferior", "says its n is too small"], rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How often intervals, tests and gates are right.")
    parser.add_argument("--runs", type=int, default=2000, help="simulated results, or pairs, of each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reports/simulation"))
    args = parser.parse_args()
    start = time.process_time()
    parts = []
    for make in (single_table, difference_table, gate_table):
        parts.append(make(args.runs, args.seed))
        print(parts[-1], flush=True)
    error = 100 * np.sqrt(0.05 * 0.95 / args.runs)
    text = f"""# How often a comparison is right

`python -m pdmd.benchmark.simulate --runs {args.runs} --seed {args.seed}`, commit {commit_text()},
{time.process_time() - start:.0f} s on one core.
Simulated results shaped like real ones (`benchmark/shapes.py` says like which); {args.runs} in each row, so that a \
share near 5 or 95 % has a standard error of {error:.1f} points. [docs/comparison.md](../../docs/comparison.md) says \
what was concluded.

## Intervals of one model's mean

Share of 95 % intervals that hold the truth (wholly below / wholly above it). (!) marks those outside 93.5 to 96.5 %.
Results carry Wilson's interval of dynamic degree, and t with skewness removed (Hall 1992) of all others. BCa with \
{BCA_RESAMPLES} resamples.

{parts[0]}

## Intervals and tests of a difference

The interval that a comparison gives (below / above), and the share of p-values at or under 0.05 where both results \
are one model's. BCa for a ratio of {paired.BCA_LEAST} prompts or more, else t; Newcombe for shares.

{parts[1]}

## Gates

The gates that ship, all of a suite together. In the first two rows of a suite, the share of comparisons in which any \
gate fails; in the others, in which the gate of that metric does.

{parts[2]}
"""
    write_text(args.out / "README.md", text)


if __name__ == "__main__":
    main()
