"""Whether the encoder's metrics see what they are for, on renders whose truth is known (renders.py).

    python -m pdmd.benchmark.validate_encoder

writes reports/sprites-encoder/encoder.png and README.md. A minute or two of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pdmd.files import write_text, write_whole
from pdmd.sprites import world

from .features.sprites import SpritesEncoder
from .provenance import commit_text
from .renders import (
    DAMAGES,
    DRAWS,
    LEVELS,
    MIXED,
    READ_EVERY,
    REPEATS,
    Ranked,
    Row,
    against,
    embeddings,
    floor,
    rank_all,
    spearman,
)
from .report import grid
from .result import Metric

WANTED = 0.95


def draw(path: Path, ranked: Sequence[Ranked], rows: Sequence[Row]) -> None:
    """Both pair metrics over the truth; the distance of every damaged model."""
    figure = Figure(figsize=(14, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for axis, which in zip(axes, ("similarity", "distance"), strict=False):
        for alike, colour, label in ((True, "#20639b", "all factors alike"), (False, "#ed8a19", "each its own")):
            points = [(r.truth, getattr(r, which)) for r in ranked if r.alike == alike]
            rho = spearman(ranked, alike, which)
            axis.scatter(*zip(*points, strict=True), s=14, color=colour, label=f"{label}: Spearman {rho:.3f}")
        axis.set(xlabel="truth: normalised entropy", title=f"sprites_{which}")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axis = axes[2]
    shown = list(rows)[::-1]
    for y, row in enumerate(shown):
        interval = row.distance.interval
        assert interval is not None
        colour = "#20639b" if row.suite == "diversity" else "#2a9d6f"
        axis.plot([interval.low, interval.high], [y, y], color=colour)
        axis.plot([row.distance.value], [y], "o", color=colour, ms=5)
    names = [f"{'images' if r.suite == 'diversity' else 'clips'}: {r.what}, fidelity {r.fidelity:.2f}" for r in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=8)
    axis.axvline(0, color="k", lw=0.8)
    axis.set_xscale("symlog", linthresh=0.1)
    axis.set(title="frechet_sprites, 95 % intervals", xlabel="of the world's variance")
    axis.grid(alpha=0.3)
    write_whole(path, lambda part: figure.savefig(part))


def table(rows: Sequence[Row], floors: Mapping[str, Sequence[Metric]]) -> str:
    """The models against the base, as Markdown."""
    lines = []
    for row in rows:
        first = next(r for r in rows if r.suite == row.suite)
        metric, interval = row.distance, row.distance.interval
        assert interval is not None
        most = max(m.value for m in floors[row.suite])
        seen = [
            name
            for name, sees in (("fidelity", row.fidelity < first.fidelity - 0.05), ("frechet", interval.low > most))
            if sees
        ]
        value = f"{metric.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        bias = f"{metric.details['with_its_bias']:.3f}"
        lines.append((row.suite, row.what, f"{row.fidelity:.3f}", value, bias, " and ".join(seen) or "–"))
    head = "suite", "done to the model", "fidelity", "frechet_sprites (95 %)", "with its bias", "shows"
    return grid(head, lines)


def floor_text(suite: str, found: Sequence[Metric]) -> str:
    """One line on what two draws of one model score."""
    values, plain = [m.value for m in found], [m.details["with_its_bias"] for m in found]
    covered = sum(m.interval is not None and m.interval.low <= 0 <= m.interval.high for m in found)
    return (
        f"- {suite}, {found[0].details['samples']} samples each: {np.mean(values):.4f} on average "
        f"({min(values):.4f} to {max(values):.4f}); with its bias {np.mean(plain):.4f}; the interval holds 0 in "
        f"{covered} of {len(found)}"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Whether the encoder's metrics see what they are for.")
    parser.add_argument("--out", type=Path, default=Path("reports/sprites-encoder"))
    args = parser.parse_args()
    encoder = SpritesEncoder()
    ranked = rank_all(encoder)
    names = ("similarity", "distance", "differing")
    correlations = {(a, w): spearman(ranked, a, w) for a in (True, False) for w in names}
    print(correlations, flush=True)
    floors = {suite: floor(encoder, suite) for suite in ("diversity", "motion")}
    rows = against(encoder, "diversity", embeddings(encoder, "diversity", 1), 2, list(DAMAGES))
    rows += against(encoder, "motion", embeddings(encoder, "motion", 1), 2, list(DAMAGES)[::2])
    draw(args.out / "encoder.png", ranked, rows)
    write_text(
        args.out / "README.md",
        f"""# The embedded world's encoder against the truth

`python -m pdmd.benchmark.validate_encoder`, commit {commit_text()};
{encoder.label(world.SIZE, world.SIZE)}, `pdmd/sprites/encoder.safetensors`.
Every model here is renders of the world, on the prompts and sample counts of the suites: 21 prompts of 8 seeds for
images, 220 prompts for clips.

## Diversity

A share c of the draws of each factor that a prompt leaves open shows one value, the rest are even: the entropy is
known. "All alike": c from 0 to 1 in {len(LEVELS)} steps for every factor, {REPEATS} draws each, n =
{REPEATS * len(LEVELS)} models, seeds 1000 to {999 + REPEATS}. "Each its own": c drawn anew for each factor, n = {MIXED}
models, seeds 2000 to {1999 + MIXED}. Where objects stand is random throughout.

| Spearman with the truth | all factors alike | each its own |
| --- | --- | --- |
| sprites_similarity | {correlations[True, "similarity"]:.3f} | {correlations[False, "similarity"]:.3f} |
| sprites_distance | {correlations[True, "distance"]:.3f} | {correlations[False, "distance"]:.3f} |
| share of factors in which two samples truly differ | {correlations[True, "differing"]:.3f} | \
{correlations[False, "differing"]:.3f} |

Wanted was {WANTED} or more. It is reached where all factors collapse alike. **Where each collapses on its own it is \
not:** {correlations[False, "similarity"]:.3f} and {correlations[False, "distance"]:.3f}.
The last row is the most that any metric of pairs can do: it knows the samples' factors, and chance in 168 samples is
what keeps it from 1, so that there the ceiling itself, {correlations[False, "differing"]:.3f}, lies below {WANTED}.
The two metrics lose the rest by weighing the factors unequally; `factor_diversity`, which reads them, is the one to
trust.

## Noise and collapse

Base: undamaged renders, seed 1; models: renders of seed 2, then damaged. A defect shows where fidelity falls by more
than 0.05, or the distance's interval lies wholly above the most that two draws of one model score. Fidelity is
of every image, and of every {READ_EVERY["motion"]}th clip.

{table(rows, floors)}

## What chance alone scores

Two draws of one and the same model, {DRAWS} pairs, seeds 3000 to {2999 + 2 * DRAWS}:

{floor_text("diversity", floors["diversity"])}
{floor_text("motion", floors["motion"])}

![encoder.png](encoder.png)
""",
    )
    print(table(rows, floors))


if __name__ == "__main__":
    main()
