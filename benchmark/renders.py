"""Models that are nothing but renders, their truth known, and what the encoder's metrics say of them: their open
factors are drawn from distributions of known entropy, or their frames are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.stats import spearmanr

from pdmd.sprites import grammar, reader, world

from . import metrics
from .features.sprites import MOMENTS, SpritesEncoder
from .frechet import Embeddings, measure
from .result import Metric
from .score import fidelity
from .suites import Prompt, get_suite, load_prompts

LEVELS = np.linspace(0, 1, 11)  # of concentration
REPEATS, MIXED, DRAWS = 3, 24, 4
READ_EVERY = {"diversity": 1, "motion": 4}  # samples whose fidelity is read: clips take long

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
