"""`frechet_sprites`: how far a model's outputs lie, as a set, from the base model's over the same prompts.

Every result of the embedded world keeps the embeddings of its samples beside it, in embeddings.npz; the base
model's are what the others are set against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import special

from pdmd.errors import UserError, first_line
from pdmd.files import write_whole
from pdmd.sprites import world

from . import stats
from .features.sprites import SpritesEncoder
from .result import KINDS, Metric, Missing
from .score import Item, Media

NAME = "frechet_sprites"
FILE = "embeddings.npz"
GROUPS = 20  # at most, of prompts, that the jackknife leaves out in turn
LEAST_PROMPTS = 4

#: Embeddings (n, d) by prompt id, then seed.
Embeddings = dict[str, dict[int, np.ndarray]]


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to x (n, d) and y (m, d):
    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances (Dowson & Landau 1982).

    With A = X^T X and B = Y^T Y, the trace of the root is the sum of the singular values of X Y^T, and those
    of the small factors of X and Y: no root of a matrix that rounding has left indefinite.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    means = x.mean(0) - y.mean(0)
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    small_a, small_b = (np.asarray(np.linalg.qr(v, mode="r")) for v in (a, b))
    return float(means @ means + (a**2).sum() + (b**2).sum() - 2 * np.linalg.svdvals(small_a @ small_b.T).sum())


def jackknife(groups: Sequence[np.ndarray], of: Callable[[np.ndarray], float]) -> tuple[float, stats.Interval]:
    """A statistic of a set that consists of groups of indices, less its bias, and its interval at 95 %.

    The bias of order 1 / n is what leaving out each group in turn shows (Quenouille); the same values give the
    standard error, and Student's interval on it.
    """
    g, everything = len(groups), np.concatenate(groups)
    whole = of(everything)
    parts = np.array([of(np.concatenate([*groups[:k], *groups[k + 1 :]])) for k in range(g)])
    value = g * whole - (g - 1) * parts.mean()
    half = special.stdtrit(g - 1, (1 + stats.LEVEL) / 2) * np.sqrt((g - 1) / g * ((parts - parts.mean()) ** 2).sum())
    method = f"jackknife over {g} groups of prompts"
    return float(value), stats.Interval(float(value - half), float(value + half), stats.LEVEL, method)


def measure(ours: Embeddings, base: Embeddings, expected: int, model: str, estimator: str) -> Metric | Missing:
    """The distance over the prompts of which both have the same samples."""
    same = [key for key in ours if ours[key].keys() == base.get(key, {}).keys()]
    if len(same) < LEAST_PROMPTS:
        reason = f"{len(same)} prompts have the same samples in both rows; it takes {LEAST_PROMPTS}"
        return Missing(NAME, reason, "none: run the suite on more prompts")
    x, y = (np.concatenate([_parts(one[key]) for key in same]) for one in (ours, base))
    prompt = np.repeat(np.arange(len(same)), [len(ours[key]) for key in same])
    g = min(GROUPS, len(same))
    groups = [np.flatnonzero(prompt % g == k) for k in range(g)]
    value, interval = jackknife(groups, lambda index: frechet(x[index], y[index]))
    return Metric(
        name=NAME,
        value=value,
        unit=KINDS[NAME].unit,
        direction=KINDS[NAME].direction,
        n=len(same),
        missing=expected - len(same),
        interval=interval,
        estimator=estimator,
        comparable_with_paper=False,
        details={"base": model, "samples": len(x), "with_its_bias": frechet(x, y)},
    )


def _parts(samples: dict[int, np.ndarray]) -> np.ndarray:
    """A prompt's embeddings (n, d), and beside them their deviations from their mean: (n, 2 d). A model that shows
    one thing a prompt looks like any other over all prompts; in the second half its spread is gone."""
    x = np.stack([samples[seed] for seed in sorted(samples)])
    return np.concatenate([x, x - x.mean(0)], axis=1)


def save(items: Sequence[Item], folder: Path) -> None:
    """Write the items' embeddings into a result's folder, where they have any."""
    found = [item for item in items if item.embedding is not None]
    if not found:
        (folder / FILE).unlink(missing_ok=True)
        return
    ids, seeds = [item.id for item in found], [item.seed for item in found]
    vectors = np.stack([item.embedding for item in found if item.embedding is not None])
    write_whole(folder / FILE, lambda part: np.savez(part, id=ids, seed=seeds, embedding=vectors))


def load(folder: Path) -> Embeddings:
    """The embeddings of a result's folder, none where it has no such file. Raises UserError for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, seeds, vectors = (file[name] for name in ("id", "seed", "embedding"))
            if ids.ndim != 1 or vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise ValueError("its arrays are not those of embeddings")
            rows = zip(ids.tolist(), seeds.tolist(), vectors, strict=True)
            found: Embeddings = {}
            for key, seed, vector in rows:
                found.setdefault(key, {})[seed] = vector
            return found
    except Exception as error:  # whatever a damaged archive makes its reader raise
        raise UserError(f"cannot read the embeddings {path} ({first_line(error)}); run the benchmark again") from None


def embed(item: Item, frames: np.ndarray, encoder: SpritesEncoder | None) -> None:
    """Give an item the embedding of its frames, uint8 (F, H, W, 3), or the reason why it has none."""
    if encoder is not None:
        try:
            item.embedding = encoder.clip(frames)
        except ValueError as error:
            item.problems[NAME] = str(error)


def add(
    found: list[Metric],
    missing: list[Missing],
    items: Sequence[Item],
    media: Media,
    expected: int,
    encoder: SpritesEncoder | None,
) -> None:
    """Add the metric to a suite's, or to those that are missing. Other domains than the embedded world do not
    have it, nor has the base model itself, which is no distance from itself."""
    if encoder is None or media.domain != "sprites" or media.base == media.out:
        return
    made = of_suite(items, media, expected, encoder.label(world.SIZE, world.SIZE))
    if isinstance(made, Metric):
        found.append(made)
    else:
        missing.append(made)


def of_suite(items: Sequence[Item], media: Media, expected: int, estimator: str) -> Metric | Missing:
    """The metric of scored samples against the base model of their run."""
    if media.base is None:
        command = f"{media.command} --model {'sprites-i2v' if media.shown else 'sprites'}"
        return Missing(NAME, "the run has no row of the base model", command)
    ours: Embeddings = {}
    for item in items:
        if item.embedding is not None:
            ours.setdefault(item.id, {})[item.seed] = item.embedding
    return measure(ours, load(media.base), expected, media.base.name, estimator)
