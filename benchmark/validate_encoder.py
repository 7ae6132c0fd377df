"""Whether the encoder's metrics see what they are for, on renders whose truth is known.

    python -m pdmd.benchmark.validate_encoder

writes reports/sprites-encoder/encoder.png and README.md. Models that are nothing but renders: their open factors
are drawn from distributions of known entropy, or their frames are damaged. A minute or two of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from pdmd.files import write_text, write_whole
from pdmd.sprites import grammar, reader, world

from . import metrics
from .features.sprites import MOMENTS, SpritesEncoder
from .frechet import Embeddings, measure
from .provenance import commit_text
from .result import Metric
from .score import fidelity
from .suites import Prompt, get_suite, load_prompts

LEVELS = np.linspace(0, 1, 11)  # of concentration
REPEATS, MIXED, DRAWS = 3, 24, 4
READ_EVERY = {"diversity": 1, "motion": 4}  # samples whose fidelity is read: clips take long
WANTED = 0.95

#: What is done to frames, uint8 (F, H, W, 3), by name.
DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing (another draw)": lambda v: v,
    "noise, SD 8 of 255": lambda v: _noise(v, 8),
    "noise, SD 24": lambda v: _noise(v, 24),
    "blur, SD 1 pixel": lambda v: np.stack([cv2.GaussianBlur(f, (0, 0), 1) for f in v]),
    "blur, SD 2 pixels": lambda v: np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in v]),
    "blocks of 8, half": lambda v: (v / 2 + _blocks(v) / 2).astype(np.uint8),
    "blocks of 8, whole": lambda v: _blocks(v),
}


def _noise(video: np.ndarray, sd: float) -> np.ndarray:
    rng = np.random.default_rng(int(video.sum()))
    return np.clip(video + sd * rng.standard_normal(video.shape), 0, 255).round().astype(np.uint8)


def _blocks(video: np.ndarray) -> np.ndarray:
    n, h, w, c = video.shape
    means = video.reshape(n, h // 8, 8, w // 8, 8, c).mean((2, 4))
    return means.repeat(8, 1).repeat(8, 2).round().astype(np.uint8)


def concentrated(rng: np.random.Generator, prompt: Prompt, concentration: Mapping[str, float]) -> world.Scene:
    """A scene of a prompt. Of each factor that it leaves open, a share `concentration` of the draws shows the
    prompt's favourite value, the rest are even."""
    stated = grammar.parse(prompt.text)
    for i, (name, share) in enumerate(concentration.items()):
        if name not in stated:
            favourite = np.random.default_rng([prompt.number, i]).choice(world.FACTORS[name])
            stated[name] = str(favourite if rng.random() < share else rng.choice(world.FACTORS[name]))
    return world.sample_scene(rng, stated)


def true_diversity(prompts: Sequence[Prompt], concentration: Mapping[str, float]) -> float:
    """Mean over prompts of the mean over their open factors of the normalised entropy drawn from."""

    def entropy(name: str) -> float:
        k, c = len(world.FACTORS[name]), concentration[name]
        p = np.full(k, (1 - c) / k) + c * (np.arange(k) == 0)
        return float(-(p[p > 0] * np.log(p[p > 0])).sum() / np.log(k))

    open_factors = [[n for n in concentration if n not in grammar.parse(p.text)] for p in prompts]
    return metrics.mean(metrics.mean(map(entropy, names)) for names in open_factors)


@dataclass(frozen=True)
class Ranked:
    """A model of known diversity and what the encoder's metrics say of it; `alike`: every factor at one
    concentration, else each at its own. `differing` is the share of the factors in which two samples of a prompt
    truly differ: the most that a metric of pairs can see."""

    alike: bool
    truth: float
    similarity: float
    distance: float
    differing: float


def rank(encoder: SpritesEncoder, concentration: Mapping[str, float], alike: bool, seed: int) -> Ranked:
    """One model on the diversity suite."""
    suite = get_suite("diversity")
    prompts = load_prompts(suite, "sprites").prompts
    similarity, distance, differing = [], [], []
    for prompt in prompts:
        rngs = (np.random.default_rng([seed, s]) for s in suite.seeds_of(prompt))
        drawn = [concentrated(rng, prompt, concentration) for rng in rngs]
        shown = np.array([[scene.factors[name] for name in world.IMAGE_FACTORS] for scene in drawn])
        differing.append(metrics.pair_mean((shown[:, None] != shown[None]).mean(2)))
        images = np.stack([world.render(scene, 1)[0] for scene in drawn])
        similarity.append(metrics.pair_mean(metrics.cosines(encoder.embed(images))))
        distance.append(metrics.pair_mean(encoder.distances(images)))
    found = (metrics.mean(values) for values in (similarity, distance, differing))
    return Ranked(alike, true_diversity(prompts, concentration), *found)


def rank_all(encoder: SpritesEncoder) -> list[Ranked]:
    """Every factor ever more concentrated, REPEATS times; then MIXED models with a concentration a factor."""
    names = world.IMAGE_FACTORS
    found = [rank(encoder, dict.fromkeys(names, c), True, 1000 + r) for r in range(REPEATS) for c in LEVELS]
    for i in range(MIXED):
        shares = np.random.default_rng([2000, i]).random(len(names))
        found.append(rank(encoder, dict(zip(names, shares, strict=True)), False, 2000 + i))
    return found


@dataclass(frozen=True)
class Row:
    """A model against the base on one suite: fidelity, and the distance where it has one."""

    suite: str
    what: str
    fidelity: float
    distance: Metric


def scenes(suite: str, seed: int, one_seed: bool = False) -> Iterator[tuple[Prompt, int, world.Scene]]:
    """The scenes of a suite's prompts and seeds; `one_seed` draws every sample of a prompt (diversity), or every
    prompt's (motion), from the same."""
    of = get_suite(suite)
    for prompt in load_prompts(of, "sprites").prompts:
        for s in of.seeds_of(prompt):
            same = prompt.number if suite == "diversity" else 0
            rng = np.random.default_rng([seed, same if one_seed else s])
            yield prompt, s, world.sample_scene(rng, grammar.parse(prompt.text))


def embeddings(encoder: SpritesEncoder, suite: str, seed: int) -> Embeddings:
    """Those of undamaged renders; only the frames that are embedded are made."""
    at = np.linspace(0, world.FRAMES - 1, MOMENTS).round().astype(int)[: 1 if suite == "diversity" else None]
    found: Embeddings = {}
    for prompt, s, scene in scenes(suite, seed):
        moments = replace(scene, track=scene.track[at])
        found.setdefault(prompt.id, {})[s] = encoder.clip(world.render(moments, len(at)))
    return found


def against(encoder: SpritesEncoder, suite: str, base: Embeddings, seed: int, damages: Sequence[str]) -> list[Row]:
    """Damaged, collapsed and, for clips, frozen renders against the base."""
    n = 1 if suite == "diversity" else world.FRAMES
    changes = {name: DAMAGES[name] for name in damages}
    if suite == "motion":
        changes["frozen: the first frame throughout"] = lambda v: v[:1].repeat(len(v), 0)
    rows = []
    todo = [(name, False, change) for name, change in changes.items()]
    label = "one seed for all of a prompt" if suite == "diversity" else "one seed for all prompts"
    whole = [(prompt, s, world.render(scene, n)) for prompt, s, scene in scenes(suite, seed)]
    for name, one_seed, change in [*todo, (f"collapse: {label}", True, lambda v: v)]:
        found: Embeddings = {}
        shares = []
        same = ((prompt, s, world.render(scene, n)) for prompt, s, scene in scenes(suite, seed, True))
        for i, (prompt, s, undamaged) in enumerate(same if one_seed else whole):
            video = change(undamaged)
            found.setdefault(prompt.id, {})[s] = encoder.clip(video)
            if i % READ_EVERY[suite] == 0:
                shares.append(fidelity(prompt.text, reader.read(video)))
        distance = measure(found, base, len(found), "renders", encoder.label(world.SIZE, world.SIZE))
        assert isinstance(distance, Metric)
        rows.append(Row(suite, name, metrics.mean(shares), distance))
        print(f"{suite}: {name}: fidelity {rows[-1].fidelity:.3f}, {distance.value:.4f}", flush=True)
    return rows


def floor(encoder: SpritesEncoder, suite: str) -> list[Metric]:
    """DRAWS distances between two draws of one model."""
    draws = [embeddings(encoder, suite, 3000 + i) for i in range(2 * DRAWS)]
    found = [measure(a, b, len(a), "renders", "") for a, b in zip(draws[::2], draws[1::2], strict=True)]
    return [m for m in found if isinstance(m, Metric)]


def spearman(ranked: Sequence[Ranked], alike: bool, which: str) -> float:
    """Rank correlation of a metric with the truth, diversity upwards."""
    chosen = [r for r in ranked if r.alike == alike]
    sign = -1 if which == "similarity" else 1
    return float(spearmanr([r.truth for r in chosen], [sign * getattr(r, which) for r in chosen]).statistic)


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
    lines = [
        "| suite | done to the model | fidelity | frechet_sprites (95 %) | with its bias | shows |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
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
        cells = (row.suite, row.what, f"{row.fidelity:.3f}", value, bias, " and ".join(seen) or "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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

| Spearman with the truth | all factors alike (wanted: {WANTED}) | each its own |
| --- | --- | --- |
| sprites_similarity | {correlations[True, "similarity"]:.3f} | {correlations[False, "similarity"]:.3f} |
| sprites_distance | {correlations[True, "distance"]:.3f} | {correlations[False, "distance"]:.3f} |
| share of factors in which two samples truly differ | {correlations[True, "differing"]:.3f} | \
{correlations[False, "differing"]:.3f} |

The last row is the most that any metric of pairs can do: it knows the samples' factors, and chance in 168 samples is
what keeps it from 1. Where factors collapse one by one, the two metrics weigh them unequally besides, and
`factor_diversity`, which reads them, is the one to trust.

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
